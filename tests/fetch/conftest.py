"""A small HTTP server whose faults a test chooses."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

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
    length: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0

    @property
    def md5(self) -> str:
        return "md5:" + hashlib.md5(self.body).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            state.asked.append(dict(self.headers))
            status = state.statuses.pop(0) if state.statuses else 200
            if status != 200:
                self._head(status, 0, {})
                return
            start, extra = 0, {}
            asked = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            if asked and state.ranges and condition in (None, state.etag):
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
            try:
                for i in range(0, len(data), 1 << 16):
                    piece = data[i : i + (1 << 16)]
                    self.wfile.write(piece)
                    state.sent += len(piece)
                    time.sleep(state.slow)
            except OSError:  # the client went away
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/archive.bin"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
