"""Class probabilities of whole tiles, from windows, for any subset of the modalities.

The features of a window are computed once per modality; subsets only combine them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfl.evaluation.predict import finite, load_expert
from mmfl.evaluation.windows import Place, bell, coverage, padded, places, share
from mmfl.models.ensemble import Ensemble, Expert
from mmfl.models.network import Network
from mmfl.patches.batching import batches

Subset = tuple[str, ...]
"""Modalities in order of their names."""
Maps = dict[Subset, list[Tensor]]
"""For each subset the probabilities (P, H, W) of each tile."""


@dataclass(frozen=True)
class Tiles:
    """Some tiles, small enough together to be kept in memory.

    Attributes:
        shapes: (H, W) of each.
        image: (modality, number of the tile) -> standardised (C, H, W) on the device.
    """

    shapes: Sequence[tuple[int, int]]
    image: Callable[[str, int], Tensor]


@dataclass(frozen=True)
class Windows:
    """How tiles are cut: side in pixels, overlap as a fraction of it, windows at a time."""

    size: int
    overlap: float
    batch: int


@torch.no_grad()
def ensemble_maps(
    network: Network,
    ensemble: Ensemble,
    tiles: Tiles,
    subsets: Sequence[Subset],
    windows: Windows,
    classes: int,
) -> Maps:
    """Mean probability of the experts that see something of a subset.

    Subsets of which no expert sees anything are left out. NaN where one of those has diverged.
    """
    sums: Maps = {}
    counts: Counter[Subset] = Counter()
    for expert in ensemble:
        own = {s: tuple(q for q in s if q in expert.modalities) for s in subsets}
        if expert.constant is not None:
            maps = {members: _flat(expert.constant, tiles) for members in own.values()}
        else:
            asked = sorted({members for members in own.values() if members})
            maps = expert_maps(network, expert, tiles, asked, windows, classes)
        for s in subsets:
            if own[s] in maps:
                sums[s] = _added(sums[s], maps[own[s]]) if s in sums else maps[own[s]]
                counts[s] += 1
    return {s: [total / counts[s] for total in totals] for s, totals in sums.items()}


def _flat(constant: Tensor, tiles: Tiles) -> list[Tensor]:
    return [constant.float()[:, None, None].expand(-1, *shape) for shape in tiles.shapes]


def _added(one: list[Tensor], two: list[Tensor]) -> list[Tensor]:
    return [a + b.to(a.device) for a, b in zip(one, two, strict=True)]


def expert_maps(
    network: Network,
    expert: Expert,
    tiles: Tiles,
    subsets: Sequence[Subset],
    windows: Windows,
    classes: int,
) -> Maps:
    """Probabilities of one expert for subsets of its modalities, none of them empty."""
    if not subsets:
        return {}
    load_expert(network, expert)
    size, weight = windows.size, bell(windows.size)
    modalities = sorted({q for s in subsets for q in s})
    images = [
        {q: padded(tiles.image(q, i), size) for q in modalities} for i in range(len(tiles.shapes))
    ]
    device = images[0][modalities[0]].device
    covers = [coverage(h, w, size, windows.overlap) for h, w in tiles.shapes]
    maps = {s: [torch.zeros(classes, *c.shape, device=device) for c in covers] for s in subsets}
    todo = [
        (i, place)
        for i, cover in enumerate(covers)
        for place in places(cover.shape[0], cover.shape[1], size, windows.overlap)
    ]
    for part in batches(len(todo), windows.batch):
        chosen = todo[part]
        features = {
            q: network.features(q, torch.stack([_window(images[i][q], p, size) for i, p in chosen]))
            for q in modalities
        }
        shares = [share(covers[i], p, weight).to(device) for i, p in chosen]
        for s in subsets:
            found = F.softmax(finite(network.classify({q: features[q] for q in s}).float()), dim=1)
            for (i, place), values, part_of in zip(chosen, found, shares, strict=True):
                _window(maps[s][i], place, size).add_(values * part_of)
    return {
        s: [m[:, :h, :w] for m, (h, w) in zip(found, tiles.shapes, strict=True)]
        for s, found in maps.items()
    }


def _window(x: Tensor, place: Place, size: int) -> Tensor:
    """A view of x (…, H, W)."""
    row, column = place
    return x[..., row : row + size, column : column + size]
