"""Reading shards: only the bands asked for, resized to one square.

A shard is read by offset and not by memory map: one that is cut off meanwhile is an error then,
where a map would end the process, and what is read comes from the file that was checked.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from torch.nn import functional as F

from mmfl.errors import DamagedFile, UserError
from mmfl.intact import OpenFile
from mmfl.patches.labels import Store

Run = tuple[slice, slice]
"""Neighbouring channels of a shard, and the neighbouring channels of an output they go to."""

# how a shard's type travels to a device; others as float32
CARRIED = {
    "uint8": torch.uint8, "int16": torch.int16, "uint16": torch.int16, "int32": torch.int32,
    "float32": torch.float32,
}  # fmt: skip
HEADER = 1 << 12  # bytes that hold the header of an .npy file
OPEN = 256  # files of a modality that are held open at a time
PIECE = 16  # patches decoded at a time: what is copied stays in the processor's cache


class Patches:
    """The shards of one modality.

    Attributes:
        index: pair, patch, shard, row and the group columns, sorted by pair.
        bands: name, resolution, size, dtype, mean, std, nodata, gaps of each band, in order.
        show: one to three bands that make a picture.
        pairs: (N,) the pairs' names, sorted; a row is a position in it.

    Raises:
        UserError: the folder is not what `split` writes.
    """

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.folder = Path(folder)
        self.store = store or Store(self.folder.parent)
        self.index = self.store.table(f"{self.folder.name}/index.parquet")
        described = self.store.json(f"{self.folder.name}/modality.json")
        try:
            self.bands: list[dict] = described["bands"]
            self.pairs = self.index["pair"].to_numpy(dtype=object)
            self._shard = self.index["shard"].to_numpy()
            self._row = self.index["row"].to_numpy()
            self.show: list[str] = described["show"]
            self._count: list[int] = described["rows"]  # of each shard, also rows no index names
            self._shapes: dict[str, list[list[int]]] = described["shapes"]
            self._sums = {
                name: str(found)
                for note in described["shards"].values()
                for name, found in note["sha256"].items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: not readable ({error}); run split again") from None
        self._files: dict[tuple[int, int], Pixels] = {}

    def at(self, resolution: int) -> list[dict]:
        """The bands of one resolution, in the order in which a shard holds them."""
        return [band for band in self.bands if band["resolution"] == resolution]

    def shape(self, row: int, resolution: int) -> tuple[int, int]:
        """(H, W) of a patch's bands of one resolution."""
        height, width = self._shapes[str(resolution)][self._shard[row]]
        return height, width

    def shards(self, rows: np.ndarray) -> np.ndarray:
        """(N,) int64: the shard of each row."""
        return self._shard[rows]

    def alike(self, rows: np.ndarray) -> list[np.ndarray]:
        """Places in `rows` grouped by the patches' shape: one group where all have the same."""
        kinds = [tuple(map(tuple, kind)) for kind in zip(*self._shapes.values(), strict=True)]
        if len(set(kinds)) <= 1:
            return [np.arange(len(rows))] if len(rows) else []
        number = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        code = np.array([number[kind] for kind in kinds])[self._shard[rows]]
        return [np.flatnonzero(code == value) for value in np.unique(code)]

    def rows(self, pairs: Sequence[str] | np.ndarray) -> np.ndarray:
        """(N,) int64 rows of some pairs.

        Raises:
            UserError: pairs are not held in this modality; the first ones are named.
        """
        wanted = np.asarray(pairs, dtype=object)
        if not len(wanted):
            return np.empty(0, np.int64)
        found = np.searchsorted(self.pairs, wanted)
        found = np.minimum(found, max(len(self.pairs) - 1, 0))
        wrong = self.pairs[found] != wanted if len(self.pairs) else np.ones(len(wanted), bool)
        if wrong.any():
            missing = sorted(set(wanted[wrong].tolist()))
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UserError(
                f"{self.folder}: has no patch of the pairs {', '.join(missing[:3])}{more}; "
                "run split and partition again"
            )
        return found

    def read(
        self,
        rows: np.ndarray,
        resolution: int,
        channels: Sequence[int],
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N, len(channels), H, W) of the bands of one resolution, in the native type.

        Only the channels' bytes are read. `out` is filled if given, in its own type. The patches
        have one shape.

        Raises:
            UserError: a shard is damaged.
        """
        if out is None:
            shape = (len(rows), len(channels), *self.shape(rows[0], resolution))
            out = np.empty(shape, self.at(resolution)[0]["dtype"])
        self.fill(out, rows, resolution, runs(channels, range(len(channels))))
        return out

    @property
    def gapped(self) -> bool:
        """Whether any band may have gaps."""
        return any(band["gaps"] or band["nodata"] is not None for band in self.bands)

    def pixels(
        self, row: int, resolution: int, channels: Sequence[int], lines: slice = slice(None)
    ) -> np.ndarray:
        """(len(channels), H, W) of a patch in its native type, or some neighbouring lines of it."""
        height, width = self.shape(row, resolution)
        top, stop, _ = lines.indices(height)
        out = np.empty((len(channels), max(stop - top, 0), width), self.at(resolution)[0]["dtype"])
        file = self._file(resolution, int(self._shard[row]))
        inside = int(self._row[row])
        if len(out[0]) == height:
            for source, target in runs(channels, range(len(channels))):
                file.read(out[target], inside, source.start)
        else:
            for target, channel in zip(out, channels, strict=True):
                file.read(target, inside, channel, top)
        return out

    def fill(self, out: np.ndarray, rows: np.ndarray, resolution: int, parts: list[Run]) -> None:
        """Copy channels of one resolution into `out` (N, ..., H, W), converted to its type."""
        shards = self._shard[rows]
        files = {shard: self._file(resolution, shard) for shard in np.unique(shards).tolist()}
        dtype = self.at(resolution)[0]["dtype"]
        direct = out.dtype == dtype and out[:1].flags.c_contiguous
        most = max((source.stop - source.start for source, _ in parts), default=0)
        between = None if direct else np.empty((most, *out.shape[2:]), dtype)
        for target, shard, row in zip(out, shards.tolist(), self._row[rows].tolist(), strict=True):
            for channels, targets in parts:
                part = target[targets]
                buffer = part if between is None else between[: len(part)]
                files[shard].read(buffer, row, channels.start)
                if between is not None:
                    part[...] = buffer

    def check(self, rows: np.ndarray, resolutions: Sequence[int]) -> None:
        """Compare the shards of some rows with their digests, several at a time.

        Raises:
            UserError: one is damaged.
        """
        shards = np.unique(self._shard[rows]).tolist()
        wanted = [self._path(resolution, shard) for resolution in resolutions for shard in shards]
        self.store.watch.check({path: self._sum(path) for path in wanted})

    def _path(self, resolution: int, shard: int) -> Path:
        return self.folder / f"{resolution}m-{shard:05d}.npy"

    def _sum(self, path: Path) -> str:
        if path.name not in self._sums:
            raise DamagedFile(path, f"has no digest; {self.store.watch.remedy}")
        return self._sums[path.name]

    def _file(self, resolution: int, shard: int) -> Pixels:
        """The pixels of a shard's file, which fits its digest."""
        file = self._files.get((resolution, shard))
        if file is None:
            path = self._path(resolution, shard)
            opened = self.store.watch.open(path, self._sum(path))
            bands = self.at(resolution)
            size = self._shapes[str(resolution)][shard]
            shape = (self._count[shard], len(bands), *size)
            file = Pixels(opened, bands[0]["dtype"], shape, self.store.watch.remedy)
            if len(self._files) >= OPEN:
                self._files.clear()  # whoever reads one of them keeps it open
            self._files[resolution, shard] = file
        return file


class Pixels:
    """The pixels of a shard's file, (N, bands, H, W), read by offset by any number of threads.

    Raises:
        DamagedFile: the file has another shape or type than expected, or ends early.
    """

    def __init__(self, file: OpenFile, dtype: str, shape: tuple[int, ...], remedy: str) -> None:
        self._opened, self._remedy = file, remedy
        self._dtype = np.dtype(dtype)
        self._patch = int(np.prod(shape[1:])) * self._dtype.itemsize
        self._band = int(np.prod(shape[2:])) * self._dtype.itemsize
        self._line = shape[3] * self._dtype.itemsize
        begin = io.BytesIO(os.pread(file.fileno, HEADER, 0))
        try:
            npy.read_magic(begin)
            found = npy.read_array_header_1_0(begin)
        except ValueError as error:
            raise self._damaged(" ".join(str(error).split())) from None
        self._first = begin.tell()
        if found != (shape, False, self._dtype):
            raise self._damaged(
                f"found {found[2].name} {found[0]}, expected {self._dtype.name} {shape}"
            )

    def read(self, out: np.ndarray, row: int, band: int, line: int = 0) -> None:
        """Fill a contiguous array of the file's type from a band of a patch on."""
        if not out.size:
            return
        place = self._first + row * self._patch + band * self._band + line * self._line
        try:
            self._opened.read_into(out.data.cast("B"), place)
        except (EOFError, OSError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, found: str) -> DamagedFile:
        return DamagedFile(self._opened.path, f"damaged shard ({found}); {self._remedy}")


def runs(channels: Sequence[int], targets: Sequence[int]) -> list[Run]:
    """Pairs of channel and target joined where both go on by one: fewer, longer copies."""
    found: list[Run] = []
    for channel, target in zip(channels, targets, strict=True):
        if found and (found[-1][0].stop, found[-1][1].stop) == (channel, target):
            source, sink = found.pop()
            found.append((slice(source.start, channel + 1), slice(sink.start, target + 1)))
        else:
            found.append((slice(channel, channel + 1), slice(target, target + 1)))
    return found


@dataclass(frozen=True)
class Gap:
    """Bands of a source that have the same kind of gaps, by their places in it.

    Gaps are NaN in any case, pixels of the value `value`, and infinite ones where `infinite`.
    """

    places: tuple[int, ...]
    value: float | None
    infinite: bool


@dataclass(frozen=True)
class Source:
    """The requested bands of one resolution: their channels, and their places in a batch."""

    resolution: int
    channels: tuple[int, ...]
    targets: tuple[int, ...]
    gaps: tuple[Gap, ...]


class Images:
    """Batches of some bands of a modality as float32 squares in raw units, NaN in gaps.

    A row's pixels do not depend on the batch that it is in, nor on what is preloaded. Bands of
    another size are resized bilinearly, antialiased where they shrink (torch's `interpolate`); a
    pixel that a gap reaches is one.

    Attributes:
        names: the bands, in the order of a batch's channels.
        channels: their number.

    Raises:
        UserError: a band is not in the modality.
    """

    def __init__(self, patches: Patches, bands: list[str], size: int, limit_bytes: int = 2 << 30):
        self.patches = patches
        self.size = size
        self.limit_bytes = limit_bytes
        self.names = tuple(bands)
        self.channels = len(bands)
        self.sources = sources(patches, self.names)
        self._kept: Tensor | None = None
        self._place: np.ndarray | None = None
        self._scratch = threading.local()

    def batch(self, rows: np.ndarray, out: Tensor | None = None) -> Tensor:
        """(N, C, size, size) float32 on the CPU.

        Args:
            rows: (N,) rows of `patches`.
            out: contiguous float32 of that shape to fill and return, which saves a batch's page
                faults; none shares memory with what `preload` keeps.

        Raises:
            UserError: a shard is damaged.
            ValueError: `out` has another shape, type or layout.
        """
        shape = (len(rows), self.channels, self.size, self.size)
        if out is None:
            out = torch.empty(shape)
        elif out.shape != shape or out.dtype != torch.float32 or not out.is_contiguous():
            raise ValueError(f"out: found {tuple(out.shape)} {out.dtype}, expected float32 {shape}")
        if self._kept is not None and self._place is not None:
            place = self._place[rows]
            if (place >= 0).all():
                return torch.index_select(self._kept, 0, torch.from_numpy(place), out=out)
        return self._decode(rows, out)

    @property
    def kept(self) -> bool:
        """Whether `preload` keeps images in memory."""
        return self._kept is not None

    def buffers(self, count: int, pinned: bool = False) -> list[Tensor] | None:
        """What `native` fills for up to `count` rows; None where images have several shapes.

        A tensor per source in the shards' own type (uint16 as int16 of the same bits, which every
        device can take), `pinned` for copies to a GPU that go on beside its work.
        """
        if len(self.patches.alike(np.arange(len(self.patches.pairs)))) != 1:
            return None
        found = []
        for source in self.sources:
            dtype = self.patches.at(source.resolution)[0]["dtype"]
            shape = (count, len(source.channels), *self.patches.shape(0, source.resolution))
            found.append(torch.empty(shape, dtype=CARRIED.get(dtype, torch.float32)))
        return [buffer.pin_memory() for buffer in found] if pinned else found

    def native(self, rows: np.ndarray, buffers: list[Tensor]) -> list[Tensor]:
        """Fill `buffers` with the pixels of some rows as they are stored; their used parts."""
        used = [buffer[: len(rows)] for buffer in buffers]
        for source, part in zip(self.sources, used, strict=True):
            stored = self.patches.at(source.resolution)[0]["dtype"]
            out = part.numpy()
            out = out.view(stored) if stored in CARRIED else out
            self.patches.read(rows, source.resolution, source.channels, out)
        return used

    def assemble(self, parts: list[Tensor]) -> Tensor:
        """What `batch` gives, (N, C, size, size) float32, from `native` on any device."""
        first = parts[0]
        out = torch.empty((len(first), self.channels, self.size, self.size), device=first.device)
        for source, part in zip(self.sources, parts, strict=True):
            if self.patches.at(source.resolution)[0]["dtype"] == "uint16":
                part = part.to(torch.int32) & 0xFFFF
            x = part.to(torch.float32)
            blank(x, source.gaps)
            if x.shape[-2:] != out.shape[-2:]:
                x = resize(x, (self.size, self.size))
            for channels, targets in runs(range(len(source.targets)), source.targets):
                out[:, targets] = x[:, channels]
        return out

    def preload(self, rows: np.ndarray) -> bool:
        """Keep some rows in memory, resized, if they fit into `limit_bytes`; whether they do."""
        rows = np.unique(rows)
        if len(rows) * self.channels * self.size**2 * 4 > self.limit_bytes:
            return False
        kept = torch.empty((len(rows), self.channels, self.size, self.size))
        self._decode(rows, kept)
        self._place = np.full(len(self.patches.pairs), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._kept = kept
        return True

    def _decode(self, rows: np.ndarray, out: Tensor) -> Tensor:
        groups = self.patches.alike(rows)
        if len(groups) > 1:
            for places in groups:
                out[torch.from_numpy(places)] = self._decode(
                    rows[places], torch.empty((len(places), *out.shape[1:]))
                )
            return out
        for start in range(0, len(rows), PIECE):
            piece = slice(start, start + PIECE)
            for source in self.sources:
                self._decode_source(source, rows[piece], out[piece])
        return out

    def _decode_source(self, source: Source, rows: np.ndarray, out: Tensor) -> None:
        shape = self.patches.shape(rows[0], source.resolution)
        if shape == (self.size, self.size):
            parts = runs(source.channels, source.targets)
            self.patches.fill(out.numpy(), rows, source.resolution, parts)
            blank(out, source.gaps, source.targets)
            return
        native = self._buffer(source, shape)[: len(rows)]
        self.patches.read(rows, source.resolution, source.channels, native.numpy())
        blank(native, source.gaps)
        resized = resize(native, (self.size, self.size))
        for channels, targets in runs(range(len(source.targets)), source.targets):
            out[:, targets] = resized[:, channels]

    def _buffer(self, source: Source, shape: tuple[int, int]) -> Tensor:
        """(PIECE, bands, H, W) float32 of undefined content, this thread's own and used again."""
        held: dict[int, Tensor] = self._scratch.__dict__.setdefault("buffers", {})
        wanted = (PIECE, len(source.channels), *shape)
        if source.resolution not in held or held[source.resolution].shape != wanted:
            held[source.resolution] = torch.empty(wanted)
        return held[source.resolution]


def blank(x: Tensor, gaps: Sequence[Gap], targets: Sequence[int] | None = None) -> None:
    """Make gaps NaN in x (N, C, H, W); `targets`: the channels of a source's bands, if not all."""
    for gap in gaps:
        places = gap.places if targets is None else tuple(targets[place] for place in gap.places)
        part = x if len(places) == x.shape[1] else x[:, list(places)]
        if gap.value is not None:
            part.masked_fill_(part == gap.value, torch.nan)
        if gap.infinite:
            part.masked_fill_(part.isinf(), torch.nan)
        if part is not x:
            x[:, list(places)] = part


def resize(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N, C, h, w) to (N, C, *shape), bilinear with aligned pixel areas, antialiased.

    Enlarging, the antialiasing filter is the plain bilinear one, and torch's plain one is faster.
    """
    if shape[0] < x.shape[-2] or shape[1] < x.shape[-1]:
        return F.interpolate(x, size=shape, mode="bilinear", antialias=True)
    # `interpolate` takes a slow way on CUDA where algorithms have to be deterministic, for the sake
    # of a gradient that nobody asks for
    enlarged: Tensor = torch.ops.aten.upsample_bilinear2d(x, list(shape), False, None, None)
    return enlarged


def sources(patches: Patches, names: Sequence[str]) -> list[Source]:
    """Where some bands lie, by resolution; `UserError` for one that is not in the modality."""
    known = {band["name"]: band for band in patches.bands}
    for name in names:
        if name not in known:
            raise UserError(f"train.bands: {name} is not in {patches.folder}: {', '.join(known)}")
    resolutions = sorted({known[name]["resolution"] for name in names})
    return [_source(patches, resolution, tuple(names)) for resolution in resolutions]


def _source(patches: Patches, resolution: int, names: tuple[str, ...]) -> Source:
    stored = patches.at(resolution)
    place = {band["name"]: channel for channel, band in enumerate(stored)}
    targets = tuple(target for target, name in enumerate(names) if name in place)
    channels = tuple(place[names[t]] for t in targets)
    kinds = [(stored[channel]["nodata"], stored[channel]["gaps"]) for channel in channels]
    gaps = tuple(
        Gap(tuple(i for i, own in enumerate(kinds) if own == kind), *kind)
        for kind in dict.fromkeys(kinds)
        if kind != (None, False)
    )
    return Source(resolution, channels, targets, gaps)
