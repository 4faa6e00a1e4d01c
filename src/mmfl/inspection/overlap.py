"""Whether splits share ground: footprints that overlap or lie close, files that are the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError
from rasterio.warp import transform
from scipy.spatial import cKDTree

from mmfl.archives.folder.files import Grid, crs_text
from mmfl.files import file_sha256

EARTH = 6_371_009.0  # metres, mean radius
NEAR = 3  # tile widths
SLACK = 1e-3  # of a tile's width: edges are straight in one projection only
HEAD = 1 << 16  # bytes that are compared first


@dataclass(frozen=True)
class Footprints:
    """The ground of N locations: `corners` (N, 4, 2) longitude and latitude, sizes in metres."""

    names: np.ndarray
    splits: np.ndarray
    corners: np.ndarray
    pixel: np.ndarray

    @property
    def width(self) -> np.ndarray:
        """(N,) the longer side."""
        flat = _flat(self.corners, self.corners[:, 0])
        sides = np.linalg.norm(flat - np.roll(flat, 1, axis=1), axis=-1)
        return sides.max(axis=1)

    @property
    def centres(self) -> np.ndarray:
        """(N, 3) metres from the Earth's centre."""
        radians = np.radians(self.corners)
        lon, lat = radians[..., 0], radians[..., 1]
        x = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
        mean = x.mean(axis=1)
        return EARTH * mean / np.linalg.norm(mean, axis=1, keepdims=True)


def footprints(grids: dict[str, Grid], splits: dict[str, str]) -> Footprints:
    """Those of the locations whose georeference can be brought to longitude and latitude."""
    by_crs: dict[str, list[str]] = defaultdict(list)
    for name, grid in grids.items():
        if grid.transform is not None:
            by_crs[crs_text(grid.crs)].append(name)
    names: list[str] = []
    corners = [np.empty((0, 4, 2))]
    for crs, members in by_crs.items():
        flat = np.concatenate([grids[name].corners for name in members])
        try:
            lon, lat = transform(crs, "EPSG:4326", *flat.T.tolist())[:2]
        except (RasterioError, ValueError):
            continue
        found = np.stack([lon, lat], axis=-1).reshape(-1, 4, 2)
        good = np.isfinite(found).all(axis=(1, 2))
        names += [name for name, ok in zip(members, good, strict=True) if ok]
        corners.append(found[good])
    every = np.concatenate(corners)
    feet = Footprints(np.array(names, object), np.array([splits[n] for n in names], object), every,
                      np.zeros(len(names)))  # fmt: skip
    pixels = np.array([max(grids[name].height, grids[name].width) for name in names])
    return Footprints(feet.names, feet.splits, every, feet.width / np.maximum(pixels, 1))


def overlapping(feet: Footprints) -> list[tuple[int, int]]:
    """Pairs of locations of different splits that share more ground than half a pixel's width."""
    if len(feet.names) < 2:
        return []
    reach = float(np.linalg.norm(_flat(feet.corners, feet.corners.mean(axis=1)), axis=-1).max())
    pairs = cKDTree(feet.centres).query_pairs(2 * reach, output_type="ndarray")
    pairs = pairs[feet.splits[pairs[:, 0]] != feet.splits[pairs[:, 1]]]
    if not len(pairs):
        return []
    a, b = feet.corners[pairs[:, 0]], feet.corners[pairs[:, 1]]
    origin = a.mean(axis=1)
    depth = _depth(_flat(a, origin), _flat(b, origin))
    slack = np.maximum(0.5 * feet.pixel, SLACK * feet.width)
    found = pairs[depth > np.maximum(slack[pairs[:, 0]], slack[pairs[:, 1]])]
    return sorted((min(i, j), max(i, j)) for i, j in found.tolist())


def distances(feet: Footprints, split: str) -> tuple[np.ndarray, np.ndarray]:
    """For the locations of a split: metres to the nearest training location, and their width.

    Between the edges, as if both were squares that face each other; 0 where they touch.
    """
    train, other = feet.splits == "train", feet.splits == split
    if not train.any() or not other.any():
        return np.empty(0), np.empty(0)
    centres, width = feet.centres, feet.width
    gap, nearest = cKDTree(centres[train]).query(centres[other])
    return np.maximum(0, gap - (width[other] + width[train][nearest]) / 2), width[other]


def identical(files: Iterable[tuple[Path, str, str]]) -> list[tuple[str, str, Path, Path]]:
    """(location, location, file, file) of equal content in different splits.

    `files`: (file, location, split). Files of one size and one beginning are read whole.
    """
    alike: dict[tuple[int, bytes], list[tuple[Path, str, str]]] = defaultdict(list)
    for path, name, split in files:
        with path.open("rb") as handle:
            head = hashlib.sha256(handle.read(HEAD)).digest()
        alike[path.stat().st_size, head].append((path, name, split))
    found = []
    for group in alike.values():
        if len({split for _, _, split in group}) < 2:
            continue
        first: dict[str, tuple[Path, str, str]] = {}
        for path, name, split in group:
            own = first.setdefault(file_sha256(path), (path, name, split))
            if own[2] != split:
                found.append((own[1], name, own[0], path))
    return found


def _flat(corners: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(N, 4, 2) metres east and north of each location's origin (N, 2), in degrees."""
    east = (corners[..., 0] - origin[:, None, 0] + 180) % 360 - 180
    north = corners[..., 1] - origin[:, None, 1]
    scale = np.radians(1) * EARTH
    return np.stack([east * np.cos(np.radians(origin[:, None, 1])), north], axis=-1) * scale


def _depth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M,) how far the quadrangles (M, 4, 2) reach into each other; negative: they are apart.

    Separating axes: convex shapes are apart if they are along the normal of one of their edges.
    """
    depth = np.full(len(a), np.inf)
    for shape in (a, b):
        for edge in (0, 1):
            along = shape[:, edge + 1] - shape[:, edge]
            normal = np.stack([-along[:, 1], along[:, 0]], axis=-1)
            normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
            mine, yours = (np.einsum("nkd,nd->nk", x, normal) for x in (a, b))
            inside = np.minimum(mine.max(1), yours.max(1)) - np.maximum(mine.min(1), yours.min(1))
            depth = np.minimum(depth, inside)
    return depth
