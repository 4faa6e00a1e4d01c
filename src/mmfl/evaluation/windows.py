"""Tiles of any size as overlapping windows of one size, and back by smooth blending."""

from __future__ import annotations

import torch
from torch import Tensor

Place = tuple[int, int]
"""(row, column) of a window's first pixel."""


def starts(length: int, size: int, overlap: float) -> list[int]:
    """First pixels of the windows along one side; the last window ends with the side.

    Windows follow each other by (1 − overlap)·size pixels, rounded, at least one; the last one is
    shifted inwards.
    """
    step = max(1, round(size * (1 - overlap)))
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def places(height: int, width: int, size: int, overlap: float) -> list[Place]:
    """The windows of a tile, row by row."""
    columns = starts(width, size, overlap)
    return [(row, column) for row in starts(height, size, overlap) for column in columns]


def padded(x: Tensor, size: int) -> Tensor:
    """x (..., H, W) mirrored at its last row and column until both sides are at least `size`.

    The edge itself is not repeated; a side of one pixel is.
    """
    height, width = x.shape[-2:]
    if min(height, width) >= size:
        return x
    rows = _mirror(height, max(height, size)).to(x.device)
    columns = _mirror(width, max(width, size)).to(x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _mirror(length: int, target: int) -> Tensor:
    """Indices 0, 1, …, n−1, n−2, …, 1, 0, 1, … up to `target` of them."""
    period = max(2 * length - 2, 1)
    index = torch.arange(target) % period
    return torch.minimum(index, period - index) if length > 1 else index


def bell(size: int) -> Tensor:
    """(size, size) float32 weights of a window: sin² along both sides, positive everywhere."""
    side = torch.sin(torch.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size) ** 2
    return (side[:, None] * side).float()


def coverage(height: int, width: int, size: int, overlap: float) -> Tensor:
    """(H, W) float32 sum of the windows' weights at each pixel (sides at least `size`)."""
    height, width = max(height, size), max(width, size)
    total, weight = torch.zeros(height, width), bell(size)
    for row, column in places(height, width, size, overlap):
        total[row : row + size, column : column + size] += weight
    return total


def share(total: Tensor, place: Place, weight: Tensor) -> Tensor:
    """(size, size) part that a window has in its pixels, out of `coverage`: 1 where it is alone."""
    row, column = place
    size = len(weight)
    return weight / total[row : row + size, column : column + size]
