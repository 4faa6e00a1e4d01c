"""Numbers of the tables: from tidy estimates to one frame per table, as it stands in the csv.

Inputs, all made by `steps/report.py`:
    runs: a row per method and variant, in order: run (its key), label, method, variant, policy
        (the statistics policy that is shown), normalisation, seeds, diverged (those seeds, text).
    estimates: run, kind, policy, modalities, removed, rate, client, class, metric; mean, sd, low,
        high, n (95 % interval over the n seeds that have a score); patches, classes; models: the
        fewest that a score is the mean of, out of models_asked.
    deltas: the same keys; diff, diff_sd, diff_low, diff_high, diff_n, p, p_holm to the baseline.
Scores are fractions in [0, 1]; a table that prints percent converts when it is laid out.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mmfl.facts.tasks import DIVERGED, TASKS, Task

ESTIMATE = ("mean", "sd", "low", "high", "n")
DELTA = ("diff", "diff_sd", "diff_low", "diff_high", "diff_n", "p", "p_holm", "tests")
HEAD = ("run", "label", "method", "variant", "seeds", "diverged")
COUNTS = ("patches", "classes", "models", "models_asked")
POLICIES = ("modality", "average", "local")


def shown(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows under the policy that each run shows (or under none)."""
    policy = frame["run"].map(runs.set_index("run")["policy"])
    return frame[frame["policy"].isna() | (frame["policy"] == policy)]


def full(modalities: pd.Series) -> str | None:
    """The subset with the most modalities, e.g. `s1+s2`."""
    names = modalities.dropna().unique()
    return max(names, key=lambda name: name.count("+")) if len(names) else None


def compared(frame: pd.DataFrame, estimates: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame on the test locations on which methods are compared, all modalities used.

    These hold every modality. Where the estimates have none of them, they are those with fewer.
    """
    subset = estimates[estimates["kind"] == "subset"]["modalities"]
    if subset.empty:
        return frame[frame["kind"] == "incomplete"]
    return frame[(frame["kind"] == "subset") & (frame["modalities"] == full(subset))]


def every_modality(estimates: pd.DataFrame) -> str:
    """All modalities, e.g. `s1+s2`: of the largest subset, else those that any row names."""
    names = set(estimates["modalities"].dropna()) - {"mixed", "fewer"}
    subset = full(estimates[estimates["kind"] == "subset"]["modalities"])
    names = names if subset is None else {subset}
    return "+".join(sorted({part for name in names for part in name.split("+")}))


def task_of(compared: pd.DataFrame) -> Task:
    """The task whose first score a comparison holds."""
    return next(t for t in TASKS.values() if f"{t.first}_mean" in compared)


def comparison(
    runs: pd.DataFrame,
    estimates: pd.DataFrame,
    deltas: pd.DataFrame,
    baseline: str,
    task: Task,
    tiles: tuple[float, float, int] | None = None,
) -> pd.DataFrame:
    """A row per run: every metric on all modalities, its difference to the baseline.

    `kind`: `subset`, or `incomplete` where no test location holds every modality (`compared`). For
    `local`, also mean, least and greatest first score of single clients per modality
    (`client_<modality>_mean`, `_min`, `_max`): of the `_n` clients of `_asked` that have a score in
    every seed.

    Args:
        tiles: interval of the baseline's first score over test tiles (`tiles_low`, `tiles_high`),
            mean over `tiles_n` seeds.
    """
    frame = _head(runs).assign(policy=runs["policy"].to_numpy(), baseline=baseline)
    own = shown(compared(estimates, estimates), runs)
    delta = shown(compared(deltas, estimates), runs)
    frame = _join(frame, own, "", COUNTS)
    frame["modalities"] = every_modality(estimates)
    frame["kind"] = own["kind"].iloc[0] if len(own) else ""
    for metric in task.metrics:
        frame = _join(frame, own[own["metric"] == metric], f"{metric}_", ESTIMATE)
        frame = _join(frame, delta[delta["metric"] == metric], f"{metric}_", DELTA)
    single = estimates[(estimates["kind"] == "client") & (estimates["metric"] == task.first)]
    seeds = single["run"].map(runs.set_index("run")["seeds"])
    single = single.assign(mean=single["mean"].where(single["n"] == seeds))
    for modality, part in single.groupby("modalities"):
        grouped = part.groupby("run")["mean"].agg(["mean", "min", "max", "count", "size"])
        grouped = grouped.rename(columns={"count": "n", "size": "asked"})
        frame = frame.merge(
            grouped.add_prefix(f"client_{modality}_"), left_on="run", right_index=True, how="left"
        )
    if tiles is not None:
        for end, value in zip(("low", "high", "n"), tiles, strict=True):
            frame[f"tiles_{end}"] = pd.Series(value, frame.index).where(frame["run"] == baseline)
    return frame


def ablation(
    runs: pd.DataFrame, estimates: pd.DataFrame, deltas: pd.DataFrame, baseline: str, task: Task
) -> pd.DataFrame:
    """The baseline, it with modules, and it with inputs standardised per client.

    Every row under both shared statistics policies, so that a module and a policy are not taken
    for one another.
    """
    modules = runs["method"].str.startswith(f"{baseline}+")
    itself = (runs["method"] == baseline) & (runs["variant"] == "default")
    rival = (runs["method"] == baseline) & (runs["normalisation"] == "client") & ~itself
    chosen = runs[itself | modules | rival]
    frame = _head(chosen)
    frame["normalisation"] = chosen["normalisation"].to_numpy()
    own, delta = compared(estimates, estimates), compared(deltas, estimates)
    for policy in POLICIES[:2]:
        for metric in (task.first, task.second):
            name = f"{policy}_{metric}_"
            mine = own[(own["policy"] == policy) & (own["metric"] == metric)]
            theirs = delta[(delta["policy"] == policy) & (delta["metric"] == metric)]
            frame = _join(frame, mine, name, ESTIMATE)
            frame = _join(frame, theirs, name, DELTA)
    return frame


def missing(runs: pd.DataFrame, estimates: pd.DataFrame, deltas: pd.DataFrame) -> pd.DataFrame:
    """Long: a row per run, question and metric. Questions: subsets, rates, incomplete locations."""
    keys = ["run", "kind", "modalities", "removed", "rate", "metric"]
    own = shown(estimates[estimates["kind"].isin(["subset", "missing", "incomplete"])], runs)
    delta = shown(deltas, runs)
    frame = own[[*keys, *ESTIMATE, *COUNTS]].merge(delta[[*keys, *DELTA]], on=keys, how="left")
    head = ["label", "seeds", "diverged"]
    frame = frame.merge(_head(runs)[["run", *head]], on="run")
    order = {run: place for place, run in enumerate(runs["run"])}
    kinds = {"subset": 0, "missing": 1, "incomplete": 2}
    frame["_run"], frame["_kind"] = frame["run"].map(order), frame["kind"].map(kinds)
    frame["_width"] = -frame["modalities"].fillna("").str.count(r"\+")
    sort = ["_run", "_kind", "_width", "modalities", "removed", "rate", "metric"]
    frame = frame.sort_values(sort, kind="stable").drop(columns=["_run", "_kind", "_width"])
    return frame[[*head, *keys, *ESTIMATE, *COUNTS, *DELTA]].reset_index(drop=True)


def policies(runs: pd.DataFrame, own: pd.DataFrame, paired: pd.DataFrame) -> pd.DataFrame:
    """Each trained model under each statistics policy, the first score.

    Args:
        own: run, kind ("union" or "own"), policy, and an estimate: on the union test set, and on
            the clients' own test patches (mean over `models` clients of `models_asked`).
        paired: run, kind, policy; difference of this policy to `modality` within a run.
    """
    frame = _head(runs)
    for kind in ("union", "own"):
        for policy in POLICIES:
            mine = own[(own["kind"] == kind) & (own["policy"] == policy)]
            theirs = paired[(paired["kind"] == kind) & (paired["policy"] == policy)]
            if len(mine):
                columns = [*ESTIMATE, *(COUNTS[2:] if kind == "own" else ())]
                frame = _join(frame, mine, f"{kind}_{policy}_", columns)
            if len(theirs):
                frame = _join(frame, theirs, f"{kind}_{policy}_", DELTA)
    tested = [c for c in map(str, frame) if c.startswith("own_")]
    return frame.dropna(subset=tested, how="all").reset_index(drop=True) if tested else frame[:0]


def cost(
    runs: pd.DataFrame, described: dict[str, list[dict]], rounds: pd.DataFrame, target: float | None
) -> pd.DataFrame:
    """What a run costs: operations, traffic, parameters, rounds. No seconds.

    Args:
        described: run -> run.json of its seeds.
        rounds: run, seed, round, client, state, bytes_up, bytes_down, val_score.
        target: validation score that counts as reached, but not by a seed that diverged.
    """
    rows = []
    for run in runs["run"]:
        items = described[run]
        row = {
            "run": run,
            "parameters": items[0]["parameters_count"],
            "rounds": items[0]["rounds"],
            "flops_per_sample": _mean([item["flops_per_sample"] for item in items]),
            "flops": _mean([item.get("flops") for item in items]),
            "bytes_up": _mean([item["bytes_up"] for item in items]),
            "bytes_down": _mean([item["bytes_down"] for item in items]),
            "target": target,
        }
        rows.append(row | _reached(rounds[rounds["run"] == run], target))
    frame = _head(runs).merge(pd.DataFrame(rows), on="run")
    taking_part = rounds[rounds["client"] != "server"].groupby("run")["client"].nunique()
    frame["clients"] = frame["run"].map(taking_part).astype("Int64")
    return frame


def metrics(compared: pd.DataFrame, task: Task) -> dict[str, dict[str, float]]:
    """Means of the comparison, nested for DVC: run -> metric -> mean.

    A run of which seeds diverged says how many: `diverged`.
    """
    found = {}
    for _, row in compared.iterrows():
        found[row["run"]] = {
            m: row[f"{m}_mean"] for m in task.metrics if pd.notna(row[f"{m}_mean"])
        }
        if row["diverged"]:
            found[row["run"]]["diverged"] = len(row["diverged"].split(", "))
    return found


def target_score(rounds: pd.DataFrame, baseline: str, share: float = 0.9) -> float | None:
    """A share of the baseline's mean validation score after its last round; None without one.

    Of the seeds that have not diverged.
    """
    own = rounds[(rounds["run"] == baseline) & (rounds["client"] == "server")]
    ends = [part["val_score"].iloc[-1] for _, part in own.groupby("seed") if not _diverged(part)]
    last = [value for value in ends if pd.notna(value)]
    return float(share * sum(last) / len(last)) if last else None


def _diverged(rounds: pd.DataFrame) -> bool:
    """Whether a seed diverged, from its rounds."""
    return bool((rounds["state"] == DIVERGED).any())


def _reached(rounds: pd.DataFrame, target: float | None) -> dict[str, float | None]:
    """Median first round that reaches the target, seeds that do, and bytes exchanged until then."""
    firsts, traffic = [], []
    for _, part in rounds.groupby("seed") if target is not None else ():
        server = part[(part["client"] == "server") & (part["val_score"] >= target)]
        if len(server) and not _diverged(part):
            first = int(server["round"].min())
            until = part[part["round"] <= first]
            firsts.append(first)
            traffic.append(
                float((until["bytes_up"].fillna(0) + until["bytes_down"].fillna(0)).sum())
            )
    median = float(pd.Series(firsts).median()) if firsts else None
    return {
        "rounds_to_target": median,
        "seeds_to_target": len(firsts),
        "bytes_to_target": _mean(traffic),
    }


def _head(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[list(HEAD)].reset_index(drop=True)


def _join(
    frame: pd.DataFrame, values: pd.DataFrame, prefix: str, columns: Sequence[str]
) -> pd.DataFrame:
    """Add `columns` of a frame with one row per run (of several the first) under a prefix."""
    once = values.drop_duplicates("run").set_index("run")[list(columns)]
    return frame.merge(once.add_prefix(prefix), left_on="run", right_index=True, how="left")


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known, or there are none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
