"""Labels, apart from the modalities: one row per location."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmfl.errors import UserError
from mmfl.files import read_json, write_json
from mmfl.patches.writer import GROUPS, write_parquet


def write_labels(folder: Path, metadata: pd.DataFrame, classes: tuple[str, ...], task: str) -> None:
    """`index.parquet` (pair, groups, labels as class indices) and `classes.json`."""
    write_parquet(folder / "index.parquet", metadata[[*GROUPS, "labels"]].reset_index(drop=True))
    write_json(folder / "classes.json", {"task": task, "classes": list(classes)})


def read_labels(folder: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table, sorted by pair, and the names of the classes.

    Raises:
        UserError: the folder is not what `split` writes.
    """
    try:
        table = pd.read_parquet(folder / "index.parquet")
        classes = tuple(read_json(folder / "classes.json", "split")["classes"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not readable ({error}); run split again") from None
    return table, classes
