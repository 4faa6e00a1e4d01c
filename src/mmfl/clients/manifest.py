"""The manifest of a partition: who holds what. One parquet file; no patch is copied."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mmfl.clients.assignments import ASSIGNMENTS
from mmfl.clients.scenarios import SCENARIOS
from mmfl.errors import UserError
from mmfl.files import atomic

COLUMNS = ["client", "group", "modality", "pair", "split"]
MODALITIES = ("s1", "s2")
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
    countries: list[str] | None = None,
    months: list[int] | None = None,
) -> Manifest:
    """Partition the locations of `table`.

    Args:
        table: one row per location: pair, split, country, month, season, tile, labels (class
            indices), and a column per modality (bool, or the patch's name or None).

    Raises:
        UserError: an unknown scenario, assignment or country; a pair listed twice; nothing left.
    """
    form = _known(scenario, SCENARIOS, "partition.scenario")
    assign = _known(assignment, ASSIGNMENTS, "partition.assignment")
    table = table.sort_values("pair", kind="stable").reset_index(drop=True)
    twice = table["pair"].duplicated()
    if twice.any():
        raise UserError(f"partition: the pair {table['pair'][twice].iloc[0]} is listed twice")
    held = {q: table[q].notna() & (table[q] != False) for q in MODALITIES}  # noqa: E712
    table = table.assign(**held)
    expected = sorted(table["country"].unique()) if countries is None else countries
    for name in countries or ():
        _known(name, dict.fromkeys(table["country"].unique()), "partition.countries")
    keep = table["country"].isin(expected)
    if months is not None:
        keep &= table["month"].isin(months)
    table = table[keep].reset_index(drop=True)
    if table.empty:
        raise UserError("partition: found no location, expected some; see countries and months")
    table["group"] = form(table, clients=clients, seed=seed).to_numpy()
    rows = assign(table, MODALITIES, seed=seed)
    position = rows["position"].to_numpy()
    frame = pd.DataFrame(
        {
            "client": rows["client"].to_numpy(),
            "group": table["group"].to_numpy()[position],
            "modality": rows["modality"].to_numpy(),
            "pair": table["pair"].to_numpy()[position],
            "split": table["split"].to_numpy()[position],
        }
    )
    frame = frame.iloc[np.lexsort([position, rows["modality"], frame["client"]])]
    frame = frame.reset_index(drop=True)
    return Manifest(frame, _summary(frame, table, expected if scenario == "country" else None))


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of the manifest's content, whatever the file's encoding."""
    total = hashlib.sha256()
    for column in COLUMNS:
        total.update(column.encode() + b"\0")
        total.update("\n".join(frame[column].tolist()).encode())
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


def _known(name: str, registry: dict[str, Any], what: str) -> Any:
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(registry))}"
        raise UserError(f"{what}: unknown {name!r}; {hint}")
    return registry[name]


def _summary(
    frame: pd.DataFrame, table: pd.DataFrame, countries: list[str] | None
) -> dict[str, Any]:
    counts = frame.groupby(["client", "group", "modality", "split"]).size().reset_index(name="n")
    clients: dict[str, Any] = {}
    for row in counts.to_dict("records"):
        entry = clients.setdefault(row["client"], {"group": row["group"], "counts": {}})
        entry["counts"].setdefault(row["modality"], {})[row["split"]] = int(row["n"])
    labels = table.set_index("pair")["labels"]
    training = frame[frame["split"] == "train"]
    for client, part in training.groupby("client"):
        found = labels.loc[part["pair"].unique()]
        flat = np.concatenate(found.to_numpy()) if len(found) else np.empty(0, np.int64)
        clients[str(client)]["labels"] = {
            str(label): int(count)
            for label, count in zip(*np.unique(flat, return_counts=True), strict=True)
        }
    with_training = set(training["client"])
    names = {f"{group}-{q}" for group in table["group"].unique() for q in MODALITIES}
    for name in countries or ():
        names |= {f"{name.lower().replace(' ', '-')}-{q}" for q in MODALITIES}
    per_pair = training.drop_duplicates(["pair", "modality"]).groupby("pair").size()
    alone = table[~table[list(MODALITIES)].all(axis=1)]
    return {
        "sha256": content_hash(frame),
        "locations": {s: int(n) for s, n in table.groupby("split").size().items()},
        "locations_by_group": {
            group: {s: int(n) for s, n in part.groupby("split").size().items()}
            for group, part in table.groupby("group")
        },
        "clients": clients,
        "empty_clients": sorted(names - with_training),
        "without_partner": {q: int((alone[q]).sum()) for q in MODALITIES},
        "shared_training_pairs": int((per_pair > 1).sum()),
    }
