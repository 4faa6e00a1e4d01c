"""Fetching a file: resumed, verified, and there either whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event

from mmfl.errors import UserError
from mmfl.fetch.transfer import CHUNK, Source, tag_file, transfer
from mmfl.fetch.watch import Passing, Slow
from mmfl.files import digest, locked, write_json

ATTEMPTS = 5  # in a row that bring next to nothing
PROGRESS = 1 << 16  # bytes that are more than that
LONGEST_PAUSE = 60.0  # seconds between two attempts

log = logging.getLogger(__name__)


def fetch(
    url: str,
    store: Path,
    *,
    bytes: int | None = None,
    checksum: str | None = None,
    progress: bool = True,
    pause: float = 1.0,
    stop: threading.Event | None = None,
) -> Path:
    """Return the verified file in the store, fetching it if it is not there.

    It lies in a folder named by url and checksum (url and size, if there is no checksum). An
    interrupted transfer goes on where it was. Where no checksum is published the SHA-256 of the
    first transfer is recorded beside the file and checked from then on. A verified file is not
    read again as long as its size and time of change stay the same.

    Args:
        url: file:// or http(s)://.
        store: folder of all downloads.
        bytes: the file's size, None if unknown.
        checksum: md5:<hex> or sha256:<hex>, None if none is published.
        progress: show a bar on stderr.
        pause: first back-off in seconds; it doubles. The server's Retry-After goes first.
        stop: set by another thread, it ends the transfer, which a later call resumes.

    Raises:
        Stopped: `stop` was set.
        UserError: not found, wrong size or checksum, no room, or still failing after `ATTEMPTS`
            attempts that brought next to nothing new.
    """
    source = Source(url, bytes, checksum, progress, stop or threading.Event())
    target = Path(store) / digest([url, checksum or bytes]) / source.name
    with alone(target.parent):
        if recorded_sha256(target):
            return target
        part = target.with_name(f"{target.name}.part")
        if target.exists():
            os.replace(target, part)
            problem = _finish(source, part, target)
            if problem is None:
                return target
            log.warning("%s; fetching it again", problem)
        while True:
            resumed = part.exists()
            _persist(source, part, pause)
            problem = _finish(source, part, target)
            if problem is None:
                return target
            if not resumed:
                raise UserError(problem)
            log.warning("%s; starting again", problem)


def recorded_sha256(target: Path) -> str | None:
    """SHA-256 of a file that `fetch` returned; None if it is not as it was when verified."""
    try:
        stat = target.stat()
        known = json.loads(_record(target).read_text(encoding="utf-8"))
        same = (known["bytes"], known["mtime"]) == (stat.st_size, stat.st_mtime_ns)
        return known["sha256"] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(target: Path) -> Path:
    return target.with_name(".verified.json")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; what a killed process left half-written in it is removed."""
    with locked(folder / ".lock", "fetches this file"):
        for left in folder.glob(".*.tmp"):
            left.unlink()
        yield


def _persist(source: Source, part: Path, pause: float) -> None:
    """Transfer; try again after faults that may go away, as long as attempts bring bytes."""
    most, idle = 0, 0

    def count(state: RetryCallState) -> None:
        nonlocal most, idle
        size = part.stat().st_size if part.exists() else 0
        slow = state.outcome is not None and isinstance(state.outcome.exception(), Slow)
        idle = 1 if size >= most + PROGRESS and not slow else idle + 1
        most = max(most, size)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Passing) and error.wait is not None:
            return error.wait
        return min(pause * 2 ** max(idle - 1, 0), LONGEST_PAUSE)

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0
        log.warning("%s: %s; trying again in %.0f s", source.label, error, seconds)

    retrying = Retrying(
        after=count,
        stop=lambda state: idle >= ATTEMPTS,
        wait=wait,
        retry=retry_if_exception_type(Passing),
        before_sleep=tell,
        sleep=sleep_using_event(source.stop),
        reraise=True,
    )
    try:
        retrying(transfer, source, part)
    except Passing as error:
        raise UserError(
            f"{source.label}: {error}, {ATTEMPTS} attempts; run download again, it resumes"
        ) from None


def _finish(source: Source, part: Path, target: Path) -> str | None:
    """Verify `part` and move it to `target`; delete it and say what is wrong if it is not the file.

    The record is written before the file is renamed, so that a file in place always has one.
    """
    size, sha256, md5 = _hashes(part)
    record = _record(target)
    expected, remedy = source.checksum, "run download again"
    if expected is None:
        expected = _first_seen(record)
        remedy = f"delete {target.parent} to accept the new file"
    found = f"md5:{md5}" if (expected or "").startswith("md5:") else f"sha256:{sha256}"
    problem = None
    if source.bytes is not None and size != source.bytes:
        problem = f"{source.label}: found {size:,} bytes, expected {source.bytes:,}; {remedy}"
    elif expected is not None and found != expected:
        problem = f"{source.label}: found {found}, expected {expected}; {remedy}"
    if problem is not None:
        part.unlink()
        return problem
    write_json(record, {"sha256": sha256, "bytes": size, "mtime": part.stat().st_mtime_ns})
    os.replace(part, target)
    tag_file(part).unlink(missing_ok=True)
    return None


def _first_seen(record: Path) -> str | None:
    """The SHA-256 recorded at an earlier transfer."""
    try:
        return f"sha256:{json.loads(record.read_text(encoding='utf-8'))['sha256']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hashes(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5, in one pass."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            size += len(chunk)
            sha256.update(chunk)
            md5.update(chunk)
    return size, sha256.hexdigest(), md5.hexdigest()
