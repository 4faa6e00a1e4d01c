"""Items that are not what STAC says: each is judged alone, and no tile is without an outcome."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from helpers.imagery import fetched, row_of
from helpers.stac_server import Site, tiles
from mmfl.fetch.stac.catalogues import _is_whole

RING = [["15", "45"], ["16", "45"], ["16", "46"], ["15", "45"]]
IMPOSSIBLE = "S2A_MSIL1C_20191315T103031_N0207_R108_T33TWL_20191315T124051"


def put(*path: str, value: object) -> Callable[[dict], None]:
    """What sets a field of an item."""

    def change(item: dict) -> None:
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = value

    return change


S1 = {
    "no coordinates": put("geometry", "coordinates", value=[]),
    "odd type": put("geometry", "type", value="Blob"),
    "no type": put("geometry", value={"coordinates": []}),
    "words": put("geometry", "coordinates", value=[RING]),
    "nowhere": put("geometry", "coordinates", value=[[[15, 44], [1e300, 45], [16, 46], [15, 44]]]),
    "polarisations": put("properties", "sar:polarizations", value=5),
    "href": put("assets", "VV", "href", value=None),
    "address": put("assets", "VV", "href", value="http://[/x"),
    "no host": put("assets", "VV", "href", value="http://:1/x"),
    "text": put("assets", "VV", value="https://here"),
    "alternate": put("assets", "VV", value={"href": None, "alternate": "https://here"}),
    "no asset": put("assets", value={}),
}
S2 = {
    "null": put("assets", "B02", "raster:bands", value=[{"scale": None}]),
    "null offset": put("assets", "B02", "raster:bands", value=[{"scale": 1, "offset": None}]),
    "infinite": put("assets", "B02", "raster:bands", value=[{"scale": float("nan")}]),
    "a word": put("assets", "B02", "raster:bands", value=[{"scale": "x"}]),
    "words": put("assets", "B02", "raster:bands", value=["scale"]),
    "huge": put("assets", "B02", "raster:bands", value=[{"scale": 10**400}]),
    "mapping": put("assets", "B02", "raster:bands", value={"scale": 1}),
    "text": put("assets", "B02", value="https://here"),
    "no asset": put("assets", value={}),
    "no such day": put("id", value=IMPOSSIBLE),
}
STATED = {"raster:bands": [{"scale": 1e-4, "offset": 0}]}


@pytest.mark.parametrize("fault", S1)
def test_sentinel1(stac: Site, fault: str) -> None:
    """The nearer pass is malformed: the other is taken. Alone it is no scene or cannot be used."""
    S1[fault](stac.s1(days=1, orbit=1))
    assert row_of(stac, "s1")["outcome"] in ("no scene", "unusable scene")
    stac.s1(days=2, orbit=2)
    row = row_of(stac, "s1", days=14)
    assert (row["outcome"], row["days"]) == ("ok", "2.0000")


@pytest.mark.parametrize("fault", S2)
def test_sentinel2(stac: Site, fault: str) -> None:
    S2[fault](stac.s2(f"{IMPOSSIBLE.replace('1315', '0701')}_1", "02.14", stated=STATED))
    offset = {"catalogue": {"offset": "bands"}}
    assert row_of(stac, "s2", **offset)["outcome"] in ("no scene", "unusable scene")
    good = stac.s2(stated=STATED)
    row = row_of(stac, "s2", days=14, **offset)
    assert (row["outcome"], row["items"]) == ("ok", good["id"])


def test_the_reason_names_item_and_fault(stac: Site) -> None:
    item = stac.s1()
    item["assets"]["VV"] = "text"
    row = row_of(stac, "s1")
    assert row["outcome"] == "unusable scene"
    assert row["reason"].startswith(f"{item['id']}: malformed item (AttributeError: 'str' object")


def test_without_product(stac: Site) -> None:
    """The place is looked at, where the tile has no product."""
    stac.s2("S2A_T33TWL_9", "05.00")["geometry"]["coordinates"] = []
    good = stac.s2()
    row = fetched(stac, tiles(product=None))[1]["dw_0", "s2"]
    assert (row["outcome"], row["items"]) == ("ok", good["id"])


def test_a_product_of_no_day(stac: Site) -> None:
    """Of the label table: no scene has it; Sentinel-1 is searched from the tile's day."""
    stac.s2()
    stac.s1()
    frame = pd.concat([tiles(), tiles().assign(name="odd", product=IMPOSSIBLE)])
    _, rows = fetched(stac, frame)
    assert {key: row["outcome"] for key, row in rows.items()} == {
        ("dw_0", "s1"): "ok", ("dw_0", "s2"): "ok", ("odd", "s1"): "ok", ("odd", "s2"): "no scene",
    }  # fmt: skip


def test_whatever_else(stac: Site) -> None:
    """A tile whose day is none ends nothing; its outcome is kept."""
    stac.s2()
    stac.s1()
    frame = pd.concat([tiles(), tiles().assign(name="odd", product=None, date="2019-13-15")])
    _, rows = fetched(stac, frame)
    assert rows["dw_0", "s1"]["outcome"] == rows["dw_0", "s2"]["outcome"] == "ok"
    for q in ("s1", "s2"):
        assert rows["odd", q]["outcome"] == "unusable scene"
        assert rows["odd", q]["reason"].startswith("malformed item (ValueError: ")
    stac.asked.clear()
    assert fetched(stac, frame)[1] == rows and not stac.asked


WHOLE = {"id": "a", "geometry": {"coordinates": []}, "assets": {}}


@pytest.mark.parametrize("item", [
    "text", None, 5, [], {},
    *[WHOLE | {"properties": {"datetime": time}} for time in ("20191315T103031Z", 5, None, "x")],
])  # fmt: skip
def test_no_item_at_all(item: object) -> None:
    assert not _is_whole(item)
    assert _is_whole(WHOLE | {"properties": {"datetime": "20191215T103031Z"}})
