"""Encoding: from one GeoTIFF per band to shards that are read by memory map.

A shard holds up to `shard_size` patches of one modality, in one `.npy` file per resolution:
`<resolution>m-<shard>.npy`, (N, bands, size, size), native values and type. Files are written
with plain writes, a chunk of patches at its own offset, so memory does not grow with the archive
and any number of workers gives the same bytes. A shard appears whole (rename) and its SHA-256 is
noted: an interrupted encoding goes on after the last whole shard, and a damaged one is written
again. A patch that cannot be read stops the encoding, or is skipped: its row is then zeros that no
index names. No torch in this process.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from mmfl.archives import Archive, Fault, Modality
from mmfl.archives.base import pixels_only
from mmfl.errors import DamagedFile
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


@dataclass(frozen=True)
class Note:
    """What is known of a whole shard: the SHA-256 of its files, and the patches it lacks."""

    sha256: dict[str, str]
    skipped: list[Fault]


def encode(
    archive: Archive,
    root: Path,
    store: Path,
    *,
    modality: str,
    metadata: pd.DataFrame,
    shard_size: int = 4096,
    workers: int = 1,
    skip: bool = False,
    progress: Callable[[int], object] = lambda patches: None,
) -> tuple[Path, list[Fault]]:
    """Write a modality's patches: shards, `index.parquet`, `modality.json`.

    Args:
        archive, root: what is read, and where it lies.
        store: folder of finished shards and work in progress; the result is in `store/modality`.
        metadata: as `Archive.metadata` returns it, sorted by pair; patches are stored in its order.
        shard_size: patches in a shard.
        workers: processes; they change no byte.
        skip: leave out patches with a missing or damaged band instead of stopping.
        progress: called with the number of patches done since the last call.

    Returns:
        The folder, and the patches that were left out.

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
    known = _read_notes(notes) or _read_notes(folder / "modality.json")
    _remove_strangers(folder, {file.name for shard in shards for file in shard.files.values()})
    found: dict[int, Note] = {}
    with _pool(min(workers, -(-len(names) // CHUNK))) as run:
        whole = run(partial(_whole, known=known), shards)
        for shard, note in zip(shards, whole, strict=True):
            if note is None:
                note = _write_shard(archive, root, shard, skip, run, progress)
            else:
                progress(len(shard.patches))
            found[shard.number] = note
            write_json(notes, _as_json(known | found))
    faults = [fault for note in found.values() for fault in note.skipped]
    write_index(folder, described, metadata, shard_size, archive.name, found)
    return folder, faults


def _whole(shard: Shard, known: Mapping[int, Note]) -> Note | None:
    """The note of a shard whose files are as they were written, else None."""
    note = known.get(shard.number)
    if note is None:
        return None
    for file in shard.files.values():
        if file.name not in note.sha256 or not file.is_file():
            return None
        if file_sha256(file) != note.sha256[file.name]:
            log.warning("%s: damaged, written again", file)
            return None
    return note


def _write_shard(
    archive: Archive,
    root: Path,
    shard: Shard,
    skip: bool,
    run: Map,
    progress: Callable[[int], object],
) -> Note:
    """Write the shard's files."""
    faults: list[Fault] = []
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
        work = partial(write_chunk, archive, root, shard.modality, skip)
        for chunk, damaged in zip(chunks, run(work, chunks), strict=True):
            faults += damaged
            progress(len(chunk.patches))
    return Note({file.name: file_sha256(file) for file in shard.files.values()}, faults)


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


def write_chunk(
    archive: Archive, root: Path, modality: Modality, skip: bool, chunk: Chunk
) -> list[Fault]:
    """Decode the chunk's patches and write them at their place; what was skipped."""
    pixels = {}
    for resolution in chunk.files:
        bands = modality.at(resolution)
        shape = (len(chunk.patches), len(bands), bands[0].size, bands[0].size)
        pixels[resolution] = np.zeros(shape, bands[0].dtype)
    faults = []
    with pixels_only():
        for row, patch in enumerate(chunk.patches):
            try:
                for resolution, target in pixels.items():
                    for channel, band in enumerate(modality.at(resolution)):
                        target[row, channel] = archive.read(root, modality.name, patch, band.name)
            except DamagedFile as error:
                if not skip:
                    raise
                faults.append(Fault(modality.name, patch, error.path, error.reason))
                for target in pixels.values():
                    target[row] = 0
    for resolution, file in chunk.files.items():
        with file.open("r+b") as handle:
            handle.seek(chunk.offsets[resolution] + chunk.start * pixels[resolution][:1].nbytes)
            handle.write(pixels[resolution].data)
    return faults


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
    notes: Mapping[int, Note] | None = None,
) -> None:
    """`index.parquet` (pair, patch, shard, row and group columns) and, last, `modality.json`."""
    held = metadata[metadata[modality.name].notna()].reset_index(drop=True)
    index = held[GROUPS].copy()
    index.insert(1, "patch", held[modality.name])
    number = np.arange(len(held))
    index.insert(2, "shard", number // shard_size)
    index.insert(3, "row", number % shard_size)
    skipped = {fault.patch for note in (notes or {}).values() for fault in note.skipped}
    index = index[~index["patch"].isin(skipped)].reset_index(drop=True)
    write_parquet(folder / "index.parquet", index)
    write_json(
        folder / "modality.json",
        {
            "name": modality.name,
            "bands": [asdict(band) for band in modality.bands],
            "patches": len(index),
            "rows": np.bincount(number // shard_size).tolist(),
            "source": source,
            "shards": _as_json(notes or {}),
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


def _as_json(notes: Mapping[int, Note]) -> dict[str, Any]:
    return {
        str(number): {"sha256": note.sha256, "skipped": [astuple(x) for x in note.skipped]}
        for number, note in notes.items()
    }


def _read_notes(path: Path) -> dict[int, Note]:
    """The shards that a file knows; none if it is not there or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(number): Note(dict(note["sha256"]), [Fault(*x) for x in note["skipped"]])
            for number, note in value.get("shards", value).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
