"""What is asked of a trained model: subsets, missing rates, classes, clients (docs/method.md, 8).

Every function returns tidy rows with the columns of `COLUMNS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mmfl.evaluation.metrics import best_thresholds, scores
from mmfl.evaluation.predict import Inputs, ensemble_probabilities
from mmfl.models.ensemble import Ensemble, Expert
from mmfl.models.network import Network

COLUMNS = (
    "kind", "policy", "modalities", "removed", "rate", "client", "class",
    "metric", "value", "patches", "classes",
)  # fmt: skip
METRICS = ("ap_macro", "ap_micro", "f1_macro", "f1_micro", "f1_weighted")

Row = dict[str, Any]
Mask = dict[str, np.ndarray]


@dataclass
class Bench:
    """The test bench of one run.

    Attributes:
        labels: (L, P) uint8 of all locations; present: modality -> (L,) bool.
        inputs: standardised images of locations.
    """

    network: Network
    pairs: np.ndarray
    labels: np.ndarray
    present: dict[str, np.ndarray]
    class_names: Sequence[str]
    inputs: Inputs
    batch: int
    thresholds: str = "half"

    def ask(self, ensemble: Ensemble, locations: np.ndarray, masks: list[Mask]) -> list[np.ndarray]:
        """(N, P) probabilities for each availability mask."""
        return ensemble_probabilities(
            self.network, ensemble, locations, masks, self.inputs, len(self.class_names), self.batch
        )

    def available(self, locations: np.ndarray) -> Mask:
        """What the archive holds at some locations."""
        return {q: held[locations] for q, held in self.present.items()}


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
) -> tuple[list[Row], np.ndarray]:
    """Rows of the union test set under one policy, and the fused probabilities (N, P) of `test`.

    Subset rows and curves are on the locations with every modality; the others have a row of
    their own. With several ensembles (local models) values are means over them. `detailed` adds
    curves, classes, clients and validation.
    """
    modalities = sorted(bench.present)
    available = bench.available(test)
    complete = np.all([available[q] for q in modalities], axis=0)
    whole = test[complete]
    questions: list[tuple[Row, Mask]] = [
        (
            {"kind": "subset", "modalities": "+".join(subset)},
            {q: np.full(len(whole), q in subset) for q in modalities},
        )
        for subset in subsets(modalities)
    ]
    if detailed and len(modalities) > 1:
        for q in modalities:
            for rate in rates:
                mask = {m: np.full(len(whole), True) for m in modalities}
                mask[q] = ~loses(bench.pairs[whole], q, rate)
                questions.append(
                    ({"kind": "missing", "removed": q, "rate": rate, "modalities": "mixed"}, mask)
                )
    rows: list[Row] = []
    answers = [bench.ask(e, whole, [mask for _, mask in questions]) for e in ensembles]
    cuts = [_thresholds(bench, e, validation) for e in ensembles]
    labels = bench.labels[whole]
    for index, (head, _) in enumerate(questions):
        found = [
            _scores(labels, answer[index], cut) for answer, cut in zip(answers, cuts, strict=True)
        ]
        rows += _mean_rows({**head, "policy": policy}, found, len(whole))
        if detailed and index == 0:
            rows += _class_rows({**head, "policy": policy}, found, bench.class_names, len(whole))
    fused = np.full((len(test), len(bench.class_names)), np.nan, np.float32)
    fused[complete] = _mean_probability([answer[0] for answer in answers])
    if (~complete).any():
        rest = test[~complete]
        partial = [bench.ask(e, rest, [bench.available(rest)])[0] for e in ensembles]
        found = [_scores(bench.labels[rest], p, cut) for p, cut in zip(partial, cuts, strict=True)]
        rows += _mean_rows(
            {"kind": "incomplete", "policy": policy, "modalities": "fewer"}, found, len(rest)
        )
        fused[~complete] = _mean_probability(partial)
    if detailed and len(validation):
        mask = bench.available(validation)
        found = [
            _scores(bench.labels[validation], bench.ask(e, validation, [mask])[0], cut)
            for e, cut in zip(ensembles, cuts, strict=True)
        ]
        head = {"kind": "validation", "policy": policy, "modalities": "+".join(modalities)}
        rows += _mean_rows(head, found, len(validation))
    return rows, fused


def client_rows(
    bench: Bench, experts: Sequence[Expert], test: np.ndarray, policy: str
) -> list[Row]:
    """Each client's own model on the union test set of its modalities."""
    rows: list[Row] = []
    for expert in experts:
        held = np.any([bench.present[q][test] for q in expert.modalities], axis=0)
        found = _client_scores(bench, expert, test[held])
        head = {"kind": "client", "client": expert.name, "policy": policy}
        head["modalities"] = "+".join(expert.modalities)
        rows += _mean_rows(head, [found], int(held.sum()))
    return rows


def own_rows(
    bench: Bench, experts: dict[str, dict[str, Expert]], own_test: dict[str, np.ndarray]
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
                rows += _mean_rows(head, [_client_scores(bench, expert, locations)], len(locations))
    return rows


def _client_scores(bench: Bench, expert: Expert, locations: np.ndarray) -> dict[str, Any]:
    mask = {q: bench.present[q][locations] for q in expert.modalities}
    return _scores(bench.labels[locations], bench.ask((expert,), locations, [mask])[0], 0.5)


def _thresholds(bench: Bench, ensemble: Ensemble, validation: np.ndarray) -> float | np.ndarray:
    if bench.thresholds == "half" or not len(validation):
        return 0.5
    probabilities = bench.ask(ensemble, validation, [bench.available(validation)])[0]
    seen = ~np.isnan(probabilities[:, 0])
    return best_thresholds(bench.labels[validation][seen], probabilities[seen])


def _scores(
    labels: np.ndarray, probabilities: np.ndarray, cut: float | np.ndarray
) -> dict[str, Any]:
    """Scores; a location that an ensemble cannot see at all makes the whole row empty."""
    if not len(labels) or np.isnan(probabilities).any():
        return {}
    return scores(labels, probabilities, cut)


def _mean_probability(answers: Sequence[np.ndarray]) -> np.ndarray:
    stack = np.stack(answers)
    seen = ~np.isnan(stack)
    with np.errstate(invalid="ignore"):
        mean = np.where(seen, stack, 0).sum(0, dtype=np.float64) / seen.sum(0)
    return mean.astype(np.float32)


def _mean_rows(head: Row, found: Sequence[dict[str, Any]], patches: int) -> list[Row]:
    """One row per metric, the mean over those ensembles that can answer."""
    answered = [f for f in found if f]
    if not answered:
        return []
    return [
        {
            **head,
            "metric": metric,
            "value": float(np.mean([f[metric] for f in answered])),
            "patches": patches,
            "classes": answered[0]["classes"],
        }
        for metric in METRICS
    ]


def _class_rows(
    head: Row, found: Sequence[dict[str, Any]], names: Sequence[str], patches: int
) -> list[Row]:
    rows = []
    answered = [f for f in found if f]
    for metric in ("ap", "f1") if answered else ():
        values = np.mean([f[metric] for f in answered], axis=0)
        for name, value in zip(names, values, strict=True):
            if not np.isnan(value):
                rows.append(
                    {**head, "kind": "class", "class": name, "metric": metric,
                     "value": float(value), "patches": patches}
                )  # fmt: skip
    return rows
