"""GeoTIFFs of tiles: opened with their georeference, checked, read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from mmfl.archives.base import REMEDY
from mmfl.errors import DamagedFile


@dataclass(frozen=True)
class Grid:
    """A tile's grid: reference system, (a, b, c, d, e, f) of rasterio's Affine, pixels."""

    crs: str
    transform: tuple[float, ...]
    height: int
    width: int


@contextmanager
def opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    """A GeoTIFF with the georeference that lies inside it; `DamagedFile` if it cannot be read."""
    try:
        with (
            rasterio.Env(GDAL_GEOREF_SOURCES="INTERNAL", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(path, driver="GTiff") as source,
        ):
            yield source
    except RasterioError as error:
        text = " ".join(str(error).split())
        found = f"cannot be read ({text})" if path.exists() else "is missing"
        raise DamagedFile(path, f"{found}, expected a whole GeoTIFF; {REMEDY}") from error


def grid_of(path: Path, source: rasterio.DatasetReader) -> Grid:
    transform = source.transform
    upright = transform.a > 0 > transform.e and transform.b == transform.d == 0
    if source.crs is None or not source.crs.is_projected or not upright:
        raise DamagedFile(
            path, f"has no georeference in metres with north up (found {source.crs}), expected "
            f"one; {REMEDY}",
        )  # fmt: skip
    return Grid(source.crs.to_string(), tuple(transform)[:6], source.height, source.width)


def read_bands(path: Path, source: rasterio.DatasetReader, bands: list[int]) -> np.ndarray:
    """(bands, H, W); an uncompressed file that is cut off would read as zeros."""
    least = source.count * source.height * source.width * np.dtype(source.dtypes[0]).itemsize
    if source.compression is None and path.stat().st_size < least:
        raise DamagedFile(path, f"holds fewer bytes than its pixels, {least:,}; {REMEDY}")
    return source.read(bands)


def same(a: Grid, b: Grid) -> bool:
    """One grid, up to a micrometre."""
    alike = np.allclose(a.transform, b.transform, rtol=0, atol=1e-6)
    return (a.crs, a.height, a.width) == (b.crs, b.height, b.width) and alike


def shown(grid: Grid) -> str:
    a, _, c, _, _, f = grid.transform
    return f"{grid.height} x {grid.width} pixels of {a:g} m from ({c:.10g}, {f:.10g}) in {grid.crs}"
