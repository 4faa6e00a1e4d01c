"""Files that claim more than they hold: one line, before any pixel is read."""

import resource
import struct
import zlib

import numpy as np
import pytest

from helpers.own_archive import made, tif
from mmfl.archives.folder import files
from mmfl.errors import DamagedFile, UserError

SIDE = 1_000_000


def png(path, width: int, height: int) -> None:
    """Of the size that its header says, with a line of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))  # fmt: skip

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def tiff(path, width: int, height: int, compression: int = 1, rows: int | None = None) -> None:
    """A little-endian GeoTIFF of one byte band, one strip of one byte."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1),
            (273, 4, 8), (277, 3, 1), (278, 4, rows or height), (279, 4, 1)]  # fmt: skip
    body = b"\x00" * 8
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 16) + body
                     + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))  # fmt: skip


def npy(path, shape, dtype="'<f4'", data=b"") -> None:
    """A header, and no more data than given."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


LIES = {
    "tif": lambda p: tiff(p.with_suffix(".tif"), SIDE, SIDE),
    "tif of strips": lambda p: tiff(p.with_suffix(".tif"), SIDE, SIDE, rows=1),
    "tif, deflate": lambda p: tiff(p.with_suffix(".tif"), SIDE, SIDE, compression=8),
    "tif, the largest": lambda p: tiff(p.with_suffix(".tif"), 2**31 - 1, 2**31 - 1, 8),
    "tif, beyond": lambda p: tiff(p.with_suffix(".tif"), 2**32 - 1, 2**32 - 1),
    "tif, nothing": lambda p: tiff(p.with_suffix(".tif"), 0, 7),
    "tif, short": lambda p: tiff(p.with_suffix(".tif"), 64, 64),
    "png": lambda p: png(p.with_suffix(".png"), SIDE, SIDE),
    "png, the largest": lambda p: png(p.with_suffix(".png"), 2**31 - 1, 2**31 - 1),
    "png, nothing": lambda p: png(p.with_suffix(".png"), 0, 0),
    "npy": lambda p: npy(p.with_suffix(".npy"), (SIDE, SIDE)),
    "npy, beyond": lambda p: npy(p.with_suffix(".npy"), (2**40, 2**40)),
    "npy, beyond numbers": lambda p: npy(p.with_suffix(".npy"), (10**30, 3)),
    "npy, negative": lambda p: npy(p.with_suffix(".npy"), (-1, 8)),
    "npy, not whole": lambda p: npy(p.with_suffix(".npy"), (2.5, 8)),
    "npy, no shape": lambda p: npy(p.with_suffix(".npy"), "None"),
    "npy, deep": lambda p: npy(p.with_suffix(".npy"), "(" * 4000 + ")" * 4000),
    "npy, objects": lambda p: npy(p.with_suffix(".npy"), (2, 2), "'|O'", b"0" * 64),
    "npy, records": lambda p: npy(p.with_suffix(".npy"), (2, 2), "[('a', '<f4')]", bytes(16)),
    "npy, no numbers": lambda p: npy(p.with_suffix(".npy"), (2, 2), "'<U4'", bytes(64)),
    "npy, cut": lambda p: npy(p.with_suffix(".npy"), (8, 8), data=bytes(8)),
    "npy, no type": lambda p: npy(p.with_suffix(".npy"), (8, 8), "'<q9'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_claim_more_than_they_hold(tmp_path, lie):
    """A damaged file in one line, and no memory taken for what is not there."""
    LIES[lie](tmp_path / "x")
    (path,) = tmp_path.iterdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFile) as caught:
        found = files.header(path)
        files._pixels(found, [1], None, 1)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000  # kB


def test_a_large_image_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """By what would be read of it: of many bands only those that are wanted count."""
    monkeypatch.setattr(files, "LIMIT", 3 * 64 * 64)
    tif(tmp_path / "q.tif", np.ones((4, 64, 64), np.uint8))
    assert files.header(tmp_path / "q.tif", 3).count == 4
    with pytest.raises(DamagedFile, match=r"is 4 x 64 x 64 uint8, 0\.0 GB of pixels, expected at"):
        files.header(tmp_path / "q.tif", 4)
    np.save(tmp_path / "q.npy", np.ones((2, 64, 64), np.uint16))
    with pytest.raises(DamagedFile, match="is 2 x 64 x 64 uint16"):
        files.header(tmp_path / "q.npy", 2)


def test_an_archive_of_such_files(tmp_path):
    """The first that can be read says what a modality is; no file at all is one line."""
    tiff(tmp_path / "a.tif", SIDE, SIDE, 8)
    text = "table: locations.csv\nmodalities: {q: {path: q, bands: [x]}}\n" \
           "labels: {classes: [a, b]}\n"  # fmt: skip
    with pytest.raises(UserError, match=r"a\.tif: is 1 x 1,000,000 x 1,000,000 uint8, 1,000"):
        made(tmp_path, text, "id,split,labels,q\na,train,a,a.tif\n")
