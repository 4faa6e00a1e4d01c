"""Tune: the trained trials in; what the validation split chose for every method out."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import yaml

from mmfl import sealed
from mmfl.errors import UserError
from mmfl.facts.tasks import DIVERGED
from mmfl.files import atomic, write_text
from mmfl.params import MethodEntry, Params, runs_of, trials, variant

SCORE = "validation"
log = logging.getLogger(__name__)


def run(params: Params, archive: str, *, trained: Path, out: Path) -> None:
    """Write `trials.csv` (a row per trial) and `chosen.yaml` (method -> its best values).

    The score is the task's first one (macro average precision, or mean intersection over union)
    on the validation split after the last round, the mean over seeds; of equal ones the first is
    taken. A trial of which a seed diverged has no score, so it is never taken; `diverged` names
    the seeds. The test split is not looked at.

    Raises:
        UserError: there are no trials, or no trial of a method has a validation score; a run is
            missing or damaged.
    """
    if not trials(params):
        raise UserError(
            "tune.trials: found none, expected methods with values; see configs/tune.yaml"
        )
    table = scores(params, archive, trained)
    lacking = set(table["method"]) - set(table["method"][table[SCORE].notna()])
    if lacking:
        method = sorted(lacking)[0]
        own = table[table["method"] == method]
        count = (own["diverged"] != "").sum()
        reason = f" ({count} of {len(own)} trials diverged)" if count else ""
        raise UserError(
            f"tune.trials: {method}: found no validation score in any trial{reason}, expected "
            "one; tuning needs locations in the validation split and a rate that does not diverge"
        )
    for row in table[table["diverged"] != ""].itertuples():
        log.warning("%s, %s: diverged, so not chosen: %s", row.method, row.values, row.diverged)
    best = table.loc[table.groupby("method", sort=False)[SCORE].idxmax()]
    table["chosen"] = table.index.isin(best.index)
    with atomic(out / "trials.csv") as temporary:
        table.drop(columns="set").to_csv(temporary, index=False, lineterminator="\n")
    chosen = dict(zip(best["method"], best["set"], strict=True))
    write_text(out / "chosen.yaml", yaml.safe_dump(chosen, sort_keys=False))


def scores(params: Params, archive: str, trained: Path) -> pd.DataFrame:
    """method, set, values (text), at_edge, diverged (text), validation of every trial.

    at_edge: which keys have the smallest or largest value that was tried, so that a better one may
    lie beyond. diverged: seeds and rounds.
    """
    rows = []
    for item in trials(params):
        grid = params.tune.trials[item.method]
        edge = [
            key for key, value in item.set.items()
            if len(grid[key]) > 1 and value in (min(grid[key]), max(grid[key]))
        ]  # fmt: skip
        score, diverged = _last(params, archive, trained, item)
        rows.append(
            {
                "method": item.method,
                "variant": variant(item),
                "set": item.set,
                "values": ", ".join(f"{key}={value}" for key, value in item.set.items()),
                "at_edge": ", ".join(edge),
                "diverged": diverged,
                SCORE: score,
            }
        )
    return pd.DataFrame(rows)


def _last(params: Params, archive: str, trained: Path, item: MethodEntry) -> tuple[float, str]:
    """Mean over seeds, NaN where one has no score; and which of them diverged."""
    found, diverged = [], []
    for spec in runs_of(params, archive, item):
        rounds = sealed.trained(trained / spec.path, asdict(spec)).table("rounds.csv")
        server = rounds[rounds["client"] == "server"]
        found.append(float(server["val_score"].iloc[-1]))
        lost = server["round"][server["state"] == DIVERGED]
        if len(lost):
            diverged.append(f"seed {spec.seed} in round {lost.min()}")
    return (float("nan") if diverged else sum(found) / len(found)), ", ".join(diverged)
