"""Multi-label scores, scikit-learn's to the bit without its second of import in every process.

Average precision is the step-wise sum, AP = Σ (R_k − R_{k−1}) P_k, without interpolation. A class
without a positive label has no average precision; it is left out of the macro and weighted means
(of F1 too), and `classes` counts those that remain. Micro means pool every decision about every
class, false alarms for an absent class included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MEANS = ("ap_macro", "ap_micro", "f1_macro", "f1_micro", "f1_weighted")


def scores(
    labels: NDArray[Any], probabilities: NDArray[Any], thresholds: float | NDArray[Any] = 0.5
) -> dict[str, Any]:
    """Scores of probabilities against labels.

    Args:
        labels: (N, P) uint8 or bool, 1 where a patch has a class.
        probabilities: (N, P) in [0, 1].
        thresholds: a class is predicted where its probability is at least this; one number or
            (P,).

    Returns:
        ap_macro, ap_micro, f1_macro, f1_micro, f1_weighted: floats in [0, 1];
        ap, f1: (P,) float64, NaN for classes without positives; classes: how many have some.
        Without any positive label the means are NaN.

    Raises:
        ValueError: shapes differ, or a probability is not finite.
    """
    truth, values = _checked(labels, probabilities)
    cut = np.asarray(thresholds, np.float64)
    predicted = values >= cut
    present = truth.any(axis=0)
    count = int(present.sum())
    ap = np.full(truth.shape[1], np.nan)
    f1 = np.full(truth.shape[1], np.nan)
    if not count:
        means = dict.fromkeys(
            ("ap_macro", "ap_micro", "f1_macro", "f1_micro", "f1_weighted"), np.nan
        )
        return {**means, "ap": ap, "f1": f1, "classes": 0}
    for index in np.flatnonzero(present):
        ap[index] = average_precision(truth[:, index], values[:, index])
    f1[present] = _f1(truth[:, present], predicted[:, present])
    support = truth[:, present].sum(axis=0)
    return {
        "ap_macro": float(ap[present].mean()),
        "ap_micro": average_precision(truth.ravel(), values.ravel()),
        "f1_macro": float(f1[present].mean()),
        "f1_micro": float(_f1(truth.ravel(), predicted.ravel())),
        "f1_weighted": float(np.average(f1[present], weights=support)),
        "ap": ap,
        "f1": f1,
        "classes": count,
    }


def best_thresholds(labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """(P,) threshold of the highest F1 per class, to be taken from validation data.

    Of equally good thresholds the highest is taken; 0.5 for classes without positives.
    """
    truth, values = _checked(labels, probabilities)
    best = np.full(truth.shape[1], 0.5)
    for index in np.flatnonzero(truth.any(axis=0)):
        precision, recall, cuts = _curve(truth[:, index], values[:, index])
        total = precision + recall
        f1 = 2 * precision * recall / np.where(total, total, 1)
        best[index] = cuts[np.isclose(f1, f1.max(), rtol=0, atol=1e-12)].max()
    return best


def average_precision(truth: NDArray[np.bool_], values: NDArray[Any]) -> float:
    """Average precision of one class, (N,) and (N,), with at least one positive."""
    precision, recall, _ = _curve(truth, values)
    return float((-np.diff(recall, append=0) * precision).sum())


def _curve(
    truth: NDArray[np.bool_], values: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Precision and recall where all values from a cut up are predicted; cuts ascend."""
    order = np.argsort(values)[::-1]
    hits, cuts = np.cumsum(truth[order]), values[order]
    last = np.append(np.flatnonzero(np.diff(cuts)), len(cuts) - 1)[::-1]  # equal values: together
    return hits[last] / (last + 1), hits[last] / hits[-1], cuts[last]


def _f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F1 of each column that has a positive."""
    hits = (truth & predicted).sum(axis=0)
    return np.asarray(2 * hits / (truth.sum(axis=0) + predicted.sum(axis=0)))


def _checked(
    labels: NDArray[Any], probabilities: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    if labels.ndim != 2 or labels.shape != probabilities.shape:
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape}: expected equal (N, P)"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities: found values that are not finite")
    return labels.astype(bool), probabilities
