"""An image that holds nothing is damage for `check`, for `inspect` and for `split` alike."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from helpers.own_archive import made, tif
from mmfl.archives.content import varies, worthless
from mmfl.errors import UserError
from mmfl.inspection.check import check
from mmfl.inspection.recognise import inspect
from mmfl.patches.faults import read_skipped
from mmfl.patches.reader import Patches
from mmfl.steps import split

DESCRIPTION = (
    "table: locations.csv\n"
    'labels: {classes: [a, b], separator: ";"}\n'
    "modalities:\n"
    '  s1: {path: "s1/{id}.tif", bands: [VV, VH]}\n'
    '  s2: {path: "s2/{id}.tif", bands: [B02, B03], nodata: 0}\n'
    '  dem: {path: "dem/{id}.tif", bands: [height]}\n'
)


def archive(folder, q, change):
    """Six locations of random pixels; `change` makes the image of the third in a modality."""
    rng = np.random.default_rng(1)
    for i in range(6):
        images = {
            "s1": rng.normal(-12, 3, (2, 8, 8)).astype(np.float32),
            "s2": rng.integers(1, 4000, (2, 8, 8)).astype(np.uint16),
            "dem": rng.normal(300, 9, (1, 8, 8)).astype(np.float32),
        }
        if i == 2:
            images[q] = change(images[q])
        for name, pixels in images.items():
            tif(folder / f"{name}/p{i}.tif", pixels, corner=(500_000 + 900 * i, 5_000_000))
    rows = [f"p{i},{split},{'a;b' if i % 2 else 'b'}" for i, split in
            enumerate(("train", "train", "train", "train", "val", "test"))]  # fmt: skip
    return made(folder, DESCRIPTION, "\n".join(["id,split,labels", *rows]))[1]


def nothing(x):
    return x * np.float32("nan")


def one_value(x):
    return np.broadcast_to(x[:, :1, :1], x.shape)


def infinite_or_nan(x):
    return np.where(x > -12, np.float32("nan"), -np.float32("inf"))


def but_one_pixel(x):
    x = nothing(x)
    x[0, 5, 5], x[0, 7, 7] = -9, -8
    return x


def lower_half(x):
    x = x.copy()
    x[:, :4] = 0
    return x


@pytest.mark.parametrize(
    ("q", "change", "reason"),
    [
        ("s1", nothing, "holds no value, only gaps"),
        ("s1", infinite_or_nan, "holds no value, only gaps"),
        ("s1", one_value, "is constant"),
        ("s1", but_one_pixel, None),
        ("s2", lambda x: x * 0, "holds no value, only gaps"),
        ("s2", one_value, "is constant"),
        ("s2", lower_half, None),
        ("dem", nothing, "holds no value, only gaps"),
        ("dem", one_value, None),  # as elevation of the sea
    ],
)
def test_check_inspect_and_split_agree(tmp_path, q, change, reason):
    root = archive(tmp_path / "archive", q, change)
    choice = {"root": root, "shard_size": 4, "snow": False, "cloud_or_shadow": False}
    for found in (check(root, full=True), inspect(root, full=True)):
        said = [line for line in found.damage if f"{q}/p2.tif" in line]
        assert [reason in line for line in said] == ([] if reason is None else [True])
        assert len(found.damage) == len(said)
    if reason is not None:
        with pytest.raises(UserError, match=rf"{q}/p2.tif: {reason}.*on_error: skip"):
            split.run("my", out=tmp_path / "a", store=tmp_path / "sa", **choice)
        assert not (tmp_path / "a").exists()
    out = tmp_path / "b"
    split.run("my", out=out, store=tmp_path / "sb", on_error="skip", **choice)
    listed = read_skipped(out / "labels" / "skipped.csv")
    assert listed["patch"].tolist() == ([] if reason is None else ["p2"])
    assert ("p2" in Patches(out / q).pairs) == (reason is None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_varies_by_hand(dtype):
    band = np.zeros((4, 5), dtype)
    assert varies(band) is False and varies(band, 0) is None
    band[3, 4] = 1
    assert varies(band) is True and varies(band, 0) is False and varies(band, 1) is False
    if dtype == "float32":
        band[:] = np.nan
        assert varies(band) is None
        band[1, 1], band[2, 2] = np.inf, 7
        assert varies(band) is False


@pytest.mark.parametrize(
    ("bands", "reason"),
    [
        ([None], "gaps"), ([None, None], "gaps"), ([False], None), ([False, False], "constant"),
        ([False, True], None), ([None, True], None), ([None, False], None),
    ],
)  # fmt: skip
def test_worthless_by_hand(bands, reason):
    found = worthless(iter(bands))
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_header_that_claims_any_size(tmp_path, on_error):
    """A few kB that say 500,000 x 500,000 pixels: no memory is asked for them."""
    root = archive(tmp_path / "archive", "s2", lower_half)
    path = tmp_path / "archive/s2/p2.tif"
    path.unlink()
    place = {"crs": "EPSG:32633", "transform": from_origin(501_800, 5_000_000, 0.00016, 0.00016)}
    with rasterio.open(path, "w", driver="GTiff", height=500_000, width=500_000, count=2,
                       dtype="uint16", sparse_ok=True, tiled=True, blockxsize=65_536,
                       blockysize=65_536, bigtiff="yes", **place):  # fmt: skip
        pass
    assert path.stat().st_size < 10_000
    choice = {"root": root, "shard_size": 4, "snow": False, "cloud_or_shadow": False}
    where = {"out": tmp_path / "out", "store": tmp_path / "store"}
    if on_error == "skip":
        split.run("my", **where, on_error="skip", **choice)
        listed = read_skipped(tmp_path / "out/labels/skipped.csv")
        assert listed[["modality", "patch"]].to_numpy().tolist() == [["s2", "p2"]]
        return
    with pytest.raises(UserError, match=r"p2\.tif: is 2 x 500,000 x 500,000 uint16, 1,000\.0 GB"):
        split.run("my", **where, **choice)
    assert not (tmp_path / "out").exists()
