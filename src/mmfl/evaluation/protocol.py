"""What is asked of a trained model: subsets, missing rates, classes, clients (docs/method.md, 8).

The questions are the same for every task; a `Bench` answers and scores them. Every function that
returns rows gives them tidy, with the columns of `COLUMNS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from mmfl.facts.tasks import DIVERGED, Task
from mmfl.models.ensemble import Ensemble, Expert

COLUMNS = (
    "kind", "policy", "modalities", "removed", "rate", "client", "class",
    "metric", "value", "patches", "classes", "models", "models_asked", "state",
)  # fmt: skip

Row = dict[str, Any]
Mask = dict[str, np.ndarray]
"""modality -> (N,) bool: which of N locations offer it."""
Cut = float | np.ndarray
"""From which probability on a class is predicted: one number or (P,)."""


class Bench(Protocol):
    """The test bench of one run.

    Attributes:
        pairs: (L,) ids of all locations; present: modality -> (L,) bool.
    """

    task: Task
    pairs: np.ndarray
    present: dict[str, np.ndarray]
    class_names: Sequence[str]

    def ask(self, ensemble: Ensemble, locations: np.ndarray, masks: list[Mask]) -> list[np.ndarray]:
        """For each availability mask an answer (N, …) about N locations."""
        ...

    def seen(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: the locations of which the ensemble saw something."""
        ...

    def finite(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: the locations of which the answer, if there is one, is finite."""
        ...

    def cut(self, ensemble: Ensemble, validation: np.ndarray) -> Cut | None:
        """The thresholds of an ensemble, where the task has any; None if it has diverged."""
        ...

    def score(self, locations: np.ndarray, answer: np.ndarray, cut: Cut) -> dict[str, Any]:
        """The task's scores of an answer that is seen and finite throughout, with `classes`."""
        ...


def available(bench: Bench, locations: np.ndarray) -> Mask:
    """What the archive holds at some locations."""
    return {q: held[locations] for q, held in bench.present.items()}


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the full one first."""
    names = sorted(modalities)
    return [s for size in range(len(names), 0, -1) for s in combinations(names, size)]


def loses(pairs: np.ndarray, modality: str, rate: int) -> np.ndarray:
    """(N,) bool: the patches without `modality` at a missing rate in percent.

    By a hash of the pair's id, so the masks are nested and the same for all methods.
    """
    values = [
        int.from_bytes(hashlib.sha256(f"{modality}/{pair}".encode()).digest()[:8], "big")
        for pair in pairs
    ]
    return np.array(values, np.float64) / 2.0**64 * 100 < rate


def union_rows(
    bench: Bench,
    ensembles: Sequence[Ensemble],
    policy: str,
    test: np.ndarray,
    validation: np.ndarray,
    rates: Sequence[int],
    *,
    detailed: bool,
) -> tuple[list[Row], list[np.ndarray]]:
    """Rows of the union test set under one policy, and each ensemble's answer (N, …) for `test`.

    Subset rows and curves are on the locations with every modality; the others have a row of
    their own. With several ensembles (local models) values are means over those that can answer:
    `models` of `models_asked`. If one of them has diverged (an answer is not finite), there is no
    value, and the state says so. `detailed` adds curves, classes and validation. The answers are
    those to all that is available.
    """
    modalities = sorted(bench.present)
    held = available(bench, test)
    complete = np.all([held[q] for q in modalities], axis=0)
    whole, rest = test[complete], test[~complete]
    questions = _questions(bench, whole, rates if detailed else ())
    answers = [bench.ask(e, whole, [mask for _, mask in questions]) for e in ensembles]
    cuts = [bench.cut(e, validation) for e in ensembles]
    rows: list[Row] = []
    for index, (asked, _) in enumerate(questions):
        head = {**asked, "policy": policy}
        found = [_score(bench, whole, a[index], c) for a, c in zip(answers, cuts, strict=True)]
        rows += _mean_rows(bench, head, found, len(whole))
        if detailed and index == 0:
            rows += _class_rows(bench, head, found, len(whole))
    everything = [answer[0] for answer in answers]
    if len(rest):
        partial = [bench.ask(e, rest, [available(bench, rest)])[0] for e in ensembles]
        found = [_score(bench, rest, a, c) for a, c in zip(partial, cuts, strict=True)]
        head = {"kind": "incomplete", "policy": policy, "modalities": "fewer"}
        rows += _mean_rows(bench, head, found, len(rest))
        if detailed and not len(whole):
            rows += _class_rows(bench, head, found, len(rest))
        everything = [_merged(complete, a, b) for a, b in zip(everything, partial, strict=True)]
    if detailed and len(validation):
        mask = available(bench, validation)
        found = [
            _score(bench, validation, bench.ask(e, validation, [mask])[0], c)
            for e, c in zip(ensembles, cuts, strict=True)
        ]
        head = {"kind": "validation", "policy": policy, "modalities": "+".join(modalities)}
        rows += _mean_rows(bench, head, found, len(validation))
    return rows, everything


def _questions(bench: Bench, locations: np.ndarray, rates: Sequence[int]) -> list[tuple[Row, Mask]]:
    """Every subset, then a curve for each modality that is lost; each with its mask."""
    modalities = sorted(bench.present)
    found: list[tuple[Row, Mask]] = [
        (
            {"kind": "subset", "modalities": "+".join(subset)},
            {q: np.full(len(locations), q in subset) for q in modalities},
        )
        for subset in subsets(modalities)
    ]
    for q in modalities if len(modalities) > 1 else ():
        for rate in rates:
            mask = {m: np.full(len(locations), True) for m in modalities}
            mask[q] = ~loses(bench.pairs[locations], q, rate)
            head = {"kind": "missing", "removed": q, "rate": rate, "modalities": "mixed"}
            found.append((head, mask))
    return found


def _merged(chosen: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """(N, …) with the rows of `yes` where chosen (N,) is true, those of `no` elsewhere."""
    merged = np.empty((len(chosen), *yes.shape[1:]), yes.dtype)
    merged[chosen], merged[~chosen] = yes, no
    return merged


def validation_score(
    bench: Bench, ensembles: Sequence[Ensemble], locations: np.ndarray
) -> float | None:
    """The task's first score on validation locations, all their modalities.

    The mean over the ensembles, each on the locations that it sees; NaN where one of them has
    diverged; None where none can be scored: no locations, nothing seen, or no true class.
    """
    found = []
    mask = available(bench, locations)
    for ensemble in ensembles if len(locations) else ():
        answer = bench.ask(ensemble, locations, [mask])[0]
        seen = bench.seen(answer)
        if not bench.finite(answer).all():
            return float("nan")
        if seen.any():
            found.append(bench.score(locations[seen], answer[seen], 0.5)[bench.task.first])
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def client_rows(
    bench: Bench,
    experts: Sequence[Expert],
    test: np.ndarray,
    validation: np.ndarray,
    policy: str,
) -> list[Row]:
    """Each client's own model on the union test set of its modalities."""
    rows: list[Row] = []
    for expert in experts:
        held = np.any([bench.present[q][test] for q in expert.modalities], axis=0)
        found = _client_scores(bench, expert, test[held], validation)
        head = {"kind": "client", "client": expert.name, "policy": policy}
        head["modalities"] = "+".join(expert.modalities)
        rows += _mean_rows(bench, head, [found], int(held.sum()))
    return rows


def own_rows(
    bench: Bench,
    experts: dict[str, dict[str, Expert]],
    own_test: dict[str, np.ndarray],
    validation: np.ndarray,
) -> list[Row]:
    """Each client on its own test patches under each statistics policy, exactly paired.

    `experts[policy][client]` are one trained model under different statistics.
    """
    rows: list[Row] = []
    for policy, members in experts.items():
        for client, expert in members.items():
            locations = own_test.get(client, np.empty(0, np.int64))
            if len(locations):
                head = {"kind": "own", "policy": policy, "client": client}
                head["modalities"] = "+".join(expert.modalities)
                found = _client_scores(bench, expert, locations, validation)
                rows += _mean_rows(bench, head, [found], len(locations))
    return rows


def _client_scores(
    bench: Bench, expert: Expert, locations: np.ndarray, validation: np.ndarray
) -> dict[str, Any]:
    mask = {q: bench.present[q][locations] for q in expert.modalities}
    answer = bench.ask((expert,), locations, [mask])[0]
    return _score(bench, locations, answer, bench.cut((expert,), validation))


def _score(
    bench: Bench, locations: np.ndarray, answer: np.ndarray, cut: Cut | None
) -> dict[str, Any]:
    """Scores; none if a location cannot be seen at all, only `state` if an answer is not finite."""
    if not len(locations) or not bench.seen(answer).all():
        return {}
    if cut is None or not bench.finite(answer).all():
        return {"state": DIVERGED}
    return bench.score(locations, answer, cut)


def _mean_rows(bench: Bench, head: Row, found: Sequence[dict[str, Any]], patches: int) -> list[Row]:
    """One row per metric, the mean over those ensembles that can answer; empty if one diverged."""
    answered = [f for f in found if f]
    if not answered:
        return []
    head = {**head, "patches": patches, "models": len(answered), "models_asked": len(found)}
    if _diverged(answered):
        return [{**head, "metric": m, "state": DIVERGED} for m in sorted(bench.task.metrics)]
    return [
        {
            **head,
            "metric": metric,
            "value": float(np.mean([f[metric] for f in answered])),
            "classes": answered[0]["classes"],
        }
        for metric in sorted(bench.task.metrics)
    ]


def _diverged(answered: Sequence[dict[str, Any]]) -> bool:
    return any(f.get("state") == DIVERGED for f in answered)


def _class_rows(
    bench: Bench, head: Row, found: Sequence[dict[str, Any]], patches: int
) -> list[Row]:
    rows: list[Row] = []
    answered = [f for f in found if f]
    if not answered or _diverged(answered):
        return rows
    for metric in sorted(bench.task.of_class):
        values = np.mean([f[metric] for f in answered], axis=0)
        for name, value in zip(bench.class_names, values, strict=True):
            if not np.isnan(value):
                rows.append(
                    {**head, "kind": "class", "class": name, "metric": metric,
                     "value": float(value), "patches": patches, "models": len(answered),
                     "models_asked": len(found)}
                )  # fmt: skip
    return rows
