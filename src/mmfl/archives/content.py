"""Whether an image holds anything: one rule for `check`, `inspect`, `split` and so for training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def varies(band: np.ndarray, nodata: float | None = None) -> bool | None:
    """Whether a band (H, W) holds two values that differ; None: it holds none, only gaps.

    Gaps are pixels of the value `nodata`, NaN and infinity.
    """
    values = band[:0].ravel()
    for part in (band[:1], band):  # one line tells nearly always
        values = part.ravel()
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if nodata is not None:
            values = values[values != nodata]
        if len(values) and (values != values[0]).any():
            return True
    return False if len(values) else None


def worthless(bands: Iterable[bool | None]) -> str | None:
    """Why an image is of no use, from `varies` of its bands; else None.

    It holds nothing but gaps; or it has several bands and each is of one value. A single band of
    one value is none: the elevation of the sea.
    """
    seen = []
    for one in bands:
        if one:
            return None
        seen.append(one)
    if all(one is None for one in seen):
        return "holds no value, only gaps"
    if len(seen) > 1 and None not in seen:
        return "is constant, every pixel is the same"
    return None
