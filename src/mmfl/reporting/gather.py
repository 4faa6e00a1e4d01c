"""What a report is made of: scores, rounds and descriptions of runs as frames.

A run is a dict with method, variant, label, seed and the paths scores, predictions, rounds, run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.reporting.tables import full
from mmfl.reporting.writers import read_csv

Run = dict[str, Any]
ASKED = ["kind", "policy", "modalities", "removed", "rate", "client", "class", "metric"]


def key(item: Run) -> str:
    """`mf`, or `mf@1f2e3d4c` for a variant: what a row of every csv is called."""
    return item["method"] + ("" if item["variant"] == "default" else f"@{item['variant']}")


def policy_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """ap_macro per run, seed and policy: `union` (all modalities), `own` (mean over clients).

    Clients count that have a score under every policy of the run, so that means are paired.
    """
    ap = scores[(scores["metric"] == "ap_macro") & scores["policy"].notna()]
    subset = ap[ap["kind"] == "subset"]
    union = subset[subset["modalities"] == full(subset["modalities"])]
    columns = ["run", "seed", "kind", "policy", "value"]
    own = ap[ap["kind"] == "own"].pivot_table(
        index=["run", "seed", "client"], columns="policy", values="value", sort=False
    )
    mean = own.dropna().groupby(["run", "seed"], sort=False).mean()
    long = mean.reset_index().melt(["run", "seed"], var_name="policy", value_name="value")
    return pd.concat([union.assign(kind="union")[columns], long.assign(kind="own")])


def read_scores(runs: list[Run]) -> pd.DataFrame:
    """All scores.csv, one below the other, with run and seed."""
    return _stacked(runs, "scores", [*ASKED, "value", "patches", "classes"])


def read_rounds(runs: list[Run]) -> pd.DataFrame:
    """All rounds.csv, one below the other, with run and seed."""
    return _stacked(
        runs, "rounds", ["round", "client", "state", "bytes_up", "bytes_down", "val_map"]
    )


def _stacked(runs: list[Run], name: str, columns: list[str]) -> pd.DataFrame:
    parts = []
    for item in runs:
        path = item[name]
        try:
            frame = read_csv(path)
        except (OSError, ValueError) as error:
            text = str(error).splitlines()[0]
            raise UserError(
                f"{path}: not readable ({text}), expected a table; run evaluate"
            ) from None
        lacking = [column for column in columns if column not in frame]
        if lacking:
            raise UserError(f"{path}: lacks the column {lacking[0]}; run the step again")
        parts.append(frame.assign(run=key(item), seed=item["seed"]).astype({"seed": int}))
    filled = [part for part in parts if len(part)]
    stacked = pd.concat(filled or parts, ignore_index=True)
    return stacked[["run", "seed", *columns]]


def runs_frame(runs: list[Run], described: list[dict]) -> pd.DataFrame:
    """A row per method and variant, as `tables.py` wants it."""
    rows: dict[str, dict[str, Any]] = {}
    for item, text in zip(runs, described, strict=True):
        train = text["parameters"]["train"]
        policy = train["statistics"]
        row = rows.setdefault(
            key(item),
            {
                "run": key(item),
                "label": item["label"],
                "method": item["method"],
                "variant": item["variant"],
                "policy": "modality" if policy == "local" else policy,
                "normalisation": train["normalisation"],
                "seeds": 0,
            },
        )
        row["seeds"] += 1
    return pd.DataFrame(list(rows.values()))


def positives(item: Run, names: list[str]) -> dict[str, int]:
    """How many test locations have each class, from a run's predictions."""
    try:
        labels = pd.read_parquet(item["predictions"], columns=["labels"])["labels"]
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{item['predictions']}: not readable ({text}); run evaluate") from None
    flat = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64)
    return dict(zip(names, np.bincount(flat, minlength=len(names)).tolist(), strict=False))


def read_measured(paths: list[Path]) -> pd.DataFrame:
    """run, seconds, seconds_per_round, peak_memory_mb, device, started."""
    columns = ["seconds", "seconds_per_round", "peak_memory_mb", "device", "started"]
    rows = []
    for path in paths:
        found = read_json(path, "train")
        name = key({"method": path.parts[-3], "variant": path.parts[-2]})
        rows.append({"run": name} | {column: found.get(column) for column in columns})
    return pd.DataFrame(rows, columns=["run", *columns])
