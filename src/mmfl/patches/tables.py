"""The tables of a store: their columns, and how they are written. Nothing of an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmfl.facts.tasks import MASK, MASK_COLUMNS
from mmfl.files import atomic


def group_columns(metadata: pd.DataFrame, modalities: Sequence[str]) -> list[str]:
    """The columns that say what a location is: its pair, its split, what it may be grouped by."""
    other = {*modalities, MASK, *MASK_COLUMNS}
    return [str(column) for column in metadata.columns if column not in other]


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; equal tables give equal bytes with one version of pyarrow."""
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)
