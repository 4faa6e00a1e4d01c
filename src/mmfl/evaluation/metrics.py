"""Multi-label scores, from scikit-learn.

Average precision is scikit-learn's step-wise sum, AP = Σ (R_k − R_{k−1}) P_k, without
interpolation. A class without a positive label has no average precision; it is left out of the
macro and weighted means (of F1 too), and `classes` counts those that remain. Micro means pool every
decision about every class, false alarms for an absent class included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

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
        ap[index] = average_precision_score(truth[:, index], values[:, index])
    columns = _columns(truth[:, present]), _columns(predicted[:, present])
    f1[present] = f1_score(*columns, average=None, zero_division=0)[:count]
    support = truth[:, present].sum(axis=0)
    return {
        "ap_macro": float(ap[present].mean()),
        "ap_micro": float(average_precision_score(truth.ravel(), values.ravel())),
        "f1_macro": float(f1[present].mean()),
        "f1_micro": float(f1_score(truth.ravel(), predicted.ravel(), zero_division=0)),
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
        precision, recall, cuts = precision_recall_curve(truth[:, index], values[:, index])
        total = precision[:-1] + recall[:-1]
        f1 = 2 * precision[:-1] * recall[:-1] / np.where(total, total, 1)
        best[index] = cuts[np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))[-1]]
    return best


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


def _columns(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One class alone as (N, 2), so that scikit-learn takes it for multi-label."""
    return values if values.shape[1] > 1 else np.hstack([values, values])
