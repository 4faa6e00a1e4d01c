"""All figures of a results folder, from the frames of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mmfl.facts.tasks import DIVERGED, Task
from mmfl.reporting import figures, partition
from mmfl.reporting.gather import Confusions, confusion_frame


def confusion(confusions: Confusions | None, names: list[str]) -> pd.DataFrame:
    """The frame of the confusion matrix; empty for the multi-label task and without a score."""
    if confusions is None or not len(confusions.matrices):
        return pd.DataFrame(columns=["true", "predicted", "pixels", "share"])
    return confusion_frame(confusions.matrices, names)


def class_pixels(confusion: pd.DataFrame) -> dict[str, int]:
    """Test pixels of each class; empty without a matrix."""
    counts = confusion.groupby("true", sort=False)["pixels"].sum()
    return {str(name): round(count) for name, count in counts.items()}


def write_figures(
    folder: Path,
    listed: pd.DataFrame,
    frames: dict[str, pd.DataFrame],
    rounds: pd.DataFrame,
    counts: dict[str, int],
    baseline: str,
    task: Task,
    holders: tuple[pd.DataFrame, dict[str, Any]] | None = None,
) -> None:
    """Write every figure; `holders` are the clients and the summary of the partition."""
    labels = dict(zip(listed["run"], listed["label"], strict=True))

    if holders is None:
        figures.save(folder, "clients", figures.nothing("No partition is known."), pd.DataFrame())
    else:
        figures.save(folder, "clients", partition.draw(*holders), holders[0])

    curve = rounds[rounds["client"] == "server"]
    curve = curve[curve["val_score"].notna() | (curve["state"] == DIVERGED)]
    curve = curve.rename(columns={"val_score": "value"})
    curve = curve[["run", "seed", "round", "value", "state"]]
    figures.save(folder, "learning", figures.learning(curve, labels, baseline, task), curve)

    lost = frames["missing"]
    lost = lost[(lost["kind"] == "missing") & (lost["metric"] == task.first)]
    lost = lost[["run", "label", "removed", "rate", "mean", "low", "high"]]
    several = "+" in str(frames["comparison"]["modalities"].iloc[0])
    drawn = figures.missing(lost, labels, baseline, task, several=several)
    figures.save(folder, "missing", drawn, lost)

    per_class = frames["classes"]
    per_class = per_class[per_class["metric"] == next(iter(task.of_class))]
    per_class = per_class[["run", "class", "mean", "low", "high"]]
    per_class = per_class.assign(positives=per_class["class"].map(counts))
    figures.save(folder, "classes", figures.classes(per_class, labels), per_class)

    compared = frames["comparison"]
    parts = []
    for metric in (task.first, task.second):
        ends = ("diff", "diff_low", "diff_high", "diff_n", "p", "p_holm")
        columns = {f"{metric}_{c}": c for c in ends}
        none = (compared[f"{metric}_n"] == 0) & (compared["diverged"] != "")
        none &= compared["run"] != baseline
        part = compared[["run", "label", *columns]].rename(columns=columns)
        parts.append(part.assign(metric=metric)[part["diff"].notna() | none])
    deltas = pd.concat(parts, ignore_index=True)
    figures.save(folder, "differences", figures.forest(deltas, labels, baseline, task), deltas)

    pixels = frames["confusion"]
    figures.save(folder, "confusion", figures.confusion(pixels, task), pixels)
