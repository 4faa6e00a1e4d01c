"""The tiles of `simulated-tiles`: where and when they are, their codes and images.

The land-cover map from which the pixels of both modalities are drawn is the label. One random
stream per region and per tile, so that neither order nor processes change a bit.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
from rasterio.warp import transform

from mmfl.archives.simulation import facts, pixels, tile_facts
from mmfl.archives.simulation.locations import (
    REGIONS,
    SEASONS,
    TILE_PIXELS,
    TILES,
    apportion,
    stream,
)  # fmt: skip
from mmfl.archives.simulation.pixels import Country
from mmfl.errors import UserError
from mmfl.facts.bands import S2_BANDS, S2_TRAINED

MONTHS = {"DJF": (1, 2, 12), "MAM": (3, 4, 5), "JJA": (6, 7, 8), "SON": (9, 10, 11)}
HALVED = ("B05", "B06", "B07", "B8A", "B11", "B12")  # of 20 m
BANDS = tuple((S2_BANDS.index(name), 2 if name in HALVED else 1) for name in S2_TRAINED)


@dataclass(frozen=True)
class Tile:
    """One label tile, and what its pixels are drawn from.

    `corner` is easting and northing of the upper left corner in m, `test`: a validation tile.
    """

    index: int
    hemisphere: str
    biome: str
    test: bool
    lon: float
    lat: float
    epsg: int
    corner: tuple[int, int]
    size: int
    season: str
    date: str
    product: str
    has_s1: bool
    has_s2: bool
    cloud: bool

    @property
    def name(self) -> str:
        return f"dw_{self.lon:g}_{self.lat:g}-{self.date}"

    @property
    def path(self) -> str:
        """Its file in the zip of expert tiles, or of validation tiles."""
        top = f"Experts/{self.hemisphere}/{self.biome}"
        return f"{'validation_set_tiles' if self.test else top}/{self.name}.tif"


def draw_tiles(count: int, size: int, seed: int, unpaired: float) -> list[Tile]:
    """`count` tiles in equal numbers per region, each in a block of one degree of its own.

    A fifth of each region are test tiles, two pixels larger, as in the published archive.

    Raises:
        UserError: too few or too many tiles.
    """
    regions = list(tile_facts.REGIONS)
    blocks = tile_facts.COLUMNS * tile_facts.ROWS
    if not 3 * len(regions) <= count <= blocks * len(regions):
        raise UserError(
            f"simulate.tiles: found {count}, expected {3 * len(regions)} to {blocks * len(regions)}"
        )
    counts = apportion(count, np.ones(len(regions)))
    tiles: list[Tile] = []
    for number, (region, mine) in enumerate(zip(regions, counts, strict=True)):
        rng = stream(seed, TILES, number)
        cells = rng.choice(blocks, mine, replace=False).tolist()
        test = round(tile_facts.TEST * mine)
        for place, cell in enumerate(cells):
            tiles.append(_tile(rng, len(tiles), region, cell, place < test, size, unpaired))
    return tiles


def _tile(
    rng: np.random.Generator, index: int, region: tuple[str, str], cell: int, test: bool,
    size: int, unpaired: float,
) -> Tile:  # fmt: skip
    west, south = tile_facts.REGIONS[region]
    thousandths = rng.integers(200, 801, 2).tolist()  # well inside the block
    lon = round(west + cell % tile_facts.COLUMNS + thousandths[0] / 1000, 3)
    lat = round(south + cell // tile_facts.COLUMNS + thousandths[1] / 1000, 3)
    size += 2 * test
    epsg = 32601 + int(lon + 180) // 6
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])
    corner = 10 * (round(x / 10) - size // 2), 10 * (round(y / 10) + size // 2)
    season = SEASONS[rng.integers(4)]
    day = datetime.date(2019, int(rng.choice(MONTHS[season])), int(rng.integers(1, 29)))
    lacking, which, cloud = rng.random(3).tolist()
    return Tile(
        index, *region, test, lon, lat, epsg, corner, size, season, f"{day:%Y%m%d}",
        _product(rng, day, square(epsg, lat, round(x), round(y))),
        has_s1=not (lacking < unpaired and which < 0.5),
        has_s2=not (lacking < unpaired and which >= 0.5),
        cloud=cloud < tile_facts.CLOUDY,
    )  # fmt: skip


def square(epsg: int, lat: float, east: int, north: int) -> str:
    """The 100 km square of the Military Grid Reference System, like T33UUP; northern zones."""
    zone = epsg - 32600
    band = "CDEFGHJKLMNPQRSTUVWX"[int((lat + 80) // 8)]
    column = "ABCDEFGHJKLMNPQRSTUVWXYZ"[(zone - 1) % 3 * 8 + east // 100_000 - 1]
    row = "ABCDEFGHJKLMNPQRSTUV"[(north // 100_000 + (5 if zone % 2 == 0 else 0)) % 20]
    return f"T{zone:02d}{band}{column}{row}"


def _product(rng: np.random.Generator, day: datetime.date, square: str) -> str:
    satellite = "AB"[rng.integers(2)]
    hour, minute, second, orbit = rng.integers([9, 0, 0, 1], [12, 60, 60, 144]).tolist()
    time = f"{day:%Y%m%d}T{hour:02d}{minute:02d}{second:02d}"
    return f"S2{satellite}_MSIL2A_{time}_N0211_R{orbit:03d}_{square}_{day:%Y%m%d}T235959"


def region(name: tuple[str, str], seed: int) -> Country:
    """The region's parameters: drawn once for a seed, the same whatever else is simulated."""
    return pixels.heterogeneity(stream(seed, REGIONS, list(tile_facts.REGIONS).index(name)))


def draw(tile: Tile, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes (H, W) uint8 as Dynamic World's experts mark them, and the images by modality.

    `s1` (2, H, W) float32 dB, NaN in gaps; `s2` (10, H, W) uint16 reflectance x 10,000, 0 in gaps.
    """
    rng = stream(seed, TILE_PIXELS, tile.index)
    size = tile.size + tile.size % 2  # whole pixels of 20 m
    land = region((tile.hemisphere, tile.biome), seed)
    classes = pixels.some_classes(rng, tile_facts.CLASS_SHARES[tile.biome])
    cover = pixels.cover_map(rng, len(classes), size)
    codes = (classes[cover] + 1).astype(np.uint8)
    codes[_unmarked(rng, cover)] = 0
    veil = None
    if tile.cloud:
        amount = _cloud(rng, size)
        codes[amount >= 0.5] = 10
        veil = amount, facts.ENDMEMBERS["cloud"]
    texture = pixels.rough(rng, size)
    spectra = facts.spectra(tile.season, tile_facts.COMPOSITION)[classes]
    ground = pixels.varied(rng, spectra, land), tile_facts.TEXTURE[classes], texture
    optical = pixels.reflectance(rng, land, cover, ground, veil, BANDS)
    s2 = np.stack([np.kron(x, np.ones([size // len(x)] * 2, x.dtype)) for x in optical])
    s1 = np.stack(
        pixels.backscatter(rng, land, cover, tile_facts.BACKSCATTER[classes], tile.season)
    )
    s1[:, _beyond_edge(rng, size)] = np.nan
    s2[:, _beyond_edge(rng, size)] = 0
    inside = slice(tile.size), slice(tile.size)
    return codes[inside], {"s1": s1[:, *inside], "s2": s2[:, *inside]}


def _unmarked(rng: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """Pixels that the annotator left: some areas, and about half of those at a border."""
    field = pixels.smooth_integers(rng, len(cover))
    border = np.zeros(cover.shape, bool)
    across, along = cover[1:] != cover[:-1], cover[:, 1:] != cover[:, :-1]
    border[1:] |= across
    border[:-1] |= across
    border[:, 1:] |= along
    border[:, :-1] |= along
    left = border & (field > tile_facts.UNMARKED_BORDER)
    return np.asarray((field > tile_facts.UNMARKED) | left)


def _cloud(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cover by cloud, 0 to 1, (size, size) float32."""
    field = pixels.smooth_integers(rng, size)
    rise = tile_facts.CLOUD_CORE - tile_facts.CLOUD_EDGE
    return (np.clip(field - tile_facts.CLOUD_EDGE, 0, rise) / rise).astype(np.float32)


def _beyond_edge(rng: np.random.Generator, size: int) -> np.ndarray:
    """Pixels beyond the edge of the scene, (size, size) bool; mostly none."""
    cut = rng.random() < tile_facts.GAP
    column, tilt = int(rng.integers(size // 2, size)), int(rng.integers(-3, 4))
    at = np.arange(size)
    return np.asarray(cut & (8 * at + tilt * at[:, None] > 8 * column))
