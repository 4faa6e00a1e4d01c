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
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmfl import tar as tars
from mmfl.archives.base import (
    LABELS,
    REMEDY,
    Archive,
    Band,
    Fault,
    Labels,
    Modality,
    parsed,
    pixels_only,
    read_band,
    unreadable,
)
from mmfl.archives.content import varies, worthless
from mmfl.errors import DamagedFile, UserError
from mmfl.files import write_json
from mmfl.patches.shards import Shard, Writing
from mmfl.processes import Map

PIECE_BYTES, PIECE_MEMBERS = 4 << 20, 256  # that a worker gets at a time, at most
LARGEST = 64 << 20  # bytes of a file: a band, or labels


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


def known_notes(store: Path, modality: str, tar: Path) -> bool:
    """Whether the shards in the store can be of this tar: not if another one was read before.

    From now on they are of this one.
    """
    path = store / f".{modality}.source.json"
    now = {"source": _source(tar)}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = now
    write_json(path, now)
    return bool(before == now)


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
    """A band's file in a tar: where its pixels go, its name and content.

    `patch` is the patch's number, `rank` the band's place in the order in which folders are read.
    """

    patch: int
    rank: int
    band: Band
    target: Path
    offset: int
    path: Path
    data: bytes


class Roll:
    """The patches that are to be written: their numbers, and what of them has come.

    `seen`: anything at all; `come`: a bit per band, by rank; `left`: bands not written yet;
    `varied`: a band whose pixels differ; `gaps`: bands of nothing but gaps.
    """

    def __init__(self, shards: Sequence[Shard], bands: int) -> None:
        self.shards = shards
        self.first = [0]
        self.number: dict[str, int] = {}
        for shard in shards:
            for patch in shard.patches:
                self.number[patch] = len(self.number)
            self.first.append(len(self.number))
        self.seen = np.zeros(len(self.number), bool)
        self.come = np.zeros(len(self.number), np.uint32)
        self.left = np.full(len(self.number), bands, np.uint8)
        self.bands = bands
        self.varied = np.zeros(len(self.number), bool)
        self.gaps = np.zeros(len(self.number), np.uint8)

    def note(self, number: int, found: bool | None) -> None:
        """A band of a patch came, of which `varies` says `found`."""
        self.varied[number] |= bool(found)
        self.gaps[number] += found is None

    def worthless(self, number: int) -> str | None:
        """Why a patch that came whole is of no use, if it is."""
        gaps = int(self.gaps[number])
        bands = [None] * gaps + [False] * (self.bands - gaps)
        return None if self.varied[number] else worthless(bands)

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
    source = _source(pack.tar)
    bands = in_order(pack.archive.modality(pack.modality))
    roll = Roll(shards, len(bands))
    told = _Telling()
    damaged: dict[int, dict[int, Fault]] = {}  # patch -> rank of the band -> fault
    with tars.damage(pack.tar):
        pieces = _pieces(pack, roll, told, writing, skip)
        for done in run(partial(write_bands, pack.modality, skip), pieces):
            for number, rank, varied, fault in done:
                roll.left[number] -= 1
                roll.note(number, varied)
                if fault is not None:
                    named = replace(fault, patch=roll.name(number))
                    damaged.setdefault(number, {})[rank] = named
                if roll.left[number]:
                    continue
                wrong = damaged.get(number, {})
                reason = None if wrong else roll.worthless(number)
                if reason is not None:
                    patch = roll.name(number)
                    path = pack.archive.patch_folder(pack.root, pack.modality, patch)
                    if not skip:
                        raise DamagedFile(path, f"{reason}; {REMEDY}")
                    wrong = {0: Fault(pack.modality, patch, str(path), f"{reason}; {REMEDY}")}
                yield roll.place(number)[0], 1, _first(wrong)
    lost = set() if earlier is None else set(earlier.lost)
    for number in np.flatnonzero(roll.left).tolist():
        patch = roll.name(number)
        if not roll.seen[number]:
            lost.add(patch)
            continue
        rank = next(rank for rank in range(len(bands)) if not roll.come[number] >> rank & 1)
        path = pack.archive.band_path(pack.root, pack.modality, patch, bands[rank].name)
        reason = unreadable(bands[rank], "is missing")
        if not skip:
            raise DamagedFile(path, reason)
        absent = {rank: Fault(pack.modality, patch, str(path), reason)}
        yield roll.place(number)[0], 1, _first(absent | damaged.get(number, {}))
    if _source(pack.tar) != source:
        raise UserError(f"{pack.tar}: changed while it was read, expected it to stay; split again")
    _write_told(pack, Told(list(told.strangers.values()), frozenset(lost), told.labels))


def in_order(modality: Modality) -> list[Band]:
    """The bands in the order in which a patch's folder is read: by resolution."""
    return [band for resolution in modality.resolutions for band in modality.at(resolution)]


@dataclass
class _Telling:
    strangers: dict[str, Fault] = field(default_factory=dict)
    labels: dict[str, np.ndarray | str] = field(default_factory=dict)


def _first(faults: Mapping[int, Fault]) -> list[Fault]:
    """That of the least rank, at which the reading of a folder ends."""
    return [faults[min(faults)]] if faults else []


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
        parts = info.name.rstrip("/").split("/")
        folder = parts[-1] if info.isdir() else parts[-2] if len(parts) > 1 else ""
        number = roll.number.get(folder)
        if number is not None:
            roll.seen[number] = True
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
        if info.size > LARGEST:
            raise DamagedFile(path, f"has {info.size:,} bytes, expected at most {LARGEST:,}; fetch "
                              "the tar again")  # fmt: skip
        if what == LABELS:
            told.labels[patch] = parsed(archive, _content(tar.extractfile(info)))
            continue
        if number is None:
            continue
        rank, band, start = place[what]
        if roll.come[number] >> rank & 1:
            raise DamagedFile(
                path, f"is in {pack.tar.name} a second time, expected one; fetch the tar again"
            )
        roll.come[number] |= 1 << rank
        shard, row = roll.place(number)
        target = writing.begin(shard)[band.resolution]
        offset = target.offset + row * target.size + start
        data = _content(tar.extractfile(info))
        piece.append(Member(number, rank, band, target.path, offset, path, data))
        size += len(data)
        if size >= PIECE_BYTES or len(piece) >= PIECE_MEMBERS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _content(handle: IO[bytes] | None) -> bytes:
    assert handle is not None  # a regular file
    with handle:
        return handle.read()


def _places(pack: Pack) -> Mapping[str, tuple[int, Band, int]]:
    """band -> its rank, itself, and its first byte within a patch's pixels of its resolution."""
    modality = pack.archive.modality(pack.modality)
    found = {}
    start = dict.fromkeys(modality.resolutions, 0)
    for rank, band in enumerate(in_order(modality)):
        assert band.size is not None
        found[band.name] = (rank, band, start[band.resolution])
        start[band.resolution] += band.size**2 * np.dtype(band.dtype).itemsize
    return found


def write_bands(
    modality: str, skip: bool, members: Sequence[Member]
) -> list[tuple[int, int, bool | None, Fault | None]]:
    """Decode bands and write them at their place: patch, rank, whether its pixels vary, and, where
    it was skipped, why.
    """
    done: list[tuple[int, int, bool | None, Fault | None]] = []
    with ExitStack() as stack:
        stack.enter_context(pixels_only())
        files: dict[Path, int] = {}
        for member in members:
            try:
                pixels = read_band(member.path, member.band, member.data)
            except DamagedFile as error:
                if not skip:
                    raise
                fault = Fault(modality, "", error.path, error.reason)
                done.append((member.patch, member.rank, None, fault))
                continue
            if member.target not in files:
                files[member.target] = os.open(member.target, os.O_WRONLY)
                stack.callback(os.close, files[member.target])
            try:
                _pwrite(files[member.target], pixels, member.offset)
            except OSError as error:  # a full disk names no file
                error.filename = str(member.target)
                raise
            done.append((member.patch, member.rank, varies(pixels, member.band.nodata), None))
    return done


def _pwrite(handle: int, pixels: np.ndarray, offset: int) -> None:
    left = memoryview(pixels.tobytes())
    while left:
        count = os.pwrite(handle, left, offset)
        left, offset = left[count:], offset + count
