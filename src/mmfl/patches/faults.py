"""Patches that cannot be used: found before anything is encoded, and kept as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

import pandas as pd

from mmfl.archives.base import Archive, Fault
from mmfl.errors import UserError
from mmfl.files import atomic
from mmfl.patches.streaming import Told, missing, read_told, stranger

ON_ERROR = ("stop", "skip")
COLUMNS = tuple(field.name for field in fields(Fault))
SKIPPED = "skipped.csv"


def sift(
    archive: Archive, root: Path, rows: pd.DataFrame, workers: int = 1, store: Path | None = None
) -> tuple[pd.DataFrame, list[Fault]]:
    """The rows of `metadata` that can be encoded, with labels, and what is wrong with the rest.

    Found without opening an image: a name that is listed twice (none of its rows is kept, as
    nothing says which is right), a patch without a folder (it is then missing in that modality),
    a folder that the tables do not know, labels that cannot be read. Of a modality in a tar, these
    are known after it was read once, by `store`; before, all that is listed is taken to be there.
    """
    rows, faults = _listed_once(archive, root, rows)
    rows = rows.copy()
    known: dict[str, set[str]] | None = None
    told: dict[str, Told] = {}
    unread = False
    for q in archive.modalities:
        packed = archive.packed(root, q)
        if packed is not None:
            found = None if store is None else read_told(store, q, packed)
            unread |= found is None
            if found is None:
                continue
            told[q] = found
            absent = rows[q].isin(found.lost)
            faults += found.strangers
        else:
            known = known or archive.names(root)
            there = archive.folders(root, q)
            if not there and store is not None and (store / f".{q}.json").is_file():
                raise UserError(
                    f"{root}: found neither folder nor tar of {q}, expected what its shards in "
                    f"{store} were made from; put it back (or use --fresh to do without)"
                )
            absent = rows[q].notna() & ~rows[q].isin(there)
            for patch in sorted(there.keys() - known[q]):
                faults.append(stranger(q, patch, str(there[patch])))
        for patch in rows.loc[absent, q]:
            faults.append(missing(q, patch, str(archive.patch_folder(root, q, patch))))
        rows.loc[absent, q] = None
    rows = held(archive, rows)
    if unread:
        return rows, faults
    labels = {q: found.labels for q, found in told.items()}
    rows, unlabelled = archive.labelled(root, rows, workers, labels)
    return rows, [*faults, *unlabelled]


def held(archive: Archive, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a patch in some modality."""
    return rows[rows[list(archive.modalities)].notna().any(axis=1)].reset_index(drop=True)


def _listed_once(
    archive: Archive, root: Path, rows: pd.DataFrame
) -> tuple[pd.DataFrame, list[Fault]]:
    """The rows whose names occur in no other row."""
    faults = []
    wrong = pd.Series(False, index=rows.index)
    for column in dict.fromkeys(["pair", *archive.modalities]):
        twice = rows[column].notna() & rows[column].duplicated(keep=False)
        new = twice & ~wrong
        for name, count in rows.loc[new, column].value_counts(sort=False).items():
            q = column if column in archive.modalities else ""
            table = root / archive.metadata_files[0]
            reason = f"lists {name} {count} times, expected it once; correct the table"
            faults.append(Fault(q, str(name), str(table), reason))
        wrong |= twice
    return rows[~wrong].reset_index(drop=True), faults


def refuse(faults: Sequence[Fault]) -> None:
    """Raise `UserError`, which names the first fault and how many there are."""
    if faults:
        more = f" ({len(faults) - 1:,} more like it)" if len(faults) > 1 else ""
        way = "" if "on_error" in faults[0].reason else ", or set split.on_error: skip"
        raise UserError(f"{faults[0]}{way}{more}")


def write_skipped(path: Path, faults: Iterable[Fault], shown: Callable[[str], str]) -> None:
    """The faults as csv, sorted; `shown` shortens a file's name."""
    rows = [astuple(fault) for fault in faults]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    table["file"] = table["file"].map(shown)
    table["reason"] = table["reason"].str.split(";").str[0]  # the remedy is for who stops
    table = table.sort_values(list(COLUMNS), kind="stable")
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", errors="backslashreplace")


def read_skipped(path: Path) -> pd.DataFrame:
    """The table that `write_skipped` wrote.

    Raises:
        UserError: it is not there, or not such a table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); run split again") from None
    if tuple(table.columns) != COLUMNS:
        found = ", ".join(table.columns)
        raise UserError(f"{path}: found {found}, expected {', '.join(COLUMNS)}; run split again")
    return table
