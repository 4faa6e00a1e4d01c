"""Fetching a file: resumed, verified, and there either whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlparse

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tqdm import tqdm

from mmfl.errors import UserError
from mmfl.files import digest, write_json
from mmfl.fetch.manifest import File

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
ATTEMPTS = 5
PASSING = {408, 425, 429, 500, 502, 503, 504}


class Passing(Exception):
    """A fault that may go away; `wait` is the server's Retry-After in seconds, if it gave one."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def place(file: File, store: Path) -> Path:
    """Where a file lies in the store: named by url and checksum (or size) only."""
    return store / digest([file.url, file.checksum or file.bytes]) / file.name


def fetch(file: File, store: Path, *, pause: float = 1.0) -> tuple[Path, str]:
    """Return the verified file in the store and its SHA-256, fetching it if it is not there.

    An interrupted transfer goes on where it was. Where no checksum is published the SHA-256 of
    the first transfer is recorded and checked from then on. `pause` is the first back-off in
    seconds; it doubles.

    Raises:
        UserError: not found, wrong size or checksum, or still failing after `ATTEMPTS` attempts.
    """
    target = place(file, store)
    target.parent.mkdir(parents=True, exist_ok=True)
    record = target.with_name("verified.json")
    known = _verified(target, record)
    if known:
        return target, known
    part = target.with_name(f"{file.name}.part")
    if target.exists():  # whole but not verified yet: a kill between the two steps, or it changed
        os.replace(target, part)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        own = error.wait if isinstance(error, Passing) else None
        return own if own is not None else pause * 2 ** (state.attempt_number - 1)

    try:
        for attempt in Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait,
            retry=retry_if_exception_type(Passing),
            reraise=True,
        ):
            with attempt:
                _transfer(file, part)
    except Passing as error:
        raise UserError(f"{file.url}: {error}, {ATTEMPTS} attempts; run download again") from None
    sha256 = _verify(file, part, record)
    os.replace(part, target)
    stat = target.stat()
    write_json(record, {"sha256": sha256, "bytes": stat.st_size, "mtime": stat.st_mtime_ns})
    return target, sha256


def _verified(target: Path, record: Path) -> str | None:
    """The recorded SHA-256, if the file is as it was when it was verified."""
    try:
        known, stat = json.loads(record.read_text()), target.stat()
        same = (stat.st_size, stat.st_mtime_ns) == (known["bytes"], known["mtime"])
        return known["sha256"] if same else None
    except (OSError, ValueError, KeyError):
        return None


def _transfer(file: File, part: Path) -> None:
    """Append to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    if file.bytes is not None and have > file.bytes:
        part.unlink()
        have = 0
    if file.bytes is not None and have == file.bytes:
        return
    if file.url.startswith("file://"):
        _copy(file, part, have)
    else:
        _download(file, part, have)
    size = part.stat().st_size
    if file.bytes is not None and size < file.bytes:
        raise Passing(f"the transfer ended at {size:,} of {file.bytes:,} bytes")


def _copy(file: File, part: Path, have: int) -> None:
    source = Path(unquote(urlparse(file.url).path))
    if not source.is_file():
        raise UserError(f"{file.url}: not found, expected a file; check the manifest")
    with source.open("rb") as reader, part.open("ab") as writer:
        reader.seek(have)
        _write(iter(lambda: reader.read(CHUNK), b""), writer, file, have, source.stat().st_size)


def _download(file: File, part: Path, have: int) -> None:
    headers = {"Accept-Encoding": "identity"}
    tag = part.with_name(part.name + ".etag")
    if have and tag.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    elif have:
        headers |= {"Range": f"bytes={have}-"}
    try:
        with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code in PASSING:
                raise Passing(f"HTTP {answer.status_code}", _retry_after(answer))
            if answer.status_code == 416:  # more than the server has: start again
                part.unlink()
                raise Passing("HTTP 416", 0)
            if answer.status_code >= 400:
                raise UserError(
                    f"{file.url}: HTTP {answer.status_code}, expected the file; check the manifest"
                )
            resumed = answer.status_code == 206
            if answer.headers.get("ETag"):
                tag.write_text(answer.headers["ETag"])
            length = int(answer.headers.get("Content-Length", 0)) or None
            start = have if resumed else 0
            total = start + length if length else file.bytes
            with part.open("ab" if resumed else "wb") as writer:
                _write(answer.iter_content(CHUNK), writer, file, start, total)
            if total is not None and part.stat().st_size < total:
                raise Passing(f"the transfer ended at {part.stat().st_size:,} of {total:,} bytes")
    except requests.RequestException as error:
        raise Passing(f"{type(error).__name__}: the transfer broke off") from None


def _retry_after(answer: requests.Response) -> float | None:
    try:
        return min(float(answer.headers["Retry-After"]), 300.0)
    except (KeyError, ValueError):
        return None


def _write(
    chunks: Iterator[bytes], writer: IO[bytes], file: File, start: int, total: int | None
) -> None:
    with tqdm(
        total=total, initial=start, desc=file.name, unit="B", unit_scale=True, delay=2
    ) as bar:
        for chunk in chunks:
            writer.write(chunk)
            bar.update(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())


def _verify(file: File, part: Path, record: Path) -> str:
    """SHA-256 of `part`; a file that is not the expected one is deleted and refused."""
    size = part.stat().st_size
    if file.bytes is not None and size != file.bytes:
        part.unlink()
        raise UserError(
            f"{file.url}: found {size:,} bytes, expected {file.bytes:,}; run download again"
        )
    with part.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    expected, found = file.checksum, f"sha256:{sha256}"
    if expected is None and record.exists():
        expected = f"sha256:{json.loads(record.read_text())['sha256']}"
    if expected is not None and expected.startswith("md5:"):
        with part.open("rb") as handle:
            found = f"md5:{hashlib.file_digest(handle, 'md5').hexdigest()}"
    if expected is not None and found != expected:
        part.unlink()
        raise UserError(f"{file.url}: found {found}, expected {expected}; run download again")
    return sha256


