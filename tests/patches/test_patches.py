"""Shards against rasterio, resizing and moments against torch and NumPy, augmentation."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.patches.augment import augment, turns
from mmfl.patches.batching import batches, patterns
from mmfl.patches.normalisation import moments, pool
from mmfl.patches.reader import Images, Patches
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


def test_killed_encoding_goes_on(samples, tmp_path):
    """kill -9 after the first shard: the same bytes as uninterrupted; whole shards are kept."""
    expected = encode(samples, tmp_path / "whole", shard_size=2)
    program = (
        "import sys; from pathlib import Path; from mmfl.steps import split\n"
        "a = list(map(Path, sys.argv[1:]))\n"
        "split.run('bigearthnet-v2', root=a[0], out=a[1], store=a[2], shard_size=2, snow=True,"
        " cloud_or_shadow=True)"
    )
    folder = tmp_path / "killed"
    arguments = [str(samples / "bigearthnet-v2-sample"), str(folder / "out"), str(folder / "store")]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    first = folder / "store" / "s1" / "10m-00001.npy"
    while not first.exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "out" / "s2").exists()
    kept = first.stat().st_mtime_ns
    out = encode(samples, folder, shard_size=2)
    assert first.stat().st_mtime_ns == kept
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
    assert torch.equal(found[:, :1], expected)
    small = np.load(folder / "s2" / "60m-00000.npy")[[5, 0], 0:1].astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(small), size=(48, 48), mode="bilinear", antialias=True
    )
    assert torch.equal(found[:, 1:2], expected)
    images.preload(np.arange(10))
    assert torch.equal(images.batch(np.array([5, 0])), found)
    assert torch.equal(images.batch(np.array([0])), found[1:])


def test_native_size_is_untouched(store):
    images = Images(Patches(store[0] / "s1"), ["VH", "VV"], 120)
    raw = np.load(store[0] / "s1" / "10m-00000.npy")
    assert np.array_equal(images.batch(np.array([3])).numpy()[0], raw[3, ::-1])


def test_damaged_shard_is_named(store):
    path = store[0] / "s1" / "10m-00000.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"10m-00000\.npy: damaged shard"):
        Images(Patches(store[0] / "s1"), ["VV"], 32).batch(np.array([0]))


def test_unknown_pairs_and_bands_are_named(store):
    patches = Patches(store[0] / "s1")
    with pytest.raises(UserError, match="pair-000"):
        patches.rows(np.array(["pair-000"], object))
    with pytest.raises(UserError, match="B10"):
        Images(Patches(store[0] / "s2"), ["B10"], 32)


def test_moments_are_those_of_all_pixels(store):
    images = Images(Patches(store[0] / "s2"), ["B02", "B11"], 16)
    rows = np.arange(40)
    x = images.batch(rows).numpy().astype(np.float64)
    found = pool([moments(images, rows[:13]), moments(images, rows[13:])])
    np.testing.assert_allclose(found.mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, x.std((0, 2, 3)), rtol=1e-9)


def test_augmentation_is_keyed_and_keeps_pixels():
    x = torch.arange(8 * 2 * 9, dtype=torch.float32).reshape(8, 2, 3, 3)
    pairs = np.array([f"p{i}" for i in range(8)])
    one = augment(x, pairs, seed=1, epoch=2)
    order = np.array([3, 1, 0, 7, 2, 4, 6, 5])
    assert torch.equal(augment(x[order], pairs[order], seed=1, epoch=2), one[order])
    assert not torch.equal(augment(x, pairs, seed=1, epoch=3), one)
    assert torch.equal(one.flatten(2).sort(2).values, x.flatten(2))
    many = turns(np.arange(4000).astype(str), seed=0, epoch=0)
    assert set(many) == set(range(8)) and np.bincount(many).min() > 400


@given(st.integers(1, 200), st.integers(2, 40))
def test_batches_cover_all_and_none_is_single(count, size):
    found = batches(count, size)
    assert [i for part in found for i in range(count)[part]] == list(range(count))
    assert count == 1 or all(part.stop - part.start > 1 for part in found)


def test_patterns():
    present = {"s1": np.array([1, 1, 0, 0], bool), "s2": np.array([1, 0, 1, 0], bool)}
    found = {members: rows.tolist() for members, rows in patterns(present)}
    assert found == {("s1",): [1], ("s2",): [2], ("s1", "s2"): [0]}
