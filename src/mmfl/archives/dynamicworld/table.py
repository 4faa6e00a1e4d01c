"""The published table of Dynamic World's tiles, an Excel workbook, and what tiles' names say."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmfl.errors import UserError

XLSX = "v1_dw_tile_metadata_for_public_release.xlsx"
TABLE = ("dw_id", "date", "hemisphere", "biome", "S2_PRODUCT_ID")
NAME = re.compile(r"^(?:dw_)?(?P<place>.+)-(?P<date>(?:19|20)\d{6})$")


@dataclass(frozen=True)
class Row:
    """What the table says of a tile: date YYYY-MM-DD, region, Sentinel-2 product or None."""

    date: str
    hemisphere: str
    biome: str
    product: str | None


def read_table(path: Path, names: Collection[str]) -> dict[str, Row]:
    """The rows of some tiles, by name; the first where a tile is listed several times.

    Every sheet with a column dw_id is read, in order, but those named non... (the crowd's tiles).

    Raises:
        UserError: no workbook, a column is missing, or a row of these tiles lacks a value.
    """
    found: dict[str, Row] = {}
    for sheet, frame in _sheets(path).items():
        frame = frame[frame["dw_id"].isin(set(names) - found.keys())]
        for values in frame.drop_duplicates("dw_id").itertuples(index=False):
            row = dict(zip(frame.columns, values, strict=True))
            found[row["dw_id"]] = Row(
                _date(path, sheet, row),
                _needed(path, sheet, row, "hemisphere"),
                _needed(path, sheet, row, "biome"),
                _text(row["S2_PRODUCT_ID"]),
            )
    return found


def place_of(name: str) -> str:
    """`-95.1_41.2` of `dw_-95.1_41.2-20190615`; else the name itself."""
    match = NAME.match(name)
    return match["place"] if match else name


def date_of(name: str) -> str | None:
    """`2019-06-15` of `dw_-95.1_41.2-20190615`, None where a name ends in no date."""
    match = NAME.match(name)
    date = pd.to_datetime(match["date"], format="%Y%m%d", errors="coerce") if match else pd.NaT
    return None if pd.isna(date) else f"{date:%Y-%m-%d}"


def _sheets(path: Path) -> dict[str, pd.DataFrame]:
    """The needed columns of every sheet that lists tiles."""
    if not path.is_file():
        raise UserError(f"{path}: not found, expected the tiles' table; run download")
    from openpyxl.utils.exceptions import InvalidFileException  # as slow to import as pandas

    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            names = [name for name in book.sheet_names if not str(name).lower().startswith("non")]
            sheets = pd.read_excel(book, sheet_name=names, dtype=object)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, InvalidFileException) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable workbook ({text}); fetch it again") from None
    first = next(iter(sheets), "none")
    listed = {name: sheet for name, sheet in sheets.items() if "dw_id" in sheet.columns}
    for name, sheet in (listed or {first: sheets.get(first, pd.DataFrame())}).items():
        missing = [column for column in TABLE if column not in sheet.columns]
        if missing:
            columns = ", ".join(map(str, sheet.columns)) or "nothing"
            raise UserError(
                f"{path}: sheet {name}: column {missing[0]} is missing, found {columns}; "
                "expected the table of Dynamic World's tiles"
            )
    return {str(name): sheet[list(TABLE)] for name, sheet in listed.items()}


def _date(path: Path, sheet: str, row: dict[str, object]) -> str:
    text = _needed(path, sheet, row, "date")
    date = pd.to_datetime(text, errors="coerce")
    if pd.isna(date):
        raise UserError(
            f"{path}: sheet {sheet}: {row['dw_id']}: date: found {text!r}, expected one like "
            "2019-06-15; correct the table"
        )
    return f"{date:%Y-%m-%d}"


def _needed(path: Path, sheet: str, row: dict[str, object], column: str) -> str:
    text = _text(row[column])
    if text is None:
        raise UserError(
            f"{path}: sheet {sheet}: {row['dw_id']}: {column} is empty, expected a value; "
            "correct the table"
        )
    return text


def _text(value: object) -> str | None:
    """A cell as text: 4 and 4.0 are "4"; None where it is empty."""
    if value is None or value is pd.NaT or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
