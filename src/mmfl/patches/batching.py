"""Cutting rows into batches, and grouping them by the modalities that they have."""

from __future__ import annotations

import numpy as np


def batches(count: int, size: int) -> list[slice]:
    """Slices of `count` samples into batches; a last batch of one joins the one before it."""
    if not count:
        return []
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def patterns(present: dict[str, np.ndarray]) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Rows (int64) grouped by the set of modalities that they have, in a fixed order.

    `present[q]` is (N,) bool. Rows without any modality are left out.
    """
    names = sorted(present)
    code = np.zeros(len(present[names[0]]), np.int64)
    for bit, q in enumerate(names):
        code |= present[q].astype(np.int64) << bit
    return [
        (
            tuple(q for bit, q in enumerate(names) if value >> bit & 1),
            np.flatnonzero(code == value),
        )
        for value in np.unique(code)
        if value
    ]
