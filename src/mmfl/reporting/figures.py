"""Figures as svg, each beside a csv of exactly what it shows. Equal data give equal bytes.

Frames come from `steps/report.py`; the columns are those of `tables.py`. A figure without data
says so: the list of files does not depend on the results.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmfl.facts.tasks import DIVERGED, Task
from mmfl.reporting.cells import ALPHA, quantity
from mmfl.reporting.style import INK, MUTED, heat, looks, save_svg, short, style, top_ticks
from mmfl.reporting.texts import WORDS, capital, modality_names
from mmfl.reporting.writers import write_csv

WIDTH = 7.6  # inches
TOGETHER = 12  # curves that one panel can hold
SIDE = 24  # classes whose confusions can be printed


def save(folder: Path, name: str, figure: Figure, data: pd.DataFrame) -> None:
    """`<name>.svg` and `<name>.csv`."""
    write_csv(folder / f"{name}.csv", data)
    with style():
        save_svg(figure, folder / f"{name}.svg")


def nothing(text: str) -> Figure:
    """A figure that says why it is empty."""
    figure = Figure(figsize=(WIDTH, 0.6))
    figure.text(0, 0.5, text, color=MUTED, va="center")
    return figure


def learning(rounds: pd.DataFrame, labels: dict[str, str], baseline: str, task: Task) -> Figure:
    """Validation score by round: a panel per run, seeds thin, mean bold, the baseline's in grey.

    The mean ends where a seed has no score any more, and a cross where that diverged.

    Args:
        rounds: run, seed, round, value, state (`diverged`, or empty).
        labels: run -> name, in order.
    """
    known = [run for run in labels if (rounds["run"] == run).any()]
    if not known:
        return nothing("No validation score was recorded during training.")
    with style():
        figure, axes = _panels(known)
        means = rounds.groupby(["run", "round"])["value"].mean(skipna=False) * 100
        looked = looks(list(labels), baseline)
        for ax, run in zip(axes, known, strict=False):
            if baseline in known and run != baseline:
                reference = means[baseline]
                ax.plot(reference.index, reference, color="#BBBBBB", linewidth=1.8)
            colour = looked[run]["color"]
            for _, seed in rounds[rounds["run"] == run].groupby("seed"):
                ax.plot(seed["round"], seed["value"] * 100, color=colour, linewidth=0.6, alpha=0.55)
                for number in seed["round"][seed["state"] == DIVERGED].head(1):
                    height = seed["value"].dropna().tail(1).sum() * 100
                    ax.plot(number, height, "x", color=colour, markersize=5)
            ax.plot(means[run].index, means[run], color=colour)
            ax.set_title(_wrap(labels[run], 26))
            ax.grid(True)
        axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        figure.supxlabel("Round", fontsize=8.5)
        figure.supylabel(f"Validation {task.metrics[task.first]} (%)", fontsize=8.5)
    return figure


def missing(
    curves: pd.DataFrame, labels: dict[str, str], baseline: str, task: Task, *, several: bool
) -> Figure:
    """Score by missing rate: a panel per removed modality. Bars: 95 % interval over seeds.

    With more than `TOGETHER` runs a panel per run, a line per removed modality.

    Args:
        curves: run, removed, rate, mean, low, high.
        several: whether the archive has several modalities.
    """
    removed = sorted(curves["removed"].dropna().unique())
    if not removed and several:
        return nothing(
            f"No test {WORDS[task.name].place} holds every modality, or no missing rate is asked "
            "for: there are no curves."
        )
    if not removed:
        return nothing("The archive has one modality only: none can be missing.")
    if len(labels) > TOGETHER:
        return _missing_apart(curves, labels, baseline, removed, task)
    with style():
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.subplots(1, len(removed), sharey=True, squeeze=False).ravel()
        looked = looks(list(labels), baseline)
        for ax, modality in zip(axes, removed, strict=True):
            for place, (run, label) in enumerate(labels.items()):
                own = curves[(curves["run"] == run) & (curves["removed"] == modality)]
                own = own.sort_values("rate")
                x = own["rate"] + (place - len(labels) / 2) * 0.7  # bars side by side
                ax.plot(x, own["mean"] * 100, markersize=3.5, label=label, **looked[run])
                if own["low"].notna().any():
                    ax.vlines(x, own["low"] * 100, own["high"] * 100, color=looked[run]["color"],
                              linewidth=0.6, alpha=0.6)  # fmt: skip
            ax.set_title(f"{modality_names(modality)} removed")
            ax.set_xlabel(f"Test {WORDS[task.name].items} without it (%)")
            ax.set_xticks(sorted(curves["rate"].unique()))
            ax.grid(True, axis="y")
        axes[0].set_ylabel(f"{capital(task.metrics[task.first])} (%)")
        handles, names = axes[0].get_legend_handles_labels()
        names = [_wrap(name, 24) for name in names]
        figure.legend(handles, names, loc="outside right upper", fontsize=7.5, handlelength=2.6)
    return figure


def _missing_apart(
    curves: pd.DataFrame, labels: dict[str, str], baseline: str, removed: list[str], task: Task
) -> Figure:
    known = [run for run in labels if (curves["run"] == run).any()]
    with style():
        figure, axes = _panels(known)
        looked = looks(["", *removed], "")
        for ax, run in zip(axes, known, strict=False):
            for modality in removed:
                lost = curves[curves["removed"] == modality].sort_values("rate")
                reference, own = lost[lost["run"] == baseline], lost[lost["run"] == run]
                colour = looked[modality]["color"]
                if run != baseline:
                    ax.plot(reference["rate"], reference["mean"] * 100, color=colour,
                            linewidth=2.4, alpha=0.25)  # fmt: skip
                ax.plot(own["rate"], own["mean"] * 100, color=colour, linewidth=1.1,
                        label=f"{modality_names(modality)} removed")  # fmt: skip
                if own["low"].notna().any():
                    ax.fill_between(own["rate"], own["low"] * 100, own["high"] * 100,
                                    color=colour, alpha=0.12, linewidth=0)  # fmt: skip
            ax.set_title(_wrap(labels[run], 26))
            ax.grid(True, axis="y")
        figure.supxlabel(f"Test {WORDS[task.name].items} without it (%)", fontsize=8.5)
        figure.supylabel(f"{capital(task.metrics[task.first])} (%)", fontsize=8.5)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names), fontsize=7.5)
    return figure


def _panels(runs: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A panel for each run, four in a line, the last ones hidden."""
    columns = min(4, len(runs))
    lines = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(WIDTH, 1.55 * lines + 0.35), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    for place in range(max(0, len(runs) - columns), len(runs)):
        axes[place].tick_params(labelbottom=True)
    return figure, list(axes)


def classes(scores: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Score of each class and run: a heat map, classes by frequency in the test set.

    Args:
        scores: run, class, mean, positives.
    """
    if scores.empty:
        return nothing("There are no scores per class.")
    order = scores.drop_duplicates("class").sort_values("positives", ascending=False)
    names = list(order["class"])
    runs = list(labels)
    grid = scores.pivot(index="class", columns="run", values="mean")
    grid = grid.reindex(index=names, columns=runs) * 100
    with style():
        figure = Figure(figsize=(WIDTH, 0.2 * len(names) + 1.5), layout="constrained")
        ax = figure.subplots()
        heat(ax, grid.to_numpy(), 0, 100, "{:.0f}")
        count = dict(zip(order["class"], order["positives"], strict=True))
        ticks = [f"{short(name)}  ({_counted(count[name])})" for name in names]
        ax.set_yticks(np.arange(len(names)) + 0.5, ticks, fontsize=7.5)
        top_ticks(ax, [_wrap(labels[run], 18) for run in runs])
    return figure


def confusion(pixels: pd.DataFrame, task: Task) -> Figure:
    """Shares of each true class by predicted class, in the order of the archive.

    Args:
        pixels: true, predicted, pixels, share.
    """
    if pixels.empty and task.name == "pixel":
        return nothing("No seed of the baseline has a score: there is no confusion matrix.")
    if pixels.empty:
        return nothing("A location has several classes: there is no confusion matrix.")
    names = list(pixels["true"].unique())
    grid = pixels.pivot(index="true", columns="predicted", values="share").loc[names, names] * 100
    count = pixels.groupby("true")["pixels"].sum()
    with style():
        side = len(names)
        figure = Figure(figsize=(WIDTH, 0.3 * side + 1.3), layout="constrained")
        ax = figure.subplots()
        heat(ax, grid.to_numpy(), 0, 100, "{:.0f}" if side <= SIDE else "")
        ticks = [f"{short(name)}  ({_counted(count[name])})" for name in names]
        ax.set_yticks(np.arange(side) + 0.5, ticks, fontsize=7.5)
        top_ticks(ax, [short(name, 24) for name in names])
        ax.set_ylabel("True class (test pixels)")
        ax.set_xlabel("Predicted class")
    return figure


def forest(deltas: pd.DataFrame, labels: dict[str, str], baseline: str, task: Task) -> Figure:
    """Paired differences to the baseline with 95 % intervals; filled: p < 0.05 after Holm.

    Args:
        deltas: run, metric, diff, diff_low, diff_high, p_holm; no difference: the run diverged.
    """
    metrics = [m for m in (task.first, task.second) if (deltas["metric"] == m).any()]
    runs = [run for run in labels if (deltas["run"] == run).any()]
    if not runs or not metrics:
        return nothing(f"There is no method to compare with {labels.get(baseline, baseline)}.")
    with style():
        figure = Figure(figsize=(WIDTH, 0.26 * len(runs) + 0.9), layout="constrained")
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False).ravel()
        for ax, metric in zip(axes, metrics, strict=True):
            ax.axvline(0, color=MUTED, linewidth=0.8)
            for place, run in enumerate(runs):
                own = deltas[(deltas["run"] == run) & (deltas["metric"] == metric)]
                for _, row in own.iterrows():
                    _whisker(ax, row, place)
            ax.set_title(capital(task.metrics[metric]))
            ax.set_xlabel(f"Difference to {labels.get(baseline, baseline)} (points)")
            ax.grid(True, axis="x")
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(runs)), [_wrap(labels[run], 30) for run in runs])
        axes[0].set_ylim(len(runs) - 0.5, -0.5)
    return figure


def _counted(number: float) -> str:
    """All digits of a small count, three of a large one."""
    return f"{number:,.0f}" if number < 1e5 else quantity(number)


def _whisker(ax: Axes, row: pd.Series, place: int) -> None:
    if pd.isna(row["diff"]):
        ax.text(0, place, " diverged", color=MUTED, va="center", fontsize=7.5)
        return
    if pd.notna(row["diff_low"]):
        ax.hlines(place, 100 * row["diff_low"], 100 * row["diff_high"], color=INK, linewidth=1.1)
    sure = pd.notna(row["p_holm"]) and row["p_holm"] < ALPHA
    ax.plot(100 * row["diff"], place, marker="o", markersize=5, color=INK, markeredgewidth=1.1,
            markerfacecolor=INK if sure else "white")  # fmt: skip


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text
