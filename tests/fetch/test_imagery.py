"""Imagery against pixels and places that we know: values, georeference, outcomes, the table."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform
from scipy.ndimage import map_coordinates

from helpers.imagery import BANDS, COLS, ROWS, centres, choice, fetched, read, row_of
from helpers.stac_server import (
    GRID,
    PRODUCT,
    UTM,
    Site,
    cog,
    ground_control,
    numbers,
    outline,
    power,
    tiles,
)
from mmfl.errors import UserError
from mmfl.fetch.stac.grids import Tile
from mmfl.fetch.stac.imagery import fetch_imagery
from mmfl.fetch.stac.scenes import sentinel2


def test_sentinel2(stac: Site) -> None:
    """10 m pixels unchanged, 20 m bilinear, on the label's grid and described."""
    stac.s2()
    folder, rows = fetched(stac)
    pixels = read(folder, "s2")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[0], numbers("B02", 160)[ROWS, COLS])
    expected = map_coordinates(numbers("B11", 80).astype(float), centres(20), order=1)
    np.testing.assert_allclose(pixels[1], expected, atol=0.5001)
    with rasterio.open(folder / "s2/dw_0.tif") as source:
        assert source.crs == UTM and source.transform == Affine(*GRID)
        assert source.descriptions == ("B02", "B11") and source.nodata == 0
        assert not source.profile["tiled"] and source.profile["compress"] == "deflate"
    row = rows["dw_0", "s2"]
    assert row["items"] == stac.items[0]["id"] and row["catalogue"] == "own"
    assert row["collection"] == "s2-l2a" and float(row["valid"]) == 1 and not row["reason"]
    assert row["datetime"] == "2019-07-01T10:30:31.024000+00:00" and row["days"] == "0.0000"
    assert row["hrefs"].split() == [one["href"] for one in stac.items[0]["assets"].values()]
    assert row["sha256"] == hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest()


def test_ten_bands_by_default(stac: Site) -> None:
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    stac.s2(bands=bands)
    folder = fetch_imagery(tiles(), choice(stac), stac.folder.parent / "store", progress=False)
    with rasterio.open(folder / "s2/dw_0.tif") as source:
        assert source.descriptions == bands


def test_sentinel1(stac: Site) -> None:
    """Linear power becomes dB; on the grid nothing is interpolated."""
    stac.s1()
    folder, rows = fetched(stac)
    pixels = read(folder, "s1")
    assert pixels.dtype == np.float32
    for layer, band in zip(pixels, ("VV", "VH"), strict=True):
        expected = 10 * np.log10(power(band, 27_000)[ROWS, COLS].astype(float))
        np.testing.assert_array_equal(layer, expected.astype(np.float32))
    with rasterio.open(folder / "s1/dw_0.tif") as source:
        assert np.isnan(source.nodata) and source.descriptions == ("VV", "VH")
    row = rows["dw_0", "s1"]
    assert row["days"] == "2.0000" and row["offset"] == "10 log10 of linear power"


def test_pixels_on_the_grid_stay_to_the_last_bit(stac: Site) -> None:
    """Neighbours of eleven orders of magnitude more would be seen at a weight of 1e-12."""
    item = stac.s1()
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((160, 160)) < 0.6, 1e-4, 1e7).astype(np.float32)
    cog(stac.folder / item["assets"]["VV"]["href"].rpartition("/")[2], pixels, 10, nodata=-32768)
    folder, _ = fetched(stac)
    expected = 10 * np.log10(pixels[ROWS, COLS].astype(float))
    np.testing.assert_array_equal(read(folder, "s1")[0], expected.astype(np.float32))


def test_decibels_stay(stac: Site) -> None:
    item = stac.s1()
    for band in ("VV", "VH"):
        pixels = 10 * np.log10(power(band, 27_000))
        cog(stac.folder / f"{item['id']}_{band}.tif", pixels, 10, nodata=-32768)
    folder, rows = fetched(stac, catalogue={"s1_unit": "dB"})
    expected = 10 * np.log10(power("VV", 27_000))
    np.testing.assert_array_equal(read(folder, "s1")[0], expected[ROWS, COLS])
    assert rows["dw_0", "s1"]["offset"] == "dB: as it is"


def test_another_crs(stac: Site) -> None:
    """The neighbouring zone, against scipy on the coordinates of the tile's pixels."""
    stac.s1(crs="EPSG:32632")
    folder, _ = fetched(stac)
    name = stac.items[0]["assets"]["VV"]["href"].rpartition("/")[2]
    with rasterio.open(stac.folder / name) as source:
        assert source.crs == "EPSG:32632"
        rows, cols = np.mgrid[0:48, 0:40] + 0.5
        x, y = GRID[2] + 10 * cols.ravel(), GRID[5] - 10 * rows.ravel()
        east, north = map(np.array, transform(UTM, source.crs, x, y))
        grid = source.transform
        where = [(north - grid.f) / grid.e - 0.5, (east - grid.c) / grid.a - 0.5]
        expected = map_coordinates(source.read(1).astype(float), where, order=1).reshape(48, 40)
    pixels = 10 ** (read(folder, "s1")[0].astype(float) / 10)
    np.testing.assert_allclose(pixels, expected, rtol=1e-3)


def test_against_a_plain_read_of_the_file(stac: Site) -> None:
    """rasterio's own window read and its `reproject`, from the disk."""
    item = stac.s2()
    folder, _ = fetched(stac)
    paths = [stac.folder / one["href"].rpartition("/")[2] for one in item["assets"].values()]
    with rasterio.open(paths[0]) as source:
        window = source.window(*rasterio.transform.array_bounds(48, 40, Affine(*GRID)))
        np.testing.assert_array_equal(read(folder, "s2")[0], source.read(1, window=window))
    with rasterio.open(paths[1]) as source:
        again = np.zeros((48, 40), np.uint16)
        reproject(
            rasterio.band(source, 1), again, dst_crs=UTM, dst_transform=Affine(*GRID),
            resampling=Resampling.bilinear,
        )  # fmt: skip
        np.testing.assert_array_equal(read(folder, "s2")[1], again)


def test_gaps_take_no_part_in_interpolation(stac: Site) -> None:
    """A constant 20 m band with a gap: constant or nothing, and what has data stays data."""
    item = stac.s2()
    pixels = np.full((80, 80), 700, np.uint16)
    pixels[20:22, 30:32] = 0
    cog(stac.folder / item["assets"]["B11"]["href"].rpartition("/")[2], pixels, 20, nodata=0)
    folder, rows = fetched(stac, coverage=0.9)
    layer = read(folder, "s2")[1]
    assert set(np.unique(layer)) == {0, 700}
    assert (layer == 0).sum() == 16 and (layer[10:14, 20:24] == 0).all()
    assert float(rows["dw_0", "s2"]["valid"]) == pytest.approx(1 - 16 / 1920, abs=1e-6)


class TestOffset:
    """Digital numbers of new baselines are 1000 too high; each catalogue says so in its way."""

    @pytest.mark.parametrize(
        ("rule", "properties", "stated", "shift", "text"),
        [
            ("baseline", {"baseline": "02.13"}, {}, 0, "s2:processing_baseline 02.13: 0"),
            ("baseline", {"baseline": "03.99"}, {}, 0, "s2:processing_baseline 03.99: 0"),
            ("baseline", {"baseline": "04.00"}, {}, 1000, "s2:processing_baseline 04.00: -1000"),
            ("baseline", {"baseline": "05.10"}, {}, 1000, "s2:processing_baseline 05.10: -1000"),
            (
                "earth-search",
                {"baseline": "05.10", "earthsearch:boa_offset_applied": True},
                {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]},
                0,
                "earthsearch:boa_offset_applied true: 0",
            ),
            (
                "earth-search",
                {"baseline": "05.10", "earthsearch:boa_offset_applied": False},
                {},
                1000,
                "s2:processing_baseline 05.10: -1000",
            ),
            ("earth-search", {"baseline": "02.13"}, {}, 0, "s2:processing_baseline 02.13: 0"),
            (
                "bands",
                {"baseline": "02.13"},
                {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]},
                1000,
                "raster:bands: scale 0.0001, offset -0.1",
            ),
            (
                "bands",
                {"baseline": "05.10"},
                {"bands": [{"raster:scale": 1e-4, "raster:offset": 0}]},
                0,
                "raster:offset: scale 0.0001, offset 0",
            ),
            (
                "bands",
                {"baseline": "05.10"},
                {"raster:scale": 1e-4, "raster:offset": -0.1},
                1000,
                "raster:offset: scale 0.0001, offset -0.1",
            ),
            ("none", {"baseline": "05.10"}, {}, 0, "none: reflectance x 10,000"),
        ],
    )
    def test_rules(self, stac: Site, rule, properties, stated, shift, text) -> None:
        stac.s2(**properties, stated=stated, shift=shift)
        folder, rows = fetched(stac, catalogue={"offset": rule})
        np.testing.assert_array_equal(read(folder, "s2")[0], numbers("B02", 160)[ROWS, COLS])
        assert rows["dw_0", "s2"]["offset"] == text

    def test_never_by_date(self, stac: Site) -> None:
        """A reprocessed scene of 2019 has the offset."""
        stac.s2(baseline="05.00")
        folder, _ = fetched(stac)
        np.testing.assert_array_equal(read(folder, "s2")[0], numbers("B02", 160)[ROWS, COLS])

    def test_dark_pixels_stay_data(self, stac: Site) -> None:
        """Numbers a little below the offset, as over water, become 1, not 0: 0 is no data."""
        stac.s2(baseline="05.00", shift=750)
        folder, rows = fetched(stac)
        expected = np.maximum(numbers("B02", 160)[ROWS, COLS] - 250, 1)
        assert 10 < (expected == 1).sum() < 100
        np.testing.assert_array_equal(read(folder, "s2")[0], expected)
        assert float(rows["dw_0", "s2"]["valid"]) == 1

    @pytest.mark.parametrize(
        ("rule", "text"),
        [("baseline", "no s2:processing_baseline"), ("bands", "states no scale and offset")],
    )
    def test_a_scene_that_does_not_say_is_not_used(self, stac: Site, rule: str, text: str) -> None:
        del stac.s2()["properties"]["s2:processing_baseline"]
        row = row_of(stac, "s2", catalogue={"offset": rule})
        assert row["outcome"] == "unusable scene" and text in row["reason"]


class TestSentinel2Scene:
    def test_other_level_and_baseline_are_the_same_scene(self, stac: Site) -> None:
        """The newest baseline counts, whatever the order of the answer."""
        names = [f"S2A_MSIL2A_20190701T103031_R108_T33TWL_20{year}" for year in (19, 24, 21)]
        for name, baseline in zip(names, ("02.13", "05.10", "03.00"), strict=True):
            stac.s2(f"{name}1231T000000", baseline)
        row = row_of(stac, "s2")
        assert row["items"] == f"{names[1]}1231T000000"

    def test_equal_baselines(self, stac: Site) -> None:
        """The time of making decides, then the id."""
        for number, made in ((1, "2020-01-01"), (2, "2021-01-01"), (3, "2021-01-01")):
            stac.s2(f"S2A_MSIL2A_20190701T103031_R108_T33TWL_{number}", **{
                "s2:generation_time": made
            })  # fmt: skip
        stac.items.reverse()
        assert row_of(stac, "s2")["items"].endswith("_2")

    def test_names_of_a_catalogue_of_its_own(self, stac: Site) -> None:
        """As Earth Search has them: the tile's own time, the datatake in a property."""
        stac.s2("S2A_33TWL_20190701_0_L2A", **{
            "datetime": "2019-07-01T10:40:12.500Z",
            "s2:mgrs_tile": None,
            "grid:code": "MGRS-33TWL",
            "s2:datatake_id": "GS2A_20190701T103031_020990_N02.13",
        })  # fmt: skip
        stac.s2("S2A_33TWL_20190701_1_L2A", **{
            "datetime": "2019-07-01T10:40:12.500Z",
            "s2:datatake_id": "GS2A_20190701T102131_020990_N02.13",
        })  # fmt: skip
        assert row_of(stac, "s2")["items"] == "S2A_33TWL_20190701_0_L2A"

    def test_without_a_datatake_the_time_must_be_near(self, stac: Site) -> None:
        item = stac.s2("S2A_33TWL_a", **{"datetime": "2019-07-01T10:40:12Z"})
        assert row_of(stac, "s2")["items"] == "S2A_33TWL_a"
        tile = Tile("a", UTM, Affine(*GRID), 48, 40, PRODUCT, "2019-07-01")
        assert sentinel2(tile, [item]) == [[item]]
        for time in ("2019-07-01T10:20:12Z", "2019-07-01T11:40:12Z"):  # of a careless catalogue
            item["properties"]["datetime"] = time
            assert sentinel2(tile, [item]) == []

    @pytest.mark.parametrize(
        "changed",
        [
            {"s2:mgrs_tile": "33TWM"},
            {"item_id": "S2A_MSIL2A_20190701T103032_R108_T33TWL_1"},
            {"datetime": "2019-07-02T10:30:31Z"},
        ],
    )
    def test_another_scene_is_none(self, stac: Site, changed: dict) -> None:
        stac.s2(**changed)
        row = row_of(stac, "s2")
        assert row["outcome"] == "no scene" and PRODUCT in row["reason"] and not row["items"]

    def test_an_id_of_earth_engine(self, stac: Site) -> None:
        stac.s2()
        frame = tiles(product="20190701T103031_20190701T103025_T33TWL")
        assert fetched(stac, frame)[1]["dw_0", "s2"]["outcome"] == "ok"

    def test_an_id_that_says_nothing(self, stac: Site) -> None:
        stac.s2()
        assert fetched(stac, tiles(product="unknown"))[1]["dw_0", "s2"]["outcome"] == "no scene"

    def test_without_product_any_scene_of_the_day_that_covers(self, stac: Site) -> None:
        stac.s2("S2A_MSIL2A_20190701T103031_R108_T33TWM_1", **{"proj:epsg": 32632})
        stac.s2("S2A_MSIL2A_20190701T103031_R108_T33TWL_1", **{"proj:code": UTM})
        stac.s2("S2A_MSIL2A_20190702T103031_R108_T33TWL_1", datetime="2019-07-02T10:30:31Z")
        beside = stac.s2("S2A_MSIL2A_20190701T103031_R108_T33TWK_1", "05.00")  # the newest
        beside["geometry"] = outline((60, 160))
        row = fetched(stac, tiles(product=None))[1]["dw_0", "s2"]
        assert row["items"] == "S2A_MSIL2A_20190701T103031_R108_T33TWL_1"  # the tile's zone

    def test_a_half_empty_granule_is_followed_by_the_other(self, stac: Site) -> None:
        """Two granules of one datatake; the first has data for few of the tile's pixels."""
        first = stac.s2("S2A_33TWL_20190701_0_L2A")
        stac.s2("S2A_33TWL_20190701_1_L2A")
        pixels = numbers("B02", 160)
        pixels[40:] = 0
        name = first["assets"]["B02"]["href"].rpartition("/")[2]
        cog(stac.folder / name, pixels.astype(np.uint16), 10, nodata=0)
        row = row_of(stac, "s2")
        assert row["outcome"] == "ok" and row["items"] == "S2A_33TWL_20190701_1_L2A"
        assert stac.asked[f"/data/{first['id']}_B11.tif"] == 0  # read no further
        stac.items.pop()
        row = row_of(stac, "s2", days=14)
        assert row["outcome"] == "too little coverage" and "20.8% of the pixels" in row["reason"]
        assert float(row["valid"]) == pytest.approx(10 / 48, abs=1e-6) and not row["sha256"]

    def test_an_asset_of_many(self, stac: Site) -> None:
        """s3:// cannot be read; Copernicus gives the https address beside it."""
        item = stac.s2()
        for asset in item["assets"].values():
            asset["alternate"] = {"https": {"href": asset["href"]}}
            asset["href"] = "s3://eodata/there"
        assert row_of(stac, "s2")["outcome"] == "ok"
        for asset in item["assets"].values():
            del asset["alternate"]
        assert "no http(s) address" in row_of(stac, "s2", days=14)["reason"]


class TestSentinel1Scene:
    def test_the_nearest_before_or_after(self, stac: Site) -> None:
        for number, days in enumerate((5.0, -1.5, 2.0, 14.9)):
            stac.s1(days=days, orbit=100 + number)
        row = row_of(stac, "s1")
        assert row["days"] == "1.5000" and "_000101_" in row["items"]

    def test_ties_are_broken_by_id(self, stac: Site) -> None:
        stac.s1(days=2, item_id="b_IW_", orbit=5)
        stac.s1(days=-2, item_id="a_IW_", orbit=4)
        assert row_of(stac, "s1")["items"] == "a_IW_"

    def test_no_more_days_than_that(self, stac: Site) -> None:
        stac.s1(days=-15.01)
        stac.s1(days=15.01)
        row = row_of(stac, "s1")
        assert row["outcome"] == "no scene" and "none is IW, VV+VH" in row["reason"]
        assert row_of(stac, "s1", days=16)["outcome"] == "ok"

    @pytest.mark.parametrize(
        "changed",
        [{"sar:instrument_mode": "EW"}, {"sar:polarizations": ["VV"]}],
    )
    def test_other_modes_and_polarisations(self, stac: Site, changed: dict) -> None:
        stac.s1(days=1, **changed)
        stac.s1(days=3, orbit=3)
        assert "_000003_" in row_of(stac, "s1")["items"]

    def test_a_pass_beside_the_tile(self, stac: Site) -> None:
        """Its footprint says so: nothing of it is read."""
        beside = stac.s1(days=1, orbit=1, rows=(60, 160))
        row = row_of(stac, "s1")
        assert row["outcome"] == "no coverage" and "none covers the tile" in row["reason"]
        assert stac.asked[f"/data/{beside['id']}_VV.tif"] == 0
        stac.s1(days=-9, orbit=2)
        assert row_of(stac, "s1", days=14)["days"] == "9.0000"

    def test_a_footprint_that_promises_too_much(self, stac: Site) -> None:
        stac.s1(days=1, orbit=1, rows=(0, 60))["geometry"] = stac.s1(days=20)["geometry"]
        row = row_of(stac, "s1")
        assert row["outcome"] == "too little coverage" and "_000001_" in row["items"]
        assert float(row["valid"]) == pytest.approx(30 / 48, abs=1e-6)
        stac.s1(days=-9, orbit=2)
        assert row_of(stac, "s1", days=14)["days"] == "9.0000"

    def test_two_slices_of_one_pass_are_joined(self, stac: Site) -> None:
        """The seam lies within the tile; every pixel is from the slice that has it."""
        second = 25 / 86_400
        for number, rows in enumerate([(0, 50), (50, 160)]):
            stac.s1(days=2 + number * second, rows=rows, item_id=f"slice_IW_{number}")
        stac.s1(days=4, orbit=3)
        folder, rows = fetched(stac)
        row = rows["dw_0", "s1"]
        assert row["items"] == "slice_IW_0 slice_IW_1" and row["days"] == "2.0000"
        assert len(row["hrefs"].split()) == 4 and float(row["valid"]) == 1
        expected = 10 * np.log10(power("VV", 27_000)[ROWS, COLS].astype(float))
        np.testing.assert_array_equal(read(folder, "s1")[0], expected.astype(np.float32))

    @pytest.mark.parametrize("other", [{"platform": "SENTINEL-1B"}, {"orbit": 27_001}, {"days": 3}])
    def test_slices_of_two_passes_are_not(self, stac: Site, other: dict) -> None:
        stac.s1(days=2, rows=(0, 50), item_id="slice_IW_0")
        stac.s1(**({"days": 2 + 25 / 86_400, "rows": (50, 160), "item_id": "slice_IW_1"} | other))
        assert row_of(stac, "s1")["outcome"] == "no coverage"

    def test_a_slice_that_is_not_needed_is_not_read(self, stac: Site) -> None:
        stac.s1(days=2, item_id="slice_IW_0")
        stac.s1(days=2 + 25 / 86_400, item_id="slice_IW_1")
        assert row_of(stac, "s1")["items"] == "slice_IW_0"
        assert stac.asked["/data/slice_IW_1_VV.tif"] == 0

    def test_a_plain_grd_is_refused(self, stac: Site) -> None:
        item = stac.s1()
        for asset in item["assets"].values():
            ground_control(stac.folder / asset["href"].rpartition("/")[2])
        row = row_of(stac, "s1")
        assert row["outcome"] == "unusable scene"
        assert "ground control points instead of a grid" in row["reason"]
        stac.s1(days=5, orbit=5)  # a farther one that can be used is
        assert row_of(stac, "s1", days=14)["days"] == "5.0000"

    def test_no_power_is_no_data(self, stac: Site) -> None:
        item = stac.s1()
        pixels = power("VV", 27_000)
        pixels[40, 50], pixels[41, 51], pixels[42, 52] = 0, -1e-3, np.nan
        name = item["assets"]["VV"]["href"].rpartition("/")[2]
        cog(stac.folder / name, pixels, 10, nodata=-32768)
        folder, rows = fetched(stac)
        layer = read(folder, "s1")[0]
        assert np.isnan(layer).sum() == 3 and np.isnan(layer[10, 10])
        assert float(rows["dw_0", "s1"]["valid"]) == pytest.approx(1 - 3 / 1920, abs=1e-6)


def test_nothing_found(stac: Site) -> None:
    _, rows = fetched(stac)
    assert {row["outcome"] for row in rows.values()} == {"no scene"}
    assert all(row["reason"].startswith("0 items from 2019-0") for row in rows.values())


def test_results_of_many_pages(stac: Site) -> None:
    """The nearest scene is on the last of them."""
    stac.page = 2
    for number in range(7):
        stac.s1(days=8 - number, orbit=number)
    assert row_of(stac, "s1")["days"] == "2.0000"
    assert sum("token" in query for query in stac.queries) == 3


def test_the_search_asks_for_place_and_time_only(stac: Site) -> None:
    fetched(stac)
    queries = {query["collections"][0]: query for query in stac.queries}
    assert queries["s1-rtc"]["datetime"] == "2019-06-16T10:30:31Z/2019-07-16T10:30:31Z"
    west, north = map(float, np.array(queries["s2-l2a"]["intersects"]["coordinates"])[0, 3])
    x, y = transform("EPSG:4326", UTM, [west], [north])
    assert (x[0], y[0]) == pytest.approx((GRID[2], GRID[5]), abs=0.05)


def test_only_what_is_needed_is_read(stac: Site) -> None:
    """A tile in a corner of a large scene costs the header and its blocks."""
    item = stac.s2()
    rng = np.random.default_rng(0)
    name = item["assets"]["B02"]["href"].rpartition("/")[2]
    cog(stac.folder / name, rng.integers(1, 9000, (3000, 3000)).astype(np.uint16), 10, nodata=0)
    fetched(stac)
    whole = (stac.folder / name).stat().st_size
    assert stac.sizes[f"/data/{name}"] < 200_000 < whole / 50
    assert stac.asked[f"/data/{name}"] <= 4


def test_tiles_of_other_shapes(stac: Site) -> None:
    stac.s2()
    frame = tiles(1, height=31, width=17)
    folder, _ = fetched(stac, frame)
    assert read(folder, "s2").shape == (2, 31, 17)


def test_the_same_bytes_in_any_order(stac: Site) -> None:
    stac.s2()
    stac.s1()
    store = stac.folder.parent / "store"

    def files(parallel: int) -> dict[str, bytes]:
        shutil.rmtree(store, ignore_errors=True)
        folder = fetch_imagery(
            tiles(4),
            choice(stac),
            store,
            bands=BANDS,
            parallel=parallel,
            pause=0.01,
            progress=False,
        )
        found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}

    once = files(1)
    stac.items.reverse()
    assert files(4) == once
    assert len(once) == 1 + 2 * 8  # the table, an image and an outcome for each


@pytest.mark.parametrize("names", [["a", "a"], ["../a"], [""], ["a/b"], [".a"]])
def test_names_of_tiles(stac: Site, names: list[str]) -> None:
    frame = pd.concat([tiles().assign(name=name) for name in names])
    with pytest.raises(UserError, match="tile "):
        fetch_imagery(frame, choice(stac), stac.folder.parent / "store", progress=False)


def test_jpeg_2000(stac: Site) -> None:
    """As Copernicus has them, lossless."""
    item = stac.s2(bands=("B02",))
    name = item["assets"]["B02"]["href"].rpartition("/")[2]
    rasterio.shutil.copy(
        stac.folder / name, stac.folder / "b02.jp2", driver="JP2OpenJPEG", quality=100,
        reversible=True,
    )  # fmt: skip
    item["assets"]["B02"]["href"] = f"{stac.url}/data/b02.jp2"
    folder, rows = fetched(stac, bands={"s1": ["VV"], "s2": ["B02"]})
    assert rows["dw_0", "s2"]["hrefs"].endswith("/b02.jp2")
    np.testing.assert_array_equal(read(folder, "s2")[0], numbers("B02", 160)[ROWS, COLS])
