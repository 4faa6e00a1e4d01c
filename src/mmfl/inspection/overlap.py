"""Whether splits share ground: footprints that overlap or lie close, files that are the same.

Places are compared as points on a sphere, or within one coordinate system, never by longitude: 180
degrees and the poles are places like others.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform
from scipy.spatial import cKDTree

from mmfl.archives.folder.files import Grid, crs_text
from mmfl.files import file_sha256

EARTH = 6_371_009.0  # metres, mean radius
NEAR = 3  # tile widths
SLACK = 1e-3  # of a tile's width: edges are straight in one projection only
HEAD = 1 << 16  # bytes that are compared first
SHARED = 10_000  # pairs on the same ground after which the search ends
PAIRS = 1 << 18  # that are compared at a time


@dataclass(frozen=True)
class Footprints:
    """The ground of N locations.

    `corners` (N, 4, 3) metres from the Earth's centre; `drawn` (N, 4, 2) in the location's own
    coordinate system, of the number `system` (N,), in which a turn around the Earth is `turn` (N,),
    0 where it is a projection; `pixels` (N,) of the longer side.
    """

    names: np.ndarray
    splits: np.ndarray
    corners: np.ndarray
    drawn: np.ndarray
    system: np.ndarray
    turn: np.ndarray
    pixels: np.ndarray

    @property
    def width(self) -> np.ndarray:
        """(N,) the longer side in metres."""
        return _longer(self.corners)

    @property
    def centres(self) -> np.ndarray:
        """(N, 3) metres from the Earth's centre."""
        return EARTH * _unit(self.corners.mean(axis=1))

    @property
    def reach(self) -> np.ndarray:
        """(N,) metres in which all of a location lies from its centre."""
        away = np.linalg.norm(self.corners - self.centres[:, None], axis=-1).max(axis=1, initial=0)
        around = (self.turn > 0) & (np.ptp(self.drawn[..., 0], axis=1) > self.turn / 4)
        return np.where(around, 2 * EARTH, 1.01 * away)


def footprints(grids: dict[str, Grid], splits: dict[str, str]) -> Footprints:
    """Those of the locations whose georeference can be brought to longitude and latitude."""
    by_crs: dict[CRS, list[str]] = defaultdict(list)
    for name, grid in grids.items():
        if grid.crs is not None and grid.transform is not None:
            by_crs[grid.crs].append(name)
    numbers: dict[str, int] = {}
    names: list[str] = []
    corners, drawn = [np.empty((0, 4, 3))], [np.empty((0, 4, 2))]
    system, turn = [np.empty(0, np.int64)], [np.empty(0)]
    for crs, members in by_crs.items():
        flat = np.stack([grids[name].corners for name in members])
        try:
            lon, lat = transform(crs, "EPSG:4326", *flat.reshape(-1, 2).T.tolist())[:2]
        except (RasterioError, ValueError):
            continue
        found = EARTH * _sphere(np.radians(lon), np.radians(lat)).reshape(-1, 4, 3)
        good = np.asarray(np.isfinite(found).all(axis=(1, 2)))
        names += [name for name, ok in zip(members, good, strict=True) if ok]
        corners.append(found[good])
        drawn.append(flat[good])
        number = numbers.setdefault(crs_text(crs), len(numbers))
        system.append(np.full(good.sum(), number))
        turn.append(np.full(good.sum(), _turn(crs)))
    pixels = [max(grids[name].height, grids[name].width) for name in names]
    return Footprints(
        np.array(names, object), np.array([splits[name] for name in names], object),
        np.concatenate(corners), np.concatenate(drawn), np.concatenate(system),
        np.concatenate(turn), np.array(pixels, np.float64),
    )  # fmt: skip


def overlapping(feet: Footprints) -> list[tuple[int, int]]:
    """Pairs of locations of different splits that share more ground than half a pixel's width.

    Where locations of a split lie on the very same ground, the first of them stands for all. The
    search ends at `SHARED` pairs. Memory grows with the locations, not with the pairs.
    """
    found: list[tuple[int, int]] = []
    for pairs in _close(feet):
        here = pairs[_share(feet, pairs)]
        found += [(min(i, j), max(i, j)) for i, j in here.tolist()]
        if len(found) >= SHARED:
            break
    return sorted(found)[:SHARED]


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


def _close(feet: Footprints) -> Iterator[np.ndarray]:
    """(M, 2) pairs of different splits that may share ground, at most about `PAIRS` at a time.

    Searched among locations of like size, so that one large tile does not make all others
    neighbours.
    """
    rounded = feet.drawn.reshape(-1, 8).round(2)
    degrees = feet.turn > 0
    rounded[degrees] = feet.drawn[degrees].reshape(-1, 8).round(7)
    keys = pd.DataFrame(rounded).assign(split=feet.splits, system=feet.system)
    first = np.flatnonzero(~keys.duplicated())
    reach, centres = feet.reach, feet.centres
    level = np.frexp(reach)[1]
    of = {split: first[feet.splits[first] == split] for split in sorted(set(feet.splits))}
    for one, other in combinations(of.values(), 2):
        for a, b in product(np.unique(level[one]), np.unique(level[other])):
            mine, yours = one[level[one] == a], other[level[other] == b]
            tree = cKDTree(centres[mine])
            radius = float(reach[mine].max() + reach[yours].max())
            counts = tree.query_ball_point(centres[yours], radius, return_length=True)
            part = np.cumsum(counts) // PAIRS
            for number in np.unique(part[counts > 0]):
                chosen = yours[(part == number) & (counts > 0)]
                near = tree.query_ball_point(centres[chosen], radius)
                lengths = [len(places) for places in near]
                yield np.stack([mine[np.concatenate(near).astype(np.int64)],
                                np.repeat(chosen, lengths)], axis=1)  # fmt: skip


def _share(feet: Footprints, pairs: np.ndarray) -> np.ndarray:
    """(M,) whether pairs overlap: in the system that both are drawn in, else on the ground.

    On the ground, too, where they lie far apart in it, at the two ends of a map of the world.
    """
    a, b = feet.drawn[pairs[:, 0]], feet.drawn[pairs[:, 1]]
    turn = feet.turn[pairs[:, 0]]
    off = a[..., 0].mean(axis=1) - b[..., 0].mean(axis=1)
    turns = np.where(turn > 0, np.round(off / np.where(turn > 0, turn, 1)) * turn, 0)
    b = b + np.stack([turns, np.zeros_like(turns)], axis=-1)[:, None]
    sides = np.stack([_longer(a), _longer(b)], axis=1)
    depth = _depth(a, b)
    found = depth > _half_pixel(sides, feet.pixels[pairs])
    apart = (feet.system[pairs[:, 0]] != feet.system[pairs[:, 1]]) | (depth < -sides.sum(axis=1))
    found[apart] = _share_ground(feet, pairs[apart])
    return found


def _share_ground(feet: Footprints, pairs: np.ndarray) -> np.ndarray:
    """(M,) whether pairs overlap on a plane that touches the sphere between them (gnomonic)."""
    a, b = feet.corners[pairs[:, 0]], feet.corners[pairs[:, 1]]
    both = np.concatenate([a, b], axis=1)
    up = _unit(both.mean(axis=1))
    aside = np.eye(3)[np.abs(up).argmin(axis=1)] if len(up) else up
    east = _unit(np.cross(aside, up))
    axes = np.stack([east, np.cross(up, east), up], axis=-1)  # (M, 3, 3)
    seen = both @ axes
    flat = EARTH * seen[..., :2] / np.maximum(seen[..., 2:], 1e-3 * EARTH)
    mine, yours = flat[:, :4], flat[:, 4:]
    width = feet.width[pairs]
    slack = SLACK * width.max(axis=1, initial=0)
    least = np.maximum(_half_pixel(width, feet.pixels[pairs]), np.minimum(slack, _half(width)))
    return _depth(mine, yours) > least


def _half_pixel(sides: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(M,) half of the coarser pixel of pairs, but no more than half of the smaller location."""
    return np.minimum(0.5 * (sides / pixels).max(axis=1, initial=0), _half(sides))


def _half(sides: np.ndarray) -> np.ndarray:
    return 0.5 * sides.min(axis=1, initial=np.inf)


def _depth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M,) how far the quadrangles (M, 4, 2) reach into each other; negative: they are apart.

    Separating axes: convex shapes are apart if they are along the normal of one of their edges.
    """
    depth = np.full(len(a), np.inf)
    for shape in (a, b):
        for edge in range(4):
            along = shape[:, (edge + 1) % 4] - shape[:, edge]
            length = np.linalg.norm(along, axis=1, keepdims=True)
            normal = np.stack([-along[:, 1], along[:, 0]], axis=-1) / np.maximum(length, 1e-12)
            mine, yours = (np.einsum("nkd,nd->nk", x, normal) for x in (a, b))
            inside = np.minimum(mine.max(1), yours.max(1)) - np.maximum(mine.min(1), yours.min(1))
            depth = np.where(length[:, 0] > 1e-12, np.minimum(depth, inside), depth)
    return depth


def _longer(corners: np.ndarray) -> np.ndarray:
    """(N,) the longest side of quadrangles (N, 4, D)."""
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    return sides.max(axis=1, initial=0)


def _sphere(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(..., 3) of a sphere of radius 1; radians."""
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def _turn(crs: CRS) -> float:
    """Once around the Earth in a system's own unit: 360 in degrees; 0 for a projection."""
    return 2 * np.pi / crs.units_factor[1] if crs.is_geographic else 0.0
