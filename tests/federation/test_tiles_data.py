"""Tiles as clients see them: windows, names, turns, frequencies, statistics, places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine, from_origin
from torch.nn import functional as F

from helpers.small_tile_federation import BANDS, SIZE, tile_data
from helpers.tile_store import drawn_tiles, make_tiles
from mmfl.archives.base import Mask
from mmfl.errors import UserError
from mmfl.facts.tasks import IGNORED
from mmfl.federation.data import Normaliser
from mmfl.federation.tiles import grid
from mmfl.patches.augment import Turned

ARCHIVE = drawn_tiles()
THREE = ("dem", "s1", "s2")


@pytest.fixture(scope="module")
def data(tiles):
    return tile_data(tiles, THREE)


def same(one, two) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(two), equal_nan=True)


def held(data, q):
    return np.flatnonzero(data.present[q])


# ---- where windows are -------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_windows_cover_a_tile_and_are_as_few_as_can_be(height, width, size):
    corners = grid((height, width), size)
    covered = np.zeros((height, width), int)
    for top, left in corners.tolist():
        assert 0 <= top <= max(height - size, 0) and 0 <= left <= max(width - size, 0)
        covered[top : top + size, left : left + size] += 1
    assert covered.all()
    assert len(corners) == -(-height // size) * -(-width // size)
    assert len(np.unique(corners, axis=0)) == len(corners)


def test_windows_overlap_no_more_than_they_have_to():
    assert grid((32, 48), 16).tolist() == [[r, c] for r in (0, 16) for c in (0, 16, 32)]
    assert grid((33, 16), 16).tolist() == [[0, 0], [8, 0], [17, 0]]  # 8.5, to even
    assert grid((9, 20), 16).tolist() == [[0, 0], [0, 4]]


# ---- what is in them ---------------------------------------------------------------------------


def labelled_windows(mask):
    """(row, column) of the windows of a mask (H, W) in which a pixel has a class."""
    places = [(r, c) for r, c in grid(mask.shape, SIZE).tolist()]
    return [(r, c) for r, c in places if (mask[r : r + SIZE, c : c + SIZE] != IGNORED).any()]


@pytest.mark.parametrize("q", THREE)
def test_windows_are_slices_of_the_tile_and_its_mask(data, q):
    for location in held(data, q).tolist():
        samples = data.samples(np.array([location]))
        shape = data.shape(location)
        tile, mask = data.tile(q, location), data.mask(location)
        assert tile.shape == (len(BANDS[q]), *shape) and mask.shape == shape
        assert same(mask, ARCHIVE.mask(None, data.pairs[location]).classes)
        down, right = (max(0, SIZE - side) for side in shape)
        tile = np.pad(tile.numpy(), ((0, 0), (0, down), (0, right)), mode="reflect")
        mask = np.pad(mask, ((0, down), (0, right)), constant_values=IGNORED)
        corners = labelled_windows(mask)
        assert len(samples) == len(corners) > 0
        images, targets = data.batch(q, samples), data.targets(samples)
        assert images.dtype == torch.float32 and targets.dtype == torch.uint8
        for image, target, (top, left) in zip(images, targets, corners, strict=True):
            part = slice(top, top + SIZE), slice(left, left + SIZE)
            assert same(image, tile[:, *part]) and same(target, mask[part])


def numbers(data, pair):
    """Numbers of a tile's windows in which a pixel has a class."""
    mask = data.mask(data.table["pair"].tolist().index(pair))
    places = grid(mask.shape, SIZE).tolist()
    return [n for n, (r, c) in enumerate(places) if (r, c) in labelled_windows(mask)]


def test_windows_without_a_class_are_trained_on_by_nobody(data):
    """Neither the loss nor a client's weight knows of them."""
    every = [
        (pair, n) for location, pair in enumerate(data.pairs)
        for n in range(len(grid(data.shape(location), SIZE)))
    ]  # fmt: skip
    kept = set(data.names(data.samples(np.arange(len(data.pairs)))))
    bare = [f"{pair}#{n}" for pair, n in every if f"{pair}#{n}" not in kept]
    assert bare and all(n not in numbers(data, p) for p, n in every if f"{p}#{n}" in bare)
    assert not set(bare) & {name for c in data.clients for name in data.names(c.locations)}
    targets = data.targets(np.concatenate([c.locations for c in data.clients]))
    assert (targets != IGNORED).flatten(1).any(dim=1).all()


def test_a_window_has_one_number_and_one_name_whoever_holds_it(data):
    """Clients of a group hold the same samples; all of them have the names of their tiles."""
    clients = {c.id: c for c in data.clients}
    assert sorted(clients) == [f"{g}-{q}" for g in "ab" for q in THREE]
    every = data.samples(np.arange(len(data.pairs)))
    assert (np.diff(every) > 0).all()
    names = data.names(every)
    assert len(set(names)) == len(names)
    for client in data.clients:
        (q,) = client.modalities
        tiles = data.table["pair"][
            (data.table["split"] == "train")
            & (data.table["country"].str.lower() == client.group)
            & data.present[q]
        ]
        windows = {f"{pair}#{n}" for pair in tiles for n in numbers(data, pair)}
        assert set(data.names(client.train[q])) == windows and client.size == len(windows)
    lacking = set(data.names(clients["a-s2"].train["s2"]))
    lacking -= set(data.names(clients["a-s1"].train["s1"]))
    assert lacking == {"tile-01#0"}
    both = np.intersect1d(clients["b-s1"].train["s1"], clients["b-dem"].train["dem"])
    assert len(both) == clients["b-s1"].size


def test_a_window_has_its_number_in_other_partitions_of_the_same_modalities(tiles, data):
    other = tile_data(tiles, THREE, "both", groups="xyz")
    every = np.arange(len(data.pairs))
    samples = data.samples(every)
    assert same(samples, other.samples(every))
    assert data.names(samples).tolist() == other.names(samples).tolist()


def test_images_and_masks_turn_alike(data):
    """As pixels: value by value in all bands and in the class, in another order."""
    location = np.flatnonzero(np.all([data.present[q] for q in THREE], axis=0))
    samples = data.samples(location)

    def pixels(turned):
        parts = [data.batch(q, samples, turned).nan_to_num(-1.0) for q in THREE]
        parts.append(data.targets(samples, turned)[:, None].float())
        return torch.cat(parts, dim=1).flatten(2).transpose(1, 2).numpy()

    still, turned = pixels(None), pixels(Turned(1, 0))
    moved = 0
    for one, two in zip(still, turned, strict=True):
        assert len(np.unique(one, axis=0)) > 0.4 * len(one)  # mirrored ones repeat theirs
        assert same(one[np.lexsort(one.T)], two[np.lexsort(two.T)])
        moved += not same(one, two)
    assert 0.7 < moved / len(still) < 1  # 7 of 8 in the mean
    assert not same(turned, pixels(Turned(1, 1))) and same(turned, pixels(Turned(1, 0)))


def test_turns_are_the_eight_symmetries_by_name(data):
    """By NumPy's transpose and flips, each window by the code of its name."""
    samples = data.samples(np.arange(len(data.pairs)))
    turned = Turned(3, 4)
    codes = turned.codes(data.names(samples))
    assert set(codes) == set(range(8))
    plain, found = data.targets(samples).numpy(), data.targets(samples, turned).numpy()
    for code, before, after in zip(codes, plain, found, strict=True):
        expected = before.T if code & 4 else before
        expected = np.flipud(expected) if code & 1 else expected
        expected = np.fliplr(expected) if code & 2 else expected
        assert same(after, expected)
    order = np.random.default_rng(0).permutation(len(samples))[:7]
    assert same(data.targets(samples[order], turned), found[order])
    s1 = samples[data.present["s1"][data._tile[samples]]]
    assert same(data.batch("s1", s1[:1], turned), data.batch("s1", s1[:9], turned)[:1])


# ---- what is known of them ---------------------------------------------------------------------


def test_labels_are_the_classes_that_a_tile_shows(data):
    for location, pair in enumerate(data.pairs):
        classes = ARCHIVE.mask(None, pair).classes
        shown = [c in classes for c in range(3)]
        assert data.labels[location].tolist() == shown
    assert data.classes == ("water", "trees", "built") and data.colours[2] == "#c4281b"


def test_frequencies_count_every_pixel_with_a_class_once(data):
    """However the windows overlap."""
    locations = np.array([1, 8, 12, 20])
    classes = np.concatenate([data.mask(i).ravel() for i in locations])
    counts = np.bincount(classes[classes != IGNORED], minlength=3)
    expected = counts / counts.sum()
    np.testing.assert_allclose(data.frequencies(data.samples(locations)), expected, rtol=1e-15)


def test_places(data):
    for location, pair in enumerate(data.pairs):
        found, number = data.georeference(location), int(pair[-2:])
        if number == 2:
            assert found is None
            continue
        crs, transform = found
        assert crs == "EPSG:32633" and isinstance(transform, Affine)
        assert transform == from_origin(4e5 + 1000 * number, 58e5, 10, 10)


def windows_of(q, pair):
    """Of an archive's tile, by torch's and NumPy's own means: float64 in raw units."""
    nodata = ARCHIVE.modalities[q].bands[0].nodata
    x = np.stack([ARCHIVE.read(None, q, pair, band).astype(np.float32) for band in BANDS[q]])
    x[x == nodata] = np.nan
    classes = ARCHIVE.mask(None, pair).classes
    x = F.interpolate(torch.from_numpy(x)[None], classes.shape, mode="bilinear")[0].numpy()
    more = [(0, max(0, SIZE - length)) for length in classes.shape]
    x = np.pad(x, [(0, 0), *more], mode="reflect").astype(float)
    classes = np.pad(classes, more, constant_values=IGNORED)
    boxes = [np.s_[t : t + SIZE, left : left + SIZE] for t, left in grid(classes.shape, SIZE)]
    return [x[:, *box] for box in boxes if (classes[box] != IGNORED).any()]


class Stripes(type(ARCHIVE)):
    """Tiles of 16 x 16 pixels; s2 has half as many, its columns are 1000 and 1004 in turn."""

    def mask(self, root, pair):
        return Mask(np.full((16, 16), int(pair[-1]) % 3, np.uint8))

    def shape(self, root, modality, patch):
        return (8, 8) if modality == "s2" else (16, 16)

    def read(self, root, modality, patch, band):
        return np.tile([1000, 1004], (8, 4)).astype(np.uint16) if modality == "s2" else (
            np.arange(256.0).reshape(16, 16).astype(self.modality(modality).band(band).dtype)
        )  # fmt: skip


def test_statistics_by_hand(tmp_path):
    """Doubled, a line reads 1000, 1001, 1003, 1003, 1001, ..., 1003, 1004: variance 22/16, not 4.

    0 to 255: mean 127.5, variance (256 squared - 1) / 12.
    """
    archive = Stripes(**{n: getattr(ARCHIVE, n) for n in ARCHIVE.__dataclass_fields__})
    table = make_tiles(tmp_path / "patches", archive)
    found = tile_data((tmp_path / "patches", table)).statistics("client")
    for entries in (found["s1"], found["s2"]):
        assert len(entries) == 3
    for mean, std in found["s2"].values():
        assert mean == pytest.approx([1002, 1002], rel=1e-12)
        assert std == pytest.approx([1.375**0.5] * 2, rel=1e-9)
    for mean, std in found["s1"].values():
        assert mean == pytest.approx([127.5, 127.5], rel=1e-12)
        assert std == pytest.approx([((256**2 - 1) / 12) ** 0.5] * 2, rel=1e-9)


@pytest.mark.parametrize("normalisation", ["global", "client"])
def test_statistics_are_numpys_over_the_training_windows(tiles, data, normalisation):
    """As the network sees them: on the mask's grid, mirrored, cut, without those that no class is
    in. Gaps are left out; a band of a client without pixels takes the pooled ones.
    """
    found = data.statistics(normalisation)
    chosen = {("s1", "b"): ["s1", "b-s1"], ("s2", "a"): ["s2", "a-s2"], ("dem", None): ["dem"]}
    for (q, group), (name, *client) in chosen.items():
        assert name == q
        table = data.table[(data.table["split"] == "train") & data.present[q]]
        if client and normalisation == "global":
            assert list(found[q]) == ["all"]
            continue
        if client:
            table = table[table["country"].str.lower() == group]
        pixels = []
        for pair in table["pair"]:
            pixels += windows_of(q, pair)
        flat = np.concatenate([x.reshape(len(x), -1) for x in pixels], axis=1)
        mean, std = found[q][client[0] if client else "all"]
        np.testing.assert_allclose(mean, np.nanmean(flat, axis=1), rtol=1e-12)
        np.testing.assert_allclose(std, np.nanstd(flat, axis=1), rtol=1e-9)


def test_gaps_are_the_mean(data):
    """0 after standardising, in every modality that may have some."""
    normaliser = Normaliser(data.statistics("global"), data)
    for q in THREE:
        samples = data.samples(held(data, q)[:12])
        x = data.batch(q, samples)
        found = normaliser.client(q, x.clone(), "nobody")
        assert x.isnan().any() and (found[x.isnan()] == 0).all() and found.isfinite().all()
        assert abs(float(found[~x.isnan()].mean())) < 0.3


def test_published_statistics_are_asked_for_in_vain(data):
    with pytest.raises(UserError, match=r"none is published for dem height; use global or client"):
        data.statistics("archive")


def test_windows_larger_than_every_tile(tiles):
    """One of each tile, mirrored as often as it takes."""
    data = tile_data(tiles, ("s1",), size=64)
    samples = data.samples(held(data, "s1"))
    assert len(samples) == data.present["s1"].sum()
    x, y = data.batch("s1", samples), data.targets(samples)
    assert x.shape == (len(samples), 2, 64, 64)
    for image, target, location in zip(x, y, held(data, "s1").tolist(), strict=True):
        height, width = data.shape(location)
        tile = data.tile("s1", location).numpy()
        padding = ((0, 0), (0, 64 - height), (0, 64 - width))
        assert same(image, np.pad(tile, padding, mode="reflect"))
        assert (target[height:] == IGNORED).all() and (target[:, width:] == IGNORED).all()


def test_tiles_kept_in_memory_are_those_read_from_disk(tiles, monkeypatch):
    """Only those of other pixels than their masks', and none where they do not fit."""
    kept, read = tile_data(tiles, THREE), tile_data(tiles, THREE)
    kept.preload()
    coarse = {q for q, _ in kept._kept}
    assert coarse and coarse != set(THREE)
    for q in THREE:
        samples = kept.samples(held(kept, q))
        one, two = kept.batch(q, samples), read.batch(q, samples)
        assert torch.equal(one.nan_to_num(-1), two.nan_to_num(-1))
        for location in held(kept, q).tolist():
            assert torch.equal(
                kept.tile(q, location).nan_to_num(-1), read.tile(q, location).nan_to_num(-1)
            )
    monkeypatch.setattr("mmfl.federation.tiles.LIMIT", 1)
    none = tile_data(tiles, THREE)
    none.preload()
    assert not none._kept


def test_windows_stand_at_whole_pixels_by_rounding():
    """9.5 to the even 10; 11.67 to 12, 23.33 to 23."""
    assert grid((35, 16), 16)[:, 0].tolist() == [0, 10, 19]
    assert grid((16, 51), 16)[:, 1].tolist() == [0, 12, 23, 35]


def test_tiles_are_kept_as_long_as_they_fit(tiles, monkeypatch):
    """4 bytes of every band and pixel, of a modality; that of the masks' pixels is none of it."""
    data = tile_data(tiles, ("s1", "s2"))
    size = sum(4 * len(BANDS["s2"]) * np.prod(data.shape(i)) for i in held(data, "s2").tolist())
    for limit, kept in ((size - 1, set()), (size, {"s2"})):
        monkeypatch.setattr("mmfl.federation.tiles.LIMIT", int(limit))
        data = tile_data(tiles, ("s1", "s2"))
        data.preload()
        assert {q for q, _ in data._kept} == kept


def test_every_modality_of_other_pixels_is_kept(tiles):
    data = tile_data(tiles, THREE)
    own = data.images["dem"].shape
    data.images["dem"].shape = lambda row: tuple(2 * side for side in own(row))
    data.preload()
    expected = {(q, i) for q in ("s2", "dem") for i in held(data, q).tolist()}
    assert set(data._kept) == expected


def test_a_kept_tile_stays_what_it_was(tiles):
    """Who standardises a tile in place does not change the next one's."""
    data = tile_data(tiles, ("s2",))
    data.preload()
    location = int(held(data, "s2")[0])
    before = data.tile("s2", location).nan_to_num(-1)
    data.tile("s2", location).zero_()
    assert torch.equal(data.tile("s2", location).nan_to_num(-1), before)


def test_windows_count_as_in_memory_while_all_of_them_would_fit(tiles, monkeypatch):
    """4 bytes of every band of every modality and pixel of a window."""
    data = tile_data(tiles, THREE)
    windows = sum(len(grid(data.shape(i), SIZE)) for i in range(len(data.pairs)))
    size = windows * sum(map(len, (BANDS[q] for q in THREE))) * SIZE**2 * 4
    for limit, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr("mmfl.federation.tiles.LIMIT", limit)
        assert data.in_memory == fits


@pytest.mark.parametrize("column", ["crs", "transform"])
def test_half_a_georeference_is_none(tiles, column):
    data = tile_data(tiles, ("s1",))
    assert data.georeference(0) is not None
    data.table = data.table.assign(**{column: None})
    assert data.georeference(0) is None


def test_a_tile_without_its_mask_pixels_is_found_before_training(tmp_path):
    folder = tmp_path / "patches"
    table = make_tiles(folder)
    path = next((folder / "mask").glob("*.npy"))
    with path.open("r+b") as handle:
        handle.seek(200)
        handle.write(b"\x07\x07\x07")
    with pytest.raises(UserError, match=path.name):
        tile_data((folder, table), ("s1",))


def test_windows_of_tiles_that_are_narrower_than_they_are_long(tiles):
    """16 x 33 pixels, windows of 24: mirrored on one side, cut on the other."""
    data = tile_data(tiles, ("s1",), size=24)
    narrow = [i for i in held(data, "s1").tolist() if data.shape(i) == (16, 33)]
    for location in narrow:
        x = data.batch("s1", data.samples(np.array([location])))
        tile = np.pad(data.tile("s1", location).numpy(), ((0, 0), (0, 8), (0, 0)), mode="reflect")
        assert same(x, np.stack([tile[:, :, :24], tile[:, :, 9:]]))
    assert narrow
