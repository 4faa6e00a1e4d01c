"""A small HTTP server whose faults a test chooses."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.stac_server import Site as StacSite
from helpers.stac_server import serving

BODY = hashlib.shake_256(b"mmfl").digest(3_000_000)


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = '"one"'
    ranges: bool = True
    cut: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # statuses of the next answers
    headers: dict[str, str] = field(default_factory=dict)
    slow: float = 0.0  # seconds between pieces of 64 kB
    wrong_range: bool = False
    heeds: bool = True  # If-Range
    scripts: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    length: bool = True
    reset: list[int] = field(default_factory=list)  # bytes after which the connection is reset
    stall: list[int] = field(default_factory=list)  # bytes after which an answer says no more
    redirect: str | None = None  # where to, for paths that are not /archive.bin
    release: threading.Event = field(default_factory=threading.Event)  # ends what stalls
    together: int = 0  # answers wait until once so many were asked for at a time
    busy: int = 0  # answers under way, and the most there were
    most: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0

    @property
    def md5(self) -> str:
        return "md5:" + hashlib.md5(self.body).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    state, lock = Site(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with lock:
                state.busy += 1
                state.most = max(state.most, state.busy)
            end = time.monotonic() + 60  # of a test that fails
            while state.most < state.together and time.monotonic() < end:
                time.sleep(0.005)
            try:
                self._answer()
            finally:
                with lock:
                    state.busy -= 1

        def _answer(self) -> None:
            state.asked.append(dict(self.headers))
            if state.scripts:  # the next answer, byte by byte
                with suppress(OSError):  # the client went away
                    state.scripts.pop(0)(self)
                self.close_connection = True
                return
            if state.redirect is not None and not self.path.startswith("/archive"):
                self._head(302, 0, {"Location": state.redirect})
                return
            status = state.statuses.pop(0) if state.statuses else 200
            if status != 200:
                self._head(status, 0, {})
                return
            start, extra = 0, {}
            asked = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            if asked and state.ranges and (condition in (None, state.etag) or not state.heeds):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.body):
                    self._head(416, 0, {"Content-Range": f"bytes */{len(state.body)}"})
                    return
                if state.wrong_range:
                    start = 0
                size = len(state.body)
                status, extra = 206, {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
            self._head(status, len(state.body) - start, extra)
            self._send(state.body[start:])

        def _head(self, status: int, length: int, extra: dict[str, str]) -> None:
            self.send_response(status)
            if state.length:
                self.send_header("Content-Length", str(length))
            if state.etag:
                self.send_header("ETag", state.etag)
            for name, value in {**extra, **state.headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, data: bytes) -> None:
            data = data[: state.cut.pop(0)] if state.cut else data
            ends = state.reset or state.stall
            breaks, end = ends is state.reset and bool(ends), ends.pop(0) if ends else None
            data = data if end is None else data[:end]
            try:
                for i in range(0, len(data), 1 << 16):
                    piece = data[i : i + (1 << 16)]
                    self.wfile.write(piece)
                    state.sent += len(piece)
                    time.sleep(state.slow)
                if breaks:
                    linger = struct.pack("ii", 1, 0)  # closing then sends a reset
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    self.connection.close()
                elif end is not None:
                    state.release.wait(30)
            except OSError:  # the client went away
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/archive.bin"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    state.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def stac(tmp_path: Path) -> Iterator[StacSite]:
    """A STAC API and its files on the own machine."""
    folder = tmp_path / "published"
    folder.mkdir()
    with serving(folder) as served:
        yield served
