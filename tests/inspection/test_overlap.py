"""Shared ground, wherever on the Earth: against points that are drawn and looked up."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform

from mmfl.archives.folder.files import Grid
from mmfl.inspection import overlap

DEGREES = "EPSG:4326"


def to(crs: str, lon: float, lat: float) -> tuple[float, float]:
    (x,), (y,) = transform(DEGREES, crs, [lon], [lat])
    return x, y


def tile(crs: str, lon: float, lat: float, east=0.0, south=0.0, side=64, pixel=10.0) -> Grid:
    """A tile whose upper left corner is a place, moved by some units of the system."""
    x, y = (lon, lat) if crs == DEGREES else to(crs, lon, lat)
    return Grid(side, side, rasterio.CRS.from_string(crs),
                from_origin(x + east, y - south, pixel, pixel))  # fmt: skip


def covered(one: Grid, other: Grid) -> float:
    """Share of 101 x 101 points of a tile that lie within another, by rasterio's own transform."""
    steps = np.linspace(0, one.width, 101)
    column, row = (part.ravel() for part in np.meshgrid(steps, steps))
    x, y = one.transform * (column, row)
    lon, lat = transform(one.crs, DEGREES, x.tolist(), y.tolist())
    found = np.zeros(len(lon), bool)
    for turn in (-360, 0, 360) if other.crs.is_geographic else (0,):
        xs, ys = transform(DEGREES, other.crs, (np.array(lon) + turn).tolist(), lat)
        if other.crs.is_geographic:  # which brings 180.1 to itself
            xs, ys = np.array(lon) + turn, lat
        c, r = ~other.transform * (np.array(xs), np.array(ys))
        found |= (c > 0) & (c < other.width) & (r > 0) & (r < other.height)
    return float(found.mean())


def pairs(grids: dict[str, Grid], splits: dict[str, str]) -> set[frozenset[str]]:
    feet = overlap.footprints(grids, splits)
    return {frozenset((feet.names[i], feet.names[j])) for i, j in overlap.overlapping(feet)}


PLACES = [
    ("within a zone", "EPSG:32633", "EPSG:32633", 15.0, 48.0),
    ("two zones", "EPSG:32632", "EPSG:32633", 12.0, 48.0),
    ("180 degrees, one zone", "EPSG:32760", "EPSG:32760", 180.0, -17.0),
    ("180 degrees, two zones", "EPSG:32760", "EPSG:32701", 180.0, -17.0),
    ("180 degrees, New Zealand's grid", "EPSG:2193", "EPSG:32701", 179.999, -38.0),
    ("180 degrees, far north", "EPSG:32660", "EPSG:3413", 180.0, 71.0),
    ("north pole", "EPSG:3413", "EPSG:32661", 40.0, 89.9995),
    ("south pole", "EPSG:3031", "EPSG:32761", -40.0, -89.9995),
    ("equator", "EPSG:32631", "EPSG:32731", 3.0, 0.0),
]


@pytest.mark.parametrize(("_", "one", "other", "lon", "lat"), PLACES, ids=[p[0] for p in PLACES])
def test_neighbours_anywhere(_, one, other, lon, lat):
    """A tile, and others that reach into it by 30 m or lie 30 m beside it on every side."""
    grids = {"middle": tile(one, lon, lat)}
    for move, label in ((610, "in"), (670, "out")):
        for east, south in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            grids[f"{label} {east} {south}"] = tile(other, lon, lat, east * move, south * move)
    splits = {name: "train" if name == "middle" else "test" for name in grids}
    expected = {
        frozenset(("middle", name)) for name, grid in grids.items()
        if name != "middle" and covered(grids["middle"], grid) > 1e-3
    }  # fmt: skip
    assert 1 <= len(expected) < 8
    assert pairs(grids, splits) == expected


@pytest.mark.parametrize(("lon", "lat"), [(179.98, -17.0), (-180.02, -17.0), (0.0, 89.0)])
def test_degrees(lon, lat):
    """Tiles in longitude and latitude: 179.98 to 180.02, or -180.02 to -179.98, are one place."""
    grids = {
        "a": tile(DEGREES, lon, lat, side=40, pixel=1e-3),
        "turned": tile(DEGREES, lon + (360 if lon < 0 else -360), lat, 0.02, 0.02, 40, 1e-3),
        "beside": tile(DEGREES, lon, lat, 0.04, side=40, pixel=1e-3),
    }
    splits = {"a": "train", "turned": "validation", "beside": "test"}
    expected = {frozenset(("a", "turned")), frozenset(("turned", "beside"))}
    assert pairs(grids, splits) == expected
    assert all(covered(*(grids[name] for name in pair)) > 0.1 for pair in expected)


def test_one_tile_across_180_degrees_changes_nothing_else(monkeypatch):
    """Two blocks half the Earth apart: no pair of them is looked at, let alone reported."""
    grids = {f"w{i}": tile("EPSG:32633", 15, 48, 2000 * i) for i in range(60)}
    grids |= {f"e{i}": tile("EPSG:32760", 179.5, -17, 2000 * i) for i in range(60)}
    splits = {name: ("train", "test")[k % 2] for k, name in enumerate(grids)}
    across = tile("EPSG:32760", 180.0, -17, -300)
    lon = transform(across.crs, DEGREES, *across.corners.T.tolist())[0]
    assert max(lon) > 179 and min(lon) < -179
    looked = []
    close = overlap._close
    monkeypatch.setattr(overlap, "_close", lambda feet: (looked.append(p) or p
                                                         for p in close(feet)))  # fmt: skip
    assert pairs(grids, splits) == set()
    before = sum(map(len, looked))
    looked.clear()
    found = pairs(grids | {"x": across}, splits | {"x": "validation"})
    assert all("x" in pair for pair in found)
    assert sum(map(len, looked)) <= before + 4


def test_a_large_tile_has_its_own_neighbours_only(monkeypatch):
    """A tile of 2 degrees among 400 small ones: it is compared with each, and they are not."""
    grids = {f"{i} {j}": tile("EPSG:32633", 15, 48, 2000 * i, 2000 * j)
             for i in range(20) for j in range(20)}  # fmt: skip
    splits = {name: ("train", "test")[k % 2] for k, name in enumerate(grids)}
    large = {"large": tile(DEGREES, 14.9, 48.1, side=200, pixel=0.01)}
    sizes = []
    close = overlap._close
    monkeypatch.setattr(overlap, "_close", lambda feet: (sizes.append(len(p)) or p
                                                         for p in close(feet)))  # fmt: skip
    found = pairs(grids | large, splits | {"large": "validation"})
    assert found == {frozenset(("large", name)) for name in grids}
    assert sum(sizes) == len(grids)


def test_many_dates_of_one_place_are_one_footprint():
    """2,000 dates of a training tile and 2,000 of its neighbour in the test: nothing is shared."""
    grids = {f"a{i}": tile("EPSG:32633", 15, 48) for i in range(2000)}
    grids |= {f"b{i}": tile("EPSG:32633", 15, 48, 640) for i in range(2000)}
    splits = {name: "train" if name[0] == "a" else "test" for name in grids}
    feet = overlap.footprints(grids, splits)
    assert sum(map(len, overlap._close(feet))) <= 1 and overlap.overlapping(feet) == []
    gap, width = overlap.distances(feet, "test")
    assert len(gap) == 2000 and gap.max() < 1 and width == pytest.approx(640, rel=2e-3)


def test_the_search_ends(monkeypatch):
    monkeypatch.setattr(overlap, "SHARED", 5)
    grids = {f"a{i}": tile("EPSG:32633", 15, 48, i) for i in range(40)}
    splits = {name: ("train", "test")[k % 2] for k, name in enumerate(grids)}
    assert len(pairs(grids, splits)) == 5


@pytest.mark.parametrize("other", ["EPSG:32633", "EPSG:32632"])
def test_a_small_tile_within_one_pixel_of_a_large_one(other):
    """In one system and in two; beside the large one it shares nothing."""
    large = tile("EPSG:32633", 15.0, 48.0, side=8, pixel=5000.0)
    inside = tile(other, 15.2, 47.8, side=8, pixel=10.0)
    beside = tile(other, 14.9, 47.8, side=8, pixel=10.0)
    assert covered(inside, large) == 1 and covered(beside, large) == 0
    grids = {"large": large, "inside": inside, "beside": beside}
    splits = {"large": "train", "inside": "test", "beside": "test"}
    assert pairs(grids, splits) == {frozenset(("large", "inside"))}
