"""Encoding: from one GeoTIFF per band to shards that are read by memory map.

A shard holds up to `shard_size` patches (and `SHARD_BYTES`) of one modality and one shape, in one
`.npy` file per resolution: `<resolution>m-<shard>.npy`, (N, bands, H, W), native values and type.
The masks of tiles are such a store, too. Files are written
with plain writes, a chunk of patches at its own offset, so memory does not grow with the archive
and any number of workers gives the same bytes. A shard appears whole (rename) and its SHA-256 is
noted: an interrupted encoding goes on after the last whole shard, and a damaged one is written
again. A patch that cannot be read stops the encoding, or is skipped: its row is then zeros that no
index names. No torch in this process.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from mmfl.archives import Archive, Fault, Modality
from mmfl.archives.base import MASK, pixels_only
from mmfl.errors import DamagedFile
from mmfl.files import atomic, file_sha256, write_json
from mmfl.params.tasks import MASK_COLUMNS
from mmfl.patches.tables import group_columns, write_parquet
from mmfl.processes import pool

CHUNK, CHUNK_BYTES = 32, 6 << 20  # patches that a worker holds at a time, at most
SHARD_BYTES = 1 << 30

log = logging.getLogger(__name__)
Map = Callable[..., Iterator[Any]]
Shape = tuple[int, int]
"""Height and width of a patch's finest bands."""


@dataclass(frozen=True)
class Shard:
    """Some patches by name, in order, all of one shape, and the folder that their files go to."""

    number: int
    patches: tuple[str, ...]
    shape: Shape | None
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
    shape: Shape | None
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
    notes = store / f".{modality}.json"
    found: dict[int, Note] = {}
    with _pool(min(workers, -(-len(names) // CHUNK))) as run:
        if modality == MASK.name:  # known since their labels were read
            sizes = metadata[["height", "width"]].itertuples(index=False, name=None)
            shapes: dict[str, Shape | None] = dict(zip(names, sizes, strict=True))
            faults: list[Fault] = []
        else:
            shapes, faults = _shapes(archive, root, described, names, skip, run)
        shards = [
            Shard(number, tuple(part), shape, described, folder)
            for number, (part, shape) in enumerate(_cut(described, shapes, shard_size))
        ]
        known = _read_notes(notes) or _read_notes(folder / "modality.json")
        _remove_strangers(folder, {file.name for shard in shards for file in shard.files.values()})
        whole = run(partial(_whole, known=known), shards)
        for shard, note in zip(shards, whole, strict=True):
            if note is None:
                note = _write_shard(archive, root, shard, skip, run, progress)
            else:
                progress(len(shard.patches))
            found[shard.number] = note
            write_json(notes, _as_json(known | found))
    faults += [fault for note in found.values() for fault in note.skipped]
    write_index(
        folder, described, metadata, shard_size, archive.name, found,
        shapes=shapes, groups=group_columns(metadata, list(archive.modalities)),
    )  # fmt: skip
    return folder, faults


def _shapes(
    archive: Archive, root: Path, modality: Modality, names: list[str], skip: bool, run: Map
) -> tuple[dict[str, Shape | None], list[Fault]]:
    """patch -> its shape (None where the archive's bands all have one size), in order."""
    if all(band.size is not None for band in modality.bands):
        return dict.fromkeys(names), []
    found: dict[str, Shape | None] = {}
    faults = []
    looked = run(partial(_shape, archive, root, modality.name), names)
    for name, shape in zip(names, looked, strict=True):
        if not isinstance(shape, DamagedFile):
            found[name] = shape
        elif skip:
            faults.append(Fault(modality.name, name, shape.path, shape.reason))
        else:
            raise shape
    return found, faults


def _shape(archive: Archive, root: Path, modality: str, patch: str) -> Shape | DamagedFile:
    try:
        return archive.shape(root, modality, patch)
    except DamagedFile as error:
        return error


def _cut(
    modality: Modality, shapes: Mapping[str, Shape | None], shard_size: int
) -> list[tuple[list[str], Shape | None]]:
    """The patches of each shard in order, and their shape; shapes ascending."""
    by_shape: dict[Shape | None, list[str]] = {}
    for name, shape in shapes.items():
        by_shape.setdefault(shape, []).append(name)
    cut: list[tuple[list[str], Shape | None]] = []
    for shape in sorted(by_shape, key=lambda shape: shape or (0, 0)):
        names = by_shape[shape]
        most = min(shard_size, max(1, SHARD_BYTES // _patch_bytes(modality, shape)))
        cut += [(names[start : start + most], shape) for start in range(0, len(names), most)]
    return cut


def band_shape(modality: Modality, resolution: int, shape: Shape | None) -> tuple[int, int, int]:
    """(bands, H, W) of a patch at one resolution."""
    bands = modality.at(resolution)
    if shape is not None:
        return (len(bands), *shape)
    size = bands[0].size
    assert size is not None
    return len(bands), size, size


def _patch_bytes(modality: Modality, shape: Shape | None) -> int:
    return sum(
        int(np.prod(band_shape(modality, r, shape))) * np.dtype(modality.at(r)[0].dtype).itemsize
        for r in modality.resolutions
    )


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
            resolution: _write_header(file, shard, resolution) for resolution, file in files.items()
        }
        step = min(CHUNK, max(1, CHUNK_BYTES // _patch_bytes(shard.modality, shard.shape)))
        chunks = [
            Chunk(start, shard.patches[start : start + step], shard.shape, files, offsets)
            for start in range(0, len(shard.patches), step)
        ]
        work = partial(write_chunk, archive, root, shard.modality, skip)
        for chunk, damaged in zip(chunks, run(work, chunks), strict=True):
            faults += damaged
            progress(len(chunk.patches))
    return Note({file.name: file_sha256(file) for file in shard.files.values()}, faults)


def _write_header(file: Path, shard: Shard, resolution: int) -> int:
    """Start the file with its `.npy` header; the header's length in bytes."""
    bands = shard.modality.at(resolution)
    if len({(band.dtype, band.size) for band in bands}) != 1:
        raise ValueError(f"{shard.modality.name}: bands of {resolution} m differ in type or size")
    header = {
        "descr": npy.dtype_to_descr(np.dtype(bands[0].dtype)),
        "fortran_order": False,
        "shape": (len(shard.patches), *band_shape(shard.modality, resolution, shard.shape)),
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
        shape = (len(chunk.patches), *band_shape(modality, resolution, chunk.shape))
        pixels[resolution] = np.zeros(shape, modality.at(resolution)[0].dtype)
    faults = []
    with pixels_only():
        for row, patch in enumerate(chunk.patches):
            try:
                for resolution, target in pixels.items():
                    target[row] = archive.read_patch(root, modality.name, patch, resolution)
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
    """`map` over processes, results in order; the plain `map` for one worker."""
    if workers <= 1:
        yield map
        return
    with pool(workers) as processes:
        yield processes.map


def write_index(
    folder: Path,
    modality: Modality,
    metadata: pd.DataFrame,
    shard_size: int,
    source: str,
    notes: Mapping[int, Note] | None = None,
    *,
    groups: list[str],
    shapes: Mapping[str, Shape | None] | None = None,
) -> None:
    """`index.parquet` (pair, patch, shard, row and group columns) and, last, `modality.json`.

    `shapes`: those of the patches that the shards hold; by default all that `metadata` names.
    """
    held = metadata[metadata[modality.name].notna()].reset_index(drop=True)
    shapes = dict.fromkeys(held[modality.name]) if shapes is None else shapes
    cut = _cut(modality, shapes, shard_size)
    place = {
        patch: (number, row) for number, (names, _) in enumerate(cut)
        for row, patch in enumerate(names)
    }  # fmt: skip
    skipped = {fault.patch for note in (notes or {}).values() for fault in note.skipped}
    held = held[held[modality.name].isin(place.keys() - skipped)].reset_index(drop=True)
    index = held[groups].copy()
    index.insert(1, "patch", held[modality.name])
    where = np.array([place[name] for name in held[modality.name]], np.int64).reshape(-1, 2)
    index.insert(2, "shard", where[:, 0])
    index.insert(3, "row", where[:, 1])
    write_parquet(folder / "index.parquet", index)
    write_json(
        folder / "modality.json",
        {
            "name": modality.name,
            "bands": [asdict(band) for band in modality.bands],
            "show": list(modality.show),
            "patches": len(index),
            "rows": [len(names) for names, _ in cut],
            "shapes": {
                str(r): [list(band_shape(modality, r, shape)[1:]) for _, shape in cut]
                for r in modality.resolutions
            },
            "source": source,
            "shards": _as_json(notes or {}),
        },
    )


def write_labels(folder: Path, metadata: pd.DataFrame, archive: Archive) -> None:
    """`index.parquet` (pair, groups, labels as class indices) and `classes.json`.

    For tiles the labels are the classes that occur; height, width, crs and transform come beside.
    """
    own = [column for column in MASK_COLUMNS if column in metadata]
    columns = [*group_columns(metadata, list(archive.modalities)), *own]
    write_parquet(folder / "index.parquet", metadata[columns].reset_index(drop=True))
    described = {"task": archive.task, "classes": list(archive.classes)}
    write_json(folder / "classes.json", described | {"colours": list(archive.colours) or None})


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
