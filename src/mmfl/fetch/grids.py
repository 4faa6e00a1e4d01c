"""The grid of a label tile, and rasters brought onto it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.transform import Affine, array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom

LONGITUDES_LATITUDES = "EPSG:4326"
SAME = 1e-4  # pixels by which grids may differ and still be one
EXACT = 1e-3  # pixels by which the way between two grids may be approximated


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


def aligned(source: DatasetReader, tile: Tile) -> bool:
    """Whether the raster's pixels are pixels of the tile's grid."""
    if source.crs != CRS.from_user_input(tile.crs):
        return False
    here, there = source.transform, tile.transform
    if any((here.b, here.d, there.b, there.d)):
        return False
    size = max(tile.height, tile.width)
    steps = np.array([there.a / here.a, there.e / here.e])
    shift = np.array([(there.c - here.c) / here.a, (there.f - here.f) / here.e])
    return bool((abs(steps - 1) * size < SAME).all() and (abs(shift - np.rint(shift)) < SAME).all())


def onto_grid(
    source: DatasetReader, tile: Tile, missing: float, empty: float
) -> np.ndarray[Any, Any]:
    """The first band on the tile's grid: (height, width), the raster's type, `empty` in gaps.

    Pixels that are on the grid already stay as they are; others are interpolated between the four
    nearest, of which those without data take no part. `missing` marks these if the raster does
    not say.
    """
    with WarpedVRT(
        source,
        crs=tile.crs,
        transform=tile.transform,
        height=tile.height,
        width=tile.width,
        src_nodata=missing if source.nodata is None else source.nodata,
        nodata=empty,
        resampling=Resampling.nearest if aligned(source, tile) else Resampling.bilinear,
        tolerance=EXACT,
        XSCALE=1,  # or GDAL widens the kernel where the grids are turned to each other
        YSCALE=1,
    ) as warped:
        return warped.read(1)
