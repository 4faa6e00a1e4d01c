"""Flips and quarter turns, keyed by (seed, epoch, pair): no stream that a resume could lose."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def turns(pairs: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """(N,) int64 in 0..7: one of the eight symmetries of the square for each pair."""
    prefix = f"{seed}/augment/{epoch}/"
    return np.array([hashlib.sha256((prefix + str(p)).encode()).digest()[0] & 7 for p in pairs])


def augment(x: Tensor, pairs: np.ndarray, *, seed: int, epoch: int) -> Tensor:
    """Turn every image of x (N, C, H, H) by its own symmetry; all bands alike."""
    codes = torch.from_numpy(turns(pairs, seed=seed, epoch=epoch))
    out = torch.empty_like(x)
    for code in range(8):
        chosen = codes == code
        if chosen.any():
            part = torch.rot90(x[chosen], code % 4, dims=(2, 3))
            out[chosen] = part.flip(3) if code >= 4 else part
    return out
