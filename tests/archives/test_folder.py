"""An archive described by a yaml file: what is read is what is in the files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from helpers.own_archive import made, tif
from mmfl.archives import get
from mmfl.archives.folder import record
from mmfl.errors import DamagedFile, UserError
from mmfl.inspection.check import check
from mmfl.params.archives import known
from mmfl.patches.faults import sift
from mmfl.patches.reader import Patches
from mmfl.steps import split

HEAD = "table: locations.csv\n"
MASK = "mask: {classes: {0: land, 1: water}, ignore: [-1]}\n"
RNG = np.random.default_rng(5)


@pytest.fixture
def floods(tmp_path):
    """As Sen1Floods11: float32 radar with NaN, int16 optical, int16 labels -1, 0 and 1."""
    for i, name in enumerate(("a", "b", "c", "d")):
        corner = (500_000 + 5000 * i, 5_000_000)
        radar = RNG.normal(-12, 3, (2, 40, 48)).astype(np.float32)
        radar[:, :3, :5] = np.nan
        tif(tmp_path / f"S1/{name}_S1.tif", radar, corner=corner)
        if name != "d":
            optical = RNG.integers(1, 9000, (3, 40, 48)).astype(np.int16)
            tif(tmp_path / f"S2/{name}_S2.tif", optical, corner=corner)
        codes = RNG.integers(-1, 2, (40, 48)).astype(np.int16)
        tif(tmp_path / f"Label/{name}_L.tif", codes, corner=corner)
    rows = ["id,split,country,s2"]
    rows += [f"{n},{s},{c},{'' if n == 'd' else f'S2/{n}_S2.tif'}" for n, s, c in
             zip("abcd", ("train", "val", "test", "train"), ("Peru", "Peru", "NA", "NA"),
                 strict=True)]  # fmt: skip
    description = HEAD + (
        "groups: [country]\n"
        "modalities:\n"
        '  s1: {path: "S1/{id}_S1.tif", bands: [VV, VH]}\n'
        "  s2: [B02, B03, B04]\n"
        'mask: {path: "Label/{id}_L.tif", classes: {1: water, 0: land}, ignore: -1}\n'
    )
    return made(tmp_path, description, "\n".join(rows))


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


def test_metadata_and_masks(floods):
    archive, root = floods
    rows = archive.metadata(root)
    assert archive.task == "pixel" and archive.classes == ("water", "land")
    assert rows["split"].tolist() == ["train", "validation", "test", "train"]
    assert rows["region"].tolist() == rows["country"].tolist() == ["Peru", "Peru", "NA", "NA"]
    assert rows["s2"].tolist() == ["a", "b", "c", None]
    assert archive.modality("s2").show == ("B04", "B03", "B02")
    rows, faults = sift(archive, root, rows, workers=2)
    assert not faults and rows["labels"].map(list).tolist() == [[0, 1]] * 4
    for row in rows.to_dict("records"):
        path = root.parent / f"Label/{row['pair']}_L.tif"
        codes, found = pixels(path)[0], archive.mask(root, row["pair"])
        assert np.array_equal(found.classes, np.select([codes == 1, codes == 0], [0, 1], 255))
        with rasterio.open(path) as source:
            assert found.crs == "EPSG:32633" and found.transform == tuple(source.transform)[:6]
            assert (row["height"], row["width"]) == source.shape


def test_through_the_split(floods, tmp_path):
    root = floods[1]
    out = tmp_path / "patches"
    split.run("my", root=root, out=out, store=tmp_path / "store", shard_size=2, snow=False,
              cloud_or_shadow=False)  # fmt: skip
    for q, count in (("s1", 4), ("s2", 3), ("mask", 4)):
        assert len(Patches(out / q).pairs) == count
    shards = [np.load(path) for path in sorted((out / "s1").glob("10m-*.npy"))]
    expected = [pixels(tmp_path / f"S1/{name}_S1.tif") for name in "abcd"]
    assert np.array_equal(np.concatenate(shards), np.stack(expected), equal_nan=True)


def test_rows_in_no_split_are_left_out_once(floods, tmp_path, caplog):
    """What `mmfl check` calls right can be split."""
    root = floods[1]
    text = root.read_text() + "split: {column: id, train: a, test: [b]}\n"
    archive, root = made(tmp_path, text, (tmp_path / "locations.csv").read_text())
    assert not check(root).damage
    caplog.clear()
    out = tmp_path / "patches"
    split.run("my", root=root, out=out, store=tmp_path / "store", shard_size=2, snow=False,
              cloud_or_shadow=False, workers=2)  # fmt: skip
    said = [line for line in caplog.messages if "in no split" in line]
    assert said == [f"{tmp_path / 'locations.csv'}: 2 rows are in no split and left out"]
    assert Patches(out / "s1").pairs.tolist() == ["a", "b"]
    assert sift(archive, root, archive.metadata(root))[1] == []


def write(path: Path, array: np.ndarray, axes: str) -> None:
    """(C, H, W) in a layout or format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".npy":
        tif(path, array, driver="PNG" if path.suffix == ".png" else "GTiff", crs=None)
        return
    np.save(path, {"chw": array, "hwc": np.moveaxis(array, 0, 2), "hw": array[0]}[axes])


@pytest.mark.parametrize(
    ("suffix", "axes", "dtype", "bands", "stored"),
    [
        (".tif", "", "uint16", 3, "uint16"),
        (".tif", "", "int8", 1, "int8"),
        (".tif", "", "float64", 2, "float32"),
        (".tif", "", "int64", 2, "int64"),
        (".png", "", "uint8", 1, "uint8"),
        (".png", "", "uint8", 3, "uint8"),
        (".png", "", "uint16", 1, "uint16"),
        (".npy", "hw", "bool", 1, "uint8"),
        (".npy", "chw", "float16", 3, "float32"),
        (".npy", "hwc", ">i2", 3, "int16"),
    ],
)
def test_formats_and_types(tmp_path, suffix, axes, dtype, bands, stored):
    array = RNG.integers(0, 2 if dtype == "bool" else 100, (bands, 20, 24)).astype(dtype)
    write(tmp_path / f"q/a{suffix}", array, axes)
    write(tmp_path / "m/a.png", (array[:1] > 0).astype(np.uint8), "")
    names = [f"B{i}" for i in range(bands)]
    archive, root = made(tmp_path, HEAD + (
        f'modalities: {{q: {{path: "q/{{id}}{suffix}", bands: {names}}}}}\n'
        'mask: {path: "m/{id}.png", classes: [no water, water]}\n'
    ), "id,split\na,train\n")  # fmt: skip
    assert {band.dtype for band in archive.modality("q").bands} == {stored}
    found = archive.read_patch(root, "q", "a", 10)
    assert found.dtype == stored and np.array_equal(found, array)
    assert archive.shape(root, "q", "a") == (20, 24)
    assert np.array_equal(archive.mask(root, "a").classes, array[0] > 0)


def one(folder: Path, images: str, mask: str = MASK, **files):
    """An archive of one location `a` with the modality q."""
    text = HEAD + f"modalities: {{q: {{path: q, {images}}}}}\n" + mask
    return made(folder, text, "id,split,q,mask\na,train,q.tif,m.tif\n")


def test_bands_by_name_by_place_and_in_order(tmp_path):
    array = RNG.integers(0, 99, (3, 8, 8)).astype(np.uint8)
    tif(tmp_path / "m.tif", np.zeros((8, 8), np.uint8))
    for names, bands, order in (
        (("B04", "B03", "B02"), "[B02, B03, B04]", [2, 1, 0]),
        (("B04", "B03", "B02"), "[B03]", [1]),
        ((), "[B02, B03, B04]", [0, 1, 2]),
        (("x", "x", "x"), "[B02, B03, B04]", [0, 1, 2]),
        (("B04", "B03", "B02"), "{B04: 3, B09: 1}", [2, 0]),
    ):
        tif(tmp_path / "q.tif", array, names=names)
        archive, root = one(tmp_path, f"bands: {bands}")
        assert np.array_equal(archive.read_patch(root, "q", "a", 10), array[order])
    for bands, match in (("[B02, B03]", "has 3 bands, expected B02, B03"),
                         ("{B02: 4}", "has 3 bands, expected at least 4")):  # fmt: skip
        tif(tmp_path / "q.tif", array)
        archive, root = one(tmp_path, f"bands: {bands}")
        with pytest.raises(DamagedFile, match=match):
            archive.read_patch(root, "q", "a", 10)


def test_a_file_per_band_on_the_finest_grid(tmp_path):
    fine, coarse = (RNG.integers(0, 99, (n, n)).astype(np.uint16) for n in (12, 6))
    tif(tmp_path / "a_B04.tif", fine)
    tif(tmp_path / "a_B05.tif", coarse, metres=20)
    tif(tmp_path / "m.tif", np.zeros((12, 12), np.uint8))
    for images, table in (
        ('{path: "{id}_{band}.tif", bands: [B05, B04]}', "id,split,mask\na,train,m.tif\n"),
        ("{path: {B05: red edge, B04: red}}",
         "id,split,mask,red,red edge\na,train,m.tif,a_B04.tif,a_B05.tif\n"),
    ):  # fmt: skip
        archive, root = made(tmp_path, HEAD + f"modalities: {{q: {images}}}\n" + MASK, table)
        found = archive.read_patch(root, "q", "a", 10)
        assert np.array_equal(found, [np.kron(coarse, np.ones((2, 2), int)), fine])
        assert np.array_equal(archive.read(root, "q", "a", "B04"), fine)
        assert [band.resolution for band in archive.modality("q").bands] == [10, 10]
        assert sift(archive, root, archive.metadata(root))[1] == []


def test_gaps(tmp_path):
    tif(tmp_path / "m.tif", np.zeros((4, 4), np.uint8))
    array = np.arange(16).reshape(4, 4)
    tif(tmp_path / "q.tif", array.astype(np.float64), nodata=3)
    archive, root = one(tmp_path, "bands: [x], nodata: 5")
    found = archive.read_patch(root, "q", "a", 10)[0]
    assert archive.modality("q").band("x").gaps
    assert np.array_equal(found, np.where((array == 3) | (array == 5), np.nan, array), True)
    tif(tmp_path / "q.tif", array.astype(np.int16), nodata=3)
    archive, root = one(tmp_path, "bands: [x]")
    assert archive.modality("q").band("x").nodata == 3
    assert np.array_equal(archive.read_patch(root, "q", "a", 10)[0], array)
    archive, root = one(tmp_path, "bands: [x], nodata: 0")
    assert archive.modality("q").band("x").nodata == 0
    assert np.array_equal(archive.read_patch(root, "q", "a", 10)[0], np.where(array == 3, 0, array))
    with pytest.raises(UserError, match=r"q.nodata: found 0.5, expected a value of int16"):
        one(tmp_path, "bands: [x], nodata: 0.5")


def test_one_type_for_all_files(tmp_path):
    table = "id,split,q,mask\na,train,a.npy,m.tif\nb,train,b.npy,m.tif\nc,train,c.npy,m.tif\n"
    tif(tmp_path / "m.tif", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "a.npy", np.full((4, 4), 7, np.int16))
    np.save(tmp_path / "b.npy", np.full((4, 4), 7, np.float64))
    np.save(tmp_path / "c.npy", np.full((4, 4), 7.5))
    text = HEAD + "modalities: {q: {path: q, bands: [x]}}\n" + MASK
    archive, root = made(tmp_path, text, table)
    assert archive.read_patch(root, "q", "b", 10).dtype == np.int16
    with pytest.raises(DamagedFile, match=r"c.npy: holds float64 values that int16 cannot"):
        archive.read_patch(root, "q", "c", 10)
    np.save(tmp_path / "c.npy", np.full((4, 4), np.nan))
    with pytest.raises(DamagedFile, match="has 16 pixels without a value and int16 no number"):
        archive.read_patch(root, "q", "c", 10)
    archive, root = made(tmp_path, text.replace("[x]", "[x], dtype: float32"), table)
    assert np.isnan(archive.read_patch(root, "q", "c", 10)).all()
    assert (archive.read_patch(root, "q", "a", 10) == np.float32(7)).all()


@pytest.mark.parametrize(
    ("codes", "mask", "expected"),
    [
        (np.array([[1, 7], [-9, 7]], np.int32), "classes: {7: b, -9: a}, ignore: 1",
         [[255, 0], [1, 0]]),
        (np.array([[1, np.nan], [0, 300]], np.float32), "classes: [a, b], ignore: [300]",
         [[1, 255], [0, 255]]),
        (np.array([[1, 2], [3, 9]], np.uint8), "classes: {1: a, 2: b, 3: a}, ignore: rest",
         [[0, 1], [0, 255]]),
        (np.array([[1, 2], [0, 1]], np.uint8), "classes: [a, b], ignore: [1, 2]", "ignore: 1"),
        (np.array([[1, 2], [8, 9]], np.uint8), "classes: {1: a, 2: b}",
         "holds the code 8 in 1 pixels, and 1 other codes, expected one of 1, 2"),
        (np.array([[1, 2.5]], np.float32), "classes: {1: a, 2: b}", "holds the code 2.5"),
        (np.zeros((3, 4, 4), np.uint8), "classes: [a, b]", "has 3 bands, expected one of class"),
    ],
)  # fmt: skip
def test_codes_of_a_mask(tmp_path, codes, mask, expected):
    tif(tmp_path / "m.tif", codes)
    tif(tmp_path / "q.tif", np.zeros((2, 2), np.uint8))
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            archive, root = one(tmp_path, "bands: [x]", f"mask: {{{mask}}}")
            archive.mask(root, "a")
    else:
        archive, root = one(tmp_path, "bands: [x]", f"mask: {{{mask}}}")
        assert np.array_equal(archive.mask(root, "a").classes, expected)


@pytest.mark.parametrize(
    ("place", "shape", "match"),
    [
        ({}, (8, 8), None),
        ({"metres": 20}, (4, 4), None),
        ({"corner": (500_004.9, 5_000_000)}, (8, 8), None),
        ({"crs": None}, (16, 16), None),
        ({"crs": None}, (16, 24), "16 x 24 pixels and the mask 8 x 8"),
        ({"corner": (500_006, 5_000_000)}, (8, 8), "is off the mask by 0.6 pixels"),
        ({"corner": (500_080, 5_000_000)}, (8, 8), "no overlap"),
        ({"crs": "EPSG:32634"}, (8, 8), "is in EPSG:32634, the mask in EPSG:32633"),
        ({"metres": 20}, (8, 8), "is off the mask by 4.0 pixels"),
    ],
)
def test_images_on_other_ground(tmp_path, place, shape, match):
    tif(tmp_path / "m.tif", np.zeros((8, 8), np.uint8))
    tif(tmp_path / "q.tif", np.ones(shape, np.uint8), **place)
    archive, root = one(tmp_path, "bands: [x]")
    rows, faults = sift(archive, root, archive.metadata(root))
    if match is None:
        assert not faults and rows["q"].tolist() == ["a"]
    else:
        assert rows["q"].tolist() == [None] and match in faults[0].reason
        assert faults[0].file.endswith("q.tif")


def test_a_mask_without_georeference_has_its_images(tmp_path):
    tif(tmp_path / "m.tif", np.zeros((8, 8), np.uint8), crs=None)
    tif(tmp_path / "q.tif", np.ones((4, 4), np.uint8), metres=20)
    archive, root = one(tmp_path, "bands: [x]")
    found = archive.mask(root, "a")
    assert found.crs == "EPSG:32633"
    assert found.transform == (10, 0, 500_000, 0, -10, 5_000_000)


VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="8">'
    '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("http://127.0.0.1:9/x.tif", None, "is missing"),
        ("/vsicurl/http://127.0.0.1:9/x.tif", None, "is missing"),
        ("x.tif", VRT.encode(), "cannot be read"),
        ("x.vrt", VRT.encode(), "found .vrt, expected .tif, .tiff, .png or .npy"),
        ("x.tif", b"II*\0nothing", "cannot be read"),
        ("x.npy", b"\x93NUMPY", "cannot be read"),
    ],
)
def test_nothing_is_fetched_or_run(tmp_path, name, content, match):
    tif(tmp_path / "m.tif", np.zeros((8, 8), np.uint8))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    text = HEAD + "modalities: {q: {path: q, bands: [x]}}\n" + MASK
    with pytest.raises(UserError, match=match):
        made(tmp_path, text, f"id,split,q,mask\na,train,{name},m.tif\n")


def test_damaged_files(tmp_path):
    tif(tmp_path / "m.tif", np.zeros((64, 64), np.uint8))
    tif(tmp_path / "q.tif", np.ones((64, 64), np.uint16))
    archive, root = one(tmp_path, "bands: [x]")
    whole = (tmp_path / "q.tif").read_bytes()
    (tmp_path / "q.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFile, match=r"q\.tif"):
        archive.read_patch(root, "q", "a", 10)
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "y.npy", np.zeros((5, 3, 4, 4)))
    for name, match in (("x", "cannot be read"), ("y", "one image, not a series")):
        (tmp_path / "locations.csv").write_text(f"id,split,q,mask\na,train,{name}.npy,m.tif\n")
        with pytest.raises(UserError, match=match):
            get("my", root)


def test_multilabel_tables(tmp_path):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 4), np.uint8))
    text = HEAD + 'modalities: {q: {path: "{id}.npy", bands: [x]}}\n'
    expected = [[0, 1], [1], []]
    table = "id;split;labels;m;p\nc;test;;0;0\na;train;meadow, pond;1;1\nb;train;meadow;1;0\n"
    for words in ('{classes: [pond, meadow], separator: ","}', "{columns: {p: pond, m: meadow}}"):
        archive, root = made(tmp_path, text + f"labels: {words}\n", table)
        rows = archive.metadata(root)
        assert rows["labels"].map(list).tolist() == expected and archive.task == "multilabel"
        assert rows["region"].tolist() == ["all"] * 3
        assert sift(archive, root, rows)[1] == []
    frame = pd.DataFrame({"id": [1, 2, 3], "fold": [1.0, 2.0, 5.0], "month": [6, 7, 8],
                          "labels": [["meadow", "pond"], ["meadow"], []],
                          "q": ["a.npy", "b.npy", None]})  # fmt: skip
    frame.to_parquet(tmp_path / "locations.parquet")
    text = (
        "table: locations.parquet\nmodalities: {q: [x]}\ngroups: [month]\n"
        "split: {column: fold, train: [1, 2], test: 5}\nlabels: {classes: [pond, meadow]}\n"
    )
    archive, root = made(tmp_path, text, "")
    rows = archive.metadata(root)
    assert rows["labels"].map(list).tolist() == expected and rows["month"].tolist() == [6, 7, 8]
    assert rows["pair"].tolist() == ["1", "2", "3"] and rows["q"].tolist() == ["1", "2", None]
    assert rows["split"].tolist() == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("table: locations.csv", "table: none.csv", "none.csv: not found, expected the table"),
        ("groups: [country]", "groups: [agency]",
         "groups: no column agency in .*locations.csv, found id, split, country, s2"),
        ("groups: [country]", "split: fold", "split: no column fold"),
        ("groups: [country]", "group: [country]", "unknown key group; did you mean groups"),
        ("s2: [B02", "s4: [B02", r"modalities.s4.path: no column s4 .*, found id, split"),
        ("Label/{id}", "Label/{place}", "mask.path: no column place"),
        ("bands: [VV, VH]", "band: [VV]", "unknown key modalities.s1.band; did you mean bands"),
        ("classes: {1: water, 0: land}, ", "", "mask.classes: not given"),
        ("groups: [country]", "task: pixels", "task: found 'pixels'"),
        ("groups: [country]", "task: multilabel", "labels: not given"),
        ("{1: water, 0: land}", "{1: true, 0: land}", "found true or false, expected a name"),
        ("ignore: -1", "colours: [red]", "colours: found 1, expected 2"),
        ("ignore: -1", "ignore: other", "ignore: found 'other'"),
        ("s2: [B02", "S2: [B02", "modalities.S2: expected a name of lower-case"),
        ("[VV, VH]", "[VV, VV]", "VV is listed twice"),
    ],
)  # fmt: skip
def test_faults_of_a_description(floods, old, new, match):
    root = floods[1]
    text = root.read_text()
    assert old in text
    root.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=match) as caught:
        get("my", root).metadata(root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value) + str(root.parent)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("a,train", "a,trian", "a: found 'trian' in column split, expected train, validation or"),
        ("a,train", "a,", "a: found nothing in column split"),
        (
            "Peru",
            "",
            r"a: nothing in column country, expected a group \(1 more like it; mmfl check",
        ),
        ("a,train", ",train", "row 1: nothing in column id"),
    ],
)
def test_faults_of_a_table(floods, old, new, match):
    archive, root = floods
    path = root.parent / "locations.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=match):
        archive.metadata(root)


def test_missing_and_double(floods):
    archive, root = floods
    (root.parent / "S1/b_S1.tif").unlink()
    path = root.parent / "locations.csv"
    path.write_text(path.read_text() + "\nc,train,Peru,S2/a_S2.tif\n")
    rows, faults = sift(archive, root, archive.metadata(root))
    assert rows["pair"].tolist() == ["a", "b", "d"] and rows["s1"].tolist() == ["a", None, "d"]
    assert sorted(Path(fault.file).name for fault in faults) == ["b_S1.tif", "locations.csv"]


def other_pixels(path: Path) -> None:
    """Other values in a file of the same size and time."""
    before = path.stat()
    with rasterio.open(path, "r+") as target:
        values = target.read()
        target.write(np.where(np.isnan(values), values, values[:, ::-1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize(("limit", "seen"), [(2_000_000_000, True), (1, False)])
def test_record_notices_other_files(floods, monkeypatch, caplog, limit, seen):
    """Masks by content, images by content or, where they are large, by size."""
    caplog.set_level("INFO")
    _, root = floods
    monkeypatch.setattr(record, "LIMIT", limit)
    rows, found = record.verify("my", root)
    assert found == root
    assert [row[0] for row in rows] == ["my.yaml", "locations.csv", "masks", "images"]
    for part, folders in (("masks", ["Label"]), ("images", ["S1", "S2"])):
        files = [path for folder in folders for path in (root.parent / folder).iterdir()]
        assert dict(row[:2] for row in rows)[part] == sum(path.stat().st_size for path in files)
    assert record.verify("my", root)[0] == rows
    assert seen != any("images, so of each the name and size" in text for text in caplog.messages)
    other_pixels(root.parent / "Label/b_L.tif")
    masks = record.verify("my", root)[0]
    same = [one == other for one, other in zip(rows, masks, strict=True)]
    assert same == [True, True, False, True]
    other_pixels(root.parent / "S1/b_S1.tif")
    assert (record.verify("my", root)[0] != masks) == seen
    with (root.parent / "S1/b_S1.tif").open("ab") as handle:
        handle.write(b"0")
    longer = record.verify("my", root)[0]
    assert longer[:3] == masks[:3] and longer[3][1:] != masks[3][1:]


def test_state_is_of_names_sizes_and_times(floods):
    _, root = floods
    before = record.state(root)
    (root.parent / "S1/other.tif").write_bytes(b"not in the table")
    assert record.state(root) == before
    path = root.parent / "Label/b_L.tif"
    path.write_bytes(path.read_bytes())
    states = [before, record.state(root)]
    (root.parent / "S2/c_S2.tif").unlink()
    states.append(record.state(root))
    assert len(set(states)) == 3


def test_a_description_below_the_home_folder(floods, monkeypatch):
    root = floods[1]
    monkeypatch.setenv("HOME", str(root.parent))
    assert known("my", {"my": "~/my.yaml"}).bands == {
        "s1": ("VV", "VH"),
        "s2": ("B02", "B03", "B04"),
    }


def test_real_tiles(sample, tmp_path):
    """TerraMesh: three modalities and land cover, described by a yaml file alone."""
    source = sample.parent / "terramesh-sample"
    names = sorted(path.stem for path in (source / "LULC").iterdir())
    table = ["id,split"] + [
        f"{n},{s}" for n, s in zip(names, ("train", "val", "test"), strict=True)
    ]
    codes = (1, 2, 3, 4, 5, 6, 9)
    bands = [f"B{i:02d}" for i in range(1, 13)]
    archive, root = made(tmp_path, HEAD + (
        f"root: {source}\n"
        "modalities:\n"
        f'  s2: {{path: "S2L2A/{{id}}.tif", bands: {bands}}}\n'
        '  s1: {path: "S1RTC/{id}.tif", bands: [VV, VH]}\n'
        '  dem: {path: "DEM/{id}.tif", bands: [height]}\n'
        f'mask: {{path: "LULC/{{id}}.tif", classes: {dict(zip(codes, "abcdefg", strict=True))}}}\n'
    ), "\n".join(table))  # fmt: skip
    rows, faults = sift(archive, root, archive.metadata(root), workers=2)
    assert not faults and rows[["s1", "s2", "dem"]].notna().all(axis=None)
    for name in names:
        for q, folder in (("s2", "S2L2A"), ("s1", "S1RTC"), ("dem", "DEM")):
            found, expected = (
                archive.read_patch(root, q, name, 10),
                pixels(source / folder / f"{name}.tif"),
            )
            assert np.array_equal(found, expected.astype(found.dtype))
        raw, mask = pixels(source / "LULC" / f"{name}.tif")[0], archive.mask(root, name)
        assert np.array_equal(np.array([*codes, 0])[np.minimum(mask.classes, 7)], raw)
        with rasterio.open(source / "LULC" / f"{name}.tif") as opened:
            assert rasterio.crs.CRS.from_string(mask.crs) == opened.crs
            assert mask.transform == tuple(opened.transform)[:6]
