"""The bytes of the simulated archives: GeoTIFFs, blocks of a tar file, zips, always the same."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml

from mmfl import files
from mmfl.processes import pool

BLOCK = tarfile.BLOCKSIZE
ASCII, SHORT, LONG, DOUBLE = 2, 3, 4, 12  # types of a TIFF's tags
_FORMAT = {SHORT: "H", LONG: "I", DOUBLE: "d"}
Tag = tuple[int, int, Sequence[float] | bytes]
In = TypeVar("In")
Out = TypeVar("Out")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip


def geotiff(
    pixels: np.ndarray,
    corner: tuple[int, int],
    resolution: int,
    epsg: int,
    *,
    names: Sequence[str] = (),
    nodata: int | None = None,
) -> bytes:
    """A GeoTIFF: little endian, one strip per band, uncompressed.

    Args:
        pixels: (H, W) or (bands, H, W), uint8, uint16 or float32.
        corner: easting and northing of the upper left corner in metres.
        resolution: metres of a pixel.
        epsg: code of the projected reference system.
        names: descriptions of the bands, as GDAL writes them.
        nodata: the value that stands for a gap.
    """
    bands = pixels[None] if pixels.ndim == 2 else pixels
    count, height, width = bands.shape
    data = bands.astype(pixels.dtype.newbyteorder("<")).tobytes()
    kind = {"uint8": 1, "uint16": 1, "float32": 3}[pixels.dtype.name]
    strip = len(data) // count
    # version, revision; projected model, pixels are areas, the reference system
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)

    def head(start: int) -> bytes:
        tags: list[Tag] = [
            (256, SHORT, [width]),
            (257, SHORT, [height]),
            (258, SHORT, [pixels.dtype.itemsize * 8] * count),
            (259, SHORT, [1]),  # no compression
            (262, SHORT, [1]),  # black is zero
            (273, LONG, [start + band * strip for band in range(count)]),
            (277, SHORT, [count]),  # samples per pixel
            (278, SHORT, [height]),  # rows per strip
            (279, LONG, [strip] * count),
            (284, SHORT, [1 if count == 1 else 2]),  # bands one after the other
            *([(338, SHORT, [0] * (count - 1))] if count > 1 else []),  # samples of no colour
            (339, SHORT, [kind] * count),
            (33550, DOUBLE, (resolution, resolution, 0)),
            (33922, DOUBLE, (0, 0, 0, *corner, 0)),
            (34735, SHORT, keys),
            *([(42112, ASCII, _descriptions(names))] if names else []),
            *([(42113, ASCII, f"{nodata}\0".encode())] if nodata is not None else []),
        ]
        return _directory(tags)

    return head(len(head(0))) + data


def _descriptions(names: Sequence[str]) -> bytes:
    items = [
        f'  <Item name="DESCRIPTION" sample="{band}" role="description">{name}</Item>\n'
        for band, name in enumerate(names)
    ]
    return f"<GDALMetadata>\n{''.join(items)}</GDALMetadata>\n\0".encode()


def _directory(tags: Sequence[Tag]) -> bytes:
    """Header and the only directory; values longer than four bytes follow it."""
    extra = 8 + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, value in tags:
        packed = value if isinstance(value, bytes) else _packed(kind, value)
        if len(packed) <= 4:
            place = packed.ljust(4, b"\0")
        else:
            place = struct.pack("<I", extra + len(values))
            values += packed + bytes(len(packed) % 2)
        entries += struct.pack("<HHI", tag, kind, len(value)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values


def _packed(kind: int, value: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(value)}{_FORMAT[kind]}", *value)


def member(name: str, data: bytes) -> bytes:
    """A file as blocks of a tar: no owner, no date."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A zip of files without dates, in the given order; the same bytes with one zlib."""
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members:
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            info.external_attr = 0o100644 << 16
            target.writestr(info, data, compresslevel=6)


def in_order(work: Callable[[In], Out], parts: Sequence[In], workers: int | None) -> Iterator[Out]:
    """The work on every part, in order, by as many processes as given (default: all cores)."""
    workers = min(workers or os.cpu_count() or 1, len(parts))
    if workers == 1:
        yield from map(work, parts)
        return
    with pool(workers) as processes:
        window = 4 * workers  # parts that may wait for the writer
        for i in range(0, len(parts), window):
            yield from processes.map(work, parts[i : i + window])


def write_manifest(out: Path, archive: str, names: Sequence[str]) -> Path:
    """The manifest of some files in a folder: as a published archive's, with file:// urls."""
    listed = [
        {
            "name": name,
            "url": (out / name).as_uri(),
            "bytes": (out / name).stat().st_size,
            "checksum": f"sha256:{files.file_sha256(out / name)}",
            "unpack": name.endswith((".tar.zst", ".zip")),
        }
        for name in names
    ]
    manifest = {"archive": archive, "licence": "CC0-1.0", "files": listed}
    files.write_text(out / "manifest.yaml", yaml.safe_dump(manifest, sort_keys=False))
    return out / "manifest.yaml"
