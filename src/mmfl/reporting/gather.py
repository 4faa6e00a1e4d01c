"""What a report is made of: scores, rounds and descriptions of runs as frames.

A run is a dict with archive, clients, method, variant, label, seed and the paths of the folders run
and scores. What is read of these fits its digest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmfl.errors import UserError
from mmfl.facts.tasks import Task
from mmfl.files import read_json
from mmfl.reporting.tables import compared
from mmfl.sealed import Sealed, scored, trained

Run = dict[str, Any]
ASKED = ["kind", "policy", "modalities", "removed", "rate", "client", "class", "metric"]
PREDICTIONS = "predictions.parquet"
DIVERGED = "diverged"  # a state in rounds.csv, scores.csv and predictions.parquet


def key(item: Run) -> str:
    """`mf`, or `mf@1f2e3d4c` for a variant: what a row of every csv is called."""
    return item["method"] + ("" if item["variant"] == "default" else f"@{item['variant']}")


def run_of(item: Run) -> Sealed:
    """What train wrote of a run; `UserError` if it is of another one."""
    return trained(item["run"], item)


def scores_of(item: Run) -> Sealed:
    """What evaluate wrote of a run; `UserError` if it is of another one."""
    return scored(item["scores"], run_of(item))


def policy_scores(scores: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The first score per run, seed and policy: `union` (compared rows), `own` (mean of clients).

    Clients count that have a score under every policy of the run, so that means are paired:
    `models` of `models_asked`. With a client whose model diverged there is no mean.
    """
    first = scores[(scores["metric"] == task.first) & scores["policy"].notna()]
    union = compared(first, first).assign(kind="union")
    own = first[first["kind"] == "own"]
    own = own[own["value"].notna() | (own["state"] == DIVERGED)]
    policies = own.groupby("run")["policy"].transform("nunique")
    kept = own[own.groupby(["run", "seed", "client"])["policy"].transform("nunique") == policies]
    groups = kept.groupby(["run", "seed", "policy"], sort=False)
    long = groups["value"].mean(skipna=False).to_frame("value").reset_index()
    long["models"] = groups.size().to_numpy()
    asked = first[first["kind"] == "own"].groupby("run")["client"].nunique()
    long["models_asked"] = long["run"].map(asked)
    columns = ["run", "seed", "kind", "policy", "value", "models", "models_asked"]
    return pd.concat([union[columns], long.assign(kind="own")[columns]])


def read_scores(runs: list[Run]) -> pd.DataFrame:
    """All scores.csv, one below the other, with run and seed."""
    columns = [*ASKED, "value", "patches", "classes", "models", "models_asked", "state"]
    return _stacked(runs, scores_of, "scores.csv", columns)


def read_rounds(runs: list[Run]) -> pd.DataFrame:
    """All rounds.csv, one below the other, with run and seed."""
    columns = ["round", "client", "state", "bytes_up", "bytes_down", "val_score"]
    return _stacked(runs, run_of, "rounds.csv", columns)


def _stacked(
    runs: list[Run], folder_of: Callable[[Run], Sealed], name: str, columns: list[str]
) -> pd.DataFrame:
    parts = []
    for item in runs:
        folder = folder_of(item)
        frame = folder.table(name)
        lacking = [column for column in columns if column not in frame]
        if lacking:
            raise UserError(
                f"{folder.folder / name}: lacks the column {lacking[0]}; {folder.watch.remedy}"
            )
        frame["state"] = frame["state"].astype(object).where(frame["state"].notna(), "")
        parts.append(frame.assign(run=key(item), seed=item["seed"]).astype({"seed": int}))
    filled = [part for part in parts if len(part)]
    stacked = pd.concat(filled or parts, ignore_index=True)
    return stacked[["run", "seed", *columns]]


def diverged_seeds(
    runs: list[Run], described: list[dict], scores: pd.DataFrame
) -> dict[tuple[str, int], int | None]:
    """(run, seed) -> the round in which it diverged, None where only its test answers show it."""
    seen = scores[scores["state"] == DIVERGED][["run", "seed"]].drop_duplicates()
    found: dict[tuple[str, int], int | None] = {(run, int(seed)): None for run, seed in seen.values}
    for item, text in zip(runs, described, strict=True):
        if text.get("diverged") is not None:
            found[key(item), item["seed"]] = int(text["diverged"])
    return found


def runs_frame(
    runs: list[Run], described: list[dict], lost: dict[tuple[str, int], int | None]
) -> pd.DataFrame:
    """A row per method and variant, as `tables.py` wants it.

    The label of a method says how many of its seeds diverged, `diverged` which, and in what round.

    Args:
        lost: see `diverged_seeds`.
    """
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
                "diverged": [],
            },
        )
        row["seeds"] += 1
        if (key(item), item["seed"]) in lost:
            number = lost[key(item), item["seed"]]
            name = f"seed {item['seed']}"  # with a word, or a csv gives it back as a number
            row["diverged"].append(f"{name} in round {number}" if number else name)
    for row in rows.values():
        count, total = len(row["diverged"]), row["seeds"]
        if count:
            share = f"all {total} seeds" if count == total > 1 else f"{count} of {total} seeds"
            row["label"] += f" ({DIVERGED if total == 1 else f'{share} {DIVERGED}'})"
        row["diverged"] = ", ".join(row["diverged"])
    return pd.DataFrame(list(rows.values()))


def positives(item: Run, names: list[str]) -> dict[str, int]:
    """How many test locations have each class, from a run's predictions."""
    table = _predictions(item, ["pair", "labels"])
    labels = table.drop_duplicates("pair")["labels"]  # a run may have several models
    flat = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64)
    return dict(zip(names, np.bincount(flat, minlength=len(names)).tolist(), strict=False))


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices of one method on the compared test tiles.

    Attributes:
        matrices: (M, T, P, P), of the M models of the seeds that have not diverged.
        seeds, asked: how many seeds these are, and of how many.
        complete: whether the tiles hold every modality (else there is no such tile).
    """

    matrices: NDArray[np.int64]
    seeds: int
    asked: int
    complete: bool = True


def read_confusions(runs: list[Run], classes: int) -> Confusions:
    """The confusions of one method's seeds on the test tiles with every modality, if any have.

    A model that sees nothing of one of the tiles is left out, as in scores.csv.

    Raises:
        UserError: a table is not readable, has another number of classes, or other tiles.
    """
    found, pairs, complete, seeds = [], None, True, 0
    for item in runs:
        table = _predictions(item, ["model", "pair", "state", "complete", "confusion"])
        complete = bool(table["complete"].any())
        table = table[table["complete"] == complete].sort_values("pair", kind="stable")
        wrong = [row for row in table["confusion"] if len(row) != classes**2]
        if wrong:
            raise UserError(
                f"{item['scores'] / PREDICTIONS}: found confusions of {len(wrong[0])} numbers, "
                f"expected {classes**2} for {classes} classes; run evaluate again"
            )
        matrices = []
        for _, own in table.groupby("model", sort=False):
            pairs = list(own["pair"]) if pairs is None else pairs
            if list(own["pair"]) != pairs:
                raise UserError(
                    f"{item['scores'] / PREDICTIONS}: holds other tiles than those of "
                    f"{runs[0]['scores']}, expected the same for all seeds; run evaluate again"
                )
            if (own["state"] == "").all():
                rows = [np.asarray(row, np.int64) for row in own["confusion"]]
                matrices.append(np.stack(rows))
        if not (table["state"] == DIVERGED).any():
            found += matrices
            seeds += 1
    tiles = len(pairs or [])
    shape = (len(found), tiles, classes, classes)
    stack = np.stack(found).reshape(shape) if found else np.empty(shape, np.int64)
    return Confusions(stack, seeds, len(runs), complete)


def confusion_frame(confusions: NDArray[np.int64], names: list[str]) -> pd.DataFrame:
    """true, predicted, pixels (of all tiles, mean over models), share of the true class's pixels.

    Args:
        confusions: (M, T, P, P) with at least one model.
    """
    total = confusions.sum(axis=1).mean(axis=0)
    grid = pd.MultiIndex.from_product([names, names], names=["true", "predicted"])
    frame = pd.DataFrame({"pixels": total.ravel()}, index=grid).reset_index()
    whole = np.repeat(total.sum(axis=1), len(names))
    frame["share"] = (frame["pixels"] / whole).where(whole > 0)
    return frame


def answered(runs: list[Run]) -> Run | None:
    """The first of some runs whose predictions are finite; None if all have diverged."""
    for item in runs:
        if not (_predictions(item, ["state"])["state"] == DIVERGED).any():
            return item
    return None


def _predictions(item: Run, columns: list[str]) -> pd.DataFrame:
    return scores_of(item).table(PREDICTIONS, columns)


def read_measured(paths: list[Path]) -> pd.DataFrame:
    """run, seconds, seconds_per_round, peak_memory_mb, device, started."""
    columns = ["seconds", "seconds_per_round", "peak_memory_mb", "device", "started"]
    rows = []
    for path in paths:
        found = read_json(path, "train")
        name = key({"method": path.parts[-3], "variant": path.parts[-2]})
        rows.append({"run": name} | {column: found.get(column) for column in columns})
    return pd.DataFrame(rows, columns=["run", *columns])
