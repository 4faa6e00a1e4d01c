"""Folders of which one file lists the others by digest: what is read is what was written.

`train` ends with run.json, `evaluate` with evaluation.json.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.errors import DamagedFile, UserError
from mmfl.files import file_sha256, read_json
from mmfl.intact import Watch

RUN = "run.json"
EVALUATION = "evaluation.json"  # of a run's scores: the digests of these and of its run.json
NAMES = ("archive", "clients", "method", "variant", "seed")  # tell a run from all others


class Sealed:
    """A folder and the file of it that lists the others.

    Args:
        listing: the name of that file, a mapping whose `files` are name -> SHA-256.
        step: what writes the folder.

    Attributes:
        path, described, sha256: the listing, what it says, and its digest.
        files: name -> SHA-256 of the others.
        watch: every file that was used.

    Raises:
        UserError: the listing is missing, cannot be read or lists nothing.
    """

    def __init__(self, folder: Path, listing: str, step: str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / listing
        self.described: dict[str, Any] = read_json(self.path, step)
        self.sha256 = file_sha256(self.path)
        self.watch = Watch(f"run {step} again")
        self.watch.content(self.path, self.sha256)
        files = self.described.get("files")
        if not isinstance(files, dict):
            raise UserError(f"{self.path}: lists no digests of its files; {self.watch.remedy}")
        self.files = {str(name): str(found) for name, found in files.items()}

    def check(self, name: str) -> Path:
        """The path of a large file that fits its digest; `DamagedFile` else."""
        self.watch.check({self.folder / name: self._sha256(name)})
        return self.folder / name

    def content(self, name: str) -> bytes:
        """The bytes of a file, which fit its digest; `DamagedFile` else."""
        return self.watch.content(self.folder / name, self._sha256(name))

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """The table in a csv or parquet file, or some of its columns.

        Raises:
            UserError: it is missing, damaged, no table, or lacks a column.
        """
        data = io.BytesIO(self.content(name))
        try:
            if name.endswith(".csv"):
                return pd.read_csv(data, usecols=columns)
            return pd.read_parquet(data, columns=columns)
        except (OSError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())
            raise UserError(
                f"{self.folder / name}: not readable ({text}); {self.watch.remedy}"
            ) from None

    def _sha256(self, name: str) -> str:
        if name not in self.files:
            raise DamagedFile(
                self.folder / name, f"is not listed in {self.path.name}; {self.watch.remedy}"
            )
        return self.files[name]


def trained(folder: Path, wanted: Mapping[str, Any]) -> Sealed:
    """A run's folder.

    Args:
        wanted: the `NAMES` of the run that should lie there.

    Raises:
        UserError: it is of another run, as where folders were exchanged; and as `Sealed`.
    """
    run = Sealed(folder, RUN, "train")
    for key in NAMES:
        if run.described.get(key) != wanted[key]:
            raise UserError(
                f"{run.path}: {key}: found {run.described.get(key)}, expected {wanted[key]}; "
                f"{run.watch.remedy}"
            )
    return run


def scored(folder: Path, run: Sealed) -> Sealed:
    """The folder of a run's scores.

    Raises:
        UserError: they are of another run, or of an earlier one in its place; and as `Sealed`.
    """
    found = Sealed(folder, EVALUATION, "evaluate")
    if found.described.get("run") != run.sha256:
        raise UserError(
            f"{found.path}: holds scores of another run than {run.path}; {found.watch.remedy}"
        )
    return found
