"""The reader of BigEarthNet v2.0, against the published metadata and real patches."""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

from mmfl.archives import get
from mmfl.archives.bigearthnet import CLASSES, CORINE
from mmfl.archives.bigearthnet_v2 import EXCLUDED
from mmfl.errors import UserError

ARCHIVE = get("bigearthnet-v2")


@pytest.fixture(scope="module")
def clean(published):
    return ARCHIVE.metadata(published)


@pytest.fixture(scope="module")
def everything(published):
    return ARCHIVE.metadata(published, snow=True, cloud_or_shadow=True)


def test_facts():
    assert len(ARCHIVE.classes) == 19
    assert [band.name for band in ARCHIVE.modality("s1").bands] == ["VV", "VH"]
    s2 = ARCHIVE.modality("s2")
    assert [band.name for band in s2.bands] == (
        ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    )
    assert s2.resolutions == (10, 20, 60)
    assert {b.name: b.size for b in s2.at(60)} == {"B01": 20, "B09": 20}
    assert all(band.size * band.resolution == 1200 for band in s2.bands)
    assert s2.band("B8A").mean == 2235.56 and ARCHIVE.modality("s1").band("VH").std == 5.590


@pytest.mark.parametrize("call", [lambda: get("x"), lambda: ARCHIVE.modality("x")])
def test_unknown_name(call):
    with pytest.raises(UserError, match="expected one of"):
        call()


def test_counts(clean, everything):
    assert len(clean) == 480_038 and len(everything) == 480_038 + 69_450
    assert clean.split.value_counts().to_dict() == {
        "train": 237_871,
        "validation": 122_342,
        "test": 119_825,
    }
    assert clean.country.value_counts().to_dict() == {
        "Finland": 155_227,
        "Portugal": 89_792,
        "Serbia": 73_385,
        "Lithuania": 48_365,
        "Ireland": 48_326,
        "Austria": 43_797,
        "Belgium": 11_196,
        "Switzerland": 4_874,
        "Luxembourg": 3_460,
        "Kosovo": 1_616,
    }
    assert clean.pair.is_monotonic_increasing and everything.pair.is_unique


def test_snow_and_cloud_apart(published):
    assert len(ARCHIVE.metadata(published, snow=True)) == 480_038 + 60_773
    assert len(ARCHIVE.metadata(published, cloud_or_shadow=True)) == 480_038 + 8_677


def test_published_counts_of_summer(clean):
    """Partition counts of the same group's studies: June to August, train / test."""
    expected = {
        "Finland": (14_805, 8_209),
        "Ireland": (7_150, 4_263),
        "Serbia": (7_180, 3_248),
        "Austria": (5_941, 1_871),
        "Belgium": (1_323, 32),
        "Lithuania": (4_206, 2_151),
        "Portugal": (8_037, 4_220),
        "Switzerland": (1_692, 2_039),
    }
    summer = clean[clean.month.between(6, 8)]
    counts = summer.groupby(["country", "split"]).size()
    found = {c: (counts[c, "train"], counts[c, "test"]) for c in expected}
    assert found == expected
    assert sum(v[0] for v in found.values()) == 50_334
    assert sum(v[1] for v in found.values()) == 26_033


def test_month_season_tile(clean):
    assert (clean.month == clean.pair.str[15:17].astype(int)).all()
    assert (clean.tile == clean.pair.str[38:44]).all() and clean.tile.nunique() == 54
    seasons = clean.groupby("season").month.unique().map(sorted).to_dict()
    assert seasons == {"DJF": [1, 2, 12], "MAM": [3, 4, 5], "JJA": [6, 7, 8], "SON": [9, 10, 11]}


def test_labels(published, clean):
    table = pq.read_table(published / "metadata.parquet").sort_by("patch_id")
    for i in (0, 1, 77_777, 480_037):
        names = table["labels"][i].as_py()
        assert clean.labels.iloc[i].dtype == np.int8
        assert clean.labels.iloc[i].tolist() == sorted(ARCHIVE.classes.index(n) for n in names)
    assert (
        sum(map(len, clean.labels))
        == pa.compute.sum(pa.compute.list_value_length(table["labels"])).as_py()
    )


def test_pixels_are_those_of_rasterio(sample):
    rows = ARCHIVE.metadata(sample, snow=True, cloud_or_shadow=True)
    assert len(rows) == 24
    files = 0
    for row in rows.itertuples():
        for modality in ARCHIVE.modalities.values():
            patch = getattr(row, modality.name)
            for band in modality.bands:
                path = next((sample / f"BigEarthNet-{modality.name.upper()}").glob(
                    f"*/{patch}/{patch}_{band.name}.tif"
                ))  # fmt: skip
                assert ARCHIVE.band_path(sample, modality.name, patch, band.name) == path
                with rasterio.open(path) as source:
                    expected = source.read(1)
                found = ARCHIVE.read(sample, modality.name, patch, band.name)
                assert found.dtype == band.dtype and found.shape == (band.size, band.size)
                assert found.tobytes() == expected.tobytes()
                files += 1
    assert files == 24 * 14


@pytest.fixture
def copy(sample, tmp_path):
    """One writable patch: root, patch and the path of band B05."""
    patch = ARCHIVE.metadata(sample).s2.iloc[0]
    source = ARCHIVE.band_path(sample, "s2", patch, "B05")
    path = ARCHIVE.band_path(tmp_path, "s2", patch, "B05")
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())
    return tmp_path, patch, path


def refused(copy, match):
    root, patch, path = copy
    with pytest.raises(UserError, match=match) as error:
        ARCHIVE.read(root, "s2", patch, "B05")
    assert str(path) in str(error.value) and "B05" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(copy):
    copy[2].unlink()
    refused(copy, "missing")


@pytest.mark.parametrize("size", [0, 100, 4000, 7559])
def test_truncated_file(copy, size):
    copy[2].write_bytes(copy[2].read_bytes()[:size])
    refused(copy, "cannot be read|holds fewer bytes|is empty")


def test_not_a_tiff(copy):
    copy[2].write_bytes(b"<html>404</html>" * 500)
    refused(copy, "cannot be read")


def test_wrong_size(copy, sample):
    shutil.copyfile(ARCHIVE.band_path(sample, "s2", copy[1], "B02"), copy[2])
    refused(copy, "1 x 120 x 120 uint16, expected 1 x 60 x 60 uint16")


def test_wrong_type(copy):
    with rasterio.open(copy[2]) as source:
        profile, pixels = source.profile, source.read().astype("int32")
    copy[2].unlink()
    with rasterio.open(copy[2], "w", **(profile | {"dtype": "int32"})) as target:
        target.write(pixels)
    refused(copy, "int32, expected 1 x 60 x 60 uint16")


def test_sparse_file(copy):
    """GDAL reads zeros where a file says that it stores no strip; nothing published is so."""
    with rasterio.open(copy[2]) as source:
        profile = source.profile
    copy[2].unlink()
    with rasterio.open(copy[2], "w", **(profile | {"SPARSE_OK": True})):
        pass
    refused(copy, "holds fewer bytes than its pixels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan(sample, tmp_path, value):
    patch = ARCHIVE.metadata(sample).s1.iloc[0]
    source = ARCHIVE.band_path(sample, "s1", patch, "VH")
    path = ARCHIVE.band_path(tmp_path, "s1", patch, "VH")
    path.parent.mkdir(parents=True)
    with rasterio.open(source) as file:
        profile, pixels = file.profile, file.read()
    pixels[0, 7, 9:12] = value
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    with pytest.raises(UserError, match=r"VH.tif: band VH has 3 pixels of NaN or infinity"):
        ARCHIVE.read(tmp_path, "s1", patch, "VH")


def test_missing_metadata(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.parquet: not found"):
        ARCHIVE.metadata(tmp_path)


def test_missing_second_table(sample, tmp_path):
    shutil.copyfile(sample / "metadata.parquet", tmp_path / "metadata.parquet")
    assert len(ARCHIVE.metadata(tmp_path)) == 18
    with pytest.raises(UserError, match="snow_cloud_or_shadow"):
        ARCHIVE.metadata(tmp_path, snow=True)


GOOD = {
    "patch_id": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    "labels": ["Pastures", "Arable land"],
    "split": "test",
    "country": "Austria",
    "s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57",
    "contains_seasonal_snow": False,
    "contains_cloud_or_shadow": False,
}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patch_id": "S2A_MSIL2A_20170613T101031_26_57"}, "patch_id 'S2A_MSIL2A_2017"),
        ({"patch_id": GOOD["patch_id"].replace("0613", "1313")}, "month of 01 to 12"),
        ({"labels": ["Pasture"]}, "labels 'Pasture'"),
        ({"split": "val"}, "split 'val' is not train, validation or test"),
        ({"labels": [1, 2]}, "labels '1'"),
        ({"contains_seasonal_snow": "maybe"}, "unexpected type"),
        ({"labels": "['Pastures']"}, "labels: found string, expected a list of names per row"),
        ({"labels": None}, "labels: found null, expected a list"),
    ],
)
def test_malformed_rows(tmp_path, change, match):
    pq.write_table(pa.Table.from_pylist([GOOD | change]), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match=match):
        ARCHIVE.metadata(tmp_path)


REQUIRED = [name for name in GOOD if name != "s1_name"]
EMPTY = {"labels": [], "split": "", "country": "", "patch_id": ""}


@pytest.mark.parametrize(
    ("column", "value"), [*((name, None) for name in REQUIRED), *EMPTY.items()]
)
def test_a_value_that_is_missing_is_told(tmp_path, column, value):
    """In the third and the fifth of six rows: it is neither "no class" nor "no snow"."""
    names = [GOOD["patch_id"][:-2] + f"{i}0" for i in range(1, 7)]
    rows = [GOOD | {"patch_id": name} for name in names]
    for number in (2, 4):
        rows[number] = rows[number] | {column: value}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match=rf"row 3: no {column} \(and in 1 more rows\)"):
        ARCHIVE.metadata(tmp_path)


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64(), pa.float32(), pa.string()])
def test_flags_of_any_type(tmp_path, kind):
    """True, 1 and "true" leave a patch out; NaN and 2 are nothing of that."""
    names = [GOOD["patch_id"][:-2] + f"{i}0" for i in range(1, 7)]
    table = pa.Table.from_pylist([GOOD | {"patch_id": name} for name in names])
    flags = pa.array([False, True, False, False, True, False])
    place = table.column_names.index("contains_seasonal_snow")

    def written(column):
        found = table.set_column(place, "contains_seasonal_snow", column)
        pq.write_table(found, tmp_path / "metadata.parquet")
        return ARCHIVE.metadata(tmp_path)["pair"].tolist()

    given = flags.cast(pa.int8()).cast(kind) if pa.types.is_floating(kind) else flags.cast(kind)
    assert written(given) == [names[i] for i in (0, 2, 3, 5)]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        for wrong in (2, float("nan")) if pa.types.is_floating(kind) else (2, -1):
            values = [0, 0, 0, wrong, 0, 0]
            with pytest.raises(UserError, match=r"row 4: contains_seasonal_snow: found (2|-1|nan)"):
                written(pa.array(values, kind))


def test_a_class_that_is_named_twice(tmp_path):
    rows = [
        GOOD | {"labels": ["Pastures", "Arable land", "Pastures", "Pastures"]},
        GOOD | {"patch_id": GOOD["patch_id"][:-2] + "58", "labels": ["Pastures", "Pastures"]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    assert [x.tolist() for x in ARCHIVE.metadata(tmp_path)["labels"]] == [[2, 4], [4]]


def test_small_table(tmp_path):
    """Without `has_s2`, with an unordered list of labels and no Sentinel-1."""
    pq.write_table(pa.Table.from_pylist([GOOD | {"s1_name": None}]), tmp_path / "metadata.parquet")
    row = ARCHIVE.metadata(tmp_path).iloc[0]
    assert row.s1 is None and row.s2 == row.pair == GOOD["patch_id"]
    assert row.labels.tolist() == [2, 4]
    assert (row.month, row.season, row.tile) == (6, "JJA", "T33UUP")


def test_corine_codes_and_classes():
    """ARCHIVE's classes by CORINE code, as the archive's authors list them."""
    groups = [
        (111, 112), (121,), (211, 212, 213), (221, 222, 223, 241), (231,), (242,), (243,), (244,),
        (311,), (312,), (313,), (321, 333), (322, 323), (324,), (331,), (411, 412), (421, 422),
        (511, 512), (521, 522, 523),
    ]  # fmt: skip
    assert len(CORINE) == 44 and len(groups) == len(CLASSES) == 19
    expected = {code: index for index, codes in enumerate(groups) for code in codes}
    assert {code: index for code, (_, index) in CORINE.items() if index is not None} == expected


def write_map(root, codes, dtype="uint16"):
    patch = GOOD["patch_id"]
    folder = root / "Reference_Maps" / patch.rsplit("_", 2)[0] / patch
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{patch}_reference_map.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=codes.shape[1],
        height=codes.shape[0],
        count=1,
        dtype=dtype,
        transform=from_origin(399_960, 5_300_040, 10, 10),
    ) as target:
        target.write(codes.astype(dtype), 1)
    return path


def test_reference_map(tmp_path):
    """Every code, no data and the codes without a class, pixel by pixel."""
    codes = np.resize([0, *CORINE], (120, 120))
    write_map(tmp_path, codes)
    found = ARCHIVE.reference_map(tmp_path, GOOD["patch_id"])
    assert found.shape == (120, 120) and found.dtype == np.uint8
    for code, index in zip(codes.ravel(), found.ravel(), strict=True):
        target = CORINE[code][1] if code else None
        assert index == (255 if target is None else target)


@pytest.mark.parametrize(
    ("codes", "dtype", "match"),
    [
        (np.full((120, 120), 113), "uint16", "found code 113, expected CORINE"),
        (np.full((120, 120), 1111), "uint16", "found code 1111"),
        (np.full((60, 60), 111), "uint16", "1 x 60 x 60 uint16, expected 1 x 120 x 120"),
        (np.full((120, 120), 1), "uint8", "uint8, expected"),
    ],
)
def test_reference_map_of_another_kind(tmp_path, codes, dtype, match):
    path = write_map(tmp_path, codes, dtype)
    with pytest.raises(UserError, match=match) as caught:
        ARCHIVE.reference_map(tmp_path, GOOD["patch_id"])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_reference_map(tmp_path):
    with pytest.raises(UserError, match=r"_reference_map.tif: .* is missing"):
        ARCHIVE.reference_map(tmp_path, GOOD["patch_id"])


def test_missing_column(tmp_path):
    row = {key: value for key, value in GOOD.items() if key != "split"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="column split is missing"):
        ARCHIVE.metadata(tmp_path)


def test_a_table_without_rows(tmp_path):
    """As other programs write it: no column has a type. The second one may be empty."""
    empty = pd.DataFrame({name: [] for name in GOOD})
    empty.to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match=r"metadata\.parquet: found no row, expected a row per pat"):
        ARCHIVE.metadata(tmp_path)
    pq.write_table(pa.Table.from_pylist([GOOD]), tmp_path / "metadata.parquet")
    empty.to_parquet(tmp_path / EXCLUDED)
    assert len(ARCHIVE.metadata(tmp_path, snow=True)) == 1
    assert ARCHIVE.names(tmp_path)["s2"] == {GOOD["patch_id"]}


def test_not_parquet(tmp_path):
    (tmp_path / "metadata.parquet").write_text("<html>")
    with pytest.raises(UserError, match="not a parquet file"):
        ARCHIVE.metadata(tmp_path)
