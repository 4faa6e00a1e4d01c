"""Downloads from the HTTP server of a test."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from mmfl.errors import UserError
from mmfl.fetch.files import ATTEMPTS, fetch


def get(site, store: Path, **options) -> Path:
    options = {"checksum": site.md5, "progress": False, "pause": 0.0, **options}
    return fetch(site.url, store, **options)


def interrupt(site, store: Path, at: int, **options) -> Path:
    """Leave a `.part` of `at` bytes, as a process that gave up does; its path."""
    site.cut, before = [at], len(site.asked)
    site.statuses = [200] + [503] * 2 * ATTEMPTS
    with pytest.raises(UserError, match="run download again"):
        get(site, store, **options)
    site.statuses = []
    part = next(store.glob("*/archive.bin.part"))
    assert part.stat().st_size == at
    assert len(site.asked) == before + 1 + ATTEMPTS - 1
    site.asked.clear()
    return part


Script = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int, body: bytes, **headers: str) -> Script:
    """An answer of these headers and no others."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status} x\r\n".encode())
        given = {"Content-Length": str(len(body)), **headers}
        for name, value in given.items():
            handler.wfile.write(f"{name.replace('_', '-')}: {value}\r\n".encode())
        handler.wfile.write(b"\r\n" + body)

    return send
