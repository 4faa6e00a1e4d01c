"""Shards as files: their names and headers, those being written, and what is known of whole ones.

A shard holds up to `shard_size` patches (and `SHARD_BYTES`) of one modality and one shape, in one
`.npy` file per resolution: `<resolution>m-<shard>.npy`, (N, bands, H, W), native values and type.
Its files are written at any place in any order with plain writes, so memory does not grow with the
archive and any number of workers gives the same bytes. A shard appears whole (rename), and its
SHA-256 is noted.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from mmfl.archives.base import Fault, Modality
from mmfl.files import digest, file_sha256, write_json

SHARD_BYTES = 1 << 30

log = logging.getLogger(__name__)
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
        return {r: self.folder / f"{r}m-{self.number:05d}.npy" for r in self.modality.resolutions}


@dataclass(frozen=True)
class Target:
    """A file of a shard in progress: the byte at which its pixels begin, and bytes of a patch."""

    path: Path
    offset: int
    size: int


Targets = dict[int, Target]
"""resolution -> file."""


@dataclass(frozen=True)
class Note:
    """What is known of a whole shard: its patches' digest, SHA-256 of its files, what it lacks.

    Files of what it lacks are named as `shown` does.
    """

    patches: str
    sha256: dict[str, str]
    skipped: list[Fault]


def cut(
    modality: Modality, shapes: Mapping[str, Shape | None], shard_size: int
) -> list[tuple[list[str], Shape | None]]:
    """The patches of each shard in order, and their shape; shapes ascending, then names.

    By the modality's own names, which is nearly the order of an archive's tar: while that is read,
    one shard after another becomes whole.
    """
    by_shape: dict[Shape | None, list[str]] = {}
    for name in sorted(shapes):
        by_shape.setdefault(shapes[name], []).append(name)
    parts: list[tuple[list[str], Shape | None]] = []
    for shape in sorted(by_shape, key=lambda shape: shape or (0, 0)):
        names = by_shape[shape]
        most = min(shard_size, max(1, SHARD_BYTES // patch_bytes(modality, shape)))
        parts += [(names[start : start + most], shape) for start in range(0, len(names), most)]
    return parts


def band_shape(modality: Modality, resolution: int, shape: Shape | None) -> tuple[int, int, int]:
    """(bands, H, W) of a patch at one resolution."""
    bands = modality.at(resolution)
    if shape is not None:
        return (len(bands), *shape)
    size = bands[0].size
    assert size is not None
    return len(bands), size, size


def patch_bytes(modality: Modality, shape: Shape | None) -> int:
    """Bytes of a patch in all its bands."""
    return sum(
        math.prod(band_shape(modality, r, shape)) * np.dtype(modality.at(r)[0].dtype).itemsize
        for r in modality.resolutions
    )


class Writing:
    """The shards of a modality that are being written; as a context, leaves no half file.

    `notes` is the file of what is known, `found` its content, `root` the archive's. With `apart`,
    finished shards are hashed and flushed to the disk in a thread of their own.
    """

    def __init__(self, notes: Path, found: dict[int, Note], root: Path, apart: bool) -> None:
        self.notes, self.found, self.root = notes, found, root
        self._open: dict[int, _Open] = {}
        self._thread = ThreadPoolExecutor(1) if apart else None
        self._finishing: list[Future[None]] = []

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=kind is not None)
            if kind is None:
                self._raise()
        finally:
            for opened in self._open.values():
                for target in opened.targets.values():
                    target.path.unlink(missing_ok=True)

    def begin(self, shard: Shard) -> Targets:
        """Its files, made with their headers and full size where they are not there yet."""
        if shard.number not in self._open:
            self._open[shard.number] = opened = _Open(shard, {}, len(shard.patches))
            for resolution, path in shard.files.items():
                temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                opened.targets[resolution] = _header(temporary, shard, resolution)
        return self._open[shard.number].targets

    def add(self, shard: Shard, patches: int, faults: Sequence[Fault]) -> None:
        """So many patches more of it are written or skipped; the last ones make it whole."""
        opened = self._open[shard.number]
        opened.left -= patches
        opened.faults += faults
        if opened.left:
            return
        if self._thread is None:
            self._finish(opened)
        else:
            self._raise()
            self._finishing.append(self._thread.submit(self._finish, opened))

    def _raise(self) -> None:
        """Raise what went wrong in the thread."""
        for job in [job for job in self._finishing if job.done()]:
            self._finishing.remove(job)
            job.result()

    def _finish(self, opened: _Open) -> None:
        shard = opened.shard
        place = {patch: row for row, patch in enumerate(shard.patches)}
        sums = {}
        for resolution, path in shard.files.items():
            target = opened.targets[resolution]
            try:
                with target.path.open("r+b") as handle:
                    for fault in opened.faults:  # some of its bands may have been written
                        os.pwrite(
                            handle.fileno(),
                            bytes(target.size),
                            target.offset + place[fault.patch] * target.size,
                        )
                    os.fsync(handle.fileno())
                sums[path.name] = file_sha256(target.path)
            except OSError as error:  # a full disk names no file
                error.filename = error.filename or str(path)
                raise
        for resolution, path in shard.files.items():
            os.replace(opened.targets[resolution].path, path)
        faults = [replace(fault, file=shown(fault.file, self.root)) for fault in opened.faults]
        skipped = sorted(faults, key=astuple)
        self.found[shard.number] = Note(names_digest(shard.patches), sums, skipped)
        write_json(self.notes, as_json(self.found))
        del self._open[shard.number]


@dataclass
class _Open:
    shard: Shard
    targets: Targets
    left: int  # patches
    faults: list[Fault] = field(default_factory=list)


def _header(file: Path, shard: Shard, resolution: int) -> Target:
    """Start the file with its `.npy` header; behind it zeros that take no room."""
    bands = shard.modality.at(resolution)
    if len({(band.dtype, band.size) for band in bands}) != 1:
        raise ValueError(f"{shard.modality.name}: bands of {resolution} m differ in type or size")
    dtype = np.dtype(bands[0].dtype)
    shape = band_shape(shard.modality, resolution, shard.shape)
    header = {
        "descr": npy.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (len(shard.patches), *shape),
    }
    with file.open("wb") as handle:
        npy.write_array_header_1_0(handle, header)
        target = Target(file, handle.tell(), int(np.prod(shape)) * dtype.itemsize)
        handle.truncate(target.offset + len(shard.patches) * target.size)
    return target


def whole(known: tuple[Shard, Note | None]) -> Note | None:
    """The note of a shard whose files are as they were written, else None."""
    shard, note = known
    if note is None or note.patches != names_digest(shard.patches):
        return None
    for file in shard.files.values():
        if file.name not in note.sha256 or not file.is_file():
            return None
        if file_sha256(file) != note.sha256[file.name]:
            log.warning("%s: damaged, written again", file)
            return None
    return note


def names_digest(patches: Sequence[str]) -> str:
    """Says which patches a shard holds."""
    return digest(list(patches))


def shown(file: str, root: Path) -> str:
    """A file's name below the archive's root, so that no output depends on where that lies."""
    path, root = Path(file), root if root.is_dir() else root.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file


def as_json(notes: Mapping[int, Note]) -> dict[str, Any]:
    """What `read_notes` reads."""
    return {
        str(number): {
            "patches": note.patches,
            "sha256": note.sha256,
            "skipped": [astuple(x) for x in note.skipped],
        }
        for number, note in notes.items()
    }


def read_notes(path: Path) -> dict[int, Note]:
    """The shards that a file knows; none if it is not there or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(number): Note(
                str(note["patches"]), dict(note["sha256"]), [Fault(*x) for x in note["skipped"]]
            )
            for number, note in value.get("shards", value).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
