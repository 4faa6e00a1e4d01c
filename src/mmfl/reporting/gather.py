"""What a report is made of: scores, rounds and descriptions of runs as frames.

A run is a dict with method, variant, label, seed and the paths scores, predictions, rounds, run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.params.tasks import Task
from mmfl.reporting.tables import full
from mmfl.reporting.writers import read_csv

Run = dict[str, Any]
ASKED = ["kind", "policy", "modalities", "removed", "rate", "client", "class", "metric"]


def key(item: Run) -> str:
    """`mf`, or `mf@1f2e3d4c` for a variant: what a row of every csv is called."""
    return item["method"] + ("" if item["variant"] == "default" else f"@{item['variant']}")


def policy_scores(scores: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The first score per run, seed and policy: `union` (all modalities), `own` (mean of clients).

    Clients count that have a score under every policy of the run, so that means are paired.
    """
    first = scores[(scores["metric"] == task.first) & scores["policy"].notna()]
    subset = first[first["kind"] == "subset"]
    union = subset[subset["modalities"] == full(subset["modalities"])]
    columns = ["run", "seed", "kind", "policy", "value"]
    own = first[first["kind"] == "own"].pivot_table(
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
        runs, "rounds", ["round", "client", "state", "bytes_up", "bytes_down", "val_score"]
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
    labels = _predictions(item, ["labels"])["labels"]
    flat = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64)
    return dict(zip(names, np.bincount(flat, minlength=len(names)).tolist(), strict=False))


def read_confusions(runs: list[Run], classes: int) -> NDArray[np.int64]:
    """(S, T, P, P) confusions of one method's seeds on the test tiles with every modality.

    Raises:
        UserError: a table is not readable, has another number of classes, or other tiles.
    """
    found, pairs = [], None
    for item in runs:
        table = _predictions(item, ["pair", "complete", "confusion"])
        table = table[table["complete"]].sort_values("pair", kind="stable")
        wrong = [row for row in table["confusion"] if len(row) != classes**2]
        if wrong:
            raise UserError(
                f"{item['predictions']}: found confusions of {len(wrong[0])} numbers, expected "
                f"{classes**2} for {classes} classes; run evaluate again"
            )
        pairs = list(table["pair"]) if pairs is None else pairs
        if list(table["pair"]) != pairs:
            raise UserError(
                f"{item['predictions']}: holds other tiles than {runs[0]['predictions']}, expected "
                "the same for all seeds; run evaluate again"
            )
        rows = [np.asarray(row, np.int64) for row in table["confusion"]]
        found.append(np.stack(rows) if rows else np.empty((0, classes**2), np.int64))
    return np.stack(found).reshape(len(found), -1, classes, classes)


def confusion_frame(confusions: NDArray[np.int64], names: list[str]) -> pd.DataFrame:
    """true, predicted, pixels (of all tiles, mean over seeds), share of the true class's pixels."""
    total = confusions.sum(axis=1).mean(axis=0)
    grid = pd.MultiIndex.from_product([names, names], names=["true", "predicted"])
    frame = pd.DataFrame({"pixels": total.ravel()}, index=grid).reset_index()
    whole = np.repeat(total.sum(axis=1), len(names))
    frame["share"] = (frame["pixels"] / whole).where(whole > 0)
    return frame


def _predictions(item: Run, columns: list[str]) -> pd.DataFrame:
    try:
        return pd.read_parquet(item["predictions"], columns=columns)
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{item['predictions']}: not readable ({text}); run evaluate") from None


def read_measured(paths: list[Path]) -> pd.DataFrame:
    """run, seconds, seconds_per_round, peak_memory_mb, device, started."""
    columns = ["seconds", "seconds_per_round", "peak_memory_mb", "device", "started"]
    rows = []
    for path in paths:
        found = read_json(path, "train")
        name = key({"method": path.parts[-3], "variant": path.parts[-2]})
        rows.append({"run": name} | {column: found.get(column) for column in columns})
    return pd.DataFrame(rows, columns=["run", *columns])
