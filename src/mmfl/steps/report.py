"""Report: scores and runs in; tables, figures, metrics and a page out."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl import code
from mmfl.errors import UserError
from mmfl.evaluation.statistics import differences, summarise
from mmfl.files import read_json, write_json, write_text
from mmfl.params import Params, clients_name, runs
from mmfl.patches.faults import COLUMNS, SKIPPED, read_skipped
from mmfl.reporting import figures, gallery, layout, page, tables, writers
from mmfl.reporting.gather import (
    ASKED,
    Run,
    key,
    policy_scores,
    positives,
    read_measured,
    read_rounds,
    read_scores,
    runs_frame,
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
        baseline=params.report.baseline,
    )


def run_page(params: Params, archive: str, params_file: Path) -> None:
    """Write `page/<archive>.html`."""
    clients = clients_name(params)
    listed = described_runs(params, archive)
    shown = next(r for r in listed if key(r) == params.report.baseline)
    patches = Path("data/patches", archive)
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
        simulated=archive == "simulated",
        partition=Path("data/clients", archive, f"{clients}.parquet"),
        attended=read_rounds([r for r in listed if key(r) == params.report.baseline]),
        skipped=read_skipped(patches / "labels" / SKIPPED),
        locations=load_gallery(patches, shown["predictions"], params.report.gallery),
        gallery_run=f"{shown['label']}, seed {shown['seed']}",
    )


def described_runs(params: Params, archive: str) -> list[Run]:
    """The runs of the parameters with the files that describe them."""
    return [
        {
            "method": spec.method,
            "variant": spec.variant,
            "label": spec.label,
            "seed": spec.seed,
            "scores": Path("scores", spec.path, "scores.csv"),
            "predictions": Path("scores", spec.path, "predictions.parquet"),
            "rounds": Path("runs", spec.path, "rounds.csv"),
            "run": Path("runs", spec.path, "run.json"),
        }
        for spec in runs(params, archive)
    ]


def tables_of(
    *,
    archive: str,
    clients: str,
    runs: list[Run],
    out: Path,
    baseline: str = "mf",
) -> None:
    """Write tables/, figures/ and metrics.json; `out` is replaced as a whole.

    Raises:
        UserError: a run's file is missing or unreadable, or the baseline is not among the runs.
    """
    if baseline not in {key(item) for item in runs}:
        raise UserError(f"report.baseline: found {baseline}, expected one of the trained methods")
    described = [read_json(item["run"], "train") for item in runs]
    scores = read_scores(runs)
    rounds = read_rounds(runs)
    listed = runs_frame(runs, described)
    simulated = archive == "simulated"
    frames = _frames(listed, scores, rounds, runs, described, baseline)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in layout.LAYOUTS:
            laid = layout.LAYOUTS[name](frames[name], baseline)
            writers.write_table(temporary / "tables", frames[name], laid, simulated)
        _write_figures(temporary / "figures", listed, frames, rounds, runs, described, baseline)
        write_json(temporary / "metrics.json", tables.metrics(frames["comparison"]))
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
) -> dict[str, pd.DataFrame]:
    estimates = summarise(scores, ["run", *ASKED])
    counted = scores.drop_duplicates(["run", *ASKED])[["run", *ASKED, "patches", "classes"]]
    estimates = estimates.merge(counted, on=["run", *ASKED], how="left")
    tested = scores[scores["kind"].isin(BASES)]
    deltas = differences(tested, ASKED, "run", baseline, ASKED)
    by_run: dict[str, list[dict]] = {}
    for item, text in zip(runs, described, strict=True):
        by_run.setdefault(key(item), []).append(text)
    target = tables.target_score(rounds, baseline)
    policy = policy_scores(scores)
    keys = ["run", "kind"]
    paired = differences(policy, keys, "policy", "modality", ["kind", "policy"])
    own = summarise(policy, [*keys, "policy"])
    return {
        "comparison": tables.comparison(listed, estimates, deltas, baseline),
        "ablation": tables.ablation(listed, estimates, deltas, baseline),
        "missing": tables.missing(listed, estimates, deltas),
        "policies": tables.policies(listed, own, paired),
        "cost": tables.cost(listed, by_run, rounds, target),
        "classes": tables.shown(estimates[estimates["kind"] == "class"], listed),
    }


def _write_figures(
    folder: Path,
    listed: pd.DataFrame,
    frames: dict[str, pd.DataFrame],
    rounds: pd.DataFrame,
    runs: list[Run],
    described: list[dict],
    baseline: str,
) -> None:
    labels = dict(zip(listed["run"], listed["label"], strict=True))
    names = list(described[0].get("classes", []))

    curve = rounds[rounds["client"] == "server"].dropna(subset=["val_map"])
    curve = curve.rename(columns={"val_map": "value"})[["run", "seed", "round", "value"]]
    figures.save(folder, "learning", figures.learning(curve, labels, baseline), curve)

    lost = frames["missing"]
    lost = lost[(lost["kind"] == "missing") & (lost["metric"] == "ap_macro")]
    lost = lost[["run", "label", "removed", "rate", "mean", "low", "high"]]
    figures.save(folder, "missing", figures.missing(lost, labels, baseline), lost)

    first = next(item for item in runs if key(item) == baseline)
    per_class = frames["classes"]
    per_class = per_class[per_class["metric"] == "ap"][["run", "class", "mean", "low", "high"]]
    per_class = per_class.assign(positives=per_class["class"].map(positives(first, names)))
    figures.save(folder, "classes", figures.classes(per_class, labels), per_class)

    compared = frames["comparison"]
    parts = []
    for metric in ("ap_macro", "f1_micro"):
        columns = {f"{metric}_{c}": c for c in ("diff", "diff_low", "diff_high", "p", "p_holm")}
        part = compared[["run", "label", *columns]].rename(columns=columns)
        parts.append(part.assign(metric=metric).dropna(subset=["diff"]))
    deltas = pd.concat(parts, ignore_index=True)
    figures.save(folder, "differences", figures.forest(deltas, labels, baseline), deltas)


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
    baseline = str(compared["baseline"].iloc[0])
    return {name: make(_table(results, name), baseline) for name, make in layout.LAYOUTS.items()}


def _table(results: Path, name: str) -> pd.DataFrame:
    return _csv(results / "tables" / f"{name}.csv", "report")


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
    simulated: bool,
    partition: Path | None = None,
    skipped: pd.DataFrame | None = None,
    attended: pd.DataFrame | None = None,
    locations: list[gallery.Location] | None = None,
    gallery_run: str = "",
) -> None:
    """Write one self-contained HTML page about a results folder.

    Args:
        measured: `<method>/<variant>/seed-<n>.json` of the runs, where they exist.
        partition: the manifest, beside which summary, table and picture lie.
        attended: seed, round, client, state of the baseline's runs.
        skipped: patches that the split left out, as `faults.read_skipped` returns them.
        locations: pictures of test locations with the predictions of `gallery_run`.
    """
    laid = laid_out(results)
    cost = _table(results, "cost")
    holders: dict[str, Any] = {}
    clients_table = page.clients_table(pd.DataFrame(), holders)
    pictures = {
        name: page.picture(results / "figures" / f"{name}.svg", alt, caption)
        for name, (alt, caption) in figures.CAPTIONS.items()
    }
    if partition is not None:
        holders = read_json(partition.with_suffix(".json"), "partition")
        clients_table = page.clients_table(
            _csv(partition.with_suffix(".csv"), "partition"), holders
        )
        drawn = page.picture(partition.with_suffix(".svg"), *CAPTION)
        pictures["partition"] = replace(drawn, data=str(partition.with_suffix(".csv")))
    caption = (
        f"Test locations at equal steps of the sorted list, not chosen by result; {gallery_run}. "
        "Left: B04, B03, B02; right: VV, VH, VV − VH; each stretched from 2 to 98 %. "
        "✓ found, ○ missed, ✗ false alarm, at a probability of 0.5."
    )
    text = page.render(
        archive=archive,
        clients=clients,
        simulated=simulated,
        tables=laid,
        measured=page.measured_table(
            read_measured(measured), dict(zip(cost["run"], cost["label"], strict=True))
        ),
        holders=clients_table,
        attendance=page.attendance_table(
            pd.DataFrame(columns=ATTENDED) if attended is None else attended
        ),
        skipped=page.skipped_table(pd.DataFrame(columns=COLUMNS) if skipped is None else skipped),
        pictures=pictures,
        gallery=gallery.png(locations) if locations else "",
        gallery_caption=caption,
        origin={
            "Archive": archive + (" (simulated)" if simulated else ""),
            "Partition": clients,
            "Partition SHA-256": holders.get("sha256", "not known"),
            "Source of each step": source_digest,
            "Tables": str(results),
        },
        environment=page.environment(),
        params_text=params_text,
        results=str(results),
    )
    write_text(out, text)


def load_gallery(patches: Path, predictions: Path, count: int) -> list[gallery.Location]:
    """Some test locations with both modalities, at equal steps of the sorted list."""
    if not count or not (patches / "s2" / "index.parquet").exists():
        return []
    from mmfl.patches.labels import read_labels
    from mmfl.patches.reader import Images, Patches

    stores = {q: Patches(patches / q) for q in ("s1", "s2")}
    names = read_labels(patches / "labels")[1]
    size = next(b["size"] for b in stores["s2"].bands if b["name"] == "B04")
    images = {
        "s2": Images(stores["s2"], ["B04", "B03", "B02"], size),
        "s1": Images(stores["s1"], ["VV", "VH"], size),
    }
    table = pd.read_parquet(predictions).sort_values("pair")
    for store in stores.values():
        table = table[table["pair"].isin(store.pairs)]
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    found = []
    for _, row in table.iloc[places].iterrows():
        pair = np.array([row["pair"]], dtype=object)
        raw = {q: images[q].batch(stores[q].rows(pair))[0].numpy() for q in images}
        predicted = np.flatnonzero(np.asarray(row["probabilities"]) >= 0.5)
        found.append(
            gallery.Location(
                str(row["pair"]),
                raw["s2"],
                raw["s1"],
                tuple(names[i] for i in row["labels"]),
                tuple(names[i] for i in predicted),
            )
        )
    return found


def headline(results: Path) -> str:
    """The comparison as plain text for a terminal."""
    table = laid_out(results)["comparison"]
    simulated = "The data are simulated.\n" if results.parent.name == "simulated" else ""
    note = "\n".join(textwrap.wrap(" ".join(table.notes), 100))
    return f"{simulated}{table.title} ({results})\n\n{writers.plain(table)}\n\n{note}"
