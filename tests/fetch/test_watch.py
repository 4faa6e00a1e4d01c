"""Servers that all but stand still or never end: one line, what came is kept, a stop is seen.

No test measures time: the servers here would go on for ever, and wait until the test is over.
"""

from __future__ import annotations

import gzip
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from helpers.downloads import answer, get
from helpers.imagery import row_of
from helpers.stac_server import Site as StacSite
from mmfl.errors import UserError
from mmfl.fetch import watch
from mmfl.fetch.files import ATTEMPTS
from mmfl.fetch.stac import catalogues, web
from mmfl.fetch.stac.web import Refused, Web
from mmfl.fetch.watch import Passing, Stopped, Watch, session

Script = Callable[[BaseHTTPRequestHandler], None]
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends less than a terabyte a second is slow, once it was waited for at all."""
    monkeypatch.setattr(watch, "WINDOW", 0.05)
    monkeypatch.setattr(watch, "LEAST", 1 << 40)
    monkeypatch.setattr(watch, "HEADERS", 0.2)
    monkeypatch.setattr(watch, "POLL", 0.01)


def asked(site, count: int) -> None:
    """So many requests came; the last of them may be read later than its sender gave it up."""
    for _ in range(6000):
        if len(site.asked) >= count:
            break
        time.sleep(0.01)
    assert len(site.asked) == count


def drip(site, before: bytes, pieces: Iterator[bytes]) -> Script:
    """Sends, then a piece now and then until the test is over: silence ends no wait."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(before)
        for piece in pieces:
            handler.wfile.write(piece)
            if site.release.wait(0.005):
                return

    return send


SLOW = {
    "body": (HEAD + b'Content-Length: 3000000\r\nETag: "one"\r\n\r\n' + b"x" * 100, b"x"),
    "silent body": (HEAD + b"Content-Length: 3000000\r\n\r\n" + b"x" * 100, b""),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "name of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "headers": (HEAD, b"X: y\r\n"),
    "one header": (HEAD + b"X: ", b"y"),
    "no status": (b"", b""),
    "redirection": (b"HTTP/1.1 302 x\r\nLocation: /archive.bin\r\nX: ", b"y"),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_server_that_all_but_stands_still(site, tmp_path: Path, hasty: None, case: str) -> None:
    """Each packet comes in time; the file would take a month."""
    before, piece = SLOW[case]
    site.scripts = [drip(site, before, itertools.repeat(piece)) for _ in range(ATTEMPTS)]
    with pytest.raises(UserError, match=f"{ATTEMPTS} attempts; run download again, it") as error:
        get(site, tmp_path)
    assert "\n" not in str(error.value)
    asked(site, ATTEMPTS)
    assert "the server sent" in str(error.value) or "no answer within" in str(error.value)
    assert not list(tmp_path.glob("*/archive.bin"))


@pytest.mark.parametrize("size", [3, 1000])
def test_what_a_slow_server_sent_is_kept(
    site, tmp_path: Path, hasty: None, monkeypatch, size: int
) -> None:
    """Nothing waits for a block to be full."""
    monkeypatch.setattr(watch, "HEADERS", 60.0)  # the bytes come with them
    head = HEAD + b'Content-Length: 3000000\r\nETag: "one"\r\n\r\n' + site.body[:size]
    site.scripts = [drip(site, head, itertools.repeat(b"")) for _ in range(ATTEMPTS)]
    with pytest.raises(UserError, match="it resumes"):
        get(site, tmp_path)
    (part,) = tmp_path.glob("*/*.part")
    assert part.read_bytes() == site.body[:size]
    monkeypatch.setattr(watch, "WINDOW", 30.0)
    site.release.set()
    assert get(site, tmp_path).read_bytes() == site.body
    assert site.asked[-1]["Range"] == f"bytes={size}-"


def test_crumbs_are_no_progress(site, tmp_path: Path) -> None:
    """A byte for each connection, for ever."""
    site.cut = [10] * (3 * ATTEMPTS)
    with pytest.raises(UserError, match=f"{ATTEMPTS} attempts"):
        get(site, tmp_path)
    assert len(site.asked) == ATTEMPTS


@pytest.mark.parametrize("case", SLOW)
def test_stop_is_seen_while_nothing_comes(site, tmp_path: Path, case: str) -> None:
    """In the middle of headers, of a piece, of silence: not at the next 64 kB."""
    stop, reached = threading.Event(), threading.Event()
    before, piece = SLOW[case]

    def pieces() -> Iterator[bytes]:
        yield piece
        stop.set()
        reached.set()
        yield from itertools.repeat(piece)

    site.scripts = [drip(site, before, pieces())]
    with pytest.raises(Stopped):
        get(site, tmp_path, stop=stop)
    assert reached.is_set() and len(site.asked) == 1


def test_a_slow_disk_is_no_slow_server(site, hasty: None, monkeypatch) -> None:
    """Only waiting for the server counts."""
    monkeypatch.setattr(watch, "LEAST", 1)
    with (
        session() as web_,
        Watch(threading.Event()) as watched,
        web_.get(site.url, stream=True) as found,
    ):
        pieces = watched.pieces(found)
        size = len(next(pieces))
        threading.Event().wait(5 * watch.WINDOW)
        size += sum(map(len, pieces))
    assert size == len(site.body)


def test_the_body_of_a_redirection_is_not_read(site, tmp_path: Path) -> None:
    """requests would put it into memory first, without end."""
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(2_000):
            sent.append(1)
            yield b"x" * 65_536

    head = b"HTTP/1.1 302 x\r\nLocation: /archive.bin\r\n\r\n"
    site.scripts = [drip(site, head, endless())]
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(sent) < 2_000


def test_chunks_without_end(site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mmfl.fetch.transfer.LARGEST", 1 << 20)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    site.scripts = [drip(site, head, itertools.repeat(chunk))]
    with pytest.raises(UserError, match="found more than 1,048,576 bytes and no length; give"):
        get(site, tmp_path)


def test_chunks_without_end_leave_room(site, tmp_path: Path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("mmfl.fetch.transfer.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("mmfl.fetch.transfer.LOOK", 1 << 20)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    site.scripts = [drip(site, head, itertools.repeat(chunk))]
    with pytest.raises(UserError, match=r"found 10 bytes free, expected .*; make room"):
        get(site, tmp_path)


class TestWeb:
    def ask(self, site, most: int = 1000) -> bytes:
        options = {"method": "GET", "url": site.url}
        made = Web(1, 0.0, threading.Event())
        return made.ask(site.url, lambda: options, lambda found: found.content, most=most)

    def test_small(self, site) -> None:
        site.scripts = [answer(200, b"hello")]
        assert self.ask(site) == b"hello"

    @pytest.mark.parametrize("head", [b"\r\n", b"Content-Length: 99999999999\r\n\r\n"])
    def test_without_end(self, site, head: bytes) -> None:
        site.scripts = [drip(site, HEAD + head, itertools.repeat(b"[" * 500))]
        with pytest.raises(Refused, match="found more than 1,000 bytes, expected less"):
            self.ask(site)

    def test_packed(self, site) -> None:
        """A page of results that unpacks to more than it may."""
        body = gzip.compress(b"[" * 100_000)
        site.scripts = [answer(200, body, Content_Encoding="gzip")]
        with pytest.raises(Refused, match="more than 1,000 bytes"):
            self.ask(site)

    @pytest.mark.parametrize("case", SLOW)
    def test_slow(self, site, hasty: None, case: str) -> None:
        before, piece = SLOW[case]
        site.scripts = [drip(site, before, itertools.repeat(piece)) for _ in range(web.ATTEMPTS)]
        with pytest.raises(Passing, match=r"the server sent|no answer within"):
            self.ask(site, 10_000_000)
        asked(site, web.ATTEMPTS)


def test_pages_without_end(stac: StacSite, monkeypatch) -> None:
    """Each names a next one."""
    monkeypatch.setattr(catalogues, "PAGES", 5)
    stac.s1()
    stac.endless = "full"
    row = row_of(stac, "s1")
    assert row["outcome"] == "failed" and "more than 5 pages, expected an end" in row["reason"]
    for stac.endless in ("empty", ""):  # an empty page is an end
        assert row_of(stac, "s1")["outcome"] == "ok"


def test_json_that_is_too_deep(stac: StacSite) -> None:
    stac.s1()
    stac.raw["/search"] = b"[" * 200_000
    row = row_of(stac, "s1")
    assert row["outcome"] == "failed" and "the answer is not JSON" in row["reason"]
