"""What a results folder holds, and what the partition that it belongs to."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.errors import UserError
from mmfl.files import digest, read_json
from mmfl.params import SIMULATED
from mmfl.reporting import layout, tables, writers
from mmfl.reporting.layout import Table
from mmfl.sealed import Sealed


def laid_out(results: Path) -> dict[str, Table]:
    """The tables of a results folder, laid out from their csv."""
    compared = table_of(results, "comparison")
    baseline, task = str(compared["baseline"].iloc[0]), tables.task_of(compared)
    return {
        name: make(table_of(results, name), baseline, task) for name, make in layout.LAYOUTS.items()
    }


def table_of(results: Path, name: str) -> pd.DataFrame:
    """The csv of a table."""
    return _csv(results / "tables" / f"{name}.csv", "report")


def holders(partition: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(a row per client, summary) of a partition, by its manifest's path without its end.

    Raises:
        UserError: one is not there, or not as `partition` wrote it.
    """
    path = Path(f"{partition}.json")
    summary = read_json(path, "partition")
    written = {key: value for key, value in summary.items() if key != "digest"}
    if summary.get("digest") != digest(written):
        raise UserError(f"{path}: not as it was written; run partition again")
    Sealed(path.parent, path.name, "partition").content(f"{partition.name}.csv")
    return _csv(Path(f"{partition}.csv"), "partition"), summary


def _csv(path: Path, step: str) -> pd.DataFrame:
    try:
        return writers.read_csv(path)
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable ({text}); run {step} again") from None


def headline(results: Path) -> str:
    """The comparison as plain text for a terminal."""
    table, task = laid_out(results)["comparison"], tables.task_of(table_of(results, "comparison"))
    archive = results.parent.name
    head = f"{archive}: {task.title}"
    simulated = "The data are simulated.\n" if archive in SIMULATED else ""
    note = "\n".join(textwrap.wrap(" ".join(table.notes), 100))
    return (
        f"{head}\n{'=' * len(head)}\n{simulated}{table.title} ({results})\n\n"
        f"{writers.plain(table)}\n\n{note}"
    )
