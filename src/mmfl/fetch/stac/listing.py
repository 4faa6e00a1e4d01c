"""scenes.csv: what became of every image of an archive of label tiles."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfl.errors import UserError

COLUMNS = (
    "tile", "modality", "outcome", "reason", "catalogue", "collection", "items", "datetime",
    "days", "hrefs", "offset", "valid", "sha256",
)  # fmt: skip
SCENES = "scenes.csv"
OK, NO_SCENE, NO_COVERAGE = "ok", "no scene", "no coverage"
TOO_LITTLE, UNUSABLE, FAILED = "too little coverage", "unusable scene", "failed"
DOUBTFUL = "doubtful values"
Row = dict[str, Any]


def check(scenes: Path) -> None:
    """Refuse a table with failed images, which the next run fetches; what is done is kept.

    Raises:
        UserError: how many, and why the first did.
    """
    with scenes.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    failed = [row for row in rows if row["outcome"] == FAILED]
    if failed:
        raise UserError(
            f"{scenes}: found {len(failed)} of {len(rows)} images failed, e.g. "
            f"{failed[0]['tile']} {failed[0]['modality']} ({failed[0]['reason']}); run download "
            "again, it fetches only these"
        )


def table(rows: Sequence[Row]) -> str:
    """scenes.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
