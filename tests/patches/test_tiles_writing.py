"""Stores of tiles written: to the bit, killed, in shards of few bytes, with damaged tiles."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from helpers.store_digests import seal
from helpers.tile_store import TILE_SHAPES, drawn_tiles, make_tiles
from mmfl.archives.base import MASK
from mmfl.errors import DamagedFile
from mmfl.patches import shards, writer
from mmfl.patches.reader import Patches
from mmfl.patches.tiles import Tiles

ARCHIVE = drawn_tiles()
STORES = (MASK.name, *ARCHIVE.modalities)


def files(folder):
    """name -> bytes of everything but the notes of a store."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def check(folder, archive=ARCHIVE):
    """Every tile of a store in its native type equals the archive's."""
    for q in STORES:
        store = Patches(folder / q)
        for row, patch in enumerate(store.index["patch"]):
            (resolution,) = archive.modality(q).resolutions
            expected = archive.read_patch(None, q, patch, resolution)
            found = store.pixels(row, resolution, range(len(store.bands)))
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected, equal_nan=q == "s1")


@pytest.mark.parametrize("choice", [{}, {"shard_size": 3}, {"shard_size": 1}, {"workers": 2}])
@pytest.mark.parametrize("chunk", [{"CHUNK": 32}, {"CHUNK": 3}, {"CHUNK_BYTES": 1}])
def test_tiles_of_several_shapes_come_back_to_the_bit(tmp_path, tiles, choice, chunk, monkeypatch):
    for name, value in chunk.items():
        monkeypatch.setattr(writer, name, value)
    folder = tmp_path / "patches"
    make_tiles(folder, **choice)
    check(folder)
    for q in STORES:
        store = Patches(folder / q)
        assert len(store.pairs) == {"s1": 23, "s2": 23}.get(q, 24)
        resolution = store.bands[0]["resolution"]
        shards = sorted((folder / q).glob("*.npy"))
        pixels = [np.load(path, mmap_mode="r") for path in shards]
        assert {x.shape[2:] for x in pixels} == {
            store.shape(row, resolution) for row in range(len(store.pairs))
        }
        assert max(len(x) for x in pixels) <= choice.get("shard_size", 4)
        assert sum(len(x) for x in pixels) == len(store.pairs)
    if "shard_size" not in choice:  # neither workers nor chunks change a byte
        assert files(folder) == files(tiles[0])


def test_shards_hold_at_most_so_many_bytes(tmp_path, monkeypatch):
    """A tile that is larger alone has a shard of its own."""
    limit = 2 * 32 * 32 * 4 * 2  # two tiles of 32 x 32 of s1
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    folder = tmp_path / "patches"
    make_tiles(folder)
    check(folder)
    found = {}
    for path in (folder / "s1").glob("*.npy"):
        pixels = np.load(path, mmap_mode="r")
        assert pixels.nbytes <= limit
        found.setdefault(pixels.shape[2:], []).append(len(pixels))
    assert sorted(found) == sorted(TILE_SHAPES)
    assert sorted(found[32, 32]) == [2, 2] and found[9, 12] == [4]
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    make_tiles(tmp_path / "single")
    assert len(list((tmp_path / "single" / "s1").glob("*.npy"))) == 23
    check(tmp_path / "single")


@pytest.mark.parametrize("die", [1, 9])
def test_killed_encoding_of_several_shapes_goes_on(tmp_path, tiles, die):
    """kill -9 within a shard: the same bytes as uninterrupted; whole shards are kept."""
    folder = tmp_path / "patches"
    child = os.fork()
    if child == 0:
        write_chunk, calls = writer.write_chunk, []

        def deadly(*arguments):
            done = write_chunk(*arguments)
            calls.append(1)
            if len(calls) > die:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        writer.write_chunk = deadly
        make_tiles(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    whole = sorted(folder.rglob("*.npy"))
    whole = [path for path in whole if not path.name.startswith(".")]
    assert len(whole) == die
    kept = {path: path.stat().st_ino for path in whole}
    make_tiles(folder)
    assert {path: path.stat().st_ino for path in whole} == kept
    assert files(folder) == files(tiles[0])


def test_a_damaged_shard_is_written_again(tmp_path, tiles):
    folder = tmp_path / "patches"
    make_tiles(folder)
    path = folder / "s2" / "20m-00003.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    make_tiles(folder)
    assert files(folder) == files(tiles[0])


class Damaged(type(ARCHIVE)):
    """The shape of tile 8 and the pixels of tile 9 cannot be read in s1; with `lost` no shape."""

    lost = False

    def shape(self, root, modality, patch):
        if modality == "s1" and (patch == "tile-08" or self.lost):
            raise DamagedFile(f"{patch}.tif", "is cut short")
        return super().shape(root, modality, patch)

    def read(self, root, modality, patch, band):
        if (modality, patch) == ("s1", "tile-09"):
            raise DamagedFile(f"{patch}.tif", "is cut short")
        return super().read(root, modality, patch, band)


class Lost(Damaged):
    lost = True


def archive_of(kind):
    return kind(**{name: getattr(ARCHIVE, name) for name in ARCHIVE.__dataclass_fields__})


def test_damaged_tiles_stop_or_are_left_out(tmp_path):
    archive = archive_of(Damaged)
    table = archive.metadata(tmp_path)
    with pytest.raises(DamagedFile, match=r"tile-08\.tif"):
        writer.encode(archive, tmp_path, tmp_path, modality="s1", metadata=table)
    folder, faults = writer.encode(
        archive, tmp_path, tmp_path / "skip", modality="s1", metadata=table, skip=True
    )
    assert [fault.patch for fault in faults] == ["tile-08", "tile-09"]
    seal(folder.parent)
    store = Patches(folder)
    left = [name for name in ARCHIVE.metadata(None)["s1"].dropna() if name[-2:] not in ("08", "09")]
    assert store.pairs.tolist() == left
    for row, patch in enumerate(left):
        expected = ARCHIVE.read(None, "s1", patch, "VV")
        assert np.array_equal(Tiles(store, ["VV"]).tile(row)[0], expected, equal_nan=True)
    again, faults_again = writer.encode(
        archive, tmp_path, tmp_path / "skip", modality="s1", metadata=table, skip=True
    )
    assert faults_again == faults and again == folder


def test_a_modality_of_damaged_tiles_alone_is_empty(tmp_path):
    archive = archive_of(Lost)
    folder, faults = writer.encode(
        archive, tmp_path, tmp_path, modality="s1", metadata=archive.metadata(tmp_path), skip=True
    )
    seal(folder.parent)
    assert len(faults) == 23 and len(Patches(folder).pairs) == 0
