"""The grid of a label tile, and rasters brought onto it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.features import geometry_mask
from rasterio.transform import Affine, array_bounds
from rasterio.warp import transform, transform_geom
from rasterio.windows import Window

from mmfl.files import digest

LONGITUDES_LATITUDES = "EPSG:4326"
EXACT = 1e-6  # pixels by which two grids may differ and still be one
LARGEST = 1 << 25  # pixels of a block, and of what is read for a tile
Pixels = np.ndarray[Any, Any]
# GDAL looks a name up in its list of file systems whenever it opens one, in memory too, and crashes
# if another thread adds or takes one away meanwhile, as rasterio does for each `opener`.
GDAL = threading.Lock()


@dataclass(frozen=True)
class Tile:
    """A label tile: its grid, the Sentinel-2 product it was drawn on (or None) and its date."""

    name: str
    crs: str
    transform: Affine
    height: int
    width: int
    product: str | None
    date: str

    @property
    def key(self) -> str:
        """Digest of all that an image of it depends on."""
        grid = [self.crs, list(self.transform)[:6], self.height, self.width]
        return digest([self.name, grid, self.product, self.date])

    @property
    def area(self) -> dict[str, Any]:
        """Outline in longitude and latitude, a GeoJSON geometry."""
        west, south, east, north = array_bounds(self.height, self.width, self.transform)
        corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        outline = {"type": "Polygon", "coordinates": [corners]}
        return transform_geom(self.crs, LONGITUDES_LATITUDES, outline, precision=7)

    def covered(self, footprints: Iterable[dict[str, Any]]) -> float:
        """Share of the pixels whose centre lies in one of the footprints (GeoJSON geometries)."""
        here = [transform_geom(LONGITUDES_LATITUDES, self.crs, one) for one in footprints]
        shape = (self.height, self.width)
        with GDAL:
            outside = geometry_mask(here, shape, self.transform) if here else np.ones(shape, bool)
        return 1.0 - float(outside.mean())


def onto_grid(
    source: DatasetReader, tile: Tile, gaps: Callable[[Pixels], Pixels], empty: float
) -> Pixels:
    """The first band on the tile's grid: (height, width), `empty` in gaps.

    A pixel is interpolated between the four nearest (bilinearly), of which those without data
    take no part, and is a gap where the nearest is; so one that lies on the grid stays as it is.
    Without data are those that the raster says and those that `gaps` finds, as rasters do not say
    all. What lies under the tile is read in one window.

    Raises:
        ValueError: the raster's blocks or pixels are too small or too large to be of a scene.
    """
    block = source.block_shapes[0][0] * source.block_shapes[0][1]
    if block > LARGEST:
        raise ValueError(f"blocks of {block:,} pixels, expected at most {LARGEST:,}")
    kind = np.dtype(source.dtypes[0])
    if np.isnan(empty) and kind.kind != "f":
        kind = np.dtype(np.float32)
    result = np.full(tile.height * tile.width, empty, kind)
    rows, cols = _places(source, tile)
    nearest = np.floor(rows + 0.5), np.floor(cols + 0.5)
    here = np.flatnonzero(
        (nearest[0] >= 0) & (nearest[0] < source.height)
        & (nearest[1] >= 0) & (nearest[1] < source.width)
    )  # fmt: skip
    if here.size:
        rows, cols = rows[here], cols[here]
        top, left = (max(int(np.floor(one.min())), 0) for one in (rows, cols))
        height = min(int(rows.max()) + 2, source.height) - top
        width = min(int(cols.max()) + 2, source.width) - left
        if height * width > LARGEST:
            raise ValueError(
                f"{height * width:,} pixels under the tile, expected at most {LARGEST:,}"
            )
        found = source.read(1, window=Window(left, top, width, height), masked=True)
        known = ~(np.ma.getmaskarray(found) | gaps(found.data))
        values, valid = _bilinear(np.asarray(found.data), known, rows - top, cols - left)
        if kind.kind in "iu":
            values = np.floor(values + 0.5)
        result[here[valid]] = values[valid].astype(kind)
    return result.reshape(tile.height, tile.width)


def _places(source: DatasetReader, tile: Tile) -> tuple[Pixels, Pixels]:
    """Rows and columns in a raster of the tile's pixels; its pixels' centres are whole numbers.

    NaN where the raster's reference system does not reach.
    """
    cols, rows = _apply(~source.transform, *_centres(tile, source.crs))
    places = [np.where(np.isfinite(one), one, np.nan) - 0.5 for one in (rows, cols)]
    whole = [np.round(one) for one in places]
    rows, cols = (
        np.where(abs(one - near) < EXACT, near, one)
        for one, near in zip(places, whole, strict=True)
    )
    return rows, cols


@lru_cache(maxsize=8)  # for the bands of a tile
def _centres(tile: Tile, crs: CRS) -> tuple[Pixels, Pixels]:
    """x and y of the tile's pixels in a reference system."""
    cols, rows = np.meshgrid(np.arange(tile.width) + 0.5, np.arange(tile.height) + 0.5)
    x, y = _apply(tile.transform, cols.ravel(), rows.ravel())
    if crs != CRS.from_user_input(tile.crs):
        x, y = (np.array(one) for one in transform(tile.crs, crs, x, y))
    return x, y


def _bilinear(values: Pixels, known: Pixels, rows: Pixels, cols: Pixels) -> tuple[Pixels, Pixels]:
    """Values at places of an image, from those of its pixels that are known, and where there are.

    Args:
        values, known: (height, width).
        rows, cols: (n,) places, within half a pixel of the image.
    """
    top, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
    down, right = rows - top, cols - left
    if not (down.any() or right.any()):  # one grid
        return values[top, left].astype(np.float64), known[top, left]
    near = known[np.floor(rows + 0.5).astype(int), np.floor(cols + 0.5).astype(int)]
    content = np.pad(np.where(known, values, 0).astype(np.float64), 1).ravel()
    there = np.pad(known.astype(np.float64), 1).ravel()
    line = values.shape[1] + 2
    first = (top + 1) * line + left + 1
    total, weights = np.zeros(rows.size), np.zeros(rows.size)
    for step, weight in (
        (0, (1 - down) * (1 - right)), (1, (1 - down) * right),
        (line, down * (1 - right)), (line + 1, down * right),
    ):  # fmt: skip
        total += weight * content.take(first + step)
        weights += weight * there.take(first + step)
    return total / np.where(near, weights, 1), near


def _apply(to: Affine, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    return to.a * x + to.b * y + to.c, to.d * x + to.e * y + to.f
