"""The archive `simulated-tiles`: drawn from a stated model, written in Dynamic World's layout.

`generate` writes the two zips of label tiles, the workbook, and, as nothing has to be searched
for, the images; and a manifest. From there on the archive goes the way of the published one, and
`dynamicworld` reads it. The model is described in docs/simulated.md.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import openpyxl
import zstandard

from mmfl import files
from mmfl.archives.dynamicworld import MODALITIES
from mmfl.archives.dynamicworld.table import XLSX
from mmfl.archives.simulation.files import (
    BLOCK,
    geotiff,
    in_order,
    member,
    write_manifest,
    write_zip,
)  # fmt: skip
from mmfl.archives.simulation.tiles import Tile, draw, draw_tiles

EXPERTS, VALIDATION = "Experts_tiles.zip", "validation_set_tiles.zip"
IMAGERY = "imagery.tar.zst"
CHUNK = 8  # tiles a process draws at a time
SAVED = "2019-01-01T00:00:00Z"  # the workbook's date
COLUMNS = (
    "dw_id", "date", "geometry", "crs", "utm", "lon", "lat", "bound1", "bound2", "bound3", "bound4",
    "hemisphere", "biome", "labeler", "S2_PRODUCT_ID", "S2_SENSING_ORBIT_DIRECTION",
)  # fmt: skip


def generate(
    out: Path,
    *,
    tiles: int,
    tile_size: int,
    seed: int,
    unpaired: float = 0.05,
    workers: int | None = None,
) -> Path:
    """Write the archive into `out` and return its manifest, `out/manifest.yaml`, written last.

    Args:
        out: folder of the files; names as published, and `imagery.tar.zst`.
        tiles: label tiles, a fifth of them for test.
        tile_size: pixels of a side; test tiles have two more.
        seed: seed of everything drawn.
        unpaired: share of tiles that lack one of their two modalities.
        workers: processes; default: those this process may use. They change no byte.

    Raises:
        UserError: too few or too many tiles.
    """
    out = Path(out).resolve()
    drawn = draw_tiles(tiles, tile_size, seed, unpaired)
    labels = _write_images(out, drawn, seed, workers)
    for name, test in ((EXPERTS, False), (VALIDATION, True)):
        mine = sorted((x.path, labels[x.name]) for x in drawn if x.test == test)
        with files.atomic(out / name) as temporary:
            write_zip(temporary, mine)
    _write_workbook(out / XLSX, drawn)
    return write_manifest(out, "simulated-tiles", (XLSX, EXPERTS, VALIDATION, IMAGERY))


def _write_images(out: Path, tiles: list[Tile], seed: int, workers: int | None) -> dict[str, bytes]:
    """`imagery.tar.zst` and `pixels.json` (digests, however compressed); label files by name."""
    digests = {"labels": hashlib.sha256(), "imagery": hashlib.sha256()}
    labels: dict[str, bytes] = {}
    parts = [tiles[i : i + CHUNK] for i in range(0, len(tiles), CHUNK)]
    with ExitStack() as stack:
        path = stack.enter_context(files.atomic(out / IMAGERY))
        handle = stack.enter_context(path.open("wb"))
        compressor = zstandard.ZstdCompressor(level=1)
        stream = stack.enter_context(compressor.stream_writer(handle, closefd=False))
        for codes, blocks in in_order(partial(draw_chunk, seed=seed), parts, workers):
            labels |= codes
            digests["labels"].update(b"".join(codes.values()))
            digests["imagery"].update(blocks)
            stream.write(blocks)
        digests["imagery"].update(bytes(2 * BLOCK))
        stream.write(bytes(2 * BLOCK))
    values = {name: value.hexdigest() for name, value in digests.items()}
    files.write_json(out / "pixels.json", values)
    return labels


def draw_chunk(tiles: list[Tile], seed: int) -> tuple[dict[str, bytes], bytes]:
    """Label files by name, and the images' tar blocks, of some tiles."""
    labels, blocks = {}, []
    for tile in tiles:
        codes, images = draw(tile, seed)
        labels[tile.name] = geotiff(codes, tile.corner, 10, tile.epsg)
        for q, held in (("s1", tile.has_s1), ("s2", tile.has_s2)):
            if held:
                bands = MODALITIES[q].bands
                nodata = None if bands[0].nodata is None else int(bands[0].nodata)
                image = geotiff(
                    images[q], tile.corner, 10, tile.epsg,
                    names=[band.name for band in bands], nodata=nodata,
                )  # fmt: skip
                blocks.append(member(f"imagery/{q}/{tile.name}.tif", image))
    return labels, b"".join(blocks)


def _write_workbook(path: Path, tiles: list[Tile]) -> None:
    """The tiles' table, without the date of its writing."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "expert"
    sheet.append(COLUMNS)
    for tile in sorted(tiles, key=lambda tile: tile.name):
        sheet.append(_row(tile))
    packed = io.BytesIO()
    book.save(packed)
    with zipfile.ZipFile(packed) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
    with files.atomic(path) as temporary:
        write_zip(temporary, [(name, _undated(name, data)) for name, data in members])


def _undated(name: str, data: bytes) -> bytes:
    if name != "docProps/core.xml":
        return data
    return re.sub(rb">\d{4}-\d\d-\d\dT[\d:.]+Z<", f">{SAVED}<".encode(), data)


def _row(tile: Tile) -> tuple[object, ...]:
    west, north = tile.corner
    east, south = west + 10 * tile.size, north - 10 * tile.size
    ring = ", ".join(
        f"{x} {y}"
        for x, y in ((west, north), (east, north), (east, south), (west, south), (west, north))
    )
    date = f"{tile.date[:4]}-{tile.date[4:6]}-{tile.date[6:]}"
    return (
        tile.name, date, f"POLYGON (({ring}))", f"EPSG:{tile.epsg}", f"{tile.epsg - 32600}N",
        tile.lon, tile.lat, west, south, east, north, tile.hemisphere, int(tile.biome),
        "simulated", tile.product, "DESCENDING",
    )  # fmt: skip
