"""An interval over the choice of test tiles, which the spread over seeds says nothing about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfl.randomness import generator

DRAWS = 1000


def bootstrap(
    confusions: NDArray[Any], draws: int = DRAWS, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean IoU when the test tiles are drawn anew, with replacement.

    Whole tiles are drawn, as neighbouring pixels are no independent sample (Efron and Tibshirani,
    "An introduction to the bootstrap", 1993, chapter 13). All seeds are scored on the same drawn
    tiles, and the mean over seeds is taken.

    Args:
        confusions: (S, T, P, P) counts of seed and tile, row = truth, column = predicted.

    Returns:
        The interval's ends; NaN without tiles or without a pixel that counts.
    """
    seeds, tiles, classes, _ = confusions.shape
    if not confusions.any():
        return float("nan"), float("nan")
    flat = confusions.reshape(seeds, tiles, classes**2).astype(np.float64)
    rng = generator(0, "bootstrap", "tiles")
    found = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(rng.integers(tiles, size=tiles), minlength=tiles)
        total = (times @ flat).reshape(seeds, classes, classes)
        found[draw] = np.mean([mean_iou(matrix) for matrix in total])
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, (tail, 1 - tail))
    return float(low), float(high)


def mean_iou(confusion: NDArray[Any]) -> float:
    """Mean of TP / (TP + FP + FN) over the classes with a true pixel; NaN without one.

    Args:
        confusion: (P, P) counts, row = truth, column = predicted.
    """
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    if not present.any():
        return float("nan")
    hits = np.diagonal(confusion)
    return float((hits / np.where(present, true + predicted - hits, 1))[present].mean())
