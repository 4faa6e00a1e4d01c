"""Items that say the wrong thing of their numbers: the truth, or an outcome of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import map_coordinates

from helpers.imagery import COLS, ROWS, centres, fetched, read
from helpers.stac_server import Site, cog, numbers, power, tiles
from mmfl.fetch.stac.values import (
    SHIFT,
    Doubtful,
    Meaning,
    Settled,
    baseline,
    meaning,
    no_power,
    settle,
)

FLAG = "earthsearch:boa_offset_applied"
MINUS, ZERO = ({"raster:bands": [{"scale": 1e-4, "offset": offset}]} for offset in (-0.1, 0))
NAME = "S2A_MSIL2A_20190701T103031_N{}_R108_T33TWL_20231231T000000"
DARK = numbers("B02", 160)


def truth(site: Site, **changed: object) -> tuple[str, str, bool]:
    """Outcome, reason, and whether the pixels (if any) are the reflectance that was put in."""
    folder, rows = fetched(site, **changed)
    row = rows["dw_0", "s2"]
    if row["outcome"] != "ok":
        return row["outcome"], row["reason"], False
    right = np.array_equal(read(folder, "s2")[0], DARK[ROWS, COLS])
    return "ok", row["reason"], right


CONTRADICTED = {
    "false, but it was": ("earth-search", {"baseline": "05.09", "shift": 0, FLAG: False}),
    "false as text": ("earth-search", {"baseline": "05.09", "shift": 0, FLAG: "false"}),
    "no flag, but it was": ("earth-search", {"baseline": "04.00", "shift": 0}),
    "null, but it was": ("earth-search", {"baseline": "04.00", "shift": 0, FLAG: None}),
    "true, but it was not": ("earth-search", {"baseline": "05.09", "shift": 1000, FLAG: True}),
    "true, not, and bands": (
        "earth-search", {"baseline": "05.09", "shift": 1000, FLAG: True, "stated": MINUS},
    ),
    "baseline 0510": ("baseline", {"baseline": "0510", "shift": 0}),
    "planetary": ("baseline", {"baseline": "05.00", "shift": 0}),
    "bands, but it was": ("bands", {"baseline": "05.09", "shift": 0, "stated": MINUS}),
    "bands 0, but it was not": ("bands", {"baseline": "05.09", "shift": 1000, "stated": ZERO}),
    "named new, stated old": (
        "baseline", {"item_id": NAME.format("0510"), "baseline": "02.13", "shift": 1000},
    ),
    "offset in numbers": (
        "bands",
        {"baseline": "05.09", "stated": {"raster:bands": [{"scale": 1e-4, "offset": -1000}]}},
    ),
    "a positive offset": (
        "bands", {"shift": 0, "stated": {"raster:bands": [{"scale": 1e-4, "offset": 0.1}]}},
    ),
    "scale 1": ("bands", {"stated": {"raster:bands": [{"scale": 1, "offset": 0}]}}),
    "scale 1e-8": ("bands", {"stated": {"raster:bands": [{"scale": 1e-8, "offset": 0}]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTED)
def test_pixels_contradict(stac: Site, case: str) -> None:
    """No image, an outcome that says why; another scene of the product is taken if there is one."""
    rule, given = CONTRADICTED[case]
    item = stac.s2(**given)
    chosen = {"catalogue": {"offset": rule}}
    outcome, reason, _ = truth(stac, **chosen)
    assert outcome == "doubtful values" and item["id"] in reason and "but" in reason
    shift = 1000 if rule == "bands" else 0
    stac.s2("S2A_MSIL2A_20190701T103031_R108_T33TWL_0", "02.00", shift=shift,
            stated=MINUS if shift else {})  # fmt: skip
    outcome, reason, right = truth(stac, days=14, **chosen)
    assert (outcome, right) == ("ok", True) and item["id"] in reason  # it is told all the same


AGREED = {
    "true, and it was": ("earth-search", {"baseline": "05.09", "shift": 0, FLAG: True}, ""),
    "true as text": ("earth-search", {"baseline": "05.09", "shift": 0, FLAG: "True"}, ""),
    "false, and it was not": ("earth-search", {"baseline": "05.09", FLAG: False}, ""),
    "false before 04.00": ("earth-search", {"baseline": "02.13", FLAG: False}, ""),
    "true, and bands say else": (
        "earth-search", {"baseline": "05.09", "shift": 0, FLAG: True, "stated": MINUS},
        "raster:bands states offset -0.1, but",
    ),
    "reprocessed": ("baseline", {"baseline": "05.00"}, ""),
    "5.1": ("baseline", {"baseline": "5.1"}, ""),
    "0207": ("baseline", {"baseline": "0207", "shift": 0}, ""),
    "0510": ("baseline", {"baseline": "0510"}, ""),
    "N0400": ("baseline", {"baseline": "04.00", "s2:processing_baseline": "N0400"}, ""),
    "null, in the name": (
        "baseline",
        {"item_id": NAME.format("0510"), "baseline": "05.10", "s2:processing_baseline": None}, "",
    ),
    "null, in the uri": (
        "baseline",
        {"baseline": "05.10", "s2:processing_baseline": None,
         "s2:product_uri": NAME.format("0510") + ".SAFE"}, "",
    ),
    "null, in the version": (
        "baseline",
        {"baseline": "05.10", "s2:processing_baseline": None, "processing:version": "05.10"}, "",
    ),
    "copernicus": (
        "bands",
        {"item_id": NAME.format("0500"), "baseline": "05.00", "processing:version": "05.00",
         "stated": {"raster:scale": 1e-4, "raster:offset": -0.1}}, "",
    ),
    "bands 0, and it was": (
        "bands", {"baseline": "05.09", "shift": 0, "stated": ZERO}, "05.09, but",
    ),
    "bands -0.1, and it was": (
        "bands", {"baseline": "05.09", "shift": 0, "stated": MINUS, FLAG: True},
        "nothing is taken off",
    ),
    "old baseline, new bands": (
        "bands", {"baseline": "02.13", "shift": 1000, "stated": MINUS}, "nothing falls below zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AGREED)
def test_the_pixels_agree(stac: Site, case: str) -> None:
    """With the rule, or with another statement where two disagree, which then is told."""
    rule, given, told = AGREED[case]
    stac.s2(**given)
    outcome, reason, right = truth(stac, catalogue={"offset": rule})
    assert (outcome, right) == ("ok", True)
    assert told in reason and bool(told) == bool(reason)


@pytest.mark.parametrize("value", ["99.99", "9999", "N9999", "", "x", "0", "2019", None, True])
def test_no_baseline(stac: Site, value: object) -> None:
    """99.99 is that of whoever runs the processor himself, of which no one knows the offset."""
    stac.s2(**{"s2:processing_baseline": value})
    assert truth(stac)[0] == "unusable scene"


@pytest.mark.parametrize(("value", "number"), [
    ("05.10", 5.10), ("5.1", 5.10), ("05.09", 5.09), ("0510", 5.10), ("N0510", 5.10), (5.1, 5.10),
    (510, 5.10), ("510", 5.10), ("04.00", 4.0), ("4", 4.0), (4, 4.0), ("04", 4.0), ("02.07", 2.07),
    ("0207", 2.07), (207, 2.07), (" 03.99 ", 3.99), ("99.99", None), ("1.2.3", None),
    (float("nan"), None), ([], None), (None, None), ("-5", None),
])  # fmt: skip
def test_baseline(value: object, number: float | None) -> None:
    assert baseline(value) == (None if number is None else pytest.approx(number))


def test_the_newest_baseline_goes_first(stac: Site) -> None:
    """By its number, not by its text: 10.00 is newer than 5.11."""
    for last, text in ((1, "0511"), (2, "10.00"), (3, "5.10")):
        stac.s2(f"S2A_MSIL2A_20190701T103031_R108_T33TWL_{last}", "05.00",
                **{"s2:processing_baseline": text})  # fmt: skip
    assert fetched(stac)[1]["dw_0", "s2"]["items"].endswith("_2")


def test_a_bright_desert_of_an_old_baseline(stac: Site) -> None:
    """No pixel below 0.1, and nothing says that there is an offset: it is what it is."""
    stac.s2(baseline="02.13", shift=1000)
    assert truth(stac)[0] == "ok"
    assert truth(stac, days=14, catalogue={"offset": "earth-search"})[0] == "ok"


def test_the_users_word(stac: Site) -> None:
    """`none`: whoever knows better says so."""
    stac.s2(baseline="05.09", shift=0, **{FLAG: False})
    assert truth(stac, catalogue={"offset": "none"}) == ("ok", "", True)


def test_doubtful_values_are_logged(stac: Site, caplog: pytest.LogCaptureFixture) -> None:
    stac.s2(baseline="05.09", shift=0)
    stac.s1()
    with caplog.at_level(logging.WARNING):
        fetched(stac)
    assert "1 of 2 images: doubtful values" in caplog.text


@pytest.mark.parametrize("shift", [0, 1000])
def test_an_offset_that_one_band_alone_states(stac: Site, shift: int) -> None:
    """The other band is 1000 too high, or this one too low: the pixels tell, or it is not used."""
    item = stac.s2(baseline="05.09", shift=shift, stated=ZERO)
    item["assets"]["B02"] |= MINUS
    outcome, reason, right = truth(stac, catalogue={"offset": "bands"})
    if shift:
        assert outcome == "doubtful values" and "below 0.1" in reason
    else:
        assert (outcome, right) == ("ok", True) and "nothing is taken off" in reason


def test_a_dark_lake_is_no_contradiction() -> None:
    """Water that is a little below zero everywhere, as after too strong a correction."""
    rng = np.random.default_rng(0)
    lake = {band: rng.integers(920, 1040, (40, 50)) for band in ("B02", "B11")}
    told = Meaning(1e-4, -SHIFT, "x")
    found = settle({"id": "a"}, lake, dict.fromkeys(lake, told))
    assert (found.pixels["B02"] == np.maximum(lake["B02"] - 1000, 1)).all() and not found.note


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_a_few_per_cent_are_the_limit(share: float) -> None:
    """By hand: of 10,000 pixels so many lie 0.05 below zero, in one band."""
    pixels = np.full((100, 100), 2000)
    pixels.flat[: int(share * 10_000)] = 500
    given = {"B02": np.full((100, 100), 2000), "B11": pixels}

    def settled() -> Settled:
        return settle({"id": "a"}, given, dict.fromkeys(given, Meaning(1e-4, -SHIFT, "x")))

    if share > 0.02:
        with pytest.raises(Doubtful, match=f"{share:.1%} of B11 would be below zero"):
            settled()
    else:
        assert (settled().pixels["B11"] == np.maximum(pixels - 1000, 1)).all()


def test_gaps_are_no_dark_pixels() -> None:
    """Half of the tile is 0, no data: neither dark nor clipped."""
    pixels = np.full((10, 10), 1500)
    pixels[:5] = 0
    found = settle({"id": "a"}, {"B02": pixels}, {"B02": Meaning(1e-4, -SHIFT, "x")})
    assert set(np.unique(found.pixels["B02"])) == {0, 500}


def test_real_scenes(samples: Path) -> None:
    """TerraMesh: one scene has the offset, two have not. Only the right statement is believed."""
    verdicts = {}
    for path in sorted((samples / "terramesh-sample/S2L2A").glob("*.tif")):
        with rasterio.open(path) as source:
            bands = {f"{i}": layer for i, layer in enumerate(source.read())}
        for text in ("02.13", "05.00"):
            item = {"id": "a", "properties": {"s2:processing_baseline": text}, "assets": {"x": {}}}
            means = dict.fromkeys(bands, meaning(item, "x", "baseline"))
            flagged = {**item, "properties": {**item["properties"], FLAG: True}}
            taken = dict.fromkeys(bands, meaning(flagged, "x", "earth-search"))
            for name, one in ((text, means), (f"{text} taken off", taken)):
                try:
                    settle(item, bands, one)
                    verdicts.setdefault(path.name[:4], []).append(name)
                except Doubtful:
                    pass
    assert verdicts == {
        "282D": ["02.13", "02.13 taken off", "05.00 taken off"],
        "433D": ["02.13", "02.13 taken off", "05.00"],
        "637U": ["02.13", "02.13 taken off", "05.00 taken off"],
    }


class TestRadar:
    """Values that are not what `s1_unit` says, and gaps that the file does not state."""

    def put(self, site: Site, change: Callable[[np.ndarray], np.ndarray], **more: object) -> dict:
        item = site.s1(**more)
        for band in ("VV", "VH"):
            values = change(power(band, 27_000))
            cog(site.folder / f"{item['id']}_{band}.tif", values, 10, nodata=-32768)
        return item

    @pytest.mark.parametrize(("unit", "change"), [
        ("linear", lambda p: 10 * np.log10(p)),
        ("dB", lambda p: p),
        ("linear", lambda p: (np.sqrt(p) * 1000).astype(np.float32)),  # a plain GRD's amplitude
        ("dB", lambda p: (1000 * np.log10(p)).astype(np.int16)),  # hundredths of dB
        ("dB", lambda p: 10 * np.log10(p) + 100),
    ])  # fmt: skip
    def test_another_unit(self, stac: Site, unit: str, change: Callable) -> None:
        """Refused, and the farther pass is taken, which has the right one."""
        item = self.put(stac, change, days=1)
        chosen = {"catalogue": {"s1_unit": unit}}
        row = fetched(stac, **chosen)[1]["dw_0", "s1"]
        assert row["outcome"] == "doubtful values" and "correct s1_unit" in row["reason"]
        assert item["id"] in row["reason"]
        right = (lambda p: p) if unit == "linear" else (lambda p: 10 * np.log10(p))
        self.put(stac, right, days=5, orbit=5)
        folder, rows = fetched(stac, days=14, **chosen)
        assert (rows["dw_0", "s1"]["outcome"], rows["dw_0", "s1"]["days"]) == ("ok", "5.0000")
        expected = 10 * np.log10(power("VV", 27_000)[ROWS, COLS].astype(float))
        np.testing.assert_allclose(read(folder, "s1")[0], expected, rtol=1e-5)

    @pytest.mark.parametrize(("unit", "stated"), [("linear", "dB"), ("dB", "linear")])
    def test_the_asset_states_another(self, stac: Site, unit: str, stated: str) -> None:
        change = (lambda p: p) if unit == "linear" else (lambda p: 10 * np.log10(p))
        item = self.put(stac, change)
        item["assets"]["VV"]["raster:bands"] = [{"unit": stated}]
        row = fetched(stac, catalogue={"s1_unit": unit})[1]["dw_0", "s1"]
        assert row["outcome"] == "doubtful values" and "states unit" in row["reason"]

    @pytest.mark.parametrize("unit", ["linear", "dB"])
    @pytest.mark.parametrize("fill", [0, -9999, -32768, -np.inf, np.nan])
    @pytest.mark.parametrize("nodata", [None, -1234.0])
    def test_gaps_that_are_not_stated(self, stac: Site, unit: str, fill: float, nodata) -> None:
        """A border is a gap; what lies beside it in another zone is not mixed with it."""
        item = stac.s1(crs="EPSG:32632")
        name = f"{item['id']}_VV.tif"
        with rasterio.open(stac.folder / name) as source:
            values, profile = source.read(1), source.profile
        values = np.where(values > 0, 0.05, fill)
        values[: len(values) // 3] = fill
        if unit == "dB":
            values = np.where(values == 0.05, -13.0, values)
        profile = {k: profile[k] for k in ("crs", "transform", "height", "width", "count", "dtype")}
        for band in ("VV", "VH"):
            path = stac.folder / f"{item['id']}_{band}.tif"
            with rasterio.open(path, "w", driver="GTiff", nodata=nodata, **profile) as target:
                target.write(values.astype(np.float32), 1)
        folder, _ = fetched(stac, coverage=0.2, catalogue={"s1_unit": unit})
        found = read(folder, "s1")[0]
        known = found[np.isfinite(found)]
        assert 0.2 < known.size / found.size < 0.9
        np.testing.assert_allclose(
            known, 10 * np.log10(0.05) if unit == "linear" else -13, atol=1e-5
        )

    def test_no_power(self) -> None:
        values = np.array([1.0, 0.0, -1.0, np.nan, np.inf, -np.inf, -9999, -32768], np.float32)
        assert no_power(values, "linear").tolist() == [False] + [True] * 7
        assert no_power(values, "dB").tolist() == [False, True, False] + [True] * 5


def test_zeros_beside_another_nodata(stac: Site) -> None:
    """Sentinel-2 with nodata 65535 whose border is 0: both are gaps, and mixed with nothing."""
    item = stac.s2()
    for band, size in (("B02", 10), ("B11", 20)):
        pixels = np.full((1600 // size,) * 2, 700)
        pixels[: 400 // size] = 0
        pixels[400 // size : 500 // size] = 65535
        cog(stac.folder / f"{item['id']}_{band}.tif", pixels.astype(np.uint16), size, nodata=65535)
    folder, _ = fetched(stac, coverage=0.2)
    for layer in read(folder, "s2"):
        assert set(np.unique(layer)) == {0, 700} and (layer[:20] == 0).all()
        assert (layer[20:] == 700).all()


def test_reflectance_as_fractions(stac: Site) -> None:
    """float32 with NaN in gaps, scale 1."""
    item = stac.s2(stated={"raster:bands": [{"scale": 1, "offset": 0}]})
    for band, size in (("B02", 10), ("B11", 20)):
        values = (numbers(band, 1600 // size) / 10_000).astype(np.float32)
        values[: 320 // size] = np.nan
        cog(stac.folder / f"{item['id']}_{band}.tif", values, size, nodata=None)
    folder, _ = fetched(stac, coverage=0.9, catalogue={"offset": "bands"})
    found = read(folder, "s2")
    np.testing.assert_array_equal(found[0][2:], DARK[32:78, COLS])
    assert (found[:, :2] == 0).all()
    expected = map_coordinates(numbers("B11", 80).astype(float), centres(20), order=1)
    np.testing.assert_allclose(found[1][4:], expected[4:], atol=0.51)


@pytest.mark.parametrize("kind", ["uint8", "complex64"])
def test_pictures(stac: Site, kind: str) -> None:
    """A preview has no reflectance."""
    item = stac.s2()
    path = stac.folder / f"{item['id']}_B02.tif"
    with rasterio.open(path) as source:
        profile = {key: source.profile[key] for key in ("crs", "transform", "height", "width")}
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype=kind, **profile) as target:
        target.write((DARK // 12).astype(kind), 1)
    assert truth(stac)[:2] == (
        "unusable scene", f"{item['id']} has pixels of {kind}, a picture or no intensity",
    )  # fmt: skip


class TestHuge:
    """A header alone can ask for any amount of memory."""

    def header(self, path: Path, **given: object) -> None:
        """A sparse GeoTIFF: its blocks are said to be there, and take no room."""
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "crs": "EPSG:32633",
                   "nodata": 0, "SPARSE_OK": "TRUE", "compress": "deflate"}  # fmt: skip
        with rasterio.open(path, "w", **(profile | given)):
            pass

    def test_blocks(self, stac: Site) -> None:
        item = stac.s2()
        grid = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
        self.header(
            stac.folder / f"{item['id']}_B02.tif", height=40_000, width=40_000, transform=grid,
            tiled=True, blockxsize=32_768, blockysize=32_768,
        )  # fmt: skip
        outcome, reason, _ = truth(stac)
        assert outcome == "unusable scene" and "blocks of 1,073,741,824 pixels" in reason

    def test_pixels_under_the_tile(self, stac: Site) -> None:
        """Pixels of a centimetre."""
        item = stac.s2()
        grid = rasterio.transform.from_origin(500_000, 5_000_000, 0.01, 0.01)
        self.header(
            stac.folder / f"{item['id']}_B02.tif", height=200_000, width=200_000, transform=grid,
            tiled=True, blockxsize=256, blockysize=256,
        )  # fmt: skip
        outcome, reason, _ = truth(stac)
        assert outcome == "unusable scene" and "pixels under the tile" in reason

    def test_a_block_that_claims_to_be_long(self, stac: Site) -> None:
        """Its length in the header is of more bytes than a block can have."""
        item = stac.s2()
        path = stac.folder / f"{item['id']}_B02.tif"
        cog(path, DARK.astype(np.uint16), 10, nodata=0, pack="none")
        data = bytearray(path.read_bytes())
        length = (128 * 128 * 2).to_bytes(4, "little")
        assert data.count(length) >= 4
        path.write_bytes(data.replace(length, (1 << 31).to_bytes(4, "little")))
        assert truth(stac)[0] == "unusable scene"


@pytest.mark.parametrize("time", [
    "2019-07-01T10:30:60Z", "2019-07-01t10:30:31.024123456z", "2019-07-01 10:30:31 UTC",
    "2019-07-01T10:30:31", "2019-07-01T12:30:31+02:00", "2019-07-01T10:30:31,5Z",
])  # fmt: skip
def test_odd_times(stac: Site, time: str) -> None:
    """A leap second, more digits than Python has, no zone: still times."""
    properties = stac.s2()["properties"]
    del properties["datetime"]
    properties["start_datetime"] = time
    row = fetched(stac)[1]["dw_0", "s2"]
    assert row["outcome"] == "ok" and row["datetime"].startswith("2019-07-01T10:3")


def test_a_tile_in_the_neighbouring_zone(stac: Site) -> None:
    """The label is in zone 32, the product in 33: against scipy on the pixels' coordinates."""
    from rasterio.warp import transform, transform_bounds

    stac.s2()
    west, _, _, north = transform_bounds(
        "EPSG:32633", "EPSG:32632", 500_400, 4_999_220, 500_800, 4_999_700
    )
    grid = (10, 0, west + 20, 0, -10, north - 40)
    folder, _ = fetched(stac, tiles(crs="EPSG:32632", transform=grid))
    rows, cols = np.mgrid[0:48, 0:40] + 0.5
    x, y = transform(
        "EPSG:32632", "EPSG:32633", grid[2] + 10 * cols.ravel(), grid[5] - 10 * rows.ravel()
    )
    where = [(5_000_000 - np.array(y)) / 10 - 0.5, (np.array(x) - 500_000) / 10 - 0.5]
    expected = map_coordinates(DARK.astype(float), where, order=1).reshape(48, 40)
    np.testing.assert_allclose(read(folder, "s2")[0], expected, atol=3)
