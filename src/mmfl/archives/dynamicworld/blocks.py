"""Which tiles belong to one place, and a validation split by blocks of one degree.

A place in two splits would let a network be tested on ground that it was trained on. So tiles
that overlap, whatever their dates, or whose centres lie in one block of 1 degree x 1 degree are
kept together; overlaps across a block's border join the two blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from rasterio.warp import transform as reproject

from mmfl.archives.dynamicworld.files import Grid

VALIDATION = 0.15  # share of a region's tiles


def boxes(grids: Sequence[Grid]) -> np.ndarray:
    """(N, 4) float64: centre's longitude and latitude, half width, half height, all in degrees.

    Boxes along meridians and parallels around the four corners: a little larger than the tile.
    """
    corners = np.zeros((len(grids), 4, 2))
    for n, grid in enumerate(grids):
        a, _, c, _, e, f = grid.transform
        east, south = c + a * grid.width, f + e * grid.height
        corners[n] = [(c, f), (east, f), (c, south), (east, south)]
    degrees = np.zeros_like(corners)
    systems = np.array([grid.crs for grid in grids], dtype=object)
    for crs in dict.fromkeys(systems):
        mine = systems == crs
        x, y = corners[mine].reshape(-1, 2).T
        found = reproject(crs, "EPSG:4326", x.tolist(), y.tolist())
        degrees[mine] = np.stack(found, axis=-1).reshape(-1, 4, 2)
    first = degrees[:, :1, 0]
    degrees[..., 0] = first + _turned(degrees[..., 0] - first)  # across the date line, too
    low, high = degrees.min(axis=1), degrees.max(axis=1)
    centre, half = (low + high) / 2, (high - low) / 2
    centre[:, 0] = _turned(centre[:, 0])
    return np.concatenate([centre, half], axis=1)


def places(box: np.ndarray) -> np.ndarray:
    """(N,) number of the place of each tile: tiles that overlap, in chains, share one."""
    return _joined(len(box), _overlaps(box))


def neighbourhoods(box: np.ndarray) -> np.ndarray:
    """(N,) number of the neighbourhood of each tile: overlapping ones and those of one block."""
    cells = np.floor(box[:, :2]).astype(np.int64)
    block = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    tile = np.arange(len(box))
    return _joined(2 * len(box), [*_overlaps(box), (tile, len(box) + block)])[: len(box)]


def validation(names: Sequence[str], regions: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """(N,) bool: tiles of the validation split, whole groups, about `VALIDATION` of each region.

    A group belongs to the region of its first tile by name. In an order by hash each is taken
    that fits into ceil(VALIDATION n) of the region's n tiles; a region with one tile gives none.
    """
    members: dict[int, list[int]] = {}
    for place in np.argsort(np.array(names, dtype=object), kind="stable").tolist():
        members.setdefault(int(groups[place]), []).append(place)
    by_region: dict[str, list[list[int]]] = {}
    for group in members.values():
        by_region.setdefault(regions[group[0]], []).append(group)
    chosen = np.zeros(len(names), bool)
    for mine in by_region.values():
        total = sum(map(len, mine))
        left = math.ceil(VALIDATION * total) if total > 1 else 0
        for group in sorted(mine, key=lambda group: _hash(names[group[0]])):
            if len(group) <= left:
                chosen[group] = True
                left -= len(group)
    return chosen


def nearest(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) index of the nearest of `others`, by great circles between centres."""
    a, b = _directions(box), _directions(others)
    return np.asarray(np.argmax(a @ b.T, axis=1))


def _directions(box: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(box[:, :2]).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _overlaps(box: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of tiles whose boxes overlap, as arrays of indices; touching is no overlap."""
    found = []
    for n in range(len(box)):
        apart = np.abs(_turned(box[n + 1 :, :2] - box[n, :2]))
        near = np.flatnonzero((apart < box[n + 1 :, 2:] + box[n, 2:]).all(axis=1)) + n + 1
        if len(near):
            found.append((np.full(len(near), n), near))
    return found


def _joined(size: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    from scipy.sparse import coo_array  # slow to import, and every step that knows archives would
    from scipy.sparse.csgraph import connected_components

    none = np.empty(0, np.int64)
    rows = np.concatenate([none, *(pair[0] for pair in pairs)])
    columns = np.concatenate([none, *(pair[1] for pair in pairs)])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1])


def _turned(degrees: np.ndarray) -> np.ndarray:
    """Into -180 to 180."""
    return (degrees + 180) % 360 - 180


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
