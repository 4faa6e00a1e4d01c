"""The pixels of a scene on a tile's grid: one windowed read per band and item."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from mmfl.errors import UserError
from mmfl.fetch.stac.catalogues import Item, Remote, Service, Unusable
from mmfl.fetch.stac.grids import Tile, onto_grid
from mmfl.fetch.stac.scenes import decibels, reflectance, scale_offset, taken
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
    """What was read: pixels (bands, height, width), the items they are from, valid share."""

    pixels: np.ndarray[Any, Any]
    items: tuple[Item, ...]
    hrefs: tuple[str, ...]
    rule: str
    valid: float

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
        Passing: the service does not answer.
    """
    layers: list[np.ndarray[Any, Any]] = []
    used: dict[str, Item] = {}
    hrefs: list[str] = []
    rules: list[str] = []
    whole = np.ones((tile.height, tile.width), bool)
    for band in bands:
        layer = np.full(whole.shape, GAP[modality], KIND[modality])
        valid = np.zeros_like(whole)
        for item in sorted(items, key=lambda item: (taken(item), item["id"])):
            if valid.all():
                break
            values, rule = _band(service, modality, tile, item, band)
            new = ~_gaps(values) & ~valid
            layer[new] = values[new]
            valid |= new
            used[item["id"]] = item
            hrefs.append(service.href(item, band))
            rules += [] if rule in rules else [rule]
        layers.append(layer)
        whole &= valid
        if whole.mean() < least:
            break
    return Scene(
        np.stack(layers), tuple(used.values()), tuple(hrefs), "; ".join(rules), float(whole.mean())
    )


def write_scene(path: Path, modality: str, tile: Tile, scene: Scene, bands: Sequence[str]) -> None:
    """A GeoTIFF on the tile's grid, a described band each; equal pixels give equal bytes.

    It is read once more, as GDAL says nothing of what it could not write at the end.

    Raises:
        UserError: it could not be written.
    """
    try:
        with atomic(path) as temporary:
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


def _band(
    service: Service, modality: str, tile: Tile, item: Item, band: str
) -> tuple[np.ndarray[Any, Any], str]:
    """One band of one item in the archive's unit, and the rule of its offset or unit."""
    unit, href = service.catalogue.s1_unit, service.href(item, band)
    if modality == "s2":
        asset = service.catalogue.assets[band]
        scale, offset, rule = scale_offset(item, asset, service.catalogue.offset)
        return reflectance(_raw(service, tile, item, band, href, 0, 0), scale, offset), rule
    missing = 0 if unit == "linear" else np.nan
    power = _raw(service, tile, item, band, href, missing, np.nan)
    return decibels(power, unit), "10 log10 of linear power" if unit == "linear" else "dB: as it is"


def _raw(
    service: Service, tile: Tile, item: Item, band: str, href: str, missing: float, empty: float
) -> np.ndarray[Any, Any]:
    """The asset on the tile's grid, in its own unit. A damaged file is read `TRIES` times."""
    problem = ""
    for attempt in range(TRIES):
        if attempt and service.web.stop.wait(service.web.pause * 2 ** (attempt - 1)):
            break
        remote = Remote(service, href)
        try:
            with (
                rasterio.Env(**QUIET),
                rasterio.open(f"{band}.tif", opener=remote.opened) as source,
            ):
                _check_grid(item, source)
                values = onto_grid(source, tile, missing, empty)
        except (RasterioError, CPLE_BaseError) as error:
            problem = " ".join(re.sub(r"/vsi\w+/", "", str(error)).split())  # a random folder
        else:
            problem = ""
        if remote.error is not None:
            raise remote.error
        if not problem:
            return values
    raise Unusable(f"{item['id']}: band {band} is damaged ({problem[:120]})")


def _check_grid(item: Item, source: rasterio.DatasetReader) -> None:
    if source.crs is None and source.gcps[0]:
        raise Unusable(
            f"{item['id']} carries ground control points instead of a grid: a plain GRD, which is "
            "uncalibrated; a terrain-corrected collection is needed"
        )
    if source.crs is None:
        raise Unusable(f"{item['id']} has no georeference")


def _gaps(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.isnan(values) if values.dtype.kind == "f" else values == 0
