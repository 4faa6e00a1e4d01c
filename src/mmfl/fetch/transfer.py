"""One attempt at a transfer: append to a `.part` file what it lacks, from file:// or http(s)."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
from tqdm import tqdm

from mmfl.errors import UserError
from mmfl.files import write_text

CHUNK = 1 << 20
PIECE = 1 << 16
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
PASSING = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 300.0  # seconds of a Retry-After that are obeyed


class Passing(Exception):
    """A fault that may go away; `wait` is the server's Retry-After in seconds, if it gave one."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Stopped(Exception):
    """Another thread asked this one to end; what is there stays and is resumed."""


@dataclass(frozen=True)
class Source:
    """What to fetch. `bytes` and `checksum` (md5:<hex> or sha256:<hex>) are None if unknown.

    `stop`, set by another thread, ends the transfer at the next piece.
    """

    url: str
    bytes: int | None = None
    checksum: str | None = None
    progress: bool = True
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def label(self) -> str:
        """The url for messages: without credentials and query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def name(self) -> str:
        """The last part of the url's path, as a harmless file name."""
        last = unquote(urlsplit(self.url).path).rstrip("/").rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".") or "file"


def transfer(source: Source, part: Path) -> None:
    """Append to `part` what it lacks; start again if the source is not the one it came from.

    Raises:
        Passing: broken off, or a fault of the server that may go away.
        Stopped: `source.stop` is set.
        UserError: not found, refused, too large, or no room.
    """
    if source.stop.is_set():
        raise Stopped
    have = part.stat().st_size if part.exists() else 0
    if source.bytes is not None and have > source.bytes:
        part.unlink()
        have = 0
    if have and have == source.bytes:
        return
    try:
        if urlsplit(source.url).scheme == "file":
            _copy(source, part)
        else:
            _download(source, part, have)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise UserError(
            f"{source.label}: it is, or leads to, no url that can be fetched, expected http(s); "
            "correct it"
        ) from None
    except requests.TooManyRedirects:
        raise UserError(f"{source.label}: it is redirected for ever; correct the url") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Passing(f"the transfer broke off ({type(error).__name__})") from None
    except OSError as error:
        raise UserError(f"{part}: {error.strerror or error}; free or name another place") from None


def tag_file(part: Path) -> Path:
    """Where the validator (ETag, date) of what `part` holds is kept."""
    return part.with_name(f".{part.name}.tag")


def _copy(source: Source, part: Path) -> None:
    parts = urlsplit(source.url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_file():
        raise UserError(f"{source.label}: not found, expected a file here; check the manifest")
    stat = path.stat()
    tag = f"{stat.st_size} {stat.st_mtime_ns}"
    same = part.exists() and _tag(part) == tag and part.stat().st_size <= stat.st_size
    with path.open("rb") as reader:
        start = part.stat().st_size if same else 0
        reader.seek(start)
        chunks = iter(lambda: reader.read(CHUNK), b"")
        _write(source, part, chunks, start, stat.st_size, tag)


def _download(source: Source, part: Path, have: int) -> None:
    headers = {"Accept-Encoding": "identity"}
    tag = _tag(part)
    # Without a validator only a checksum tells whether the two pieces belong together.
    if have and (tag or source.checksum):
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:
            if _range(answer)[1] == have:
                return
            part.unlink(missing_ok=True)
            raise Passing("HTTP 416, starting again", 0)
        _refuse(source, answer)
        length = answer.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdigit() else None
        if answer.status_code == 206:
            start, total = _range(answer)
            if start != have:
                part.unlink(missing_ok=True)
                raise Passing("the server sent another range, starting again", 0)
        chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if not (total or length or chunked or source.bytes or source.checksum):
            raise UserError(
                f"{source.label}: found no length, so that a cut-off file would look whole; "
                "give bytes or checksum in the manifest"
            )
        # Raw: a .tar.gz that is served with `Content-Encoding: gzip` stays as it is.
        # Small pieces: when a connection is reset, the piece that is being read is lost.
        chunks = answer.raw.stream(PIECE, decode_content=False)
        _write(source, part, chunks, start, total, _validator(answer))


def _refuse(source: Source, answer: requests.Response) -> None:
    """Raise for every status that is not the file or a piece of it."""
    status = answer.status_code
    if status in PASSING:
        raise Passing(f"HTTP {status}", retry_after(answer))
    if status in (401, 403):
        raise UserError(
            f"{source.label}: HTTP {status}, expected access; put the credentials in ~/.netrc"
        )
    if status not in (200, 206):
        raise UserError(
            f"{source.label}: HTTP {status}, expected the file; check the url in the manifest"
        )


def _range(answer: requests.Response) -> tuple[int, int | None]:
    """First byte and total of a Content-Range (-1 and None where it does not say)."""
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", "")
    )
    if found is None:
        return -1, None
    first, total = found.groups()
    return int(first or -1), None if total == "*" else int(total)


def _validator(answer: requests.Response) -> str:
    """What If-Range may hold: a strong ETag, or else the date of change."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")


def retry_after(answer: requests.Response) -> float | None:
    """Seconds to wait, of either form of Retry-After."""
    value = answer.headers.get("Retry-After", "")
    try:
        seconds = (
            float(value)
            if value.strip().isdigit()
            else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _tag(part: Path) -> str:
    try:
        return tag_file(part).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _write(
    source: Source, part: Path, chunks: Iterator[bytes], start: int, total: int | None, tag: str
) -> None:
    """Write `chunks` from byte `start` on. The old piece goes before the new tag comes."""
    expected = source.bytes
    if total is not None and expected is not None and total != expected:
        raise UserError(
            f"{source.label}: found {total:,} bytes, expected {expected:,}; check the manifest"
        )
    total = expected if total is None else total
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{part.parent}: found {free:,} bytes free, expected {total - start:,}; make room, "
            "or name another folder in MMFL_CACHE"
        )
    size = start
    with (
        part.open("ab" if start else "wb") as writer,
        progress_bar(source.name, total, start, "B", not source.progress) as bar,
    ):
        if not start:
            write_text(tag_file(part), tag)
        for chunk in chunks:
            if source.stop.is_set():
                raise Stopped
            size += len(chunk)
            if expected is not None and size > expected:
                raise UserError(
                    f"{source.label}: found more than the expected {expected:,} bytes; "
                    "check the manifest"
                )
            writer.write(chunk)
            bar.update(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    if total is not None and size < total:
        raise Passing(f"the transfer ended at {size:,} of {total:,} bytes")


def progress_bar(
    name: str, total: int | None, start: int = 0, unit: str = "B", disable: bool = False
) -> tqdm:
    """Share, amount, time left and rate on stderr: twice a second, or a line a minute in a log."""
    return tqdm(
        total=total, initial=start, desc=name, unit=unit, unit_scale=True, delay=2,
        mininterval=0.5 if sys.stderr.isatty() else 60, disable=disable,
    )  # fmt: skip
