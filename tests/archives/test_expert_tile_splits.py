"""The splits of the expert tiles: no ground in two of them."""

from hashlib import sha256

import numpy as np
import pytest
from rasterio.warp import transform

from helpers.expert_tiles import ARCHIVE, Mini
from mmfl.archives.dynamicworld import blocks
from mmfl.archives.dynamicworld.files import Grid
from mmfl.archives.dynamicworld.location import located


@pytest.fixture
def mini(tmp_path):
    """A hundred expert tiles in a row of blocks, without a test tile."""
    mini = Mini(tmp_path / "dw")
    for n in range(100):
        mini.tile(-120.5 + n, 30.5, "20190615", ["Experts/WH/4", "Experts/EH/7"][n >= 60], size=8)
    return mini


def splits(mini):
    mini.table()
    return ARCHIVE.metadata(mini.root).set_index("pair")["split"]


def test_share_of_every_region(mini):
    mini.table()
    rows = ARCHIVE.metadata(mini.root)
    counts = rows.groupby(["region", "split"]).size().to_dict()
    assert counts == {
        ("WH 4", "train"): 51, ("WH 4", "validation"): 9,
        ("EH 7", "train"): 34, ("EH 7", "validation"): 6,
    }  # fmt: skip


def test_tile_near_a_test_tile_has_no_split(mini, caplog):
    mini.tile(-110.2, 30.2, "20180101", "validation_set_tiles", size=8)  # block of tile 10
    mini.tile(-90.9999, 30.5, "20180101", "validation_set_tiles", size=8)  # block of tile 29
    found = splits(mini)
    assert len(found) == 100 and (found == "test").sum() == 2
    assert "2 of 100 expert tiles" in caplog.text
    assert "dw_-110.5_30.5-20190615" not in found and "dw_-91.5_30.5-20190615" in found
    assert "dw_-90.5_30.5-20190615" not in found
    assert "dw_-110.5_30.5-20190615" in ARCHIVE.names(mini.root)["s1"]
    assert len(ARCHIVE.tiles(mini.root)) == 100


def test_overlap_with_a_test_tile_across_a_border(mini):
    """The expert's centre is in the next block, 20 m away; a chain of overlaps goes on from it."""
    mini.tile(-100.0001, 33.5, "20180101", "validation_set_tiles", size=8)
    mini.tile(-99.9999, 33.5, "20190101", size=8)
    mini.tile(-99.9994, 33.5, "20190201", size=8)  # overlaps the former only
    mini.tile(-101.5, 33.5, "20190101", size=8)
    found = splits(mini)
    assert not any(name.startswith("dw_-99.99") for name in found.index)
    assert "dw_-101.5_33.5-20190101" in found


def test_same_tile_in_both(mini):
    """A validation tile that is an expert tile too: the test split's file counts."""
    codes = np.full((10, 10), 7)
    name = mini.tile(-100.5, 30.5, "20190615", "validation_set_tiles", size=10, codes=codes)
    mini.rows.pop()
    found = splits(mini)
    assert found[name] == "test" and len(found) == 100
    assert (ARCHIVE.mask(mini.root, name).classes == 6).all()


def test_same_name_counts_where_the_file_says_no_place(mini):
    name = mini.tile(-100.5, 30.5, "20190615", "validation_set_tiles", size=10)
    mini.rows.pop()
    (mini.root / f"Experts/WH/4/{name}.tif").write_bytes(b"damaged")
    assert splits(mini)[name] == "test"  # one row, not two


def test_dates_of_a_place_stay_together(mini):
    for n in range(100):
        mini.tile(-120.5 + n, 30.5, "20180615", ["Experts/WH/4", "Experts/EH/7"][n >= 60], size=8)
        mini.tile(-120.5 + n, 30.5003, "20170615", size=8)  # 33 m further north
    mini.table()
    rows = ARCHIVE.metadata(mini.root)
    assert len(rows) == 300 and rows["place"].nunique() == 100
    assert (rows.groupby("place").size() == 3).all()
    assert (rows.groupby("place")["split"].nunique() == 1).all()
    assert 0.1 < (rows["split"] == "validation").mean() < 0.16


def test_overlaps_across_a_block_border_stay_together(tmp_path):
    """Tiles east and west of 100 borders: their blocks are joined, and no others."""
    mini = Mini(tmp_path / "dw")
    for n in range(0, 160, 2):
        mini.tile(-120.0001 + n, 30.5, "20190615", size=8)
        mini.tile(-119.9999 + n, 30.5, "20190715", size=8)
        mini.tile(-119.5 + n, 30.5, "20190715", size=8)  # only in the block of the second
    mini.table()
    rows = ARCHIVE.metadata(mini.root)
    assert rows["place"].nunique() == 160
    lon = rows["pair"].str.extract(r"dw_(-?[\d.]+)_")[0].astype(float)
    corner = ((lon + 121) // 2).astype(int)  # of two blocks
    assert (rows.groupby(corner)["split"].nunique() == 1).all()
    assert (rows["split"] == "validation").sum() == 36  # ceil(0.15 x 240), in threes


def test_order_is_by_hash_of_the_name(mini):
    """Not by the order of files or rows, nor by Python's salted hash."""
    names = [row["dw_id"] for row in mini.rows]
    expected = []
    for region, count in ((names[:60], 9), (names[60:], 6)):
        expected += sorted(region, key=lambda name: sha256(name.encode()).hexdigest())[:count]
    mini.rows = mini.rows[::-1]
    found = splits(mini)
    assert set(found.index[found == "validation"]) == set(expected)


def test_no_pair_of_splits_shares_ground(tmp_path):
    """Random tiles, crowded: every two whose corners' boxes intersect are in one split."""
    rng = np.random.default_rng(5)
    mini = Mini(tmp_path / "dw")
    for n in range(200):
        lon, lat = (rng.integers(0, [30_000, 120]) / 1000).tolist()
        folder = "validation_set_tiles" if n % 15 == 0 else "Experts/EH/1"
        date = f"2019{rng.integers(1, 13):02d}15"
        mini.tile(lon, lat, date, folder, size=510, codes=np.ones((510, 510)))
    mini.table()
    rows = located(mini.root)
    assert set(rows["split"]) == {"train", "validation", "test"} and len(rows) < 200
    bounds = []
    for grid in rows["grid"]:
        _, _, x, _, _, y = grid.transform
        east, south = x + 5100, y - 5100
        xs, ys = transform(grid.crs, "EPSG:4326", [x, east, x, east], [y, y, south, south])
        bounds.append((min(xs), min(ys), max(xs), max(ys)))
    shared = 0
    for i, a in enumerate(bounds):
        for j, b in enumerate(bounds[:i]):
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
                shared += 1
                assert rows["split"][i] == rows["split"][j]
    assert shared > 5


def grids(points, size=510):
    """Grids of tiles around some points, in the zone of each."""
    found = []
    for lon, lat in points:
        zone = int((lon + 180) % 360 // 6) + 1
        crs = f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"
        (x,), (y,) = transform("EPSG:4326", crs, [lon], [lat])
        found.append(Grid(crs, (10, 0, x - 5 * size, 0, -10, y + 5 * size), size, size))
    return found


def test_boxes_are_around_the_point():
    points = [(-95.3, 41.2), (12, -33), (179.99, 65), (-179.99, -10), (0, 0.01), (6, 80)]
    box = blocks.boxes(grids(points))
    for (lon, lat), (x, y, half_x, half_y) in zip(points, box, strict=True):
        assert abs((x - lon + 180) % 360 - 180) < 0.01 and abs(y - lat) < 0.001
        assert half_y == pytest.approx(2550 / 111_000, rel=0.15)
        assert half_x * np.cos(np.radians(lat)) == pytest.approx(2550 / 111_000, rel=0.15)


def test_overlaps_across_zones_and_the_date_line():
    near = [(179.99, 10), (-179.99, 10), (5.99, 45), (6.01, 45), (20, 0.01), (20, -0.01)]
    far = [(179.9, 10), (-179.9, 10), (5.9, 45), (6.1, 45), (20, 0.1), (20, -0.1)]
    assert blocks.places(blocks.boxes(grids(near))).tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(blocks.places(blocks.boxes(grids(far))).tolist())) == 6


def test_region_with_one_tile_is_trained_on():
    names = [f"t{n}" for n in range(4)]
    chosen = blocks.validation(names, ["a", "b", "b", "b"], np.array([0, 1, 2, 2]))
    assert chosen.tolist() == [False, True, False, False]  # of b one of three, not the two
    assert not blocks.validation([], [], np.array([], int)).any()


def test_nearest_is_by_great_circle():
    box = np.array([[179.0, 0, 0, 0], [0, 89.0, 0, 0]])
    others = np.array([[100.0, 0, 0, 0], [-179.0, 0, 0, 0], [180, 88.0, 0, 0], [0, 80.0, 0, 0]])
    assert blocks.nearest(box, others).tolist() == [1, 2]
