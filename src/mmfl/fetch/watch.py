"""HTTP answers that end soon: when they are told to, or when their server all but stands still."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

PIECE = 1 << 18  # bytes that are taken at a time, at most; what has come is never waited over
LEAST = 1000  # bytes a second that a server must send ...
WINDOW = 30.0  # ... on average over so many seconds of waiting for it
HEADERS = 120.0  # seconds in which the headers must be there, redirections included
POLL = 0.1  # seconds after which a stop is seen, at most


class Passing(Exception):
    """A fault that may go away; `wait` is the server's Retry-After in seconds, if it gave one."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Slow(Passing):
    """The server sends next to nothing."""


class Stopped(Exception):
    """Another thread asked this one to end; what is there stays and is resumed."""


_here = threading.local()  # .watch: the thread's own


class Watch:
    """Watches the requests of one thread, made in a `with` block on a `session`.

    The connection is shut, whatever it waits for, when `stop` is set, when the headers take longer
    than `HEADERS`, or when less than `LEAST` bytes a second come. Only time that is spent waiting
    for the server counts, not that of a slow disk.

    Raises:
        Stopped, Slow: at the end of the block, in place of what the shut connection raised.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._socket: socket.socket | None = None
        self._why: Exception | None = None
        self._begun = time.monotonic()
        self._body = False
        self._waited, self._since = 0.0, 0.0  # seconds of waiting, and since when it waits now
        self._bytes = 0
        self._before = (0.0, 0)  # seconds and bytes at the last look
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        if self.stop.is_set():
            raise Stopped
        _here.watch = self
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _here.watch = None
        self._done.set()
        self._thread.join()
        if self._why is not None and (error is None or isinstance(error, Exception)):
            raise self._why from None

    def pieces(self, answer: requests.Response, decode: bool = False) -> Iterator[bytes]:
        """The body as it comes; `decode` undoes its Content-Encoding."""
        self._body = True
        while True:
            self._since = time.monotonic()
            piece = answer.raw.read1(PIECE, decode_content=decode)
            with self._lock:
                self._waited += time.monotonic() - self._since
                self._since = 0.0
                self._bytes += len(piece)
            if self._why is not None:  # a shut connection can look like the end
                raise self._why
            if not piece:
                return
            yield piece

    def attach(self, connected: socket.socket | None) -> None:
        """The connection that is shut if need be; refused if another one was already."""
        with self._lock:
            self._socket = connected
        if self._why is not None:
            raise self._why

    def _look(self) -> None:
        while not self._done.wait(POLL):
            self._why = self._reason()
            if self._why is not None:
                self._shut()
                return

    def _reason(self) -> Exception | None:
        if self.stop.is_set():
            return Stopped()
        now = time.monotonic()
        if not self._body:
            late = now - self._begun > HEADERS
            return Slow(f"no answer within {HEADERS:.0f} s") if late else None
        with self._lock:
            waited = self._waited + (now - self._since if self._since else 0.0)
            before, had = self._before
            if waited - before < WINDOW:
                return None
            self._before = (waited, self._bytes)
            got = self._bytes - had
        if got >= LEAST * (waited - before):
            return None
        return Slow(
            f"the server sent {got:,} bytes in {waited - before:.0f} s, expected {LEAST:,} a second"
        )

    def _shut(self) -> None:
        """Wakes whoever waits for the connection; closing it would not."""
        with self._lock, suppress(OSError):  # it may be closed already
            if self._socket is not None:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def session(parallel: int = 1) -> requests.Session:
    """A session whose connections belong to the thread's `Watch`."""
    made = requests.Session()
    made.hooks["response"].append(_without_body)
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter(pool_maxsize=parallel))
    return made


def _without_body(answer: requests.Response, **_: Any) -> None:
    """requests would read the body of a redirection, however long, into memory."""
    if answer.is_redirect:
        answer._content = b""
        answer._content_consumed = True  # type: ignore[attr-defined]
        answer.raw.close()


def _attach(connection: HTTPConnection) -> None:
    watch: Watch | None = getattr(_here, "watch", None)
    if watch is not None:
        watch.attach(connection.sock)


class _Plain(HTTPConnection):
    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        _attach(self)
        super().putrequest(*args, **kwargs)

    def getresponse(self) -> Any:
        _attach(self)
        return super().getresponse()


class _Secure(HTTPSConnection):
    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        _attach(self)
        super().putrequest(*args, **kwargs)

    def getresponse(self) -> Any:
        _attach(self)
        return super().getresponse()


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    """requests' own, with connections that can be shut."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _PlainPool, "https": _SecurePool}
