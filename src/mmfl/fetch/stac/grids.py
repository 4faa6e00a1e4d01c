"""The grid of a label tile, and rasters brought onto it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio import DatasetReader
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.transform import Affine, array_bounds
from rasterio.warp import reproject, transform, transform_geom
from rasterio.windows import Window

from mmfl.files import digest

LONGITUDES_LATITUDES = "EPSG:4326"
EXACT = 1e-3  # pixels by which the way between two grids may be approximated
MARGIN = 2  # pixels around a tile that take part in interpolation
LARGEST = 1 << 25  # pixels of a block, and of what is read for a tile
Pixels = np.ndarray[Any, Any]


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
        outside = geometry_mask(here, shape, self.transform) if here else np.ones(shape, bool)
        return 1.0 - float(outside.mean())


def onto_grid(
    source: DatasetReader, tile: Tile, gaps: Callable[[Pixels], Pixels], empty: float
) -> Pixels:
    """The first band on the tile's grid: (height, width), `empty` in gaps.

    A pixel is interpolated between the four nearest (bilinearly), of which those without data
    take no part; so one that lies on the grid stays as it is. Without data are those that the
    raster says and those that `gaps` finds, as rasters do not say all. What lies under the tile is
    read in one window.

    Raises:
        ValueError: the raster's blocks or pixels are too small or too large to be of a scene.
    """
    block = source.block_shapes[0][0] * source.block_shapes[0][1]
    if block > LARGEST:
        raise ValueError(f"blocks of {block:,} pixels, expected at most {LARGEST:,}")
    window = _window(source, tile)
    if window is None:
        return np.full((tile.height, tile.width), empty, source.dtypes[0])
    if window.height * window.width > LARGEST:
        size = window.height * window.width
        raise ValueError(f"{size:,} pixels under the tile, expected at most {LARGEST:,}")
    found = source.read(1, window=window, masked=True)
    values, missing = found.data, np.ma.getmaskarray(found)
    missing = missing | gaps(values)
    if np.isnan(empty) and values.dtype.kind != "f":
        values = values.astype(np.float32)
    mark = np.nan if values.dtype.kind == "f" else 0
    values = np.where(missing, mark, values).astype(values.dtype)
    result = np.full((tile.height, tile.width), empty, values.dtype)
    reproject(
        values,
        result,
        src_transform=source.window_transform(window),
        src_crs=source.crs,
        src_nodata=mark,
        dst_transform=tile.transform,
        dst_crs=tile.crs,
        dst_nodata=empty,
        resampling=Resampling.bilinear,
        tolerance=EXACT,
        XSCALE=1,  # or GDAL widens the kernel where the grids are turned to each other
        YSCALE=1,
    )
    return result


def _window(source: DatasetReader, tile: Tile) -> Window | None:
    """The part of a raster under the tile, with a margin; None if there is none."""
    edge = np.linspace(0, 1, 33)
    rows = np.concatenate([0 * edge, 0 * edge + 1, edge, edge]) * tile.height
    cols = np.concatenate([edge, edge, 0 * edge, 0 * edge + 1]) * tile.width
    x, y = _apply(tile.transform, cols, rows)
    east, north = (np.array(one) for one in transform(tile.crs, source.crs, x, y))
    if not (np.isfinite(east).all() and np.isfinite(north).all()):
        return None
    cols, rows = _apply(~source.transform, east, north)
    first = np.floor([rows.min(), cols.min()]) - MARGIN
    last = np.ceil([rows.max(), cols.max()]) + MARGIN
    first, last = np.maximum(first, 0), np.minimum(last, source.shape)
    if (last <= first).any():
        return None
    (row, col), (height, width) = first.astype(int), (last - first).astype(int)
    return Window(int(col), int(row), int(width), int(height))


def _apply(to: Affine, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    return to.a * x + to.b * y + to.c, to.d * x + to.e * y + to.f
