"""The table of an archive of one's own: splits, groups, labels and the paths of the files."""

from __future__ import annotations

import difflib
import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmfl.errors import UserError
from mmfl.facts.description import Description, read_description
from mmfl.facts.description_parts import Column, Images, Pixels, Words, whole

log = logging.getLogger(__name__)
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
TRUTH = {"1": True, "true": True, "0": False, "false": False}
LIST = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
Paths = tuple[str, ...]


def table_path(described: Description, root: Path) -> Path:
    """The table, relative to the description `root`."""
    return root.parent / Path(described.table).expanduser()


def read_table(described: Description, root: Path) -> pd.DataFrame:
    """Every cell as text without blanks around it, "" where there is none.

    Raises:
        UserError: the table is not there or not readable, or lacks a column that is named.
    """
    path = table_path(described, root)
    try:
        table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected the table that {root} names") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not in UTF-8, expected that; save it as CSV UTF-8") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not readable ({text}), expected .csv or .parquet") from None
    for column, key in needed(described):
        if column not in table:
            near = difflib.get_close_matches(column, list(table.columns), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            found = ", ".join(map(str, table.columns))
            raise UserError(f"{root}: {key}: no column {column} in {path}, found {found}{hint}")
    separator = described.labels.separator if described.labels else ";"
    return table.map(lambda value: cell(value, separator))


def needed(described: Description) -> list[tuple[str, str]]:
    """The columns that a description names, each with its key."""
    found = [(described.id, "id"), (described.split.column, "split")]
    found += [(column, "groups") for column in described.groups]
    if described.grouped is not None:
        found.append((described.grouped, "region"))
    parts: dict[str, Images | Pixels] = {
        f"modalities.{q}.path": part for q, part in described.modalities.items()
    }
    if described.task == "pixel" and described.mask:
        parts["mask.path"] = described.mask
    for key, part in parts.items():
        for path in _templates(part, key.split(".")[-2]):
            inside = [name for name in PLACEHOLDER.findall(path) if name != "id"]
            found += [(name, key) for name in (inside if "{" in path else [path])]
    for q, part in described.modalities.items():
        for kind in ("scale", "offset"):
            if (column := factor_column(part, kind)) is not None:
                found.append((column, f"modalities.{q}.{kind}"))
    if described.task == "multilabel" and described.labels:
        columns = list(described.labels.columns) or [described.labels.column]
        found += [(column, "labels") for column in columns]
    return list(dict.fromkeys(found))


def base_folder(described: Description, root: Path) -> Path:
    """What the paths in the table are relative to."""
    return root.parent / Path(described.root).expanduser()


def named(described: Description, root: Path) -> dict[str, dict[str, Paths | None]]:
    """modality (or mask) -> location -> its files as in the table; read once by each process."""
    both = (root, table_path(described, root))
    return _named(root, tuple(p.stat().st_mtime_ns if p.exists() else 0 for p in both))


@lru_cache(maxsize=4)
def _named(root: Path, times: tuple[int, ...]) -> dict[str, dict[str, Paths | None]]:
    described = read_description(root)
    table = read_table(described, root)
    parts = [*described.modalities, *(["mask"] if described.task == "pixel" else [])]
    pairs = table[described.id].tolist()
    return {q: dict(zip(pairs, paths(described, table, q), strict=True)) for q in parts}


def factors(described: Description, root: Path) -> dict[str, dict[str, dict[str, float]]]:
    """modality -> location -> `scale` and `offset`, where columns hold them; as `named`."""
    both = (root, table_path(described, root))
    return _factors(root, tuple(p.stat().st_mtime_ns if p.exists() else 0 for p in both))


@lru_cache(maxsize=4)
def _factors(root: Path, times: tuple[int, ...]) -> dict[str, dict[str, dict[str, float]]]:
    described = read_description(root)
    table = read_table(described, root)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for q, part in described.modalities.items():
        columns = {kind: column for kind in ("scale", "offset")
                   if (column := factor_column(part, kind)) is not None}  # fmt: skip
        if columns:
            values = {kind: [number(text) for text in table[c]] for kind, c in columns.items()}
            rows = [dict(zip(values, row, strict=True))
                    for row in zip(*values.values(), strict=True)]  # fmt: skip
            found[q] = dict(zip(table[described.id], rows, strict=True))
    return found


def factor_column(part: Images, kind: str) -> str | None:
    """The column that holds the `scale` or `offset` of each row, if one does."""
    value = part.scale if kind == "scale" else part.offset
    return value.column if isinstance(value, Column) else None


def number(text: str) -> float:
    """A cell as a finite number, else NaN."""
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if np.isfinite(value) else float("nan")


def paths(described: Description, table: pd.DataFrame, name: str) -> list[Paths | None]:
    """For each row the files of a modality or of the `mask`; None where a cell is empty.

    One file, or one per band where each has its own. Backslashes, as Windows writes them, are
    slashes.
    """
    part: Images | Pixels | None = described.modalities.get(name, described.mask)
    assert part is not None
    columns = [[text.replace("\\", "/") for text in _filled(described, table, template)]
               for template in _templates(part, name)]  # fmt: skip
    return [None if "" in row else row for row in zip(*columns, strict=True)]


def metadata(described: Description, table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """As `Archive.metadata`; a location's name is the same in every modality.

    Raises:
        UserError: a cell of the table is wrong; the first is named, and how many there are.
    """
    wrong = faults(described, table)
    path = table_path(described, root)
    if wrong:
        more = f" ({len(wrong) - 1:,} more like it; mmfl check {root})" if len(wrong) > 1 else ""
        raise UserError(f"{path}: {wrong[0]}{more}")
    split = splits(described, table)
    chosen = split.notna()
    if not chosen.all():
        log.warning("%s: %d rows are in no split and left out", path, (~chosen).sum())
    table, split = table[chosen].reset_index(drop=True), split[chosen].reset_index(drop=True)
    if "validation" not in set(split):
        log.warning("%s: no location for validation, so rounds cannot be compared by it", path)
    rows = pd.DataFrame({"pair": table[described.id].astype(object)})
    for q in described.modalities:
        there = pd.Series([files is not None for files in paths(described, table, q)], dtype=bool)
        rows[q] = rows["pair"].where(there, None)
    rows["split"] = split
    for column in described.groups:
        rows[column] = _group(table[column])
    grouped = described.grouped
    rows["region"] = "all" if grouped is None else table[grouped]
    rows["labels"] = pd.Series([None] * len(rows), dtype=object)
    if described.task == "multilabel" and described.labels:
        rows["labels"] = pd.Series(labels(described.labels, table), dtype=object)
    return rows.sort_values("pair", kind="stable", ignore_index=True)


def faults(described: Description, table: pd.DataFrame) -> list[str]:
    """What is wrong in the cells, a line per row; duplicate names are found elsewhere."""
    found = []
    column, split = described.split.column, splits(described, table)
    for row, name in enumerate(table[described.id]):
        if not name:
            found.append(f"row {row + 1}: nothing in column {described.id}, expected a name")
    if not described.split.selects:
        for name, value in zip(table[described.id][split.isna()], table[column][split.isna()],
                               strict=True):  # fmt: skip
            said = repr(value) if value else "nothing"
            found.append(f"{name}: found {said} in column {column}, expected train, validation or "
                         "test; or say what it means with split")  # fmt: skip
    used = table[split.notna()]
    groups = [*described.groups, *filter(None, [described.grouped])]
    for group in dict.fromkeys(groups):
        for name in used[described.id][used[group] == ""]:
            found.append(f"{name}: nothing in column {group}, expected a group")
    found += _strange_factors(described, used)
    if described.task == "multilabel" and described.labels:
        found += _strange_labels(described.labels, described.id, used)
    return found


def _strange_factors(described: Description, table: pd.DataFrame) -> list[str]:
    """Cells of scales and offsets that are no number, of rows that name an image."""
    found = []
    for q, part in described.modalities.items():
        for kind in ("scale", "offset"):
            column = factor_column(part, kind)
            if column is None:
                continue
            for name, files, text in zip(table[described.id], paths(described, table, q),
                                         table[column], strict=True):  # fmt: skip
                value = number(text)
                if files is not None and (np.isnan(value) or (kind == "scale" and value == 0)):
                    said = repr(text) if text else "nothing"
                    zero = " other than 0" if kind == "scale" else ""
                    found.append(f"{name}: found {said} in column {column}, expected a number"
                                 f"{zero}, the {kind} of its {q}")  # fmt: skip
    return found


def splits(described: Description, table: pd.DataFrame) -> pd.Series:
    """The split of each row, None where it is in none."""
    return table[described.split.column].map(described.split.of).astype(object)


def labels(words: Words, table: pd.DataFrame) -> list[np.ndarray]:
    """Sorted class indices of each row, int8."""
    index = {name: number for number, name in enumerate(words.names)}
    known = words.classes or words.columns
    return [np.array(sorted({index[known[word]] for word in has if word in known}), np.int8)
            for has in _words(words, table)]  # fmt: skip


def _words(words: Words, table: pd.DataFrame) -> list[list[str]]:
    """The codes that each row has."""
    if words.columns:
        return [[column for column in words.columns if TRUTH.get(whole(row[column]).lower())]
                for row in table[list(words.columns)].to_dict("records")]  # fmt: skip
    return [_codes(words, text) for text in table[words.column]]


def _codes(words: Words, text: str) -> list[str]:
    """The codes in a cell: between separators, or in a list as Python, JSON or numpy write it."""
    found = _split(text, words.separator)
    if set(found) <= set(words.classes) or not LIST.fullmatch(text):
        return [word if word in words.classes else whole(word) for word in found]
    inside = text[1:-1]
    quoted = [one or other for one, other in QUOTED.findall(inside)]
    if not quoted:
        mark = next((mark for mark in (words.separator, ",") if mark in inside), None)
        quoted = [inside.strip()] if inside.strip() in words.classes else (
            inside.split() if mark is None else _split(inside, mark)
        )  # fmt: skip
    elif QUOTED.sub("", inside).strip(f" ,;{words.separator}\n"):
        return found  # something beside the quotes
    return [word if word in words.classes else whole(word) for word in quoted]


def _split(text: str, separator: str) -> list[str]:
    return [word.strip() for word in text.split(separator) if word.strip()]


def _strange_labels(words: Words, key: str, table: pd.DataFrame) -> list[str]:
    found = []
    if words.columns:
        for column in words.columns:
            wrong = ~table[column].map(whole).str.lower().isin(list(TRUTH))
            for name, value in zip(table[key][wrong], table[column][wrong], strict=True):
                found.append(f"{name}: found {value!r} in column {column}, expected 0 or 1")
        return found
    for name, text, has in zip(table[key], table[words.column], _words(words, table), strict=True):
        for word in has:
            if word not in words.classes:
                hint = _label_hint(words, text, word)
                found.append(f"{name}: found the label {word!r}, expected a class; {hint}")
    return found


def _label_hint(words: Words, text: str, word: str) -> str:
    """What is probably meant by a label that is no class."""
    for mark in (";", ",", "|", "/", " "):
        if mark in word and set(_split(text, mark)) <= set(words.classes):
            return f"for what stands between {mark!r}, set labels.separator: {mark!r}"
    folded = {name.casefold(): name for name in words.classes}
    near = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"did you mean {folded[near[0]]}?" if near else f"known: {', '.join(words.classes)}"


def _group(values: pd.Series) -> pd.Series:
    """Text, but months as numbers, by which they are chosen."""
    if values.name == "month" and len(values) and values.map(whole).str.fullmatch(r"\d+").all():
        return values.map(whole).astype("int64")
    return values.astype(object)


def _templates(part: Images | Pixels, name: str) -> list[str]:
    """A column or template, or one per band where each has its own file."""
    if isinstance(part, Images) and part.apart:
        by_band = part.path if isinstance(part.path, dict) else dict.fromkeys(part.bands, part.path)
        return [by_band[band].replace("{band}", band) for band in part.bands]
    return [str(part.path) or name]


def _filled(described: Description, table: pd.DataFrame, template: str) -> list[str]:
    """A column's cells, or the template with each row's values in place; "" where one is empty."""
    if "{" not in template:
        return table[template].tolist()
    pieces = PLACEHOLDER.split(template)
    names = [described.id if name == "id" else name for name in pieces[1::2]]
    found = []
    for values in table[names].itertuples(index=False) if names else [()] * len(table):
        text = pieces[0] + "".join(v + p for v, p in zip(values, pieces[2::2], strict=True))
        found.append("" if "" in values else text)
    return found


def _csv(path: Path) -> pd.DataFrame:
    """Separated by what is most frequent in the first line: comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig") as handle:
        first = handle.readline()
    separator = max(",;\t", key=first.count)
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return table.rename(columns=str.strip)


def _parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


def cell(value: Any, separator: str) -> str:
    """A cell as text: whole numbers without a point, lists joined, "" for what is not there."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | tuple | np.ndarray):
        return separator.join(cell(item, separator) for item in value)
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
