"""Unpacking .tar, .tar.gz and .tar.zst as a stream, inside one folder only."""

from __future__ import annotations

import os
import shutil
import tarfile
from contextlib import ExitStack
from pathlib import Path

import zstandard
from tqdm import tqdm

from mmfl.errors import UserError

MAX_BYTES = 400 << 30
MAX_MEMBERS = 20_000_000


def unpack(
    source: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS
) -> None:
    """Unpack into `folder`, which appears whole or not at all; nothing is done if it is there.

    Raises:
        UserError: damaged, a member outside the folder, a link, a device, or too large.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _extract(source, temporary, max_bytes, max_members)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, OSError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{source}: cannot be unpacked ({text}); delete it, run download") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    os.replace(temporary, folder)


def _extract(source: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(source.open("rb"))
        mode = "r|*"
        if source.name.endswith(".zst"):
            stream = stack.enter_context(zstandard.ZstdDecompressor().stream_reader(stream))
            mode = "r|"
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode=mode))
        written = 0
        for count, member in enumerate(tqdm(tar, desc=f"unpack {source.name}", unit="file", delay=2)):
            written += member.size
            if written > max_bytes or count >= max_members:
                raise UserError(
                    f"{source}: unpacks to more than {max_bytes:,} bytes or {max_members:,} files; "
                    "refused"
                )
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{source}: member {member.name!r} is a link or a device; refused")
            try:
                tar.extract(member, folder, filter="data")
            except tarfile.FilterError:
                raise UserError(
                    f"{source}: member {member.name!r} leads out of its folder; refused"
                ) from None
