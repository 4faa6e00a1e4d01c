"""Stores of tiles read back: against the archive's own pixels, torch and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers.store_digests import seal
from helpers.tile_store import TILE_BANDS, TILE_SHAPES, drawn_tiles
from mmfl.archives.base import Band, Modality
from mmfl.facts.tasks import IGNORED
from mmfl.patches.normalisation import moments, pool
from mmfl.patches.reader import Images, Patches
from mmfl.patches.tiles import Masks, Tiles
from mmfl.patches.writer import encode

ARCHIVE = drawn_tiles()


def truth(q: str, patch: str, bands=None) -> np.ndarray:
    """(C, H, W) float32 as the archive draws it, NaN in gaps."""
    found = []
    for name in bands or TILE_BANDS[q]:
        pixels = ARCHIVE.read(None, q, patch, name)
        nodata = ARCHIVE.modality(q).band(name).nodata
        pixels = pixels.astype(np.float32)
        found.append(pixels if nodata is None else np.where(pixels == nodata, np.nan, pixels))
    return np.stack(found).astype(np.float32)


def same(one, two) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(two), equal_nan=True)


@pytest.mark.parametrize("q", ["s1", "dem", "s2"])
def test_a_tile_is_the_archives_with_gaps_as_nan(tiles, q):
    store = Patches(tiles[0] / q)
    seen = 0
    for row, patch in enumerate(store.index["patch"]):
        expected = truth(q, patch)
        found = Tiles(store, list(TILE_BANDS[q])).tile(row)
        assert found.dtype == torch.float32 and same(found, expected)
        assert store.shape(row, store.bands[0]["resolution"]) == expected.shape[1:]
        seen += np.isnan(expected).sum()
    assert len(store.pairs) == (24 if q == "dem" else 23) and seen > 100


def test_coarser_pixels_are_brought_to_the_grid_of_the_mask_as_torch_does(tiles):
    store, masks = Patches(tiles[0] / "s2"), Masks(tiles[0] / "mask")
    reader, gaps = Tiles(store, ["B08", "B02"]), 0
    for row, patch in enumerate(store.index["patch"]):
        shape = masks.shape(masks.rows(np.array([patch], object))[0])
        native = torch.from_numpy(truth("s2", patch, ("B08", "B02")))[None]
        expected = F.interpolate(native, shape, mode="bilinear", align_corners=False)[0]
        assert same(reader.tile(row, shape), expected)
        gaps += int(expected.isnan().sum())
    assert gaps > 100


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("q", list(TILE_BANDS))
def test_a_window_is_a_slice_of_the_tile(tiles, q, size):
    store, masks = Patches(tiles[0] / q), Masks(tiles[0] / "mask")
    reader = Tiles(store, list(TILE_BANDS[q])[::-1])
    checked = 0
    for row, pair in enumerate(store.pairs):
        mask = int(masks.rows(np.array([pair], object))[0])
        height, width = shape = masks.shape(mask)
        whole, classes = reader.tile(row, shape), masks.tile(mask)
        for top in {0, 1, height - size, height // 3} if height >= size else ():
            for left in {0, 5, width - size} if width >= size else ():
                if top + size > height or left + size > width:
                    continue
                part = slice(top, top + size), slice(left, left + size)
                assert same(reader.window(row, shape, (top, left), size), whole[:, *part])
                assert same(masks.window(mask, (top, left), size), classes[part])
                checked += 1
    assert checked > 50


def test_masks_are_the_archives_and_ignored_beyond_the_tile(tiles):
    masks = Masks(tiles[0] / "mask")
    shapes = set()
    for row, pair in enumerate(masks.patches.pairs):
        expected = ARCHIVE.mask(None, pair).classes
        found = masks.tile(row)
        assert same(found, expected) and masks.shape(row) == expected.shape
        shapes.add(expected.shape)
        wider = masks.window(row, (0, 0), 50)
        assert same(wider[: expected.shape[0], : expected.shape[1]], expected)
        assert (wider == IGNORED).sum() == 2500 - (expected != IGNORED).sum()
    assert shapes == set(TILE_SHAPES)


def test_infinite_values_are_gaps(tmp_path):
    """Where a band may have gaps at all: a division by zero in somebody's file."""

    class Infinite(type(ARCHIVE)):
        def read(self, root, modality, patch, band):
            pixels = super().read(root, modality, patch, band)
            pixels[0, 0], pixels[1, 1] = np.inf, -np.inf
            return pixels

    archive = Infinite(**{name: getattr(ARCHIVE, name) for name in ARCHIVE.__dataclass_fields__})
    encode(archive, tmp_path, tmp_path, modality="s1", metadata=archive.metadata(tmp_path))
    seal(tmp_path)
    store = Patches(tmp_path / "s1")
    for row in range(len(store.pairs)):
        found = Tiles(store, ["VV"]).tile(row)[0]
        assert found[0, 0].isnan() and found[1, 1].isnan() and not found.isinf().any()
    found = moments((Tiles(store, ["VV"]).tile(row)[None] for row in range(5)), np.zeros(1))
    assert np.isfinite(found.sum).all()


@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [1], [2, 0]])
def test_each_band_has_its_own_value_for_gaps(tmp_path, order, width):
    """Or none: then the same number is a measurement."""
    nodata = [0.0, None, 7.0, np.nan]
    bands = tuple(
        Band(f"b{i}", 10, None, "float32", nodata=None if v != v else v, gaps=v is not None)
        for i, v in enumerate(nodata)
    )
    pixels = np.random.default_rng(1).choice([0.0, 1.0, 7.0], (4, 16, width)).astype(np.float32)
    pixels[3, :2] = np.nan

    class Mixed(type(ARCHIVE)):
        def read(self, root, modality, patch, band):
            return pixels[int(band[1])]

        def shape(self, root, modality, patch):
            return 16, width

    fields = {name: getattr(ARCHIVE, name) for name in ARCHIVE.__dataclass_fields__}
    archive = Mixed(**fields | {"modalities": {"q": Modality("q", bands)}, "count": 2})
    encode(archive, tmp_path, tmp_path, modality="q", metadata=archive.metadata(tmp_path))
    seal(tmp_path)
    store = Patches(tmp_path / "q")
    expected = np.stack([np.where(pixels[i] == nodata[i], np.nan, pixels[i]) for i in order])
    names = [f"b{i}" for i in order]
    tiles = Tiles(store, names)
    assert same(tiles.tile(0), expected)
    assert same(tiles.window(1, (16, width), (3, 4), 9), expected[:, 3:12, 4:13])
    for shape in ((24, 28), (16, 28), (24, width)):
        wider = F.interpolate(torch.from_numpy(expected)[None], shape, mode="bilinear")[0]
        assert same(tiles.tile(0, shape), wider)
        assert same(tiles.window(1, shape, (3, 4), 9), wider[:, 3:12, 4:13])
    if width == 16:
        assert same(Images(store, names, 16).batch(np.array([1, 0])), np.stack([expected] * 2))
    for size in (16, 10, 24):  # read as they are stored, completed on a device
        images = Images(store, names, size)
        native = images.native(np.array([1, 0]), images.buffers(2))
        kept = [part.clone() for part in native]
        assert same(images.assemble(kept), images.batch(np.array([1, 0])))


@pytest.mark.parametrize("names", [["B05", "B02", "B01", "B03"], ["B01", "B11"], ["B01"]])
def test_a_tile_has_the_grid_of_its_finest_bands(store, names):
    """Bands of 10, 20 and 60 m, 120, 60 and 20 px wide, each at its place."""
    stored = {10: ["B02", "B03"], 20: ["B05", "B06", "B07", "B8A", "B11"], 60: ["B01"]}
    files = {name: (f"s2/{m}m-00000.npy", i) for m in stored for i, name in enumerate(stored[m])}
    native = []
    for name in names:
        file, channel = files[name]
        native.append(np.load(store[0] / file)[5, channel].astype(np.float32))
    finest = max(x.shape for x in native)
    expected = torch.cat(
        [F.interpolate(torch.from_numpy(x)[None, None], finest, mode="bilinear") for x in native], 1
    )[0]
    tiles = Tiles(Patches(store[0] / "s2"), names)
    assert tiles.shape(5) == finest
    torch.testing.assert_close(tiles.tile(5), expected, rtol=1e-6, atol=0)
    found = tiles.window(5, finest, (2, 7), 11)
    torch.testing.assert_close(found, expected[:, 2:13, 7:18], rtol=1e-6, atol=0)


@pytest.mark.parametrize("q", list(TILE_BANDS))
def test_moments_are_numpys_without_gaps(tiles, q):
    store = Patches(tiles[0] / q)
    images = Tiles(store, list(TILE_BANDS[q]))
    each = [images.tile(row)[None] for row in range(len(store.pairs))]
    origin = np.full(images.channels, 5.0)
    found = pool([moments(each[:7], origin), moments(each[7:], origin)])
    pixels = [truth(q, patch).astype(np.float64) for patch in store.index["patch"]]
    flat = np.concatenate([x.reshape(len(x), -1) for x in pixels], axis=1)
    np.testing.assert_array_equal(found.count, (~np.isnan(flat)).sum(axis=1))
    np.testing.assert_allclose(found.mean, np.nanmean(flat, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(flat, axis=1), rtol=1e-9)


def test_moments_of_nothing_but_gaps(tiles):
    store = Patches(tiles[0] / "s1")
    tile = Tiles(store, ["VV", "VH"]).tile(store.rows(["tile-05"])[0])
    found = moments([tile[None]], np.zeros(2))
    assert found.count[0] > 200 and found.count[1] == 0
    assert np.isfinite(found.mean[0]) and np.isnan(found.mean[1])


# ---- images of several sizes for the multi-label task ------------------------------------------


@pytest.mark.parametrize(("q", "size"), [("s2", 16), ("s2", 10), ("dem", 12), ("s1", 24)])
def test_images_of_several_sizes_are_resized_one_by_one_as_torch_does(tiles, q, size):
    store = Patches(tiles[0] / q)
    names = list(TILE_BANDS[q])
    images = Images(store, names, size)
    rows = np.random.default_rng(3).permutation(len(store.pairs))
    found = images.batch(rows)
    for image, row in zip(found, rows.tolist(), strict=True):
        native = torch.from_numpy(truth(q, store.index["patch"][row]))[None]
        height, width = native.shape[-2:]
        shrinks = height > size or width > size
        expected = F.interpolate(
            native, (size, size), mode="bilinear", align_corners=False, antialias=shrinks
        )
        assert same(image, native[0] if (height, width) == (size, size) else expected[0])
    assert images.preload(rows[:9])
    assert same(images.batch(rows[:9]), found[:9]) and same(images.batch(rows), found)


@given(
    st.sampled_from(["uint8", "int16", "uint16", "int32", "float32"]), st.booleans(), st.data()
)  # fmt: skip
def test_a_gap_is_a_gap_in_every_type(tmp_path_factory, dtype, declared, data):
    """One tile of one band: what equals nodata is NaN, everything else as NumPy converts it."""
    kind = np.dtype(dtype)
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    limits = (-1e6, 1e6) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    nodata = data.draw(st.sampled_from([0, int(limits[1]), int(limits[0])]))
    values = st.sampled_from([nodata, 1, 7, 100])
    pixels = np.array(
        data.draw(st.lists(values, min_size=36, max_size=36)), dtype=kind
    )[: shape[0] * shape[1]].reshape(shape)  # fmt: skip
    if declared:  # nothing but gaps would be no image
        pixels[0, 0] = 1
    band = Band("x", 10, None, dtype, nodata=nodata if declared else None)
    modality = Modality("q", (band,), ("x",))

    class One(type(ARCHIVE)):
        def read(self, root, modality, patch, band):
            return pixels

        def shape(self, root, modality, patch):
            return shape

    fields = {name: getattr(ARCHIVE, name) for name in ARCHIVE.__dataclass_fields__}
    archive = One(**fields | {"modalities": {"q": modality}, "count": 1})
    folder = tmp_path_factory.mktemp("one")
    encode(archive, folder, folder, modality="q", metadata=archive.metadata(folder))
    seal(folder)
    found = Tiles(Patches(folder / "q"), ["x"]).tile(0)[0]
    expected = pixels.astype(np.float32)
    assert same(found, np.where(pixels == nodata, np.nan, expected) if declared else expected)
