"""Encoding: from one GeoTIFF per band to shards that are read by memory map.

A shard holds up to `shard_size` patches of one modality, in one `.npy` file per resolution:
`<resolution>m-<shard>.npy`, (N, bands, size, size), native values and type. Files are written
with plain writes, a chunk of patches at its own offset, so memory does not grow with the archive
and any number of workers gives the same bytes. A shard appears whole (rename) and its SHA-256 is
noted: an interrupted encoding goes on after the last whole shard, and a damaged one is written
again. No torch in this process.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from numpy.lib import format as npy
from rasterio.errors import NotGeoreferencedWarning

from mmfl.archives import Archive, Modality
from mmfl.errors import UserError
from mmfl.files import atomic, file_sha256, write_json

GROUPS = ["pair", "split", "country", "month", "season", "tile"]
CHUNK = 32  # patches that a worker holds at a time: 6 MB

log = logging.getLogger(__name__)
Map = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Shard:
    """Some patches by name, in order, and the folder that their files go to."""

    number: int
    patches: tuple[str, ...]
    modality: Modality
    folder: Path

    @property
    def files(self) -> dict[int, Path]:
        """resolution -> file."""
        names = shard_files(self.modality, self.number)
        return {resolution: self.folder / name for resolution, name in names.items()}


@dataclass(frozen=True)
class Chunk:
    """Patches start to start + len(patches) of a shard; its files by resolution, headers written.

    `offsets`: resolution -> the file's byte at which the shard's pixels begin.
    """

    start: int
    patches: tuple[str, ...]
    files: dict[int, Path]
    offsets: dict[int, int]


def shard_files(modality: Modality, shard: int) -> dict[int, str]:
    """resolution -> file name."""
    return {r: f"{r}m-{shard:05d}.npy" for r in modality.resolutions}


def encode(
    archive: Archive,
    root: Path,
    store: Path,
    *,
    modality: str,
    metadata: pd.DataFrame,
    shard_size: int = 4096,
    workers: int = 1,
    progress: Callable[[int], object] = lambda patches: None,
) -> Path:
    """Write a modality's patches: shards, `index.parquet`, `modality.json`; their folder.

    Args:
        archive, root: what is read, and where it lies.
        store: folder of finished shards and work in progress; the result is in `store/modality`.
        metadata: as `Archive.metadata` returns it, sorted by pair; patches are stored in its order.
        shard_size: patches in a shard.
        workers: processes; they change no byte.
        progress: called with the number of patches done since the last call.

    Raises:
        UserError: a band is missing or damaged; the message names its file.
    """
    described = archive.modality(modality)
    folder = store / modality
    folder.mkdir(parents=True, exist_ok=True)
    names = metadata.loc[metadata[modality].notna(), modality].tolist()
    shards = [
        Shard(number, tuple(names[start : start + shard_size]), described, folder)
        for number, start in enumerate(range(0, len(names), shard_size))
    ]
    notes = store / f".{modality}.json"
    known = _read_json(notes) or _read_json(folder / "modality.json").get("sha256", {})
    write_json(notes, known)
    _remove_strangers(folder, {file.name for shard in shards for file in shard.files.values()})
    sums: dict[str, str] = {}
    with _pool(min(workers, -(-len(names) // CHUNK))) as run:
        for shard, found in zip(shards, run(partial(_whole, known=known), shards), strict=True):
            if found is None:
                found = _write_shard(archive, root, shard, run, progress)
            else:
                progress(len(shard.patches))
            sums |= found
            write_json(notes, known | sums)
    write_index(folder, described, metadata, shard_size, archive.name, sums)
    return folder


def _whole(shard: Shard, known: Mapping[str, str]) -> dict[str, str] | None:
    """The noted SHA-256 of the shard's files if they are as they were written, else None."""
    for file in shard.files.values():
        if file.name not in known or not file.is_file():
            return None
        if file_sha256(file) != known[file.name]:
            log.warning("%s: damaged, written again", file)
            return None
    return {file.name: known[file.name] for file in shard.files.values()}


def _write_shard(
    archive: Archive, root: Path, shard: Shard, run: Map, progress: Callable[[int], object]
) -> dict[str, str]:
    """Write the shard's files; their SHA-256 by name."""
    with ExitStack() as stack:
        files = {r: stack.enter_context(atomic(file)) for r, file in shard.files.items()}
        offsets = {
            resolution: _write_header(file, shard.modality, resolution, len(shard.patches))
            for resolution, file in files.items()
        }
        chunks = [
            Chunk(start, shard.patches[start : start + CHUNK], files, offsets)
            for start in range(0, len(shard.patches), CHUNK)
        ]
        for patches in run(partial(write_chunk, archive, root, shard.modality), chunks):
            progress(patches)
    return {file.name: file_sha256(file) for file in shard.files.values()}


def _write_header(file: Path, modality: Modality, resolution: int, patches: int) -> int:
    """Start the file with its `.npy` header; the header's length in bytes."""
    bands = modality.at(resolution)
    if len({(band.dtype, band.size) for band in bands}) != 1:
        raise ValueError(f"{modality.name}: bands of {resolution} m differ in type or size")
    header = {
        "descr": npy.dtype_to_descr(np.dtype(bands[0].dtype)),
        "fortran_order": False,
        "shape": (patches, len(bands), bands[0].size, bands[0].size),
    }
    with file.open("wb") as handle:
        npy.write_array_header_1_0(handle, header)
        return handle.tell()


def write_chunk(archive: Archive, root: Path, modality: Modality, chunk: Chunk) -> int:
    """Decode the chunk's patches and write them at their place; how many there were."""
    with _pixels_only():
        for resolution, file in chunk.files.items():
            bands = modality.at(resolution)
            shape = (len(chunk.patches), len(bands), bands[0].size, bands[0].size)
            pixels = np.empty(shape, bands[0].dtype)
            for row, patch in enumerate(chunk.patches):
                for channel, band in enumerate(bands):
                    pixels[row, channel] = archive.read(root, modality.name, patch, band.name)
            with file.open("r+b") as handle:
                handle.seek(chunk.offsets[resolution] + chunk.start * pixels[:1].nbytes)
                handle.write(pixels.data)
    return len(chunk.patches)


@contextmanager
def _pixels_only() -> Iterator[None]:
    """Let GDAL skip georeferences, which take most of the time of opening a small file."""
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_GEOREF_SOURCES="NONE", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _pool(workers: int) -> Iterator[Map]:
    """`map` over processes, results in order; the plain `map` for one worker.

    An error ends the running calls and cancels those that wait.
    """
    if workers <= 1:
        yield map
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_index(
    folder: Path,
    modality: Modality,
    metadata: pd.DataFrame,
    shard_size: int,
    source: str,
    sha256: Mapping[str, str] | None = None,
) -> None:
    """`index.parquet` (pair, patch, shard, row and group columns) and, last, `modality.json`."""
    held = metadata[metadata[modality.name].notna()].reset_index(drop=True)
    index = held[GROUPS].copy()
    index.insert(1, "patch", held[modality.name])
    number = np.arange(len(held))
    index.insert(2, "shard", number // shard_size)
    index.insert(3, "row", number % shard_size)
    write_parquet(folder / "index.parquet", index)
    write_json(
        folder / "modality.json",
        {
            "name": modality.name,
            "bands": [asdict(band) for band in modality.bands],
            "patches": len(held),
            "shards": -(-len(held) // shard_size),
            "source": source,
            "sha256": dict(sha256 or {}),
        },
    )


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; equal tables give equal bytes with one version of pyarrow."""
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _remove_strangers(folder: Path, expected: set[str]) -> None:
    """Remove what a killed run or another choice of `shard_size` left."""
    for path in folder.iterdir():
        if path.name not in expected:
            path.unlink()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {type(value).__name__}, expected a table; delete it")
    return value
