"""A folder of patches: what it holds by digest, and its labels, one row per location."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.errors import DamagedFile, UserError
from mmfl.facts.tasks import MASK
from mmfl.files import file_sha256, read_json, write_json
from mmfl.intact import Watch

STORE = "store.json"
LABELS = "labels"
DESCRIBING = (".json", ".parquet", ".csv")  # files that describe; shards are listed by one of them


def write_store(folder: Path, archive: str) -> None:
    """`store.json`, last of all: the archive's name, and the digest of every describing file."""
    listed = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.glob("*/*"))
        if path.suffix in DESCRIBING and not path.name.startswith(".")
    }
    write_json(folder / STORE, {"archive": archive, "files": listed})


class Store:
    """A folder that `split` wrote. What is read of it fits its digest: `store.json` has those of
    the describing files, each `modality.json` those of its shards.

    Args:
        anew: read every file, also those that an earlier process found right.

    Attributes:
        archive: the archive's name.
        sha256: of `store.json`, and so of everything that it lists.
        watch: every file that was used.

    Raises:
        UserError: the folder is not what `split` writes.
    """

    def __init__(self, folder: Path, anew: bool = False) -> None:
        self.folder = Path(folder)
        path = self.folder / STORE
        described = read_json(path, "split")
        self.sha256 = file_sha256(path)
        try:
            self.archive = str(described["archive"])
            self.files = {str(name): str(found) for name, found in described["files"].items()}
        except (KeyError, AttributeError):
            raise UserError(
                f"{path}: lists no digests, expected those of what split wrote; run split again"
            ) from None
        self.watch = Watch(f"`mmfl split --archive {self.archive}` writes it again", anew)
        self.watch.content(path, self.sha256)

    def of(self, archive: str) -> Store:
        """Itself, if it is this archive's.

        Raises:
            UserError: it is another one's.
        """
        if self.archive != archive:
            raise UserError(
                f"{self.folder / STORE}: holds the archive {self.archive}, expected {archive}; "
                f"`mmfl split --archive {archive}` writes it again"
            )
        return self

    @property
    def modalities(self) -> list[str]:
        """Sorted; the masks are none."""
        found = (name.partition("/") for name in self.files)
        return sorted(q for q, _, name in found if name == "modality.json" and q != MASK)

    def json(self, name: str) -> dict[str, Any]:
        """The mapping in a file, such as `s1/modality.json`.

        Raises:
            UserError: it is damaged or missing.
        """
        try:
            value = json.loads(self.content(name))
            if isinstance(value, dict):
                return value
        except ValueError:
            pass
        raise UserError(f"{self.folder / name}: holds no mapping; {self.watch.remedy}")

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """The table in a parquet file, or some of its columns; `UserError` as `json`."""
        data = io.BytesIO(self.content(name))
        try:
            return pd.read_parquet(data, columns=columns)
        except (OSError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())
            raise UserError(
                f"{self.folder / name}: not readable ({text}); {self.watch.remedy}"
            ) from None

    def content(self, name: str) -> bytes:
        """The bytes of a describing file; `UserError` as `json`."""
        path = self.folder / name
        if name not in self.files:
            raise DamagedFile(path, f"is not listed in {STORE}; {self.watch.remedy}")
        return self.watch.content(path, self.files[name])


def read_classes(folder: Path, store: Store | None = None) -> dict[str, Any]:
    """task; classes: names; colours: one per class, or None. `folder` is that of the labels."""
    return (store or Store(folder.parent)).json(f"{folder.name}/classes.json")


def read_labels(folder: Path, store: Store | None = None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table, sorted by pair, and the names of the classes.

    Raises:
        UserError: the folder is not what `split` writes.
    """
    store = store or Store(folder.parent)
    table = store.table(f"{folder.name}/index.parquet")
    try:
        return table, tuple(read_classes(folder, store)["classes"])
    except (KeyError, TypeError):
        path = folder / "classes.json"
        raise UserError(f"{path}: names no classes; {store.watch.remedy}") from None
