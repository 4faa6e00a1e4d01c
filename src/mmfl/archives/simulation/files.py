"""The bytes of the simulated archive: GeoTIFFs and blocks of a tar file, always the same."""

from __future__ import annotations

import struct
import tarfile

import numpy as np

BLOCK = tarfile.BLOCKSIZE


def geotiff(pixels: np.ndarray, corner: tuple[int, int], resolution: int, epsg: int) -> bytes:
    """A GeoTIFF of one band: little endian, one strip, uncompressed.

    Args:
        pixels: (H, W), uint16 or float32.
        corner: easting and northing of the upper left corner in metres.
        resolution: metres of a pixel.
        epsg: code of the projected reference system.
    """
    height, width = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    kind = {"uint16": 1, "float32": 3}[pixels.dtype.name]
    scale = struct.pack("<3d", resolution, resolution, 0)
    tie = struct.pack("<6d", 0, 0, 0, *corner, 0)
    # version, revision; projected model, pixels are areas, the reference system
    keys = struct.pack("<16H", 1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    entries = 14
    extra = 8 + 2 + 12 * entries + 4
    start = extra + len(scale) + len(tie) + len(keys)
    short, long, double = 3, 4, 12
    tags = (
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, 1, pixels.dtype.itemsize * 8),
        (259, short, 1, 1),  # no compression
        (262, short, 1, 1),  # black is zero
        (273, long, 1, start),
        (277, short, 1, 1),  # samples per pixel
        (278, short, 1, height),  # rows per strip
        (279, long, 1, len(data)),
        (284, short, 1, 1),  # contiguous
        (339, short, 1, kind),
        (33550, double, 3, extra),
        (33922, double, 6, extra + len(scale)),
        (34735, short, 16, extra + len(scale) + len(tie)),
    )
    directory = struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + scale + tie + keys + data


def member(name: str, data: bytes) -> bytes:
    """A file as blocks of a tar: no owner, no date."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)
