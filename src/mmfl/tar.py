"""Tar streams, plain or compressed by gzip or zstd: read once, member by member, and checked."""

from __future__ import annotations

import gzip
import os
import queue
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from mmfl.errors import UserError

MAX_BYTES = 400 << 30
MAX_MEMBERS = 20_000_000
MAX_DEPTH, MAX_NAME = 100, 4096  # folders and characters of a member's path
MAX_HEADER, MAX_HEADERS = 1 << 20, 16  # bytes of an extended header, and such before one member
MAX_RATIO, SLACK = 200, 1 << 30  # bytes that one packed byte may become, beside so many
ZSTD, GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
DAMAGED = (tarfile.TarError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError)
EXTENDED = (  # what is said of the member that follows, or of all
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
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
    max_bytes = limit(source, max_bytes)
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
    """Refuses headers that tarfile takes for the end, or would read into memory without bound.

    Only a block of zeros is the end. Sparse files are not looked into, as `_check` refuses them.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"cut off or damaged: {error}") from None
        except (ValueError, LookupError, OverflowError) as error:  # of a header that is none
            raise tarfile.ReadError(f"damaged header: {line(error)}") from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in EXTENDED:
            if self.type == tarfile.GNUTYPE_SPARSE:
                self.sparse: Any = []
                return self
            return cast(tarfile.TarInfo, super()._proc_member(tarfile_))  # type: ignore[misc]
        if not 0 <= self.size <= MAX_HEADER:
            raise tarfile.ReadError(
                f"a header of {self.size:,} bytes, expected at most {MAX_HEADER:,}"
            )
        state: Any = tarfile_
        depth = state.headers = getattr(state, "headers", 0) + 1
        if self.type == tarfile.XGLTYPE:
            state.kept = getattr(state, "kept", 0) + self.size
        if depth > MAX_HEADERS or getattr(state, "kept", 0) > MAX_HEADER:
            raise tarfile.ReadError("headers without end")
        try:
            return cast(tarfile.TarInfo, super()._proc_member(tarfile_))  # type: ignore[misc]
        finally:
            state.headers -= 1

    def _proc_gnusparse_00(self, next: Any, *_: Any) -> None:
        next.sparse = []

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


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
    if not (member.isreg() or member.isdir()) or member.sparse is not None:
        refuse_link(source, member.name)
    check_size(source, member.name, member.size, left)


def check_count(source: Path, count: int, most: int) -> None:
    """`UserError` if an archive has more than so many members."""
    if count > most:
        raise UserError(f"{source}: found more than {most:,} members, expected less; refused")


def limit(source: Path, max_bytes: int) -> int:
    """The limit, or less: what no archive of that many packed bytes comes to."""
    return min(max_bytes, source.stat().st_size * MAX_RATIO + SLACK)


def check_path(source: Path, name: str) -> None:
    """`UserError` if a member lies outside the archive's folder, or deeper than any needs to."""
    path = PurePosixPath(name)
    if len(name) > MAX_NAME or len(path.parts) > MAX_DEPTH:
        raise UserError(
            f"{source}: member {name[:60]!r}… has a path of {len(path.parts):,} levels and "
            f"{len(name):,} characters, expected at most {MAX_DEPTH} and {MAX_NAME:,}; refused"
        )
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


def check_once(source: Path, name: str, target: Path) -> None:
    """`UserError` if there is something in a file's place already."""
    if os.path.lexists(target) and not target.is_dir():
        raise UserError(f"{source}: member {name!r} is there twice, expected it once; refused")


def check_size(source: Path, name: str, size: int, left: int) -> None:
    """`UserError` if a member is larger than what is left of the limit."""
    if not 0 <= size <= left:
        raise UserError(
            f"{source}: member {name!r} has {size:,} bytes, expected at most the {left:,} bytes "
            "that are left; refused"
        )
