"""Scores of class maps from a confusion matrix: scikit-learn's of the pixels, to the bit.

Pixels are counted, not kept. A class without a true pixel has no score; it is left out of the
means, and `classes` counts those that remain. Pixels wrongly given to it still lower the scores of
the classes that they belong to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfl.facts.tasks import IGNORED

MEANS = ("accuracy", "f1_macro", "f1_weighted", "iou_macro")


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """(P, P) int64: how many pixels of a class (row) were given to a class (column).

    Args:
        truth: class indices of any shape; `IGNORED` (255) counts nowhere, whatever is predicted.
        predicted: class indices of the same shape.
        classes: P.

    Raises:
        ValueError: shapes differ, or a counted pixel has no class in 0..P−1.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and predicted {predicted.shape}: expected equal")
    counted = truth != IGNORED
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("truth", rows), ("predicted", columns)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(
                f"{name}: found classes {values.min()} to {values.max()}, "
                f"expected 0 to {classes - 1}"
            )
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def pixel_scores(matrix: NDArray[Any]) -> dict[str, Any]:
    """Scores of a confusion matrix (P, P), row = truth, column = predicted.

    Returns:
        iou_macro, f1_macro, f1_weighted, accuracy: floats in [0, 1]; iou, f1: (P,) float64, NaN
        for classes without a true pixel; classes: how many have some. Without any true pixel the
        means are NaN.
    """
    size = len(matrix)
    present = np.flatnonzero(matrix.sum(axis=1))
    iou, f1 = np.full(size, np.nan), np.full(size, np.nan)
    if not len(present):
        return {**dict.fromkeys(MEANS, np.nan), "iou": iou, "f1": f1, "classes": 0}
    hits, true = np.diagonal(matrix)[present], matrix.sum(axis=1)[present]
    either = true + matrix.sum(axis=0)[present]
    iou[present] = hits / (either - hits)
    f1[present] = 2 * hits / either
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "f1_macro": float(f1[present].mean()),
        "f1_weighted": float(np.average(f1[present], weights=true)),
        "iou_macro": float(iou[present].mean()),
        "iou": iou,
        "f1": f1,
        "classes": len(present),
    }
