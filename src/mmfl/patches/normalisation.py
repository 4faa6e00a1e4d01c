"""Mean and deviation per band as a federated count, sum and sum of squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfl.patches.reader import Images


@dataclass(frozen=True)
class Moments:
    """What a client reports: pixels counted, and per band (C,) float64 sum and sum of squares.

    The sums are about `origin` (C,), the same for all clients (the archive's published mean):
    a sum of squares about 0 would lose digits where the mean is large against the deviation.
    """

    count: int
    sum: np.ndarray
    sum_squares: np.ndarray
    origin: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(C,) in the band's unit; nan without a pixel."""
        return self.origin + self.sum / (self.count or np.nan)

    @property
    def std(self) -> np.ndarray:
        """(C,) population standard deviation in the band's unit; nan without a pixel."""
        count = self.count or np.nan
        return np.sqrt(np.maximum(self.sum_squares / count - (self.sum / count) ** 2, 0))


def moments(images: Images, rows: np.ndarray, chunk: int = 256) -> Moments:
    """Moments of the images of some rows, as they are fed to a network (before standardising)."""
    published = {band["name"]: band["mean"] for band in images.patches.bands}
    origin = np.array([published[name] for name in images.names], np.float64)
    total, squares = np.zeros(len(origin)), np.zeros(len(origin))
    for start in range(0, len(rows), chunk):
        x = images.batch(rows[start : start + chunk]).numpy().astype(np.float64)
        x -= origin[:, None, None]
        total += x.sum(axis=(0, 2, 3))
        squares += np.square(x).sum(axis=(0, 2, 3))
    return Moments(len(rows) * images.size**2, total, squares, origin)


def pool(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together, as if one client held all their pixels.

    Raises:
        ValueError: there is no part, or their origins differ.
    """
    if not parts or any(not np.array_equal(p.origin, parts[0].origin) for p in parts):
        raise ValueError("pool: expected at least one part, and the same origin in all")
    return Moments(
        sum(part.count for part in parts),
        np.sum([part.sum for part in parts], axis=0),
        np.sum([part.sum_squares for part in parts], axis=0),
        parts[0].origin,
    )
