"""Mean and deviation per band as a federated count, sum and sum of squares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmfl.patches.reader import Patches

RESOLVED = 1e-6  # deviation over the values' size; float32 itself resolves 6e-8


@dataclass(frozen=True)
class Moments:
    """What a client reports per band, each (C,): pixels counted, float64 sum and sum of squares.

    The sums are about `origin` (C,), the same for all clients (the archive's published mean):
    a sum of squares about 0 would lose digits where the mean is large against the deviation.
    Gaps are not counted.
    """

    count: np.ndarray
    sum: np.ndarray
    sum_squares: np.ndarray
    origin: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(C,) in the band's unit; nan without a pixel."""
        return self.origin + self.sum / self._pixels

    @property
    def std(self) -> np.ndarray:
        """(C,) population standard deviation in the band's unit; nan without a pixel."""
        count = self._pixels
        return np.sqrt(np.maximum(self.sum_squares / count - (self.sum / count) ** 2, 0))

    @property
    def constant(self) -> np.ndarray:
        """(C,) whether all its pixels have one value, up to the rounding of resized float32."""
        mean = np.nan_to_num(self.mean)
        scale = np.maximum(np.abs(mean), np.abs(mean - self.origin))
        return ~(np.nan_to_num(self.std) > RESOLVED * scale)

    @property
    def _pixels(self) -> np.ndarray:
        return np.where(self.count, self.count, np.nan)


def origins(patches: Patches, names: Sequence[str]) -> np.ndarray:
    """(C,) float64: the published means of some bands, 0 where none is."""
    published = {band["name"]: band["mean"] or 0.0 for band in patches.bands}
    return np.array([published[name] for name in names], np.float64)


def moments(images: Iterable[Tensor], origin: np.ndarray) -> Moments:
    """Moments of images (N, C, H, W) as they are fed to a network, NaN in gaps."""
    total, squares = np.zeros(len(origin)), np.zeros(len(origin))
    count = np.zeros(len(origin), np.int64)
    for part in images:
        x = part.numpy().astype(np.float64)
        x -= origin[:, None, None]
        gaps = np.isnan(x)
        if gaps.any():
            x[gaps] = 0
        count += x[:, 0].size - gaps.sum(axis=(0, 2, 3))
        total += x.sum(axis=(0, 2, 3))
        squares += np.square(x).sum(axis=(0, 2, 3))
    return Moments(count, total, squares, origin)


def pool(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together, as if one client held all their pixels.

    Raises:
        ValueError: there is no part, or their origins differ.
    """
    if not parts or any(not np.array_equal(p.origin, parts[0].origin) for p in parts):
        raise ValueError("pool: expected at least one part, and the same origin in all")
    return Moments(
        np.sum([part.count for part in parts], axis=0),
        np.sum([part.sum for part in parts], axis=0),
        np.sum([part.sum_squares for part in parts], axis=0),
        parts[0].origin,
    )
