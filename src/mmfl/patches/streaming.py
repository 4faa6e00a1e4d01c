"""Encoding from the tar of a modality, read once as a stream: no file is unpacked to the disk.

One process unpacks the stream and cuts it into members, workers decode them and write the pixels at
their place. Members may come in any order. What the tar as a whole says (which patches it lacks,
which no table knows, labels) is told at its end and kept beside the shards.
"""

from __future__ import annotations

import json
import os
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmfl import tar as tars
from mmfl.archives import Archive, Fault
from mmfl.archives.base import (
    LABELS,
    REMEDY,
    Band,
    Labels,
    parsed,
    pixels_only,
    read_band,
    unreadable,
)
from mmfl.errors import DamagedFile
from mmfl.files import write_json
from mmfl.patches.shards import Shard, Writing
from mmfl.processes import Map

PIECE_BYTES = 4 << 20  # of members that a worker gets at a time


@dataclass(frozen=True)
class Pack:
    """The tar of a modality, and the folder that keeps what is told of it."""

    archive: Archive
    root: Path
    modality: str
    tar: Path
    store: Path


@dataclass(frozen=True)
class Told:
    """What a tar said: patches that no table knows, patches it lacks, labels where it has some."""

    strangers: list[Fault] = field(default_factory=list)
    lost: frozenset[str] = frozenset()
    labels: Labels = field(default_factory=dict)


def missing(modality: str, patch: str, folder: str) -> Fault:
    """A patch that the tables list and the archive lacks."""
    reason = "is missing, expected the patch's bands; fetch the archive again"
    return Fault(modality, patch, folder, reason)


def stranger(modality: str, patch: str, folder: str) -> Fault:
    """A patch that the archive has and no table lists."""
    reason = "has no row in the metadata, expected one; complete the tables"
    return Fault(modality, patch, folder, reason)


def read_told(store: Path, modality: str, tar: Path) -> Told | None:
    """What is known of a tar; None if it, as it is now, was not read to its end."""
    try:
        value = json.loads(_told_file(store, modality).read_text(encoding="utf-8"))
        if value["source"] != _source(tar):
            return None
        labels = {
            patch: found if isinstance(found, str) else np.array(found, np.int8)
            for patch, found in value["labels"].items()
        }
        strangers = [Fault(*item) for item in value["strangers"]]
        return Told(strangers, frozenset(value["lost"]), labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_told(pack: Pack, told: Told) -> None:
    labels = {
        patch: found if isinstance(found, str) else found.tolist()
        for patch, found in told.labels.items()
    }
    value = {
        "source": _source(pack.tar),
        "strangers": [astuple(fault) for fault in told.strangers],
        "lost": sorted(told.lost),
        "labels": labels,
    }
    write_json(_told_file(pack.store, pack.modality), value)


def _told_file(store: Path, modality: str) -> Path:
    return store / f".{modality}.told.json"


def _source(tar: Path) -> list[Any]:
    found = tar.stat()
    return [tar.name, found.st_size, found.st_mtime_ns]


@dataclass(frozen=True)
class Member:
    """A band's file in a tar: the patch's number, where its pixels go, its name and content."""

    patch: int
    band: Band
    target: Path
    offset: int
    path: Path
    data: bytes


class Roll:
    """The patches that are to be written: their numbers, and which of their bands have come."""

    def __init__(self, shards: Sequence[Shard], bands: int) -> None:
        self.shards = shards
        self.first = [0]
        self.number: dict[str, int] = {}
        for shard in shards:
            for patch in shard.patches:
                self.number[patch] = len(self.number)
            self.first.append(len(self.number))
        self.come = np.zeros(len(self.number), np.uint32)
        self.left = np.full(len(self.number), bands, np.uint8)

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of a patch and its row in it."""
        shard = bisect(self.first, number) - 1
        return self.shards[shard], number - self.first[shard]

    def name(self, number: int) -> str:
        """The patch's name."""
        shard, row = self.place(number)
        return shard.patches[row]


def encode(
    pack: Pack, shards: Sequence[Shard], writing: Writing, skip: bool, run: Map
) -> Iterator[tuple[Shard, int, list[Fault]]]:
    """Write shards from a tar: how many patches of which one are done, and the faults.

    The tar is read if a shard is to be written or it was never read to its end.

    Raises:
        UserError: the tar is damaged; or a patch is, has no row in the tables or comes twice, and
            `skip` is False.
    """
    earlier = read_told(pack.store, pack.modality, pack.tar)
    if not shards and earlier is not None:
        return
    modality = pack.archive.modality(pack.modality)
    roll = Roll(shards, len(modality.bands))
    told = _Telling()
    damaged: dict[int, Fault] = {}
    with tars.damage(pack.tar):
        pieces = _pieces(pack, roll, told, writing, skip)
        for done in run(partial(write_bands, pack.modality, skip), pieces):
            for number, fault in done:
                roll.left[number] -= 1
                if fault is not None:
                    damaged.setdefault(number, _named(fault, roll.name(number)))
                if not roll.left[number]:
                    yield roll.place(number)[0], 1, _listed(damaged.get(number))
    lost = set() if earlier is None else set(earlier.lost)
    for number in np.flatnonzero(roll.left).tolist():
        patch = roll.name(number)
        if not roll.come[number]:
            lost.add(patch)
            continue
        band = next(b for i, b in enumerate(modality.bands) if not roll.come[number] >> i & 1)
        path = pack.archive.band_path(pack.root, pack.modality, patch, band.name)
        if not skip:
            raise DamagedFile(path, unreadable(band, "is missing"))
        fault = Fault(pack.modality, patch, str(path), unreadable(band, "is missing"))
        yield roll.place(number)[0], 1, [damaged.get(number, fault)]
    _write_told(pack, Told(list(told.strangers.values()), frozenset(lost), told.labels))


@dataclass
class _Telling:
    strangers: dict[str, Fault] = field(default_factory=dict)
    labels: dict[str, np.ndarray | str] = field(default_factory=dict)


def _listed(fault: Fault | None) -> list[Fault]:
    return [] if fault is None else [fault]


def _named(fault: Fault, patch: str) -> Fault:
    return Fault(fault.modality, patch, fault.file, fault.reason)


def _pieces(
    pack: Pack, roll: Roll, told: _Telling, writing: Writing, skip: bool
) -> Iterator[list[Member]]:
    """The members that are wanted, some MB at a time."""
    archive, q = pack.archive, pack.modality
    known = archive.names(pack.root)[q]
    place = _places(pack)
    piece: list[Member] = []
    size = 0
    for tar, info in tars.members(pack.tar):
        found = archive.member(q, info.name) if info.isreg() else None
        if found is None:
            continue
        patch, what = found
        path = pack.root / info.name
        if patch not in known:
            fault = stranger(q, patch, str(path.parent))
            if not skip:
                raise DamagedFile(fault.file, f"{fault.reason}, or set split.on_error: skip")
            told.strangers.setdefault(patch, fault)
            continue
        if what == LABELS:
            told.labels[patch] = parsed(archive, _content(tar.extractfile(info)))
            continue
        number = roll.number.get(patch)
        if number is None:
            continue
        channel, band, resolution, start = place[what]
        if roll.come[number] >> channel & 1:
            raise DamagedFile(path, f"is in {pack.tar.name} twice, expected it once; {REMEDY}")
        roll.come[number] |= 1 << channel
        shard, row = roll.place(number)
        target = writing.begin(shard)[resolution]
        offset = target.offset + row * target.size + start
        data = _content(tar.extractfile(info))
        piece.append(Member(number, band, target.path, offset, path, data))
        size += len(data)
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _content(handle: IO[bytes] | None) -> bytes:
    assert handle is not None  # a regular file
    with handle:
        return handle.read()


def _places(pack: Pack) -> Mapping[str, tuple[int, Band, int, int]]:
    """band -> its number, itself, its resolution, and its first byte within a patch there."""
    modality = pack.archive.modality(pack.modality)
    found = {}
    start = dict.fromkeys(modality.resolutions, 0)
    for number, band in enumerate(modality.bands):
        assert band.size is not None
        found[band.name] = (number, band, band.resolution, start[band.resolution])
        start[band.resolution] += band.size**2 * np.dtype(band.dtype).itemsize
    return found


def write_bands(
    modality: str, skip: bool, members: Sequence[Member]
) -> list[tuple[int, Fault | None]]:
    """Decode bands and write them at their place: patch and, where it was skipped, why."""
    done: list[tuple[int, Fault | None]] = []
    with ExitStack() as stack:
        stack.enter_context(pixels_only())
        files: dict[Path, int] = {}
        for member in members:
            try:
                pixels = read_band(member.path, member.band, member.data)
            except DamagedFile as error:
                if not skip:
                    raise
                done.append((member.patch, Fault(modality, "", error.path, error.reason)))
                continue
            if member.target not in files:
                files[member.target] = os.open(member.target, os.O_WRONLY)
                stack.callback(os.close, files[member.target])
            _pwrite(files[member.target], pixels, member.offset)
            done.append((member.patch, None))
    return done


def _pwrite(handle: int, pixels: np.ndarray, offset: int) -> None:
    left = memoryview(pixels.tobytes())
    while left:
        count = os.pwrite(handle, left, offset)
        left, offset = left[count:], offset + count
