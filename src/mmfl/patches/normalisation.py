"""Mean and deviation per band as a federated count, sum and sum of squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfl.patches.reader import Images


@dataclass(frozen=True)
class Moments:
    """What a client reports: pixels counted, and per band (C,) float64 sum and sum of squares.

    The sums are about `origin` (C,), which keeps the difference of large numbers harmless.
    """

    count: int
    sum: np.ndarray
    sum_squares: np.ndarray
    origin: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(C,) in the band's unit."""
        return self.origin + self.sum / self.count

    @property
    def std(self) -> np.ndarray:
        """(C,) population standard deviation in the band's unit."""
        variance = self.sum_squares / self.count - (self.sum / self.count) ** 2
        return np.sqrt(np.maximum(variance, 0))


def moments(images: Images, rows: np.ndarray, chunk: int = 256) -> Moments:
    """Moments of the images of some rows, as they are fed to a network (before standardising)."""
    known = {band["name"]: band["mean"] for band in images.patches.bands}
    origin = np.array([known[name] for name in images.names], np.float64)
    total, squares, count = np.zeros(len(origin)), np.zeros(len(origin)), 0
    for start in range(0, len(rows), chunk):
        x = images.batch(rows[start : start + chunk]).numpy().astype(np.float64)
        x -= origin[:, None, None]
        total += x.sum(axis=(0, 2, 3))
        squares += np.square(x).sum(axis=(0, 2, 3))
        count += x.shape[0] * x.shape[2] * x.shape[3]
    return Moments(count, total, squares, origin)


def pool(parts: list[Moments]) -> Moments:
    """The moments of all parts together."""
    return Moments(
        sum(part.count for part in parts),
        np.sum([part.sum for part in parts], axis=0),
        np.sum([part.sum_squares for part in parts], axis=0),
        parts[0].origin,
    )
