"""Which scenes belong to a tile. Nothing is fetched here."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mmfl.fetch.stac.catalogues import MALFORMED, Item, malformed
from mmfl.fetch.stac.grids import Tile
from mmfl.fetch.stac.values import version
from mmfl.fetch.stac.web import instant

SLICE = timedelta(seconds=60)  # slices of one Sentinel-1 pass follow each other within
SWATH = timedelta(hours=1)  # a catalogue may give a tile's own time, after the datatake's start
LOOSE = 0.05  # footprints are that much less exact than pixels
SENSING = re.compile(r"(?:^|_)(\d{8}T\d{6})(?:_|$)")
MGRS = re.compile(r"(?:^|[_-])T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?:[_.]|$)")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """A Sentinel-2 product by what its levels and baselines share."""

    mgrs: str
    sensing: datetime

    @classmethod
    def parse(cls, name: str) -> Product | None:
        """From a product id (S2A_MSIL1C_<sensing>_..._T32UMC_<made>) or that of Earth Engine."""
        sensing, mgrs = SENSING.search(name), MGRS.search(name)
        if sensing is None or mgrs is None:
            return None
        try:
            return cls(mgrs[1].zfill(5), _compact(sensing[1]))
        except ValueError:  # there is no such day
            return None


def moment(tile: Tile) -> datetime:
    """Sensing time of the tile's product; noon (UTC) of its day if that is not known."""
    product = Product.parse(tile.product) if tile.product else None
    return product.sensing if product else _day(tile) + timedelta(hours=12)


def window(tile: Tile, modality: str, days: float) -> tuple[str, str]:
    """From when to when to search, RFC 3339."""
    middle = moment(tile)
    if modality == "s1":
        start, end = middle - timedelta(days=days), middle + timedelta(days=days)
    elif tile.product:
        start, end = middle - timedelta(minutes=1), middle + SWATH
    else:
        start, end = _day(tile), _day(tile) + timedelta(days=1, seconds=-1)
    return tuple(f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in (start, end))  # type: ignore[return-value]


def taken(item: Item) -> datetime:
    """The item's time."""
    properties = item["properties"]
    return instant(properties.get("datetime") or properties["start_datetime"])


def judged(items: Sequence[Item], judge: Callable[[Item], bool]) -> list[Item]:
    """The items that `judge` takes. One that is malformed is left out, whatever the others are."""
    found = []
    for item in items:
        try:
            if judge(item):
                found.append(item)
        except MALFORMED as error:
            log.warning("%.80s is left out: %s", item["id"], malformed(error))
    return found


def sentinel2(tile: Tile, items: Sequence[Item]) -> list[list[Item]]:
    """Scenes of the tile's product, the newest baseline first; each a list of one item.

    Level and baseline of the product id do not count: MGRS tile and sensing time must be the
    same. Without a product every scene of the day that covers the tile is one. Of equals the
    first of `items`, which are in order of id, goes first.
    """
    if tile.product:
        product = Product.parse(tile.product)
        found = judged(items, lambda item: product is not None and _is_of(item, product))
    else:
        found = judged(items, lambda item: tile.covered([item["geometry"]]) > 1 - LOOSE)
    found.sort(key=lambda item: not _same_crs(item, tile))
    found.sort(key=version, reverse=True)
    return [[item] for item in found]


def passes(
    tile: Tile, items: Sequence[Item], days: float, polarisations: Sequence[str]
) -> list[list[Item]]:
    """Sentinel-1 passes in mode IW with these polarisations, the nearest in time first.

    A pass is one platform on one orbit; its slices, seconds apart, are in order of time.
    """
    fit = judged(items, lambda item: _is_iw(item) and _polarised(item) >= set(polarisations))
    good = judged(fit, lambda item: tile.covered([item["geometry"]]) >= 0)  # it can be placed
    good.sort(key=lambda item: (_track(item), taken(item), item["id"]))
    found: list[list[Item]] = []
    for item in good:
        last = found[-1][-1] if found else None
        if last and _track(last) == _track(item) and taken(item) - taken(last) <= SLICE:
            found[-1].append(item)
        else:
            found.append([item])
    near = [one for one in found if apart(tile, one) <= days]
    return sorted(near, key=lambda one: (apart(tile, one), min(item["id"] for item in one)))


def apart(tile: Tile, items: Sequence[Item]) -> float:
    """Days between the tile's sensing time and the nearest of the items."""
    gaps = [abs(taken(item) - moment(tile)) for item in items]
    return min(gaps) / timedelta(days=1)


def _compact(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def _day(tile: Tile) -> datetime:
    return datetime.fromisoformat(tile.date).replace(tzinfo=UTC)


def _is_of(item: Item, product: Product) -> bool:
    properties = item["properties"]
    names = [str(properties.get("s2:product_uri", "")), item["id"]]
    grid = str(properties.get("s2:mgrs_tile") or properties.get("grid:code") or "")
    tiles = [grid.removeprefix("MGRS-"), *(found[1] for n in names if (found := MGRS.search(n)))]
    if next((name.zfill(5) for name in tiles if name), None) != product.mgrs:
        return False
    # Product names and datatake ids hold the datatake's start; ids of a catalogue's own do not.
    names.append(str(properties.get("s2:datatake_id", "")))
    starts = [found[1] for name in names if (found := SENSING.search(name))]
    if starts:
        return _compact(starts[0]) == product.sensing
    return timedelta(0) <= taken(item) - product.sensing + timedelta(seconds=1) <= SWATH


def _same_crs(item: Item, tile: Tile) -> bool:
    properties = item["properties"]
    return tile.crs in (properties.get("proj:code"), f"EPSG:{properties.get('proj:epsg')}")


def _is_iw(item: Item) -> bool:
    mode = item["properties"].get("sar:instrument_mode")
    return mode == "IW" if mode else "_IW_" in item["id"]


def _polarised(item: Item) -> set[str]:
    stated = item["properties"].get("sar:polarizations")
    if stated:
        return {str(one).upper() for one in stated}
    return {"VV", "VH"} if "_1SDV_" in item["id"] else set()


def _track(item: Item) -> tuple[str, str]:
    properties = item["properties"]
    orbit = properties.get("sat:absolute_orbit") or properties.get("sat:relative_orbit")
    return str(properties.get("platform", "")).lower(), str(orbit or "")
