"""Report: scores and runs in; tables, figures, metrics and a page out."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.errors import UserError
from mmfl.evaluation.bootstrap import bootstrap
from mmfl.evaluation.statistics import differences, summarise
from mmfl.facts.tasks import TASKS, Task
from mmfl.files import read_json, write_json, write_text
from mmfl.params import SIMULATED, Params, clients_name, load, runs
from mmfl.patches.faults import COLUMNS, SKIPPED, read_skipped
from mmfl.patches.labels import LABELS, Store
from mmfl.pipeline import code
from mmfl.reporting import album, layout, page, tables, texts, writers
from mmfl.reporting.gallery import Gallery
from mmfl.reporting.gather import (
    ASKED,
    Confusions,
    Run,
    answered,
    diverged_seeds,
    key,
    policy_scores,
    positives,
    read_confusions,
    read_measured,
    read_rounds,
    read_scores,
    run_of,
    runs_frame,
    scores_of,
)
from mmfl.reporting.layout import Table
from mmfl.reporting.partition import CAPTION

ATTENDED = ["seed", "round", "client", "state"]
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


def run_page(params: Params, archive: str, params_file: Path) -> None:
    """Write `page/<archive>.html`."""
    from mmfl.inspection.gallery import load_gallery  # with torch, which no table needs

    clients = clients_name(params)
    listed = described_runs(params, archive)
    own = [r for r in listed if key(r) == params.report.baseline]
    shown = answered(own)
    said = f"{own[0]['label']} diverged in every seed, so nothing was predicted"
    if shown is not None:
        said = f"predictions: {shown['label']}, seed {shown['seed']}"
    patches = Path("data/patches", archive)
    Store(patches).of(archive).content(f"{LABELS}/{SKIPPED}")
    write_page(
        archive=archive,
        clients=clients,
        results=Path("results", archive, clients),
        measured=[
            path
            for spec in runs(params, archive)
            if (path := Path("measured", spec.path).with_suffix(".json")).exists()
        ],
        params_text=params_file.read_text(encoding="utf-8"),
        source_digest=", ".join(f"{step} {code.digest(step)}" for step in code.STEPS),
        out=Path("page", f"{archive}.html"),
        others=[name for name in load(params_file).archives if name != archive],
        partition=Path("data/clients", archive, clients),
        attended=read_rounds(own),
        skipped=read_skipped(patches / LABELS / SKIPPED),
        gallery=load_gallery(
            patches,
            params.report.gallery,
            predictions=scores_of(shown or own[0]),
            run=said,
        ),
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
            None if partition is None else holders(partition),
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


def laid_out(results: Path) -> dict[str, Table]:
    """The tables of a results folder, laid out from their csv."""
    compared = _table(results, "comparison")
    baseline, task = str(compared["baseline"].iloc[0]), tables.task_of(compared)
    return {
        name: make(_table(results, name), baseline, task) for name, make in layout.LAYOUTS.items()
    }


def _table(results: Path, name: str) -> pd.DataFrame:
    return _csv(results / "tables" / f"{name}.csv", "report")


def holders(partition: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(a row per client, summary) of a partition, by its manifest's path without its end."""
    summary = read_json(Path(f"{partition}.json"), "partition")
    return _csv(Path(f"{partition}.csv"), "partition"), summary


def _csv(path: Path, step: str) -> pd.DataFrame:
    try:
        return writers.read_csv(path)
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable ({text}); run {step} again") from None


def write_page(
    *,
    archive: str,
    clients: str,
    results: Path,
    measured: list[Path],
    params_text: str,
    source_digest: str,
    out: Path,
    others: list[str],
    partition: Path | None = None,
    skipped: pd.DataFrame | None = None,
    attended: pd.DataFrame | None = None,
    gallery: Gallery | None = None,
) -> None:
    """Write one self-contained HTML page about a results folder.

    Args:
        others: archives whose pages lie beside this one.
        measured: `<method>/<variant>/seed-<n>.json` of the runs, where they exist.
        partition: the manifest's path without its end, beside which summary and table lie.
        attended: seed, round, client, state of the baseline's runs.
        skipped: patches that the split left out, as `faults.read_skipped` returns them.
        gallery: pictures of test locations with predictions.
    """
    laid = laid_out(results)
    cost, compared = _table(results, "cost"), _table(results, "comparison")
    task, simulated = tables.task_of(compared), archive in SIMULATED
    held = (pd.DataFrame(), {}) if partition is None else holders(partition)
    pictures = {
        name: page.picture(results / "figures" / f"{name}.svg", alt, caption)
        for name, (alt, caption) in (texts.captions(task) | {"clients": CAPTION}).items()
    }
    text = page.render(
        archive=archive,
        title=texts.title(archive, simulated),
        lead=texts.lead(task, str(compared["modalities"].iloc[0])),
        places=texts.WORDS[task.name].places,
        others=others,
        clients=clients,
        simulated=simulated,
        tables=laid,
        measured=page.measured_table(
            read_measured(measured), dict(zip(cost["run"], cost["label"], strict=True))
        ),
        holders=page.clients_table(*held),
        attendance=page.attendance_table(
            pd.DataFrame(columns=ATTENDED) if attended is None else attended
        ),
        skipped=page.skipped_table(pd.DataFrame(columns=COLUMNS) if skipped is None else skipped),
        pictures=pictures,
        gallery=gallery.png() if gallery else "",
        gallery_caption=gallery.caption() if gallery else "",
        origin={
            "Archive": archive + (" (simulated)" if simulated else ""),
            "Partition": clients,
            "Partition SHA-256": held[1].get("sha256", "not known"),
            "Source of each step": source_digest,
            "Tables": str(results),
        },
        environment=page.environment(),
        params_text=params_text,
        results=str(results),
    )
    write_text(out, text)


def headline(results: Path) -> str:
    """The comparison as plain text for a terminal."""
    table, task = laid_out(results)["comparison"], tables.task_of(_table(results, "comparison"))
    archive = results.parent.name
    head = f"{archive}: {task.title}"
    simulated = "The data are simulated.\n" if archive in SIMULATED else ""
    note = "\n".join(textwrap.wrap(" ".join(table.notes), 100))
    return (
        f"{head}\n{'=' * len(head)}\n{simulated}{table.title} ({results})\n\n"
        f"{writers.plain(table)}\n\n{note}"
    )
