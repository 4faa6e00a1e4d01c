"""The manifest of a partition: who holds what. One parquet file; no patch is copied."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals

from mmfl import chosen
from mmfl.clients.assignments import ASSIGNMENTS
from mmfl.errors import UserError
from mmfl.facts.bands import stored
from mmfl.files import atomic
from mmfl.params.registry import SCENARIOS
from mmfl.patches.tables import group_columns

COLUMNS = ["client", "group", "modality", "pair", "split"]
LOCATION = ["pair", "split", "labels"]
Scenario = Callable[..., "pd.Series | pd.Categorical[Any]"]
SPLITS = ("train", "validation", "test")
KEY = b"mmfl.sha256"


@dataclass(frozen=True)
class Manifest:
    """`frame` has the columns client, group, modality, pair, split, sorted; `summary` is JSON."""

    frame: pd.DataFrame
    summary: dict[str, Any]


def build(
    table: pd.DataFrame,
    *,
    scenario: str,
    assignment: str,
    clients: int = 1,
    seed: int = 0,
    alpha: float = 0.5,
    modalities: Sequence[str] = ("s1", "s2"),
    countries: list[str] | None = None,
    months: list[int] | None = None,
) -> Manifest:
    """Partition the locations of `table`.

    Args:
        table: one row per location: pair, split, labels (class indices), a column per modality
            (bool, or the patch's name or None), and columns by which locations are grouped, such
            as country, month, season, tile.
        scenario: a file of `mmfl.clients.scenarios`, or a column that names each location's group.
        assignment: a name in `ASSIGNMENTS`.
        modalities: what a client holds apart; `s2-20m` is held wherever s2 is.
        clients, alpha: groups of `random` and `dirichlet`; the latter's concentration.
        seed: of everything drawn.
        countries, months: only these locations; None: all.

    Raises:
        UserError: an unknown scenario, assignment or country; a table with a gap, an unknown split
            or a pair twice; two groups of one name; nothing left.
    """
    form = _scenario(scenario, table, modalities)
    assign = _known(assignment, ASSIGNMENTS, "partition.assignment")
    modalities = tuple(sorted(modalities))
    table = _chosen(_checked(table, modalities), countries, months)
    table["group"] = _named(pd.Categorical(form(table, clients=clients, seed=seed, alpha=alpha)))
    lost = table["group"].isna()
    if lost.any():
        raise UserError(
            f"partition: location {table['pair'][lost].iloc[0]} has no group in the scenario "
            f"{scenario}, expected one; complete the metadata or choose another scenario"
        )
    parts = assign(table, modalities, seed=seed)
    rows = pd.DataFrame(
        {
            "client": union_categoricals([p["client"] for p in parts], sort_categories=True),
            "modality": union_categoricals([p["modality"] for p in parts], sort_categories=True),
            "position": np.concatenate([p["position"] for p in parts]),
        }
    )
    order = np.lexsort([rows["position"], rows["modality"].cat.codes, rows["client"].cat.codes])
    rows = rows.iloc[order].reset_index(drop=True)
    held = table[["group", "pair", "split"]].iloc[rows["position"]].reset_index(drop=True)
    frame = pd.concat([rows[["client", "modality"]], held], axis=1)[COLUMNS].astype("str")
    return Manifest(frame, {"sha256": content_hash(frame), **_summary(rows, table, modalities)})


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of the manifest's content, whatever the file's encoding."""
    total = hashlib.sha256()
    for column in COLUMNS:
        total.update(column.encode() + b"\0")
        total.update("\n".join(pa.array(frame[column], pa.string()).to_pylist()).encode())
    return total.hexdigest()


def write_manifest(path: Path, frame: pd.DataFrame) -> None:
    """Write atomically, with the content hash in the file's metadata."""
    table = pa.Table.from_pandas(frame[COLUMNS], preserve_index=False)
    table = table.replace_schema_metadata({KEY: content_hash(frame).encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_manifest(path: Path) -> pd.DataFrame:
    """The frame of a manifest.

    Raises:
        UserError: the file is damaged or its content does not fit its hash.
    """
    try:
        table = pq.read_table(path)
        frame = table.to_pandas()[COLUMNS]
        stored = (table.schema.metadata or {}).get(KEY, b"").decode()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(
            f"{path}: not a partition ({str(error).splitlines()[0]}); run partition"
        ) from None
    if stored != content_hash(frame):
        raise UserError(
            f"{path}: content does not fit its hash, it was edited; run partition again"
        )
    return frame


def _scenario(name: str, table: pd.DataFrame, modalities: Sequence[str]) -> Scenario:
    """The scenario of this name, or the groups that a column of the table names."""
    held = [stored(q) for q in modalities]
    columns = {*group_columns(table, held)} - {"pair", "split"}
    drawn = {n for n, needed in SCENARIOS.items() if {*needed} <= columns}
    _known(name, dict.fromkeys(sorted(columns | drawn)), "partition.scenario")
    if name in columns and name != "region":
        return lambda table, **_: table[name]
    groups: Scenario = chosen.load("clients.scenarios", name).groups
    return groups


def _known(name: str, registry: dict[str, Any], what: str) -> Any:
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(registry))}"
        raise UserError(f"{what}: unknown {name!r}; {hint}")
    return registry[name]


def _checked(table: pd.DataFrame, modalities: Sequence[str]) -> pd.DataFrame:
    """A copy sorted by pair, the modalities as bool columns, split and country as categories."""
    needed = (*LOCATION, *dict.fromkeys(map(stored, modalities)))
    lacking = [c for c in needed if c not in table]
    if lacking:
        raise UserError(
            f"partition: the table of locations has no column {lacking[0]}, expected "
            f"{', '.join(needed)}; run split again"
        )
    filled = [*LOCATION, *(column for column in ("country", "month") if column in table)]
    gaps = table[filled].isna()
    if gaps.to_numpy().any():
        row, column = np.argwhere(gaps.to_numpy())[0]
        raise UserError(
            f"partition: location {table['pair'].iloc[row]}: found no {filled[column]}, expected "
            "one; correct the metadata and run split again"
        )
    order = np.argsort(table["pair"].to_numpy(object), kind="stable")
    source = {q: table[stored(q)] for q in modalities}
    held = {q: values.notna() & (values != False) for q, values in source.items()}  # noqa: E712
    table = table.assign(**held).iloc[order].reset_index(drop=True)
    twice = table["pair"].duplicated()
    if twice.any():
        raise UserError(f"partition: the pair {table['pair'][twice].iloc[0]} is listed twice")
    table["split"] = table["split"].astype("category")
    wrong = set(table["split"].cat.categories) - set(SPLITS)
    if wrong:
        pair = table["pair"][table["split"].isin(wrong)].iloc[0]
        raise UserError(
            f"partition: location {pair}: split: found {sorted(wrong)[0]!r}, expected one of "
            f"{', '.join(SPLITS)}; correct the metadata and run split again"
        )
    return table


def _chosen(
    table: pd.DataFrame, countries: list[str] | None, months: list[int] | None
) -> pd.DataFrame:
    """The locations asked for; every country asked for stays a category, also without locations."""
    for key, column, wish in (("countries", "country", countries), ("months", "month", months)):
        if wish is not None and column not in table:
            raise UserError(f"partition.{key}: the archive has no column {column}; set it to null")
    if "country" not in table:
        table = table.assign(country="")
    there = sorted(table["country"].unique())
    for name in countries or ():
        _known(name, dict.fromkeys(there), "partition.countries")
    wanted = sorted(set(there if countries is None else countries))
    keep = table["country"].isin(wanted)
    if months is not None:
        keep &= table["month"].isin(months)
    table = table[keep].reset_index(drop=True)
    if table.empty:
        raise UserError("partition: found no location, expected some; see countries and months")
    table["country"] = pd.Categorical(table["country"], wanted)
    return table


def group_names(groups: Iterable[object]) -> dict[str, str]:
    """group -> its part of its clients' names: lower case, letters and digits joined by dashes.

    Letters are those of any script: `Côte d'Ivoire` is `côte-d-ivoire`, `江苏` stays.

    Raises:
        UserError: a group has neither letter nor digit, or two would have one name.
    """
    names: dict[str, str] = {}
    first: dict[str, str] = {}
    for group in map(str, groups):
        text = unicodedata.normalize("NFC", group.lower())
        kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in text)
        name = "-".join("".join(kept).split())
        if not name:
            raise UserError(f"the group {group!r} has no letter and no digit, expected some, of "
                            "which its clients are named; rename it")  # fmt: skip
        if first.setdefault(name, group) != group:
            raise UserError(
                f"the groups {first[name]!r} and {group!r} would both be called "
                f"{name!r}, expected names that differ in letters or digits; rename one"
            )
        names[group] = name
    return names


def _named(groups: pd.Categorical) -> pd.Categorical:
    """Groups by their `group_names`."""
    try:
        names = group_names(groups.categories)
    except UserError as error:
        raise UserError(f"partition: {error}") from None
    return groups.rename_categories(lambda group: names[str(group)])


def _summary(rows: pd.DataFrame, table: pd.DataFrame, modalities: Sequence[str]) -> dict[str, Any]:
    """Counts of a partition. `rows`: client, modality (categories), position in `table`."""
    position = rows["position"].to_numpy()
    rows = rows.assign(group=table["group"].array[position], split=table["split"].array[position])
    by = ["client", "group", "modality", "split"]
    clients: dict[str, Any] = {}
    for row in _sizes(rows, by):
        entry = clients.setdefault(
            row["client"],
            {"group": row["group"], "locations": {}, "counts": {}, "labels": {}, "partners": 0},
        )
        entry["counts"].setdefault(row["modality"], {})[row["split"]] = row["n"]
    for row in _sizes(rows.drop_duplicates(["client", "position"]), ["client", "split"]):
        clients[row["client"]]["locations"][row["split"]] = row["n"]

    training = rows[rows["split"] == "train"]
    once = training.drop_duplicates(["client", "position"])
    for client, part in once.groupby("client", observed=True):
        clients[str(client)]["labels"] = _label_counts(table, part["position"].to_numpy())
    for name, count in _partners(training).items():
        clients[str(name)]["partners"] = int(count)
    pairs = training.drop_duplicates(["position", "modality"])["position"].value_counts()
    by_group: dict[str, dict[str, int]] = {}
    for row in _sizes(table, ["group", "split"]):
        by_group.setdefault(row["group"], {})[row["split"]] = row["n"]
    alone = table[~table[list(modalities)].all(axis=1)]
    return {
        "locations": {row["split"]: row["n"] for row in _sizes(table, ["split"])},
        "locations_by_group": by_group,
        "clients": clients,
        "empty_clients": sorted(set(rows["client"].cat.categories) - set(training["client"])),
        "without_partner": {q: int(alone[q].sum()) for q in modalities},
        "without_holder": len(table) - rows["position"].nunique(),
        "shared_training_pairs": int((pairs > 1).sum()),
        "pooled_labels": _label_counts(table, np.unique(training["position"])),
    }


def _partners(training: pd.DataFrame) -> pd.Series:
    """client -> its training locations that another client holds in another modality."""
    held = training[["client", "modality", "position"]].astype({"client": str, "modality": str})
    found = []
    for q in held["modality"].unique():
        here, there = held[held["modality"] == q], held[held["modality"] != q]
        both = here.merge(there, on="position", suffixes=("", "_other"))
        found.append(both[both["client"] != both["client_other"]][["client", "position"]])
    if not found:
        return pd.Series(dtype=int)
    return pd.concat(found).drop_duplicates().groupby("client").size()


def _label_counts(table: pd.DataFrame, positions: np.ndarray) -> dict[str, int]:
    """class -> locations that have it."""
    lists = table["labels"].array[positions]
    flat = np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64)
    return {str(k): int(n) for k, n in zip(*np.unique(flat, return_counts=True), strict=True)}


def _sizes(table: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """A record per combination of categories that occurs, `n` of them each."""
    found = table.groupby(by, observed=True).size().reset_index(name="n")
    return [{**record, "n": int(record["n"])} for record in found.to_dict("records")]  # type: ignore[dict-item]
