"""Unpacking .tar, .tar.gz, .tar.zst (as a stream) and .zip, inside one folder only."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from mmfl import tar as tars
from mmfl.errors import UserError
from mmfl.fetch.transfer import progress_bar
from mmfl.tar import MAX_BYTES, MAX_MEMBERS

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
RESOURCE_FORKS = "__MACOSX"  # a folder that macOS adds to its zips
# a second fence behind the checks; Python has it since 3.11.4
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
DAMAGED = (*tars.DAMAGED, zipfile.BadZipFile, NotImplementedError, UnicodeError, struct.error)


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
        UserError: damaged or cut off, a member outside the folder, too deep or there twice, a link
            or device, too large, no room.
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
        raise UserError(
            f"{source}: damaged ({tars.line(error)}); delete it, run download"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: {tars.line(error)}; make room or correct the folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(source: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with progress_bar(f"unpack {source.name}", source.stat().st_size) as bar:
        limits = {"max_bytes": max_bytes, "max_members": max_members}
        for tar, member in tars.members(
            source, **limits, progress=lambda at: bar.update(at - bar.n)
        ):
            tars.check_once(source, member.name, folder / member.name)
            tar.extract(member, folder, set_attrs=False, **FILTER)


def _is_zip(source: Path) -> bool:
    with source.open("rb") as stream:
        return stream.read(4) in ZIP


def _extract_zip(source: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with (
        zipfile.ZipFile(source) as packed,
        progress_bar(f"unpack {source.name}", source.stat().st_size) as bar,
    ):
        members = packed.infolist()
        tars.check_count(source, len(members), max_members)
        left = tars.limit(source, max_bytes)
        for member in members:
            _check_zip(source, member, left)
            left -= member.file_size
        for member in members:
            if PurePosixPath(member.filename).parts[:1] == (RESOURCE_FORKS,):
                continue
            target = folder / member.filename
            tars.check_once(source, member.filename, target)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # zipfile reads no more than the stated size, and checks the CRC at its end
            with packed.open(member) as reader, target.open("wb") as writer:
                shutil.copyfileobj(reader, writer)
            bar.update(member.compress_size)


def _check_zip(source: Path, member: zipfile.ZipInfo, left: int) -> None:
    tars.check_path(source, member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        tars.refuse_link(source, member.filename)
    if member.flag_bits & 1:
        raise UserError(
            f"{source}: member {member.filename!r} is encrypted, expected a plain one; refused"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{source}: member {member.filename!r} is compressed by method "
            f"{member.compress_type}, expected stored or deflated; refused"
        )
    tars.check_size(source, member.filename, member.file_size, left)
