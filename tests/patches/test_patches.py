"""Shards against rasterio, resizing and moments against torch and NumPy, augmentation."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers.store_digests import seal
from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.intact import OpenFile
from mmfl.patches import reader
from mmfl.patches.augment import Turned, symmetry, turned, turns
from mmfl.patches.batching import batches, patterns
from mmfl.patches.normalisation import Moments, moments, origins, pool
from mmfl.patches.reader import Images, Patches, runs
from mmfl.steps import split


def encode(samples, folder, **kwargs):
    choice = {"shard_size": 7, "snow": True, "cloud_or_shadow": True} | kwargs
    root = choice.pop("root", samples / "bigearthnet-v2-sample")
    split.run("bigearthnet-v2", root=root, out=folder / "out", store=folder / "store", **choice)
    return folder / "out"


def test_real_sample_is_bit_identical_to_rasterio(samples, tmp_path):
    out = encode(samples, tmp_path)
    archive, root = get("bigearthnet-v2"), samples / "bigearthnet-v2-sample"
    for q, modality in archive.modalities.items():
        patches = Patches(out / q)
        assert len(patches.pairs) == 24
        for resolution in modality.resolutions:
            bands = modality.at(resolution)
            values = patches.read(np.arange(24), resolution, list(range(len(bands))))
            for row, patch in enumerate(patches.index["patch"]):
                for channel, band in enumerate(bands):
                    with rasterio.open(archive.band_path(root, q, patch, band.name)) as source:
                        expected = source.read(1)
                    assert values.dtype == expected.dtype == np.dtype(band.dtype)
                    assert np.array_equal(values[row, channel], expected), (patch, band.name)


def test_exclusion_and_splits(samples, tmp_path):
    out = encode(samples, tmp_path, snow=False, cloud_or_shadow=False)
    index = pd.read_parquet(out / "labels" / "index.parquet")
    assert index["split"].value_counts().to_dict() == {"train": 6, "validation": 6, "test": 6}


def test_any_number_of_workers_writes_the_same_bytes(samples, tmp_path):
    one, two = (
        encode(samples, tmp_path / "1", workers=1),
        encode(samples, tmp_path / "2", workers=2),
    )
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert len(files) > 10
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_missing_and_damaged_bands_are_named(samples, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(samples / "bigearthnet-v2-sample", root)
    victim = sorted((root / "BigEarthNet-S2").rglob("*_B08.tif"))[3]
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(UserError, match=victim.name):
        encode(samples, tmp_path / "a", root=root)
    assert not (tmp_path / "a" / "out").exists()
    victim.unlink()
    with pytest.raises(UserError, match=victim.name):
        encode(samples, tmp_path / "b", root=root)


KILLED = """
import os, signal, sys
from pathlib import Path
from mmfl.patches import writer
from mmfl.steps import split
write_chunk = writer.write_chunk
def die_in_the_fourth_shard(archive, root, modality, skip, chunk):
    done = write_chunk(archive, root, modality, skip, chunk)
    if "00003" in chunk.targets[10].path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
writer.write_chunk = die_in_the_fourth_shard
root, out, store = map(Path, sys.argv[1:])
split.run("bigearthnet-v2", root=root, out=out, store=store, shard_size=2, snow=True,
          cloud_or_shadow=True)
"""


def test_killed_encoding_goes_on(samples, tmp_path):
    """kill -9 within the fourth shard: the same bytes as uninterrupted; whole shards are kept."""
    expected = encode(samples, tmp_path / "whole", shard_size=2)
    folder = tmp_path / "killed"
    arguments = [str(samples / "bigearthnet-v2-sample"), str(folder / "out"), str(folder / "store")]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert ended.returncode == -signal.SIGKILL
    whole = sorted((folder / "store" / "s1").glob("*.npy"))
    assert len(whole) == 3 and list((folder / "store" / "s1").glob(".*.tmp"))
    assert not (folder / "out").exists()
    kept = [path.stat().st_ino for path in whole]
    out = encode(samples, folder, shard_size=2)
    assert [path.stat().st_ino for path in whole] == kept
    for file in (p.relative_to(expected) for p in expected.rglob("*") if p.is_file()):
        assert (expected / file).read_bytes() == (out / file).read_bytes(), file
    assert not list(folder.rglob("*.tmp"))


def test_images_are_resized_as_torch_does(store):
    folder, _ = store
    patches = Patches(folder / "s2")
    images = Images(patches, ["B04", "B01", "B05"], 48)
    found = images.batch(np.array([5, 0]))
    raw = np.load(folder / "s2" / "10m-00000.npy")[[5, 0], 2:3].astype(np.float32)
    expected = F.interpolate(torch.from_numpy(raw), size=(48, 48), mode="bilinear", antialias=True)
    assert torch.equal(found[:, :1], expected)  # 120 to 48 px
    small = np.load(folder / "s2" / "60m-00000.npy")[[5, 0], 0:1].astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(small), size=(48, 48), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(found[:, 1:2], expected, rtol=1e-5, atol=0)  # 20 to 48 px: no filter
    images.preload(np.arange(10))
    assert torch.equal(images.batch(np.array([5, 0])), found)
    assert torch.equal(images.batch(np.array([0])), found[1:])


@pytest.mark.parametrize("size", [32, 48, 120])
@pytest.mark.parametrize("bands", [["B04"], ["B01", "B12"], ["B8A", "B02", "B03", "B09", "B11"]])
def test_a_row_does_not_depend_on_its_batch(store, bands, size):
    images = Images(Patches(store[0] / "s2"), bands, size)
    rows = np.arange(40)
    every = images.batch(rows)
    for chosen in ([7], [39, 0], [3] * 17, rng_rows(40, 33)):
        assert torch.equal(images.batch(np.array(chosen)), every[chosen])
    assert len(images.batch(rows[:0])) == 0


def rng_rows(count, size):
    return np.random.default_rng(1).integers(0, count, size)


def test_a_buffer_is_filled_and_preloaded_pixels_stay(store):
    images = Images(Patches(store[0] / "s2"), ["B04", "B11"], 32)
    rows = np.array([9, 2, 5])
    expected = images.batch(rows)
    buffer = torch.full((3, 2, 32, 32), torch.nan)
    assert images.batch(rows, out=buffer) is buffer and torch.equal(buffer, expected)
    assert images.preload(np.arange(10))
    buffer.fill_(0)
    images.batch(rows, out=buffer).mul_(0)  # what a caller does to a batch stays the caller's
    assert torch.equal(images.batch(rows), expected)
    with pytest.raises(ValueError, match="expected float32"):
        images.batch(rows, out=torch.empty(2, 2, 32, 32))
    assert not Images(images.patches, ["B04"], 32, limit_bytes=100).preload(rows)


def test_shards_of_several_files_are_read_in_any_order(samples, tmp_path):
    one = Patches(encode(samples, tmp_path / "1", shard_size=4096) / "s2")
    many = Patches(encode(samples, tmp_path / "5", shard_size=5) / "s2")
    rows = rng_rows(24, 50)
    for resolution, channels in ((10, [0, 1, 2, 3]), (10, [3, 1]), (20, [2, 3, 5]), (60, [1])):
        expected = one.read(rows, resolution, channels)
        assert np.array_equal(many.read(rows, resolution, channels), expected)


@pytest.mark.parametrize("size", [32, 120, 150])
@pytest.mark.parametrize("q", ["s1", "s2"])
def test_native_pixels_are_completed_to_the_same_images(store, q, size):
    """What goes to a GPU as it is stored, and is resized there."""
    patches = Patches(store[0] / q)
    names = [band["name"] for band in patches.bands][::-1]
    images = Images(patches, names, size)
    buffers = images.buffers(9)
    stored = {band["dtype"] for band in patches.bands}
    assert {b.dtype for b in buffers} == {{"uint16": torch.int16}.get(t, torch.float32)
                                          for t in stored}  # fmt: skip
    for rows in (rng_rows(40, 9), rng_rows(40, 3)):
        parts = images.native(rows, buffers)
        assert all(p.data_ptr() == b.data_ptr() for p, b in zip(parts, buffers, strict=True))
        assert torch.equal(images.assemble(parts), images.batch(rows))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "float32"])
def test_types_that_no_device_takes_travel_as_float32(store, dtype):
    """A store of one band whose type is changed by hand."""
    path = store[0] / "s1" / "10m-00000.npy"
    np.save(path, (np.load(path) % 97 + 3).astype(dtype))
    described = json.loads((store[0] / "s1" / "modality.json").read_text())
    for band in described["bands"]:
        band["dtype"] = dtype
    (store[0] / "s1" / "modality.json").write_text(json.dumps(described))
    seal(store[0])
    images = Images(Patches(store[0] / "s1"), ["VH", "VV"], 120)
    rows = np.array([4, 1])
    assert torch.equal(images.assemble(images.native(rows, images.buffers(2))), images.batch(rows))


def test_bright_pixels_travel_whole(store):
    """uint16 beyond 32,767 goes as int16 of the same bits."""
    path = store[0] / "s2" / "10m-00000.npy"
    pixels = np.load(path)
    pixels[3, 2] = 40_000
    pixels[3, 2, 0, 0] = 65_535
    np.save(path, pixels)
    seal(store[0])
    images = Images(Patches(store[0] / "s2"), ["B04"], 120)
    found = images.assemble(images.native(np.array([3]), images.buffers(1)))
    assert found.max() == 65_535 and found.min() == 40_000


@pytest.mark.parametrize("size", [60, 120, 90])
def test_gaps_of_bands_of_several_resolutions(store, size):
    """Each band has its own value for gaps or none, wherever it stands in a batch."""
    nodata = {"B02": 100, "B05": 101, "B12": 102}
    path = store[0] / "s2" / "modality.json"
    described = json.loads(path.read_text())
    for band in described["bands"]:
        band["nodata"] = nodata.get(band["name"])
    path.write_text(json.dumps(described))
    seal(store[0])
    names = ["B12", "B04", "B05", "B02", "B8A"]
    rows, expected = np.array([7, 0, 3]), []
    for name in names:
        metres = 10 if name in ("B02", "B04") else 20
        stored = ["B02", "B03", "B04", "B08"] if metres == 10 else [
            "B05", "B06", "B07", "B8A", "B11", "B12"
        ]  # fmt: skip
        raw = np.load(store[0] / f"s2/{metres}m-00000.npy")[rows, stored.index(name)]
        x = torch.from_numpy(np.where(raw == nodata.get(name, -1), np.nan, raw.astype(np.float32)))
        shrinks = len(raw[0]) > size
        expected.append(x if len(raw[0]) == size else F.interpolate(
            x[:, None], (size, size), mode="bilinear", antialias=shrinks)[:, 0])  # fmt: skip
    expected = torch.stack(expected, 1)
    gaps = expected.isnan().sum((0, 2, 3))
    assert (gaps > 0).tolist() == [name in nodata for name in names]
    images = Images(Patches(store[0] / "s2"), names, size)
    native = images.assemble(images.native(rows, images.buffers(3)))
    for found in (images.batch(rows), native):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("q", "bands", "expected"),
    [
        ("s2", ["B03"], [(4, 1, 1), (9, 1, 1)]),
        ("s2", ["B08", "B02", "B03"], [(4, 3, 1), (4, 0, 2), (9, 3, 1), (9, 0, 2)]),
        ("s1", ["VV", "VH"], [(4, 0, 2), (9, 0, 2)]),
    ],
)
def test_a_few_bands_read_their_bytes_alone(store, monkeypatch, q, bands, expected):
    """What is read of the file, as row, first channel and channels: neighbours at once."""
    read = []
    plain = OpenFile.read_into

    def counted(self, buffer, offset):
        size = 120 * 120 * (2 if q == "s2" else 4)
        channel, rest = divmod(offset - 128, size)
        assert rest == 0
        read.append((*divmod(channel, 4 if q == "s2" else 2), buffer.nbytes // size))
        plain(self, buffer, offset)

    monkeypatch.setattr(OpenFile, "read_into", counted)
    found = Images(Patches(store[0] / q), bands, 120).batch(np.array([4, 9]))
    assert read == expected
    raw = np.load(store[0] / q / "10m-00000.npy")[[4, 9]].astype(np.float32)
    order = {"s1": ["VV", "VH"], "s2": ["B02", "B03", "B04", "B08"]}[q]
    assert np.array_equal(found.numpy(), raw[:, [order.index(band) for band in bands]])


def test_runs_join_neighbours():
    assert runs([1, 2, 0], [0, 1, 2]) == [
        (slice(1, 3), slice(0, 2)),
        (slice(0, 1), slice(2, 3)),
    ]
    assert runs([0, 1], [0, 2]) == [(slice(0, 1), slice(0, 1)), (slice(1, 2), slice(2, 3))]


def test_native_size_is_untouched(store):
    images = Images(Patches(store[0] / "s1"), ["VH", "VV"], 120)
    raw = np.load(store[0] / "s1" / "10m-00000.npy")
    assert np.array_equal(images.batch(np.array([3])).numpy()[0], raw[3, ::-1])


def test_shard_of_another_shape_or_with_objects_is_refused(store):
    """Also where its digest fits: the description is then of another one."""
    path = store[0] / "s1" / "10m-00000.npy"
    pixels = np.load(path)
    for wrong in (
        pixels[:-1], pixels.astype(np.float64), pixels[:2].astype(object),
        np.asfortranarray(pixels), pixels.astype(">f4"), pixels.view(np.int32),
    ):  # fmt: skip
        np.save(path, wrong, allow_pickle=True)
        seal(store[0], "patches")
        with pytest.raises(
            UserError, match=r"10m-00000.npy: damaged shard .* `mmfl split --archive patches`"
        ):
            Images(Patches(store[0] / "s1"), ["VV"], 32).batch(np.array([0]))


def test_unknown_pairs_and_bands_are_named(store):
    patches = Patches(store[0] / "s1")
    with pytest.raises(UserError, match="of the pairs pair-000, zz; run split"):
        patches.rows(np.array(["pair-010", "zz", "pair-000"], object))
    with pytest.raises(UserError, match="pair-000, pair-001, pair-002 and 1 more"):
        patches.rows([f"pair-00{i}" for i in range(6)])
    with pytest.raises(UserError, match="of the pairs zx, zy, zz; run split"):
        patches.rows(["zz", "zy", "zx"])
    assert patches.rows(["pair-005", "pair-004"]).tolist() == [1, 0]
    with pytest.raises(UserError, match="B10"):
        Images(Patches(store[0] / "s2"), ["B10"], 32)


@pytest.mark.parametrize(
    ("first", "second", "gapped"),
    [({}, {}, False), ({"gaps": True}, {}, True), ({}, {"nodata": 0.0}, True)],
)
def test_one_band_with_gaps_is_enough(store, first, second, gapped):
    patches = Patches(store[0] / "s1")
    none = {"gaps": False, "nodata": None}
    patches.bands = [
        band | none | own for band, own in zip(patches.bands, (first, second), strict=True)
    ]
    assert patches.gapped is gapped


def test_no_more_files_than_that_are_open(store, monkeypatch):
    monkeypatch.setattr(reader, "OPEN", 1)
    patches = Patches(store[0] / "s2")
    most = 0
    for resolution in (10, 20, 10, 20):
        for shard in range(len(patches._count)):
            patches._file(resolution, shard)
            most = max(most, len(patches._files))
    assert most == 1 < 2 * len(patches._count)


def test_moments_are_those_of_all_pixels(store):
    images = Images(Patches(store[0] / "s2"), ["B02", "B11"], 16)
    rows = np.arange(40)
    x = images.batch(rows).numpy().astype(np.float64)
    origin = origins(images.patches, images.names)
    assert origin.tolist() == [438.37, 1568.23]
    found = pool([moments([images.batch(r)], origin) for r in (rows[:13], rows[13:])])
    np.testing.assert_allclose(found.mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, x.std((0, 2, 3)), rtol=1e-9)


def test_moments_of_parts_are_those_of_the_whole(store):
    """A client without patches changes nothing; other origins cannot be pooled."""
    images = Images(Patches(store[0] / "s1"), ["VV"], 8)
    origin = origins(images.patches, images.names)
    one = moments([images.batch(np.arange(4)), images.batch(np.arange(4, 10))], origin)
    nothing = moments([], origin)
    assert not nothing.count.any() and np.isnan(nothing.mean).all() and np.isnan(nothing.std).all()
    assert (one.count == 10 * 64).all() and np.array_equal(pool([one, nothing]).std, one.std)
    other = Moments(one.count, one.sum, one.sum_squares, one.origin + 1)
    for parts in ([], [one, other]):
        with pytest.raises(ValueError, match="pool"):
            pool(parts)


def test_moments_by_hand():
    """Values 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3, whatever the origin."""
    for origin in (0.0, 100.0):
        about = np.array([1.0, 2.0, 6.0]) - origin
        found = Moments(
            3, about.sum(keepdims=True), (about**2).sum(keepdims=True), origin + np.zeros(1)
        )
        np.testing.assert_allclose(found.mean, 3)
        np.testing.assert_allclose(found.std, np.sqrt(14 / 3))


def test_rounding_below_no_variance_is_none():
    """A sum of squares that lost its last digit."""
    squares = np.nextafter(np.array([0.01]), 0)
    found = Moments(np.array([1]), np.array([0.1]), squares, np.zeros(1))
    assert found.std.tolist() == [0] and found.constant.all()


def test_symmetries_are_the_eight_of_the_square():
    image = np.arange(9).reshape(1, 3, 3)
    found = {symmetry(image, code).tobytes() for code in range(8)}
    expected = [np.rot90(image, k, (1, 2)) for k in range(4)]
    expected += [turned[:, :, ::-1] for turned in expected]
    assert found == {turned.tobytes() for turned in expected} and len(found) == 8


def test_turning_on_a_device_is_the_same():
    image = torch.arange(2 * 3 * 3.0).reshape(1, 2, 3, 3)
    for code in range(8):
        assert torch.equal(turned(image, code)[0], torch.from_numpy(
            np.ascontiguousarray(symmetry(image[0].numpy(), code))))  # fmt: skip


def test_augmentation_is_keyed_and_keeps_pixels():
    x = torch.arange(8 * 2 * 9, dtype=torch.float32).reshape(8, 2, 3, 3)
    pairs = np.array([f"p{i}" for i in range(8)])
    one = Turned(1, 2).apply(x, pairs)
    order = np.array([3, 1, 0, 7, 2, 4, 6, 5])
    assert torch.equal(Turned(1, 2).apply(x[order], pairs[order]), one[order])
    assert not torch.equal(Turned(1, 3).apply(x, pairs), one)
    assert torch.equal(one.flatten(2).sort(2).values, x.flatten(2))
    many = turns(np.arange(4000).astype(str), seed=0, epoch=0)
    assert set(many) == set(range(8)) and np.bincount(many).min() > 400


def test_turns_are_the_same_on_every_day():
    """The last three bits of the first byte that `printf 3/augment/5/p0 | sha256sum` prints."""
    pairs = np.array([f"p{i}" for i in range(12)], object)
    assert turns(pairs, seed=3, epoch=5).tolist() == [7, 2, 4, 0, 0, 5, 5, 2, 5, 3, 3, 7]
    others = [turns(pairs, seed=s, epoch=e).tolist() for s, e in ((3, 5), (5, 3), (3, 6), (4, 5))]
    assert len(set(map(tuple, others))) == 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, [[1, 2], [3, 4]]), (1, [[3, 4], [1, 2]]), (2, [[2, 1], [4, 3]]),
        (3, [[4, 3], [2, 1]]), (4, [[1, 3], [2, 4]]), (5, [[2, 4], [1, 3]]),
        (6, [[3, 1], [4, 2]]), (7, [[4, 2], [3, 1]]),
    ],
)  # fmt: skip
def test_symmetries_by_hand(code, expected):
    """Bit 2 swaps rows and columns, then bit 0 flips rows and bit 1 columns."""
    assert symmetry(np.array([[[1, 2], [3, 4]]]), code).tolist() == [expected]


@given(st.integers(1, 200), st.integers(2, 40))
def test_batches_cover_all_and_none_is_single(count, size):
    found = batches(count, size)
    assert [i for part in found for i in range(count)[part]] == list(range(count))
    assert count == 1 or all(part.stop - part.start > 1 for part in found)


def test_no_sample_is_no_batch():
    assert batches(0, 4) == []


def test_patterns():
    present = {"s1": np.array([1, 1, 0, 0], bool), "s2": np.array([1, 0, 1, 0], bool)}
    found = {members: rows.tolist() for members, rows in patterns(present)}
    assert found == {("s1",): [1], ("s2",): [2], ("s1", "s2"): [0]}


def test_batches_by_hand():
    """A last batch of two stays; a last one of one joins the batch before."""
    assert batches(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert batches(9, 4) == [slice(0, 4), slice(4, 9)]
    assert batches(8, 4) == [slice(0, 4), slice(4, 8)]


def test_patterns_come_in_one_order():
    """Whatever the order in which the modalities are named."""
    present = {"s2": np.array([1, 0, 1], bool), "s1": np.array([0, 1, 1], bool)}
    found = [(members, rows.tolist()) for members, rows in patterns(present)]
    assert found == [(("s1",), [1]), (("s2",), [0]), (("s1", "s2"), [2])]
