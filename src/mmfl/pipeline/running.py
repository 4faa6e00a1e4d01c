"""Who runs the workflow in this copy of the project.

Snakemake leaves its locks behind when it is killed, and refuses to start until a user has unlocked
by hand. A lock of the kernel ends with its process, so it tells whether those locks are stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import socket
from datetime import datetime
from pathlib import Path

FOLDER = Path(".snakemake")
NAME = "running"  # beside Snakemake's own files
_held: list[int] = []  # to the end of the process


def enter(folder: Path = FOLDER) -> str:
    """Register this process; what to tell the user, if anything.

    Where no other process runs here, locks that Snakemake left are removed. Otherwise they stay,
    and Snakemake stops if both would write the same files.
    """
    try:
        folder.mkdir(exist_ok=True)
        handle = _open(folder / NAME)
    except OSError:  # a copy that one may only read
        return ""
    _held.append(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        others = _others(folder)
        _register(handle)
        return others
    except OSError:  # a file system without locks
        return ""
    stale = any((folder / "locks").glob("*.lock"))
    shutil.rmtree(folder / "locks", ignore_errors=True)
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
    _register(handle)
    return "a run that was killed left locks, removed: no other process runs here" if stale else ""


def busy(folder: Path = FOLDER) -> str:
    """Who runs here now, as a message; empty if nobody does."""
    try:
        with (folder / NAME).open(encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _others(folder)
    except OSError:
        pass
    return ""


def _others(folder: Path) -> str:
    who = " and ".join((folder / NAME).read_text(encoding="utf-8").splitlines())
    return (
        f"this copy is in use by {who or 'another process'}; wait for it, or work in a clone of "
        "your own"
    )


def _open(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except PermissionError:  # another user's
        return os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):
        path.chmod(0o666)
    return handle


def _register(handle: int) -> None:
    """Share the lock from now on, and say who has it."""
    now = datetime.now().astimezone().isoformat(" ", "minutes")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container that does not know the user
        user = str(os.getuid())
    line = f"{user} (process {os.getpid()} on {socket.gethostname()}, since {now})\n"
    fcntl.flock(handle, fcntl.LOCK_SH)
    with contextlib.suppress(OSError):
        os.write(handle, line.encode())
