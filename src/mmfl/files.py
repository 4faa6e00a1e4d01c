"""Writing files whole or not at all, and naming things by their content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfl.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success fsync it and rename it to `path`.

    The temporary name is the process's own: a reader never sees half a file, and a killed writer
    leaves one hidden `.tmp`. On an exception the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk names no file
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, which the kernel releases however the process ends.

    Another holder is waited for; `doing` says in the log what it does. Where the file system has no
    locks, goes on without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: waiting for another process that %s", path.parent, doing)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s: no locks here (%s); start nothing twice", path.parent, error.strerror)
        yield


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON with sorted keys, atomically: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path | str, step: str) -> dict[str, Any]:
    """The mapping in a JSON file that `step` wrote.

    Raises:
        UserError: there is no such file, or it does not hold a mapping.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run {step} first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); run {step} again") from None
    if not isinstance(value, dict):
        found = type(value).__name__
        raise UserError(f"{path}: found {found}, expected a mapping; run {step} again")
    return value


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def materialise(source: Path, target: Path) -> None:
    """Make `target` (a file or folder) a copy of `source` that later writes cannot reach.

    Files are hard-linked where possible only for large read-only arrays (`.npy`), else copied.
    The target appears whole: it is built beside its place and renamed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=_link_or_copy)
        else:
            _link_or_copy(source, temporary)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    if str(source).endswith(".npy"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
