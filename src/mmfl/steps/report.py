"""Report: scores and runs in; tables, figures and metrics out."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from mmfl.errors import UserError
from mmfl.evaluation.bootstrap import bootstrap
from mmfl.evaluation.statistics import differences, summarise
from mmfl.facts.tasks import TASKS, Task
from mmfl.files import write_json
from mmfl.params import SIMULATED, Params, clients_name, runs
from mmfl.reporting import album, layout, tables, writers
from mmfl.reporting.gather import (
    ASKED,
    Confusions,
    Run,
    diverged_seeds,
    key,
    policy_scores,
    positives,
    read_confusions,
    read_rounds,
    read_scores,
    run_of,
    runs_frame,
)
from mmfl.reporting.results import holders

BASES = {"subset", "missing", "incomplete"}  # kinds of rows whose differences are tested


def run(params: Params, archive: str) -> None:
    """Write `results/<archive>/<clients>/`."""
    clients = clients_name(params)
    tables_of(
        archive=archive,
        clients=clients,
        runs=described_runs(params, archive),
        out=Path("results", archive, clients),
        partition=Path("data/clients", archive, clients),
        baseline=params.report.baseline,
    )


def described_runs(params: Params, archive: str) -> list[Run]:
    """The runs of the parameters with the folders that hold them."""
    return [
        {
            **asdict(spec),
            "scores": Path("scores", spec.path),
            "run": Path("runs", spec.path),
        }
        for spec in runs(params, archive)
    ]


def tables_of(
    *,
    archive: str,
    clients: str,
    runs: list[Run],
    out: Path,
    partition: Path | None = None,
    baseline: str = "mf",
) -> None:
    """Write tables/, figures/ and metrics.json; `out` is replaced as a whole.

    `partition` is the manifest's path without its end, beside which summary and table lie.

    Raises:
        UserError: a run's file is missing, damaged or of another run, or the baseline is
            not among the runs.
    """
    if baseline not in {key(item) for item in runs}:
        raise UserError(f"report.baseline: found {baseline}, expected one of the trained methods")
    described = [run_of(item).described for item in runs]
    scores = read_scores(runs)
    rounds = read_rounds(runs)
    lost = diverged_seeds(runs, described, scores)
    scores["tested"] = ~scores["run"].isin([run for run, _ in lost])
    listed = runs_frame(runs, described, lost)
    task = TASKS[described[0].get("task", "multilabel")]
    names = list(described[0].get("classes", []))
    own = [item for item in runs if key(item) == baseline]
    confusions = read_confusions(own, len(names)) if task.name == "pixel" else None
    held = None if partition is None else holders(partition)
    if held is not None and {text["partition_sha256"] for text in described} != {held[1]["sha256"]}:
        raise UserError(
            f"{partition}.json: is not the partition of the runs; run partition again, or train"
        )
    frames = _frames(listed, scores, rounds, runs, described, baseline, task, confusions)
    frames["confusion"] = album.confusion(confusions, names)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in layout.LAYOUTS:
            laid = layout.LAYOUTS[name](frames[name], baseline, task)
            writers.write_table(temporary / "tables", frames[name], laid, archive in SIMULATED)
        counts = positives(own[0], names) if task.name != "pixel" else _pixels(runs, names)
        album.write_figures(
            temporary / "figures", listed, frames, rounds, counts, baseline, task,
            held,
        )  # fmt: skip
        write_json(temporary / "metrics.json", tables.metrics(frames["comparison"], task))
        _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _frames(
    listed: pd.DataFrame,
    scores: pd.DataFrame,
    rounds: pd.DataFrame,
    runs: list[Run],
    described: list[dict],
    baseline: str,
    task: Task,
    confusions: Confusions | None,
) -> dict[str, pd.DataFrame]:
    estimates = _counted(summarise(scores, ["run", *ASKED]), scores, ["run", *ASKED])
    tested = scores[scores["kind"].isin(BASES)]
    deltas = differences(tested, ASKED, "run", baseline, ASKED)
    by_run: dict[str, list[dict]] = {}
    for item, text in zip(runs, described, strict=True):
        by_run.setdefault(key(item), []).append(text)
    target = tables.target_score(rounds, baseline)
    policy = policy_scores(scores, task)
    keys = ["run", "kind"]
    policy["tested"] = ~policy["run"].isin(scores["run"][~scores["tested"]])
    paired = differences(policy, keys, "policy", "modality", ["kind", "policy"])
    own = _counted(summarise(policy, [*keys, "policy"]), policy, [*keys, "policy"])
    tiles = None
    if confusions is not None:
        tiles = (*bootstrap(confusions.matrices), confusions.seeds)
    return {
        "comparison": tables.comparison(listed, estimates, deltas, baseline, task, tiles),
        "ablation": tables.ablation(listed, estimates, deltas, baseline, task),
        "missing": tables.missing(listed, estimates, deltas),
        "policies": tables.policies(listed, own, paired),
        "cost": tables.cost(listed, by_run, rounds, target),
        "classes": tables.shown(estimates[estimates["kind"] == "class"], listed),
    }


def _counted(estimates: pd.DataFrame, scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Estimates with what a score counts: the least `models` of the seeds, else the greatest."""
    columns = [c for c in tables.COUNTS if c in scores]
    groups = scores.groupby(by, sort=False, dropna=False)
    counts = groups[columns].agg({c: "min" if c == "models" else "max" for c in columns})
    return estimates.merge(counts.reset_index(), on=by, how="left")


def _pixels(runs: list[Run], names: list[str]) -> dict[str, int]:
    """Test pixels of each class, from the first run with a score."""
    for item in runs:
        confusions = read_confusions([item], len(names))
        if len(confusions.matrices):
            return album.class_pixels(album.confusion(confusions, names))
    return {}


def _replace(new: Path, out: Path) -> None:
    """Put a folder in the place of another; the old one goes only when the new one is there."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)
