"""Which locations the simulated archive holds: country, split, tile, cell, date, names.

A location is one cell of a tile's grid of 1200 m patches at one date. Tiles belong to one split,
and cells stay within the tile's own 100 km square (neighbouring tiles overlap beyond it), so no
place lies in two splits.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import numpy as np

from mmfl.archives.simulation import facts

CELLS = 83  # patches along a side of the tile's own 100 km square
SEASON_START = {"JJA": (2017, 6), "SON": (2017, 9), "DJF": (2017, 12), "MAM": (2018, 3)}
SEASONS = ("DJF", "MAM", "JJA", "SON")
# purposes that key the random streams
LOCATIONS, COUNTRIES, PIXELS, EXCLUDED, TILES, REGIONS, TILE_PIXELS = range(7)


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """The random stream of one purpose and item: independent of order and of processes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, index])))


@dataclass(frozen=True)
class Location:
    """One row of the metadata, and what its pixels are drawn from."""

    index: int
    country: str
    split: str
    season: str
    tile: str
    column: int
    row: int
    s2_product: str
    s1_scene: str
    has_s1: bool
    has_s2: bool
    snow: bool = False
    cloud: bool = False

    @property
    def patch_id(self) -> str:
        return f"{self.s2_product}_{self.column:02d}_{self.row:02d}"

    @property
    def s1_name(self) -> str:
        return f"{self.s1_scene}_{self.tile[1:]}_{self.column}_{self.row}"

    @property
    def s2v1_name(self) -> str:
        return f"{self.s2_product[:26]}_{self.column}_{self.row}"

    @property
    def corner(self) -> tuple[int, int]:
        """Easting and northing of the upper left corner, metres in the tile's UTM zone."""
        east, north = tile_corner(self.tile)
        return east + 1200 * self.column, north - 1200 * self.row


def tile_corner(tile: str) -> tuple[int, int]:
    """Upper left corner of a Sentinel-2 tile (easting, northing in m), northern hemisphere.

    From the tile's name in the Military Grid Reference System: the column's letter repeats every
    three zones, the row's every 2,000 km with a shift of five in even zones; Sentinel-2 aligns the
    corner to 60 m.
    """
    zone, band, column, row = int(tile[1:3]), tile[3], tile[4], tile[5]
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    east = 100_000 * (letters.index(column) % 8 + 1)
    cycle = 100_000 * ((letters.index(row) - (5 if zone % 2 == 0 else 0)) % 20)
    south = 8 * ("CDEFGHJKLMNPQRSTUVWX".index(band) - 10)  # degrees of latitude
    lowest = south * 110_570 - 100_000  # a square may begin below its band
    north = cycle + 2_000_000 * -(-(lowest - cycle) // 2_000_000) + 100_000
    return east // 60 * 60, -(-north // 60) * 60


def draw_locations(
    pairs: int, seed: int, countries: list[str], unpaired: float
) -> tuple[list[Location], list[Location]]:
    """The clean locations (`pairs` of them) and the few with snow or cloud, each by patch_id."""
    clean: list[Location] = []
    excluded: list[Location] = []
    roots = np.sqrt([facts.SIZES[country] for country in countries])
    extra = max(2, round(pairs / 50))
    for country, count, more in zip(
        countries,
        apportion(pairs, roots, least=10),
        apportion(extra, np.ones(len(countries))),
        strict=True,
    ):
        inside, outside = _of_country(country, count, more, seed, unpaired)
        clean += inside
        excluded += outside
    return _numbered(clean, 0), _numbered(excluded, len(clean))


def apportion(total: int, weights: np.ndarray, least: int = 0) -> list[int]:
    """Whole numbers in proportion to `weights` that sum to `total` (largest remainder)."""
    free = total - least * len(weights)
    exact = free * np.asarray(weights) / np.sum(weights)
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: free - counts.sum()]] += 1
    return [int(count) + least for count in counts]


def _of_country(
    country: str, count: int, more: int, seed: int, unpaired: float
) -> tuple[list[Location], list[Location]]:
    """The country's clean and excluded locations; the excluded ones lie in its training tiles."""
    number = list(facts.TILES).index(country)
    rng = stream(seed, LOCATIONS, number)
    splits = facts.TILE_SPLITS
    shares = [facts.SPLIT_SHARES[split] / splits.count(split) for split in splits]
    clean: list[Location] = []
    excluded: list[Location] = []
    per_tile = apportion(count, np.array(shares), least=1)
    for place, (tile, n) in enumerate(zip(facts.TILES[country], per_tile, strict=True)):
        products = {season: _product(rng, tile, season) for season in SEASONS}
        m = more if place == 0 else 0
        cells = rng.choice(CELLS * CELLS, n + m, replace=False)
        season_shares = np.array(facts.SEASON_SHARES[country]) / sum(facts.SEASON_SHARES[country])
        seasons = rng.choice(4, n + m, p=season_shares)
        lacking, which = rng.random(n + m) < unpaired, rng.random(n + m) < 0.5
        for i, cell in enumerate(cells.tolist()):
            snow = i >= n and (i + number) % 2 == 0
            season = "DJF" if snow else SEASONS[seasons[i]]
            s2_product, s1_scene = products[season]
            location = Location(
                index=0,
                country=country,
                split=facts.TILE_SPLITS[place],
                season=season,
                tile=tile,
                column=cell // CELLS,
                row=cell % CELLS,
                s2_product=s2_product,
                s1_scene=s1_scene,
                has_s1=not (lacking[i] and which[i]),
                has_s2=not (lacking[i] and not which[i]),
                snow=snow,
                cloud=i >= n and not snow,
            )
            (clean if i < n else excluded).append(location)
    return clean, excluded


def _product(rng: np.random.Generator, tile: str, season: str) -> tuple[str, str]:
    """Names of a Sentinel-2 product and of a Sentinel-1 scene 0 to 6 days apart from it."""
    year, month = SEASON_START[season]
    month += int(rng.integers(3))
    if month > 12:
        year, month = year + 1, month - 12
    day = datetime.date(year, month, int(rng.integers(7, 22)))
    s1_day = day + datetime.timedelta(days=int(rng.integers(-6, 7)))
    orbit = int(rng.integers(1, 144))
    s2 = "AB"[rng.integers(2)]
    s1 = "AB"[rng.integers(2)]
    s2_time = f"{9 + rng.integers(3):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    s1_time = f"{rng.choice([5, 6, 16, 17]):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    return (
        f"S2{s2}_MSIL2A_{day:%Y%m%d}T{s2_time}_N9999_R{orbit:03d}_{tile}",
        f"S1{s1}_IW_GRDH_1SDV_{s1_day:%Y%m%d}T{s1_time}",
    )


def _numbered(locations: list[Location], first: int) -> list[Location]:
    """Sorted by patch_id; the index keys the location's pixels."""
    ordered = sorted(locations, key=lambda location: location.patch_id)
    return [replace(location, index=first + i) for i, location in enumerate(ordered)]
