"""Tables as they are read: headings, cells, and a sentence that claims what the numbers allow.

Made from the csv frames of `tables.py` alone, so whatever is printed can be traced to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from mmfl.facts.tasks import Task
from mmfl.reporting.cells import (
    claim,
    delta,
    diverged,
    estimate,
    p_value,
    points,
    quantity,
    range_of,
)
from mmfl.reporting.tables import POLICIES
from mmfl.reporting.texts import WORDS, capital, modality_names, seeds


@dataclass
class Table:
    """Text cells; a line break in a cell separates a value from its interval."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    baseline: list[bool] = field(default_factory=list)


def comparison(frame: pd.DataFrame, baseline: str, task: Task) -> Table:
    """The headline table."""
    words, first = WORDS[task.name], task.first
    header = ["Method", *(f"{capital(name)} (%)" for name in task.metrics.values())]
    header += [f"Δ {task.metrics[first]} to {baseline} (points)", "p (Holm)"]
    rows = [
        [
            row["label"],
            *(estimate(row, f"{m}_") for m in task.metrics),
            delta(row, f"{first}_"),
            "–" if pd.isna(row[f"{first}_diff"]) else p_value(row[f"{first}_p_holm"]),
        ]
        for _, row in frame.iterrows()
    ]
    whole = (frame["kind"] == "subset").all()
    count = range_of(frame["patches"])
    note = [
        _seeds(frame),
        (
            f"Test {words.places} that hold every modality ({count}); all modalities used; "
            if whole
            else f"No test {words.place} holds every modality, so methods are compared on those "
            f"that hold fewer ({count}), each with what it has; "
        )
        + f"{range_of(frame['classes'])} classes with {words.support}.",
        _models(frame, "", words.places),
        claim(frame, f"{first}_", baseline, task.words[first]),
        _single_clients(frame, task),
        seeds(task),
        _tiles(frame, baseline, task),
    ]
    where = "on all modalities" if whole else f"on {words.places} with fewer modalities"
    title = f"Comparison {where}: mean ± standard deviation, 95 % interval"
    return _table("comparison", title, header, rows, note, frame["run"] == baseline)


def ablation(frame: pd.DataFrame, baseline: str, task: Task) -> Table:
    """Modules, under both shared policies of the normalisation statistics."""
    header, known = ["Method"], []
    first, second = task.first, task.second
    for policy in POLICIES[:2]:
        if frame[f"{policy}_{first}_n"].notna().any():
            known.append(policy)
            header += [f"{capital(task.metrics[first])} (%), {policy}", "Δ (points)", "p (Holm)"]
            header += [f"{capital(task.metrics[second])} (%), {policy}"]
    rows = []
    for _, row in frame.iterrows():
        cells = [row["label"]]
        for policy in known:
            p = row[f"{policy}_{first}_p_holm"]
            cells += [estimate(row, f"{policy}_{first}_"), delta(row, f"{policy}_{first}_")]
            cells += ["–" if pd.isna(row[f"{policy}_{first}_diff"]) else p_value(p)]
            cells += [estimate(row, f"{policy}_{second}_")]
        rows.append(cells)
    claims = [
        claim(frame, f"{p}_{first}_", baseline, f"{task.words[first]} under policy {p}")
        for p in known
    ]
    note = [
        _seeds(frame),
        f"Differences to {baseline} under the same policy of the running statistics; p-values are "
        "corrected over all methods of the comparison, not only those shown here.",
        *claims,
        seeds(task),
    ]
    title = "Ablation of the modules"
    return _table("ablation", title, header, rows, note, frame["run"] == baseline)


def missing(frame: pd.DataFrame, baseline: str, task: Task) -> Table:
    """Subsets of the modalities, missing rates, and locations with fewer modalities."""
    words, first = WORDS[task.name], task.metrics[task.first]
    questions: list[tuple[str, pd.Series, str]] = []
    ahead = frame["metric"] == task.first
    subset = frame["kind"] == "subset"
    for metric in (task.first, task.second):
        chosen = subset & (frame["metric"] == metric)
        for name in frame[subset]["modalities"].unique():
            front = "" if metric == task.first else f"{capital(task.metrics[metric])}, "
            asked = chosen & (frame["modalities"] == name)
            questions.append((front + modality_names(name), asked, name))
    curves = frame[(frame["kind"] == "missing") & frame["rate"].between(1, 99)]
    for (removed, rate), _ in curves.groupby(["removed", "rate"]):
        chosen = ahead & (frame["removed"] == removed) & (frame["rate"] == rate)
        title = f"{rate:.0f} % without {modality_names(str(removed))}"
        questions.append((title, chosen & (frame["kind"] == "missing"), ""))
    fewer = ahead & (frame["kind"] == "incomplete")
    if fewer.any():
        count = range_of(frame[fewer]["patches"])
        questions.append((f"{capital(words.places)} with fewer modalities ({count})", fewer, ""))
    runs = frame[["run", "label"]].drop_duplicates()
    tables = [frame[chosen].set_index("run") for _, chosen, _ in questions]
    answered = list(zip(questions, tables, strict=True))
    rows = []
    for run, label in runs.itertuples(index=False):
        cells = [
            estimate(t.loc[run], "", spread=bool(q[2])) if run in t.index else "–"
            for q, t in answered
        ]
        rows.append([label, *cells])
    claims = [
        claim(t.reset_index(), "", baseline, f"{task.words[task.first]} with {q[0]}")
        for q, t in answered
        if q[2] and "+" not in q[2] and (t["metric"] == task.first).all()
    ]
    note = [
        _seeds(frame),
        f"Subsets and rates are scored on the test {words.places} that hold every modality "
        f"({range_of(frame[subset]['patches'])}); a rate's missing {words.items} are the same for "
        "all methods."
        if subset.any()
        else f"No test {words.place} holds every modality, so there is no score of a subset or at "
        "a missing rate; the table policies has what clients score on their own.",
        *(_models(t.reset_index(), q[0], words.places) for q, t in answered),
        *claims,
        seeds(task),
    ]
    header = ["Method", *(title for title, _, _ in questions)]
    return _table(
        "missing",
        f"Missing modalities: {first}, where not F1 (%)",
        header,
        rows,
        note,
        runs["run"] == baseline,
    )


def policies(frame: pd.DataFrame, baseline: str, task: Task) -> Table:
    """One trained model under each policy of the running statistics."""
    words, first = WORDS[task.name], task.words[task.first]
    own = f"own test {words.items}"
    header: list[str] = ["Method"]
    cells: list[tuple[Callable[[pd.Series, str], str], str]] = []
    for kind, place in (("union", "union test set"), ("own", own)):
        for policy in POLICIES:
            if f"{kind}_{policy}_mean" in frame:
                header.append(f"{policy}, {place}")
                cells.append((estimate, f"{kind}_{policy}_"))
            if f"{kind}_{policy}_diff" in frame:
                header.append(f"Δ {policy} − modality, {place}")
                cells.append((delta, f"{kind}_{policy}_"))
    rows = [[r["label"], *(make(r, prefix) for make, prefix in cells)] for _, r in frame.iterrows()]
    note = [
        f"{capital(first)} (%) of the same trained models; differences are paired by seed. "
        f"{capital(own)}: each client's, mean over clients. There is no union score under local, "
        f"as a {words.place} has no client of its own there.",
        _seeds(frame),
        _clients(frame, "own_modality_"),
    ]
    if frame.empty:
        note = ["No method here exchanges anything, so there are no policies to compare."]
    for kind, place in (("own", own), ("union", "the union test set")):
        for policy in POLICIES[1:]:
            if f"{kind}_{policy}_diff" in frame:
                what = f"{first} on {place} with statistics {policy}"
                note.append(claim(frame, f"{kind}_{policy}_", "the same model with modality", what))
    title = "Policies of the running statistics"
    return _table("policies", title, header, rows, [*note, seeds(task)], frame["run"] == baseline)


def cost(frame: pd.DataFrame, baseline: str, task: Task) -> Table:
    """Operations, traffic and rounds; seconds are measured and stand on the page."""
    header = ["Method", "Clients", "Parameters", "FLOPs per sample", "FLOPs of a run", "Up", "Down",
              "Rounds", "Rounds to target", "Seeds at target", "Traffic to target"]  # fmt: skip
    rows = [
        [
            row["label"],
            "–" if pd.isna(row["clients"]) else f"{row['clients']:.0f}",
            quantity(row["parameters"]),
            quantity(row["flops_per_sample"]),
            quantity(row["flops"]),
            quantity(row["bytes_up"], "B"),
            quantity(row["bytes_down"], "B"),
            f"{row['rounds']:.0f}",
            "–" if pd.isna(row["rounds_to_target"]) else f"{row['rounds_to_target']:g}",
            f"{row['seeds_to_target']:.0f} of {row['seeds']:.0f}" if row["rounds"] else "–",
            quantity(row["bytes_to_target"], "B"),
        ]
        for _, row in frame.iterrows()
    ]
    target = frame["target"].dropna()
    aim = (
        f"Target: a validation {task.metrics[task.first]} of {points(target.iloc[0])} %, which is "
        f"90 % of what {baseline} has after its last round; median over the seeds that reach it "
        "and do not diverge."
        if len(target)
        else "There is no validation score, hence no target."
    )
    note = [
        aim,
        _seeds(frame),
        "FLOPs: forward and backward pass of training, a multiplication and an addition are two; "
        "convolutions, linear layers, whitening and MIM (docs/models.md). Up and down: bytes that "
        "all clients send and receive in a run, the mean over seeds.",
    ]
    return _table("cost", "Cost", header, rows, note, frame["run"] == baseline)


LAYOUTS = {"comparison": comparison, "ablation": ablation, "missing": missing,
           "policies": policies, "cost": cost}  # fmt: skip


def _table(
    name: str,
    title: str,
    header: list[str],
    rows: list[list[str]],
    note: list[str],
    base: pd.Series,
) -> Table:
    return Table(name, title, header, rows, [n for n in note if n], list(base))


def _single_clients(frame: pd.DataFrame, task: Task) -> str:
    """Range of single clients' models, where a method trains clients alone."""
    parts = []
    several = sum(str(c).startswith("client_") and str(c).endswith("_asked") for c in frame) > 0
    for _, row in frame.iterrows() if several else ():
        found = []
        for column in map(str, frame):
            if not (column.startswith("client_") and column.endswith("_asked")):
                continue
            stem = column.removesuffix("asked")
            name = modality_names(stem.removeprefix("client_").rstrip("_"))
            if pd.isna(row[column]):
                continue
            if not row[f"{stem}n"]:
                found.append(f"{name} none")
                continue
            values = [points(row[stem + end]) for end in ("mean", "min", "max")]
            fewer = row[f"{stem}n"] < row[column]
            count = f"; {row[f'{stem}n']:.0f} of {row[column]:.0f} clients" if fewer else ""
            found.append(f"{name} {values[0]} (from {values[1]} to {values[2]}{count})")
        if found:
            parts.append(
                f"Single clients' models of {row['label']}, {task.metrics[task.first]}, mean and "
                f"range: {', '.join(found)}."
            )
    return " ".join(parts)


def _tiles(frame: pd.DataFrame, baseline: str, task: Task) -> str:
    """What the choice of the test tiles may do to the baseline's score, which seeds do not say."""
    if "tiles_low" not in frame or frame["tiles_low"].isna().all():
        return ""
    row = frame.dropna(subset=["tiles_low"]).iloc[0]
    return (
        f"Over the choice of the test tiles, {baseline}'s {task.metrics[task.first]} lies between "
        f"{points(row['tiles_low'])} and {points(row['tiles_high'])} % (95 % interval, bootstrap "
        f"over tiles, mean over {_share(row['tiles_n'], row['seeds'], 'seeds')}), which the "
        "intervals over seeds do not cover."
    )


def _seeds(frame: pd.DataFrame) -> str:
    """How many seeds a row has, and which of them diverged."""
    text = f"{range_of(frame['seeds'])} seed{'' if (frame['seeds'] == 1).all() else 's'} per row."
    lost = frame[diverged(frame)].drop_duplicates("run")
    if lost.empty:
        return text
    listed = "; ".join(f"{row['label']}: {row['diverged']}" for _, row in lost.iterrows())
    return (
        f"{text} Diverged: {listed}. A mean leaves out seeds without a finite score, and its cell "
        "says how many it has; a method of which a seed diverged is not tested."
    )


def _models(frame: pd.DataFrame, what: str, places: str) -> str:
    """Rows that are the mean over fewer models than they have (those of groups, for local)."""
    rows = frame[frame["models"] < frame["models_asked"]].drop_duplicates("run")
    return " ".join(
        f"{row['label']}{what and f', {what}'}: the mean over the models of {row['models']:.0f} of "
        f"{row['models_asked']:.0f} groups; the others see nothing of some {places}."
        for _, row in rows.iterrows()
    )


def _clients(frame: pd.DataFrame, prefix: str) -> str:
    """Rows that are the mean over fewer clients than have test patches."""
    if f"{prefix}models" not in frame:
        return ""
    rows = frame[frame[f"{prefix}models"] < frame[f"{prefix}models_asked"]]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return (
        f"{row[f'{prefix}models']:.0f} of {row[f'{prefix}models_asked']:.0f} clients count: the "
        "others have no score under one of the policies."
    )


def _share(count: float, total: float, noun: str) -> str:
    return noun if count == total else f"{count:.0f} of {total:.0f} {noun}"
