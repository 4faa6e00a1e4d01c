"""Unpacking .tar, .tar.gz, .tar.zst (as a stream) and .zip, inside one folder only."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from mmfl.errors import UserError
from mmfl.fetch.transfer import progress_bar

MAX_BYTES = 400 << 30
MAX_MEMBERS = 20_000_000
ZSTD, GZIP, ZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
RESOURCE_FORKS = "__MACOSX"  # a folder that macOS adds to its zips
# a second fence behind `_check`; Python has it since 3.11.4
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
DAMAGED = (
    tarfile.TarError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError,
    zipfile.BadZipFile, NotImplementedError, UnicodeError, struct.error,  # all by zipfile
)  # fmt: skip


def unpack(
    source: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS
) -> None:
    """Unpack into `folder`, which appears whole or not at all; nothing is done if it is there.

    The format is taken from the first bytes, not from the name. Links are refused altogether: no
    archive needs them, and the known ways around tarfile's filter do.

    Args:
        source: a tar, plain or compressed by gzip or zstd, or a zip.
        folder: what to make.
        max_bytes: refuse a stream that is longer, uncompressed (headers included).
        max_members: refuse more files and folders.

    Raises:
        UserError: damaged or cut off, a member outside the folder, a link or device, too large,
            no room.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        extract = _extract_zip if _is_zip(source) else _extract
        extract(source, temporary, max_bytes, max_members)
        os.sync()  # one call instead of millions of fsync
        os.replace(temporary, folder)
    except DAMAGED as error:
        raise UserError(f"{source}: damaged ({_line(error)}); delete it, run download") from None
    except OSError as error:
        raise UserError(f"{folder}: {_line(error)}; make room or correct the folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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

    def __init__(self, stream: IO[bytes], limit: int, source: Path) -> None:
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


def _extract(source: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(source.open("rb"))
        bounded = _Bounded(_plain(stream, stack), max_bytes, source)
        tar = stack.enter_context(
            tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|", tarinfo=_Member)
        )
        bar = stack.enter_context(progress_bar(f"unpack {source.name}", source.stat().st_size))
        left = max_bytes
        for count, member in enumerate(_members(tar), 1):
            _check(source, member, left)
            left -= member.size
            _check_count(source, count, max_members)
            tar.extract(member, folder, set_attrs=False, **FILTER)
            bar.update(stream.tell() - bar.n)  # of the packed bytes: their total is known


def _is_zip(source: Path) -> bool:
    with source.open("rb") as stream:
        return stream.read(4) in ZIP


def _extract_zip(source: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with (
        zipfile.ZipFile(source) as packed,
        progress_bar(f"unpack {source.name}", source.stat().st_size) as bar,
    ):
        members = packed.infolist()
        _check_count(source, len(members), max_members)
        left = max_bytes
        for member in members:
            _check_zip(source, member, left)
            left -= member.file_size
        for member in members:
            if PurePosixPath(member.filename).parts[:1] == (RESOURCE_FORKS,):
                continue
            target = folder / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # zipfile reads no more than the stated size, and checks the CRC at its end
            with packed.open(member) as reader, target.open("wb") as writer:
                shutil.copyfileobj(reader, writer)
            bar.update(member.compress_size)


def _check_zip(source: Path, member: zipfile.ZipInfo, left: int) -> None:
    _check_path(source, member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse_link(source, member.filename)
    if member.flag_bits & 1:
        raise UserError(
            f"{source}: member {member.filename!r} is encrypted, expected a plain one; refused"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{source}: member {member.filename!r} is compressed by method "
            f"{member.compress_type}, expected stored or deflated; refused"
        )
    _check_size(source, member.filename, member.file_size, left)


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


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in order; tarfile would keep all of them, some GB for millions."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def _check(source: Path, member: tarfile.TarInfo, left: int) -> None:
    _check_path(source, member.name)
    if not (member.isreg() or member.isdir()) or member.issparse():
        _refuse_link(source, member.name)
    _check_size(source, member.name, member.size, left)


def _check_count(source: Path, count: int, most: int) -> None:
    if count > most:
        raise UserError(f"{source}: found more than {most:,} members, expected less; refused")


def _check_path(source: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(
            f"{source}: member {name!r} leads out of its folder, expected a path inside; refused"
        )


def _refuse_link(source: Path, name: str) -> None:
    raise UserError(
        f"{source}: member {name!r} is a link, a device or sparse, expected files and folders; "
        "refused"
    )


def _check_size(source: Path, name: str, size: int, left: int) -> None:
    if not 0 <= size <= left:
        raise UserError(
            f"{source}: member {name!r} has {size:,} bytes, expected at most the {left:,} bytes "
            "that are left; refused"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
