"""Features with a place: maps of a batch of images, as the pixel network makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """What theta_q makes of N images of one size.

    Attributes:
        map: (N, D, h, w), the end of theta_q's decoder: what is fused and classified.
        deep: (N, E, h', w'), the end of the encoder: what is projected.
        size: (H, W) of the images, and of the logits.
    """

    map: Tensor
    deep: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.map)

    def __getitem__(self, index: Tensor | slice) -> Dense:
        """Some of the samples, by int64 or bool tensor or slice."""
        return Dense(self.map[index], self.deep[index], self.size)

    @staticmethod
    def join(parts: Sequence[Dense]) -> Dense:
        """The samples of all parts, which have one size, in order."""
        return Dense(
            torch.cat([part.map for part in parts]),
            torch.cat([part.deep for part in parts]),
            parts[0].size,
        )


Features = Tensor | Dense
"""What `Network.features` returns: (N, D) for multi-label, maps for the pixel task."""


def cell_means(deep: Tensor, cells: int) -> Tensor:
    """(N, E, h, w) -> (N, k*k, E), row by row: means of k x k cells, k = min(cells, h, w).

    Cell i of a side n reaches from floor(i n / k) to ceil((i + 1) n / k), so the grid stays the
    same when the map is flipped.
    """
    height, width = deep.shape[-2:]
    k = min(cells, height, width)
    rows = torch.stack([deep[:, :, a:b].mean(dim=2) for a, b in _edges(height, k)], dim=2)
    both = torch.stack([rows[..., a:b].mean(dim=3) for a, b in _edges(width, k)], dim=3)
    return both.flatten(2).transpose(1, 2)


def _edges(size: int, k: int) -> list[tuple[int, int]]:
    return [(i * size // k, -(-(i + 1) * size // k)) for i in range(k)]
