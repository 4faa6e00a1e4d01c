"""The grid of a label tile, and rasters brought onto it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio import DatasetReader
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.transform import Affine, array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom

from mmfl.files import digest

LONGITUDES_LATITUDES = "EPSG:4326"
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
    source: DatasetReader, tile: Tile, missing: float, empty: float
) -> np.ndarray[Any, Any]:
    """The first band on the tile's grid: (height, width), the raster's type, `empty` in gaps.

    A pixel is interpolated between the four nearest (bilinearly), of which those without data
    take no part; so one that lies on the grid stays as it is. `missing` marks those without data
    if the raster does not say.
    """
    with WarpedVRT(
        source,
        crs=tile.crs,
        transform=tile.transform,
        height=tile.height,
        width=tile.width,
        src_nodata=missing if source.nodata is None else source.nodata,
        nodata=empty,
        resampling=Resampling.bilinear,
        tolerance=EXACT,
        XSCALE=1,  # or GDAL widens the kernel where the grids are turned to each other
        YSCALE=1,
    ) as warped:
        return warped.read(1)
