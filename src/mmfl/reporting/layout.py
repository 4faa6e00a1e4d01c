"""Tables as they are read: headings, cells, and a sentence that claims what the numbers allow.

Made from the csv frames of `tables.py` alone, so whatever is printed can be traced to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from mmfl.reporting.cells import claim, delta, estimate, p_value, points, quantity, range_of
from mmfl.reporting.tables import METRICS, POLICIES

NAMES = {
    "ap_macro": "AP macro",
    "ap_micro": "AP micro",
    "f1_macro": "F1 macro",
    "f1_micro": "F1 micro",
    "f1_weighted": "F1 weighted",
}
SEEDS = (
    "The seeds cover the randomness of training only, not the choice of the partition, of the test "
    "locations or of hyper-parameters."
)


@dataclass
class Table:
    """Text cells; a line break in a cell separates a value from its interval."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    baseline: list[bool] = field(default_factory=list)


def comparison(frame: pd.DataFrame, baseline: str) -> Table:
    """The headline table."""
    header = ["Method", *(f"{NAMES[m]} (%)" for m in METRICS)]
    header += [f"Δ AP macro to {baseline} (points)", "p (Holm)"]
    rows = [
        [
            row["label"],
            *(estimate(row, f"{m}_") for m in METRICS),
            delta(row, "ap_macro_"),
            "–" if pd.isna(row["ap_macro_diff"]) else p_value(row["ap_macro_p_holm"]),
        ]
        for _, row in frame.iterrows()
    ]
    note = [
        _seeds(frame),
        f"Test locations that hold every modality ({range_of(frame['patches'])}); all modalities "
        f"used; {range_of(frame['classes'])} classes with positives.",
        claim(frame, "ap_macro_", baseline, "macro average precision"),
        _single_clients(frame),
        SEEDS,
    ]
    title = "Comparison on all modalities: mean ± standard deviation, 95 % interval"
    return _table("comparison", title, header, rows, note, frame["run"] == baseline)


def ablation(frame: pd.DataFrame, baseline: str) -> Table:
    """Modules, under both shared policies of the normalisation statistics."""
    header, known = ["Method"], []
    for policy in POLICIES[:2]:
        if frame[f"{policy}_ap_macro_mean"].notna().any():
            known.append(policy)
            header += [f"AP macro (%), {policy}", "Δ (points)", "p (Holm)"]
            header += [f"F1 micro (%), {policy}"]
    rows = []
    for _, row in frame.iterrows():
        cells = [row["label"]]
        for policy in known:
            p = row[f"{policy}_ap_macro_p_holm"]
            cells += [estimate(row, f"{policy}_ap_macro_"), delta(row, f"{policy}_ap_macro_")]
            cells += ["–" if pd.isna(row[f"{policy}_ap_macro_diff"]) else p_value(p)]
            cells += [estimate(row, f"{policy}_f1_micro_")]
        rows.append(cells)
    claims = [
        claim(frame, f"{p}_ap_macro_", baseline, f"macro average precision under policy {p}")
        for p in known
    ]
    note = [
        _seeds(frame),
        f"Differences to {baseline} under the same policy of the running statistics; p-values are "
        "corrected over all methods of the comparison, not only those shown here.",
        *claims,
        SEEDS,
    ]
    title = "Ablation of the modules"
    return _table("ablation", title, header, rows, note, frame["run"] == baseline)


def missing(frame: pd.DataFrame, baseline: str) -> Table:
    """Subsets of the modalities, missing rates, and locations with fewer modalities."""
    questions: list[tuple[str, pd.Series, str]] = []
    ap = frame["metric"] == "ap_macro"
    subset = frame["kind"] == "subset"
    for metric, chosen in (("ap_macro", ap), ("f1_micro", frame["metric"] == "f1_micro")):
        for name in frame[subset]["modalities"].unique():
            title = ("" if metric == "ap_macro" else f"{NAMES[metric]}, ") + modality_names(name)
            questions.append((title, subset & chosen & (frame["modalities"] == name), name))
    curves = frame[(frame["kind"] == "missing") & frame["rate"].between(1, 99)]
    for (removed, rate), _ in curves.groupby(["removed", "rate"]):
        chosen = ap & (frame["removed"] == removed) & (frame["rate"] == rate)
        title = f"{rate:.0f} % without {modality_names(str(removed))}"
        questions.append((title, chosen & (frame["kind"] == "missing"), ""))
    fewer = ap & (frame["kind"] == "incomplete")
    if fewer.any():
        count = range_of(frame[fewer]["patches"])
        questions.append((f"Locations with fewer modalities ({count})", fewer, ""))
    runs = frame[["run", "label"]].drop_duplicates()
    tables = [frame[chosen].set_index("run") for _, chosen, _ in questions]
    rows = []
    for run, label in runs.itertuples(index=False):
        cells = [
            estimate(t.loc[run], "", spread=bool(q[2])) if run in t.index else "–"
            for q, t in zip(questions, tables, strict=True)
        ]
        rows.append([label, *cells])
    claims = [
        claim(t.reset_index(), "", baseline, f"macro average precision with {modality_names(q[2])}")
        for q, t in zip(questions, tables, strict=True)
        if q[2] and "+" not in q[2] and not q[0].startswith("F1")
    ]
    note = [
        "Subsets and rates are scored on the test locations that hold every modality "
        f"({range_of(frame[subset]['patches'])}); a rate's missing patches are the same for all "
        "methods.",
        *claims,
        SEEDS,
    ]
    header = ["Method", *(title for title, _, _ in questions)]
    return _table(
        "missing",
        "Missing modalities: AP macro, where not F1 (%)",
        header,
        rows,
        note,
        runs["run"] == baseline,
    )


def policies(frame: pd.DataFrame, baseline: str) -> Table:
    """One trained model under each policy of the running statistics."""
    header: list[str] = ["Method"]
    cells: list[tuple[Callable[[pd.Series, str], str], str]] = []
    for kind, place in (("union", "union test set"), ("own", "own test patches")):
        for policy in POLICIES:
            if f"{kind}_{policy}_mean" in frame:
                header.append(f"{policy}, {place}")
                cells.append((estimate, f"{kind}_{policy}_"))
            if f"{kind}_{policy}_diff" in frame:
                header.append(f"Δ {policy} − modality, {place}")
                cells.append((delta, f"{kind}_{policy}_"))
    rows = [[r["label"], *(make(r, prefix) for make, prefix in cells)] for _, r in frame.iterrows()]
    note = [
        "Macro average precision (%) of the same trained models; differences are paired by seed. "
        "Own test patches: each client's, mean over clients. There is no union score under local, "
        "as a location has no client of its own there.",
    ]
    for kind, place in (("own", "own test patches"), ("union", "the union test set")):
        for policy in POLICIES[1:]:
            if f"{kind}_{policy}_diff" in frame:
                what = f"macro average precision on {place} with statistics {policy}"
                note.append(claim(frame, f"{kind}_{policy}_", "the same model with modality", what))
    title = "Policies of the running statistics"
    return _table("policies", title, header, rows, [*note, SEEDS], frame["run"] == baseline)


def cost(frame: pd.DataFrame, baseline: str) -> Table:
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
        f"Target: a validation AP macro of {points(target.iloc[0])} %, which is 90 % of what "
        f"{baseline} has after its last round; median over the seeds that reach it."
        if len(target)
        else "There is no validation score, hence no target."
    )
    note = [
        aim,
        "FLOPs: forward and backward pass of training. Up and down: bytes that all clients send "
        "and receive in a run, the mean over seeds.",
    ]
    return _table("cost", "Cost", header, rows, note, frame["run"] == baseline)


LAYOUTS = {"comparison": comparison, "ablation": ablation, "missing": missing,
           "policies": policies, "cost": cost}  # fmt: skip


def modality_names(names: str) -> str:
    """`s1+s2` as `S1 + S2`."""
    return " + ".join(part.upper() for part in str(names).split("+"))


def _table(
    name: str,
    title: str,
    header: list[str],
    rows: list[list[str]],
    note: list[str],
    base: pd.Series,
) -> Table:
    return Table(name, title, header, rows, [n for n in note if n], list(base))


def _single_clients(frame: pd.DataFrame) -> str:
    """Range of single clients' models, where a method trains clients alone."""
    parts = []
    for column in map(str, frame):
        if column.startswith("client_") and column.endswith("_mean"):
            stem = column.removesuffix("mean")
            row = frame.dropna(subset=[column]).iloc[0]
            values = [points(row[stem + end]) for end in ("mean", "min", "max")]
            name = modality_names(stem.removeprefix("client_").rstrip("_"))
            parts.append(f"{name} {values[0]} (from {values[1]} to {values[2]})")
    return (
        f"Single clients' models of local, AP macro, mean and range: {', '.join(parts)}."
        if parts
        else ""
    )


def _seeds(frame: pd.DataFrame) -> str:
    return f"{range_of(frame['seeds'])} seed{'' if (frame['seeds'] == 1).all() else 's'} per row."
