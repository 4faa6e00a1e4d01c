"""Labels, apart from the modalities: one row per location."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.errors import UserError
from mmfl.files import file_sha256, read_json, write_json
from mmfl.params.tasks import MASK

STORE = "store.json"


def write_store(folder: Path) -> None:
    """`store.json`: the stores below a folder of patches, and the digests of their description."""
    stores = {
        path.parent.name: {
            name: file_sha256(path.with_name(name)) for name in ("modality.json", "index.parquet")
        }
        for path in sorted(folder.glob("*/modality.json"))
    }
    write_json(folder / STORE, stores)


def read_modalities(folder: Path) -> list[str]:
    """The modalities of a folder of patches; the masks are none."""
    return [name for name in read_json(folder / STORE, "split") if name != MASK]


def read_classes(folder: Path) -> dict[str, Any]:
    """task; classes: names; colours: one per class, or None."""
    return read_json(folder / "classes.json", "split")


def read_labels(folder: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table, sorted by pair, and the names of the classes.

    Raises:
        UserError: the folder is not what `split` writes.
    """
    try:
        table = pd.read_parquet(folder / "index.parquet")
        classes = tuple(read_classes(folder)["classes"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not readable ({error}); run split again") from None
    return table, classes
