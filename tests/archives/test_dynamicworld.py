"""The reader of Dynamic World's expert tiles, on small archives in the published layout."""

import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.crs import CRS

from helpers.expert_tiles import ARCHIVE, SIZE, Mini, upper_left, write
from mmfl.archives.dynamicworld import DynamicWorld
from mmfl.archives.dynamicworld.table import XLSX
from mmfl.errors import DamagedFile, UserError


@pytest.fixture
def mini(tmp_path) -> Mini:
    """Twelve expert tiles in blocks of their own, in two regions, and two validation tiles."""
    mini = Mini(tmp_path / "dw")
    for n in range(12):
        folder = ["Experts/WH/4", "Experts/EH/10"][n % 2]
        mini.tile([-100.5, 20.5][n % 2] + n, 40.5, f"2019{n + 1:02d}15", folder)
    for n in range(2):
        mini.tile(-60.5 + n, 41.5, "20190620", "validation_set_tiles", size=SIZE + 2)
    mini.table()
    return mini


def test_facts():
    assert ARCHIVE.task == "pixel" and len(ARCHIVE.classes) == len(ARCHIVE.colours) == 9
    assert ARCHIVE.licence == "CC-BY-4.0" and ARCHIVE.classes[5] == "shrub and scrub"
    assert [band.name for band in ARCHIVE.modality("s1").bands] == ["VV", "VH"]
    assert {band.size for q in ARCHIVE.modalities.values() for band in q.bands} == {None}
    for q in ARCHIVE.modalities.values():
        assert all(q.band(name) for name in q.show)


def test_rows(mini):
    for name in list(mini.at)[:3]:
        mini.image(name, "s2")
    mini.image(next(iter(mini.at)), "s1")
    rows = ARCHIVE.metadata(mini.root)
    assert rows["pair"].tolist() == sorted(mini.at)
    assert rows["s2"].notna().sum() == 3 and rows["s1"].notna().sum() == 1
    assert rows["s1"].dropna().tolist() == [next(iter(mini.at))]
    by_name = rows.set_index("pair")
    for row in mini.rows:
        found = by_name.loc[row["dw_id"]]
        assert (found["hemisphere"], found["biome"]) == (row["hemisphere"], str(row["biome"]))
        assert found["region"] == f"{row['hemisphere']} {row['biome']}"
        assert found["month"] == row["date"].month
        assert found["place"] == row["dw_id"].split("_", 1)[1][:-9]
    assert by_name["season"].value_counts().to_dict() == {"DJF": 3, "MAM": 3, "JJA": 5, "SON": 3}
    assert (rows["split"] == "test").sum() == 2
    assert all(q is None for q in rows["labels"])
    assert ARCHIVE.names(mini.root) == {"s1": set(mini.at), "s2": set(mini.at)}


def test_codes_and_georeference(mini):
    rows = ARCHIVE.metadata(mini.root)
    whole, faults = ARCHIVE.labelled(mini.root, rows, workers=2)
    assert not faults and len(whole) == 14
    for row in whole.itertuples():
        lon, lat, codes = mini.at[row.pair]
        mask = ARCHIVE.mask(mini.root, row.pair)
        assert mask.classes.dtype == np.uint8 and mask.classes.shape == (row.height, row.width)
        ignored = (codes == 0) | (codes == 10)
        assert (mask.classes[ignored] == 255).all()
        assert (mask.classes[~ignored] == codes[~ignored] - 1).all()
        assert list(row.labels) == sorted(set(codes[~ignored] - 1))
        epsg, east, north = upper_left(lon, lat, len(codes))
        assert CRS.from_user_input(row.crs).to_epsg() == epsg
        assert tuple(row.transform) == (10, 0, east, 0, -10, north)


def test_images(mini):
    name = next(iter(mini.at))
    optical, radar = mini.image(name, "s2"), mini.image(name, "s1")
    found = ARCHIVE.read_patch(mini.root, "s2", name, 10)
    assert found.dtype == np.uint16 and np.array_equal(found, optical)
    found = ARCHIVE.read_patch(mini.root, "s1", name, 10)
    assert found.dtype == np.float32 and np.array_equal(found, radar)
    assert np.array_equal(ARCHIVE.read(mini.root, "s2", name, "B8A"), optical[7])
    assert ARCHIVE.shape(mini.root, "s1", name) == (SIZE, SIZE)
    assert list(ARCHIVE.folders(mini.root, "s2")) == [name]


def test_bands_are_found_by_their_description(mini):
    name = next(iter(mini.at))
    lon, lat, _ = mini.at[name]
    pixels = np.stack([np.full((SIZE, SIZE), -20.0), np.full((SIZE, SIZE), np.nan)])
    path = mini.root / f"imagery/s1/{name}.tif"
    write(path, pixels.astype(np.float32), lon, lat, ("VH", "VV"))
    found = ARCHIVE.read_patch(mini.root, "s1", name, 10)
    assert np.isnan(found[0]).all() and (found[1] == -20).all()


def test_tiles_for_the_search(mini):
    tiles = ARCHIVE.tiles(mini.root)
    assert tiles["name"].tolist() == sorted(mini.at)
    row = tiles[tiles["name"] == list(mini.at)[3]].iloc[0]
    lon, lat, _ = mini.at[row["name"]]
    epsg, east, north = upper_left(lon, lat, SIZE)
    assert row["crs"] == f"EPSG:{epsg}" and row["transform"] == (10, 0, east, 0, -10, north)
    assert (row["height"], row["width"], row["date"]) == (SIZE, SIZE, "2019-04-15")
    assert row["product"].startswith("S2A_MSIL2A_20190415T")
    assert DynamicWorld(complete=True).tiles(mini.root) is None


@pytest.mark.parametrize(
    ("top", "held_out"),
    [
        ("Experts_tiles/Experts", "validation_set_tiles/experts_consensus"),
        ("experts", "."),
        ("Experts/Experts", "holdout/4"),
    ],
)
def test_folders_that_the_zip_may_make(mini, top, held_out):
    expected = ARCHIVE.metadata(mini.root)
    (mini.root / "Experts").rename(mini.root / "moved")
    (mini.root / top).parent.mkdir(exist_ok=True)
    (mini.root / "moved").rename(mini.root / top)
    (mini.root / "validation_set_tiles").rename(mini.root / "tiles")
    (mini.root / held_out).mkdir(parents=True, exist_ok=True)
    for path in (mini.root / "tiles").iterdir():
        path.rename(mini.root / held_out / path.name)
    mini.tile(50.5, 10.5, "20180101", "Non_expert/WorkForce/EH/1", listed=False)
    mini.tile(50.5, 10.5, "20180101", "Non_expert_tiles/Experts/EH/1", listed=False)
    junk = mini.root / top / "__MACOSX/WH/4/._dw_1_2-20190101.tif"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"")
    pd.testing.assert_frame_equal(ARCHIVE.metadata(mini.root), expected)


def test_root_of_links(mini, tmp_path):
    """The download step makes a folder of links into its store."""
    root = tmp_path / "root"
    root.mkdir()
    for item in mini.root.iterdir():
        (root / item.name).symlink_to(item)
    pd.testing.assert_frame_equal(ARCHIVE.metadata(root), ARCHIVE.metadata(mini.root))


def test_copy_of_zenodo(mini):
    """Two bands, of which `lulc` is the experts' map, and class probabilities beside it."""
    name = [row["dw_id"] for row in mini.rows][-1]
    lon, lat, codes = mini.at[name]
    (mini.root / f"validation_set_tiles/{name}.tif").unlink()
    both = np.stack([np.full_like(codes, 3), codes]).astype(np.uint8)
    write(mini.root / f"dw_test/label_{name}.tif", both, lon, lat, ("label", "lulc"))
    write(mini.root / f"dw_test/probs_{name}.tif", np.zeros((9, 42, 42), np.float32), lon, lat)
    assert (ARCHIVE.metadata(mini.root)["split"] == "test").sum() == 2
    classes = ARCHIVE.mask(mini.root, name).classes
    assert (classes[codes == 4] == 3).all() and (classes[codes == 10] == 255).all()


def test_tiles_without_a_row(mini, caplog):
    """Date from the name; region from the folders, or for a validation tile from its neighbour."""
    mini.rows = [row for row in mini.rows if row["dw_id"] != "dw_-100.5_40.5-20190115"][:-2]
    mini.table()
    rows = ARCHIVE.metadata(mini.root).set_index("pair")
    assert rows.loc["dw_-100.5_40.5-20190115", "region"] == "WH 4"
    assert rows.loc["dw_-100.5_40.5-20190115", "month"] == 1
    assert (rows.loc[rows["split"] == "test", "region"] == "WH 4").all()  # 31 degrees off, not 81
    assert "2 tiles have no row" in caplog.text
    tiles = ARCHIVE.tiles(mini.root).set_index("name")
    assert tiles.loc["dw_-100.5_40.5-20190115", "product"] is None


def test_sheets_of_the_workbook(mini):
    """Tiles may be listed in any sheet, and by several annotators; notes are no table."""
    expected = ARCHIVE.metadata(mini.root)
    half = pd.DataFrame(mini.rows)
    with pd.ExcelWriter(mini.root / XLSX) as writer:
        pd.DataFrame({"about": ["notes"]}).to_excel(writer, sheet_name="readme", index=False)
        half.iloc[:6].astype({"date": str, "biome": float}).to_excel(
            writer, sheet_name="expert", index=False
        )
        half.assign(biome=99).iloc[3:6].to_excel(writer, sheet_name="non_expert", index=False)
        late = half.iloc[6:].assign(date=[int(f"{d:%Y%m%d}") for d in half["date"].iloc[6:]])
        late.to_excel(writer, sheet_name="more", index=False)
    pd.testing.assert_frame_equal(ARCHIVE.metadata(mini.root), expected)


def changed(mini, column, value):
    mini.rows[2][column] = value
    mini.table()


def without(mini, column):
    for row in mini.rows:
        del row[column]
    mini.table()


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda m: (m.root / XLSX).unlink(), r"\.xlsx: not found, expected .*run download"),
        (lambda m: (m.root / XLSX).write_text("x"), r"\.xlsx: not a readable workbook"),
        (lambda m: without(m, "dw_id"), "sheet expert: column dw_id is missing, found date"),
        (lambda m: without(m, "biome"), "sheet expert: column biome is missing"),
        (lambda m: without(m, "S2_PRODUCT_ID"), "column S2_PRODUCT_ID is missing"),
        (lambda m: changed(m, "date", "soon"), "dw_-98.5_40.5-20190315: date: found 'soon'"),
        (lambda m: changed(m, "hemisphere", None), "20190315: hemisphere is empty"),
        (lambda m: shutil.rmtree(m.root / "Experts"), "found no Experts/<hemi"),
    ],
)
def test_malformed(mini, break_it, match):
    break_it(mini)
    with pytest.raises(UserError, match=match) as caught:
        ARCHIVE.metadata(mini.root)
    assert "\n" not in str(caught.value)


def test_workbook_that_is_another_zip(mini):
    with zipfile.ZipFile(mini.root / XLSX, "w") as target:
        target.writestr("a.txt", "no workbook")
    with pytest.raises(UserError, match="not a readable workbook"):
        ARCHIVE.metadata(mini.root)


def test_name_without_a_date(mini):
    (path,) = mini.root.glob("Experts/WH/4/*-20190315.tif")
    path.rename(path.with_name("dw_stray.tif"))
    with pytest.raises(UserError, match="nor the name has a date"):
        ARCHIVE.metadata(mini.root)


def label_of(mini):
    (path,) = mini.root.glob("Experts/WH/4/*-20190315.tif")
    return path


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pixels": np.full((1, 40, 40), 11, np.uint8)}, "found code 11, expected 0 to 10"),
        ({"pixels": np.zeros((1, 40, 40), np.uint16)}, "1 bands of uint16, expected one of uint8"),
        ({"pixels": np.zeros((2, 40, 40), np.uint8)}, "2 bands of uint8, expected one"),
        ({"crs": None}, "no georeference"),
        ({"crs": "EPSG:4326"}, "no georeference in metres"),
    ],
)
def test_damaged_labels(mini, options, match):
    path = label_of(mini)
    write(path, options.pop("pixels", np.ones((1, 40, 40), np.uint8)), -98.5, 40.5, **options)
    rows = ARCHIVE.metadata(mini.root)
    whole, (fault,) = ARCHIVE.labelled(mini.root, rows)
    assert len(whole) == len(rows) - 1 and fault.patch == path.stem and str(path) == fault.file
    with pytest.raises(DamagedFile, match=match):
        ARCHIVE.mask(mini.root, path.stem)


@pytest.mark.parametrize("compress", [None, "lzw"])
@pytest.mark.parametrize("kept", [100, 1000])
def test_cut_off_labels(mini, compress, kept):
    path = label_of(mini)
    codes = np.random.default_rng(0).integers(0, 11, (1, 40, 40)).astype(np.uint8)
    write(path, codes, -98.5, 40.5, compress=compress)
    path.write_bytes(path.read_bytes()[:kept])
    _, (fault,) = ARCHIVE.labelled(mini.root, ARCHIVE.metadata(mini.root))
    assert fault.patch == path.stem
    assert path.stem in ARCHIVE.names(mini.root)["s1"]


@pytest.mark.parametrize(
    ("q", "options", "match"),
    [
        ("s1", {"size": 41}, "lies on 41 x 41 pixels .*, its label tile on 40 x 40"),
        ("s2", {"shift": 10}, "lies on 40 x 40 pixels of 10 m from"),
        ("s2", {"shift": 0.01}, "lies on"),
        ("s1", {"crs": "EPSG:32601"}, "in EPSG:32601, its label tile .* in EPSG:32614"),
        ("s1", {"crs": None}, "no georeference"),
    ],
)
def test_image_on_another_grid(mini, q, options, match):
    name = label_of(mini).stem
    mini.image(name, q, **options)
    with pytest.raises(DamagedFile, match=match), rasterio.Env(GDAL_GEOREF_SOURCES="NONE"):
        ARCHIVE.read_patch(mini.root, q, name, 10)


def test_image_of_other_bands_or_values(mini):
    name = label_of(mini).stem
    lon, lat, _ = mini.at[name]
    path = mini.root / f"imagery/s1/{name}.tif"
    flat = np.zeros((2, SIZE, SIZE), np.float32)
    for pixels, names, match in (
        (flat, ("VV", "HH"), "bands VV, HH of float32, expected VH of float32"),
        (flat, (), "bands None, None"),
        (flat.astype(np.float64), ("VV", "VH"), "float64, expected VV of float32"),
        (flat - np.inf, ("VV", "VH"), "infinite"),
    ):
        write(path, pixels, lon, lat, names)
        with pytest.raises(DamagedFile, match=match):
            ARCHIVE.read_patch(mini.root, "s1", name, 10)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DamagedFile):
        ARCHIVE.read_patch(mini.root, "s1", name, 10)
    path.unlink()
    with pytest.raises(DamagedFile, match="is missing"):
        ARCHIVE.read_patch(mini.root, "s1", name, 10)
