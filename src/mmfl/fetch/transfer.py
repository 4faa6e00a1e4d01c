"""One attempt at a transfer: append to a `.part` file what it lacks, from file:// or http(s)."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
from tqdm import tqdm

from mmfl.errors import UserError
from mmfl.fetch.watch import Passing, Stopped, Watch, session
from mmfl.files import write_text

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
PASSING = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 300.0  # seconds of a Retry-After that are obeyed
LARGEST = 400 << 30  # bytes of a file whose size nobody states
LEFT, LOOK = 1 << 30, 64 << 20  # bytes of the disk that it leaves free; looked at every so many
PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)", re.I | re.S
)
MARKUP = re.compile(rb"(\xef\xbb\xbf|\xef\xbb?)?\s*(<|$)")  # how all of them begin
HEAD = 1024  # bytes in which a page of HTML shows itself
PACKED = re.compile(r"\.(gz|tgz|bz2|xz|zst|zip)$", re.IGNORECASE)


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

    What says which file an answer holds (ETag, date of change, size, encoding) is kept beside the
    piece and compared, whatever the server makes of If-Range.

    Raises:
        Passing: broken off, too slow, or a fault of the server that may go away.
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
    """Where it is kept of which file `part` is a piece."""
    return part.with_name(f".{part.name}.tag")


@dataclass(frozen=True)
class Version:
    """What an answer says of the file it holds; "" and None where it does not."""

    etag: str = ""
    modified: str = ""
    encoding: str = ""
    total: int | None = None

    @classmethod
    def of(cls, answer: requests.Response, total: int | None) -> Version:
        given = answer.headers
        encoding = given.get("Content-Encoding", "").strip().lower().replace("identity", "")
        return cls(given.get("ETag", ""), _modified(answer), encoding, total)

    @classmethod
    def kept(cls, part: Path) -> Version:
        """Of the piece that is there; nothing is known if its tag cannot be read."""
        try:
            return cls(**json.loads(_tag(part)))
        except (ValueError, TypeError):
            return cls()

    @property
    def validator(self) -> str:
        """What If-Range may hold: a strong ETag, or else the date of change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def same(self, other: Version) -> bool | None:
        """Whether both are the same file; None if nothing tells."""
        pairs = [
            (self.etag.removeprefix("W/"), other.etag.removeprefix("W/")),
            (self.modified, other.modified),
        ]
        told = [one == another for one, another in pairs if one and another]
        sizes = {self.total, other.total} - {None}
        if len(sizes) > 1 or self.encoding != other.encoding:
            return False
        return all(told) if told else None


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
    before = Version.kept(part) if have else Version()
    # Without a validator only a checksum tells whether the two pieces belong together.
    if have and (before.validator or source.checksum):
        headers["Range"] = f"bytes={have}-"
        if before.validator:
            headers["If-Range"] = before.validator
    with (
        session() as web,
        Watch(source.stop) as watch,
        web.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as answer,
    ):
        start, end, total = _span(answer)
        now = Version.of(answer, total)
        if answer.status_code == 416:
            if "Range" in headers and total == have and _joins(source, before, now):
                return
            _again(part, "HTTP 416")
        _refuse(source, answer)
        if answer.status_code == 206:
            if start != have or end < start or (total is not None and end >= total):
                _again(part, "the server sent another range")
            if have and not _joins(source, before, now):
                _again(part, "the file changed at its source")
        chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and not (chunked or source.bytes is not None or source.checksum):
            raise UserError(
                f"{source.label}: found no length, so that a cut-off file would look whole; "
                "give bytes or checksum in the manifest"
            )
        if now.encoding and not source.checksum and not PACKED.search(source.name):
            raise UserError(
                f"{source.label}: found it packed by Content-Encoding {now.encoding}, expected it "
                "as it is; give its checksum in the manifest"
            )
        # Not decoded: a .tar.gz that is served with `Content-Encoding: gzip` stays as it is.
        chunks = _no_page(source, answer, watch.pieces(answer))
        tag = json.dumps(asdict(now))
        if answer.status_code == 206:
            _write(source, part, _no_more(part, chunks, end + 1 - start), start, total, tag)
        else:
            _write(source, part, chunks, 0, total, tag)


def _joins(source: Source, before: Version, now: Version) -> bool:
    """Whether an answer goes on with the piece that is there, or at least a checksum will tell."""
    same = before.same(now)
    return bool(source.checksum) if same is None else same


def _again(part: Path, why: str) -> None:
    """Drop the piece; the next attempt asks for the whole."""
    part.unlink(missing_ok=True)
    raise Passing(f"{why}, starting again", 0)


def _no_page(source: Source, answer: requests.Response, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; refused before the first is written if they are a page of HTML, but no `.html`.

    A portal or a login page answers with 200, too.
    """
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= HEAD or not MARKUP.match(first):
            break
    stated = kind in ("text/html", "application/xhtml+xml") and not source.checksum
    if (stated or PAGE.match(first)) and not re.search(r"\.x?html?$", source.name, re.IGNORECASE):
        raise UserError(
            f"{source.label}: found a page of HTML, expected the file; open it in a browser to see "
            "what it says, and check the url"
        )

    def all_of_them() -> Iterator[bytes]:
        yield first
        yield from chunks

    return all_of_them()


def _no_more(part: Path, chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    """The chunks of a piece that is `most` bytes long."""
    for chunk in chunks:
        most -= len(chunk)
        if most < 0:
            _again(part, "the server sent more than it said")
        yield chunk


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


def _span(answer: requests.Response) -> tuple[int, int, int | None]:
    """First and last byte of a piece (-1 where it does not say) and the file's size if known."""
    if answer.status_code not in (206, 416):
        length = answer.headers.get("Content-Length", "")
        return 0, -1, int(length) if re.fullmatch(r"\d{1,18}", length) else None
    found = re.fullmatch(
        r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)",
        answer.headers.get("Content-Range", "").strip(),
    )
    if found is None:
        return -1, -1, None
    first, last, total = found.groups()
    return int(first or -1), int(last or -1), None if total == "*" else int(total)


def _modified(answer: requests.Response) -> str:
    """Last-Modified where it can tell two versions apart: not of the second before the answer."""
    value = answer.headers.get("Last-Modified", "")
    try:
        changed, sent = (
            parsedate_to_datetime(answer.headers.get(name, ""))
            for name in ("Last-Modified", "Date")
        )
        return value if (sent - changed).total_seconds() >= 1 else ""
    except (TypeError, ValueError):  # no Date, or no date at all
        return value


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
    if total is not None:
        _room(part.parent, total - start)
    size, looked = start, start
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
            if total is None and size > LARGEST:
                raise UserError(
                    f"{source.label}: found more than {LARGEST:,} bytes and no length; "
                    "give bytes in the manifest"
                )
            if total is None and size - looked >= LOOK:
                _room(part.parent, LEFT)
                looked = size
            writer.write(chunk)
            bar.update(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    if total is not None and size < total:
        raise Passing(f"the transfer ended at {size:,} of {total:,} bytes")


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: found {free:,} bytes free, expected {needed:,}; make room, "
            "or name another folder in MMFL_CACHE"
        )


def progress_bar(
    name: str, total: int | None, start: int = 0, unit: str = "B", disable: bool = False
) -> tqdm:
    """Share, amount, time left and rate on stderr: twice a second, or a line a minute in a log."""
    return tqdm(
        total=total, initial=start, desc=name, unit=unit, unit_scale=True, delay=2,
        mininterval=0.5 if sys.stderr.isatty() else 60, disable=disable,
    )  # fmt: skip
