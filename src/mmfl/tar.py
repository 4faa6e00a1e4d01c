"""Tar streams, plain or compressed by gzip or zstd: read once, member by member, and checked."""

from __future__ import annotations

import gzip
import queue
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

import zstandard

from mmfl.errors import UserError

MAX_BYTES = 400 << 30
MAX_MEMBERS = 20_000_000
ZSTD, GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
DAMAGED = (tarfile.TarError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError)
BLOCK, BLOCKS = 1 << 20, 4  # bytes that are unpacked at a time, and pieces ahead of the reader


def members(
    source: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    progress: Callable[[int], object] = lambda packed: None,
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files and folders of a tar in its order, each with the open archive.

    A member's content is there until the next one is asked for. The format is taken from the first
    bytes, not from the name; the unpacking runs ahead in a thread. Links are refused altogether: no
    archive needs them.

    Args:
        source: a tar, plain or compressed by gzip or zstd.
        max_bytes: refuse a stream that is longer, uncompressed (headers included).
        max_members: refuse more files and folders.
        progress: called with the number of packed bytes that have been read.

    Raises:
        UserError: a member outside the folder, a link or device, too large.
        One of `DAMAGED`: damaged or cut off.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(source.open("rb"))
        ahead = stack.enter_context(_ahead(_plain(stream, stack)))
        bounded = _Bounded(ahead, max_bytes, source)
        tar = stack.enter_context(
            tarfile.open(
                fileobj=cast(IO[bytes], bounded), mode="r|", bufsize=1 << 16, tarinfo=_Member
            )
        )
        left = max_bytes
        count = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # some GB for millions
            count += 1
            _check(source, member, left)
            left -= member.size
            check_count(source, count, max_members)
            yield tar, member
            progress(stream.tell())


@contextmanager
def damage(source: Path) -> Iterator[None]:
    """Turn what a damaged archive raises into a `UserError`."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{source}: damaged ({line(error)}); delete it, run download") from None


def line(error: BaseException) -> str:
    """The message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


class _Member(tarfile.TarInfo):
    """Refuses headers that tarfile takes for the end: only a block of zeros is the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"cut off or damaged: {error}") from None


class _Bounded:
    """A stream that is refused when it is longer than `limit` bytes."""

    def __init__(self, stream: _Ahead, limit: int, source: Path) -> None:
        self.stream, self.left, self.limit, self.source = stream, limit, limit, source

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise UserError(
                f"{self.source}: found more than {self.limit:,} bytes unpacked, expected less; "
                "refused"
            )
        return data


class _Ahead:
    """A stream whose next blocks a thread has read already."""

    def __init__(self, blocks: queue.Queue[bytes | BaseException]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")
        self._end = False
        self._error: BaseException | None = None

    def read(self, size: int) -> bytes:
        parts = []
        while size and not self._end:
            if self._error is not None:
                raise self._error
            if not self._block:
                found = self._blocks.get()
                if isinstance(found, BaseException):
                    self._error = found
                    continue
                self._block, self._end = memoryview(found), not found
            parts.append(self._block[:size])
            self._block = self._block[size:]
            size -= len(parts[-1])
        return b"".join(parts)


@contextmanager
def _ahead(stream: IO[bytes]) -> Iterator[_Ahead]:
    blocks: queue.Queue[bytes | BaseException] = queue.Queue(BLOCKS)
    stop = threading.Event()

    def put(item: bytes | BaseException) -> None:
        while not stop.is_set():
            try:
                return blocks.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                block = stream.read(BLOCK)
                put(block)
                if not block:
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield _Ahead(blocks)
    finally:
        stop.set()
        thread.join()


def _plain(stream: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """The uncompressed stream."""
    magic = stream.read(4)
    stream.seek(0)
    if magic == ZSTD:
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return cast(IO[bytes], stack.enter_context(reader))
    if magic[:2] == GZIP:
        return cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
    return stream


def _check(source: Path, member: tarfile.TarInfo, left: int) -> None:
    check_path(source, member.name)
    if not (member.isreg() or member.isdir()) or member.issparse():
        refuse_link(source, member.name)
    check_size(source, member.name, member.size, left)


def check_count(source: Path, count: int, most: int) -> None:
    """`UserError` if an archive has more than so many members."""
    if count > most:
        raise UserError(f"{source}: found more than {most:,} members, expected less; refused")


def check_path(source: Path, name: str) -> None:
    """`UserError` if a member lies outside the archive's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(
            f"{source}: member {name!r} leads out of its folder, expected a path inside; refused"
        )


def refuse_link(source: Path, name: str) -> None:
    """`UserError` for a member that is no file or folder."""
    raise UserError(
        f"{source}: member {name!r} is a link, a device or sparse, expected files and folders; "
        "refused"
    )


def check_size(source: Path, name: str, size: int, left: int) -> None:
    """`UserError` if a member is larger than what is left of the limit."""
    if not 0 <= size <= left:
        raise UserError(
            f"{source}: member {name!r} has {size:,} bytes, expected at most the {left:,} bytes "
            "that are left; refused"
        )
