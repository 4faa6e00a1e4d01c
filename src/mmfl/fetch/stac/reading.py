"""The pixels of a scene on a tile's grid: one windowed read per band and item."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from mmfl.errors import UserError
from mmfl.fetch.stac.catalogues import Item, Remote, Service, Unusable
from mmfl.fetch.stac.grids import GDAL, Tile, onto_grid
from mmfl.fetch.stac.scenes import taken
from mmfl.fetch.stac.values import (
    UNITS,
    Meaning,
    check_unit,
    decibels,
    meaning,
    no_power,
    settle,
)
from mmfl.files import atomic

TRIES = 3  # of a file that looks damaged
QUIET: dict[str, Any] = {  # no request but those for header and pixels
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
}
GAP = {"s1": np.nan, "s2": 0}  # no data
KIND = {"s1": np.float32, "s2": np.uint16}


@dataclass(frozen=True)
class Scene:
    """What was read: pixels (bands, height, width), the items they are from, valid share.

    `note` tells what contradicted the rule, and why it holds all the same.
    """

    pixels: np.ndarray[Any, Any]
    items: tuple[Item, ...]
    hrefs: tuple[str, ...]
    rule: str
    valid: float
    note: str = ""

    @property
    def sha256(self) -> str:
        """Of the pixels: bands, rows, columns, little-endian."""
        little = self.pixels.dtype.newbyteorder("<")
        return hashlib.sha256(self.pixels.astype(little, order="C").tobytes()).hexdigest()


def read_scene(
    service: Service, modality: str, tile: Tile, items: Sequence[Item], bands: Sequence[str],
    least: float,
) -> Scene:  # fmt: skip
    """Read the bands; items of one pass fill each other's gaps, the earliest first.

    A scene whose first band has data for less than `least` of the tile is read no further.

    Raises:
        Unusable: no grid, no offset stated, no such asset, or damaged.
        Doubtful: its pixels contradict what the item says of them.
        Passing: the service does not answer.
    """
    if modality == "s2":
        return _optical(service, tile, items[0], bands, least)
    layers: list[np.ndarray[Any, Any]] = []
    used: dict[str, Item] = {}
    hrefs: list[str] = []
    whole = np.ones((tile.height, tile.width), bool)
    for band in bands:
        layer = np.full(whole.shape, GAP[modality], KIND[modality])
        valid = np.zeros_like(whole)
        for item in sorted(items, key=lambda item: (taken(item), item["id"])):
            if valid.all():
                break
            values = _backscatter(service, tile, item, band)
            new = np.isfinite(values) & ~valid
            layer[new] = values[new]
            valid |= new
            used[item["id"]] = item
            hrefs.append(service.href(item, band))
        layers.append(layer)
        whole &= valid
        if whole.mean() < least:
            break
    rule = UNITS[service.catalogue.s1_unit]
    return Scene(np.stack(layers), tuple(used.values()), tuple(hrefs), rule, float(whole.mean()))


def _optical(service: Service, tile: Tile, item: Item, bands: Sequence[str], least: float) -> Scene:
    """A Sentinel-2 scene. What its numbers mean is settled when all bands are there."""
    meanings: dict[str, Meaning] = {}
    numbers: dict[str, np.ndarray[Any, Any]] = {}
    hrefs: list[str] = []
    whole = np.ones((tile.height, tile.width), bool)
    for band in bands:
        asset = service.catalogue.assets[band]
        meanings[band] = meaning(item, asset, service.catalogue.offset)
        hrefs.append(service.href(item, band))
        numbers[band] = _raw(service, tile, item, band, hrefs[-1], _no_number, 0)
        whole &= numbers[band] != 0
        if whole.mean() < least:
            break
    valid = float(whole.mean())
    if valid < least:  # its pixels are not used
        empty = np.zeros((len(numbers), tile.height, tile.width), np.uint16)
        rule = "; ".join(dict.fromkeys(one.rule for one in meanings.values()))
        return Scene(empty, (item,), tuple(hrefs), rule, valid)
    settled = settle(item, numbers, meanings)
    pixels = np.stack([settled.pixels[band] for band in bands])
    return Scene(pixels, (item,), tuple(hrefs), settled.rule, valid, settled.note)


def write_scene(path: Path, modality: str, tile: Tile, scene: Scene, bands: Sequence[str]) -> None:
    """A GeoTIFF on the tile's grid, a described band each; equal pixels give equal bytes.

    It is read once more, as GDAL says nothing of what it could not write at the end.

    Raises:
        UserError: it could not be written.
    """
    try:
        with GDAL, atomic(path) as temporary:
            _write(temporary, modality, tile, scene, bands)
            with rasterio.open(temporary) as source:
                source.read()
    except RasterioError as error:
        reason = " ".join(str(error).split())[-120:]
        raise UserError(
            f"{path}: not written ({reason}); make room, or name another folder in MMFL_CACHE"
        ) from None


def _write(path: Path, modality: str, tile: Tile, scene: Scene, bands: Sequence[str]) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", crs=tile.crs, transform=tile.transform,
        height=tile.height, width=tile.width, count=len(bands), dtype=scene.pixels.dtype,
        nodata=GAP[modality], compress="deflate", predictor=2 if modality == "s2" else 3,
        interleave="band",
    ) as target:  # fmt: skip
        target.write(scene.pixels)
        target.descriptions = tuple(bands)


def _backscatter(service: Service, tile: Tile, item: Item, band: str) -> np.ndarray[Any, Any]:
    """One band of one Sentinel-1 item in dB, NaN in gaps."""
    unit, asset = service.catalogue.s1_unit, service.catalogue.assets[band]
    seen: list[np.ndarray[Any, Any]] = []

    def gaps(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(values)
        return no_power(values, unit)

    href = service.href(item, band)
    values = _raw(service, tile, item, band, href, gaps, np.nan)
    if seen:
        check_unit(item, asset, unit, seen[-1])
    return decibels(values, unit)


def _no_number(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (values == 0) | ~np.isfinite(values)


def _raw(
    service: Service, tile: Tile, item: Item, band: str, href: str,
    gaps: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], empty: float,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """The asset on the tile's grid, in its own unit. A damaged file is read `TRIES` times."""
    problem = ""
    for attempt in range(TRIES):
        if attempt and service.web.stop.wait(service.web.pause * 2 ** (attempt - 1)):
            break
        remote = Remote(service, href)
        try:
            with rasterio.Env(**QUIET), _opened(remote, f"{band}.tif") as source:
                _check_grid(item, source)
                values = onto_grid(source, tile, gaps, empty)
        except (RasterioError, CPLE_BaseError) as error:
            problem = " ".join(re.sub(r"/vsi\w+/", "", str(error)).split())  # a random folder
        else:
            problem = ""
        if remote.error is not None:
            raise remote.error
        if not problem:
            return values
    raise Unusable(f"{item['id']}: band {band} is damaged ({problem[:120]})")


@contextmanager
def _opened(remote: Remote, name: str) -> Iterator[rasterio.DatasetReader]:
    """An asset as a raster. Its header is fetched before others have to wait for the opening."""
    if not remote.size:
        raise RasterioError("empty")
    with ExitStack() as stack:
        with GDAL:
            source = stack.enter_context(rasterio.open(name, opener=remote.opened))
        try:
            yield source
        finally:
            with GDAL:
                stack.close()


def _check_grid(item: Item, source: rasterio.DatasetReader) -> None:
    if source.dtypes[0] in ("uint8", "int8") or "complex" in source.dtypes[0]:
        raise Unusable(f"{item['id']} has pixels of {source.dtypes[0]}, a picture or no intensity")
    if source.crs is None and source.gcps[0]:
        raise Unusable(
            f"{item['id']} carries ground control points instead of a grid: a plain GRD, which is "
            "uncalibrated; a terrain-corrected collection is needed"
        )
    if source.crs is None:
        raise Unusable(f"{item['id']} has no georeference")
