"""Flips and quarter turns, keyed by (seed, epoch, pair): no stream that a resume could lose."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def turns(pairs: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """(N,) int64 in 0..7: one of the eight symmetries of the square for each pair.

    A hash of the key is the random number, so a pair turns alike in all its modalities, whatever
    the order or the batch.
    """
    prefix = f"{seed}/augment/{epoch}/"
    codes = [hashlib.sha256(f"{prefix}{pair}".encode()).digest()[0] & 7 for pair in pairs]
    return np.array(codes, np.int64)


@dataclass(frozen=True)
class Turned:
    """How samples are turned in an epoch: each by its own symmetry, all of its bands alike."""

    seed: int
    epoch: int

    def codes(self, names: np.ndarray) -> np.ndarray:
        """(N,) int64 in 0..7, see `turns`."""
        return turns(names, seed=self.seed, epoch=self.epoch)

    def apply(self, x: Tensor, names: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Turn every image of x (N, C, H, H), on its device; `out` is filled if given."""
        if out is None:
            out = torch.empty_like(x, memory_format=torch.contiguous_format)
        codes = self.codes(names)
        if x.device.type == "cpu":
            for target, image, code in zip(out.numpy(), x.numpy(), codes.tolist(), strict=True):
                target[...] = symmetry(image, code)
            return out
        for code in np.unique(codes).tolist():
            rows = torch.from_numpy(np.flatnonzero(codes == code)).to(x.device)
            out.index_copy_(0, rows, turned(x[rows], code))
        return out


def turned(x: Tensor, code: int) -> Tensor:
    """x (N, C, H, H) with every image turned as by `symmetry`."""
    x = x.transpose(-1, -2) if code & 4 else x
    dims = [dim for dim, bit in ((-2, 1), (-1, 2)) if code & bit]
    return x.flip(dims) if dims else x


def symmetry(image: np.ndarray, code: int) -> np.ndarray:
    """A view of image (C, H, H): bit 0 flips rows, bit 1 columns, bit 2 swaps the two before."""
    if code & 4:
        image = image.swapaxes(1, 2)
    return image[:, :: -1 if code & 1 else 1, :: -1 if code & 2 else 1]
