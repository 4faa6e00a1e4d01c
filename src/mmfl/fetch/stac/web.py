"""Requests to one service: few at a time, patient with it, with tokens that are renewed."""

from __future__ import annotations

import ipaddress
import logging
import math
import netrc
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity import sleep_using_event as sleep_until

from mmfl.errors import UserError
from mmfl.fetch.transfer import PASSING, TIMEOUT, retry_after
from mmfl.fetch.watch import Passing, Slow, Stopped, Watch, session
from mmfl.params.imagery import Catalogue

ATTEMPTS = 6  # of one request
LARGEST = 1 << 26  # bytes of an answer that states no other limit, as of a page of results
LONGEST_PAUSE = 60.0  # seconds between two attempts
EARLY = 60.0  # a token is renewed so many seconds before it expires
T = TypeVar("T")

log = logging.getLogger(__name__)


class Refused(Exception):
    """An answer that another attempt does not change: HTTP status `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def unsigned(url: str) -> str:
    """The url without credentials, query (where signatures are) and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def domain(host: str) -> str:
    """The last two labels of a host's name; an IP address as it is."""
    host = host.lower().strip("[].")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ".".join(host.split(".")[-2:])


class Web:
    """At most `parallel` requests at a time; a Retry-After holds back all of them.

    `pause` is the first back-off in seconds, which doubles; `stop`, set by another thread, ends
    requests and pauses with `Stopped`.
    """

    def __init__(self, parallel: int, pause: float, stop: threading.Event) -> None:
        self.pause, self.stop = pause, stop
        self._slots = threading.BoundedSemaphore(parallel)
        self._resume = 0.0  # on the monotonic clock
        self._session = session(parallel)

    def ask(
        self,
        url: str,
        request: Callable[[], dict[str, Any]],
        accept: Callable[[requests.Response], T],
        denied: Callable[[], None] = lambda: None,
        most: int = LARGEST,
    ) -> T:
        """What `accept` makes of the answer; again, with back-off, after faults that may pass.

        Args:
            url: for messages, of which the query is left out.
            request: the arguments of `requests.request`, made anew for each attempt.
            accept: turns the body into a value; raises `Passing` for half an answer.
            denied: called at 401 and 403, before the next attempt: the token may have expired.
            most: bytes that the body may have, unpacked; no more is read.

        Raises:
            Passing: a fault outlasted `ATTEMPTS` attempts.
            Refused: any other status than success, or a body without end.
            Stopped: `stop` is set.
        """
        label = unsigned(url)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, Passing) and error.wait is not None:
                return error.wait
            return min(self.pause * 2 ** (state.attempt_number - 1), LONGEST_PAUSE)

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            seconds = state.next_action.sleep if state.next_action else 0
            log.warning("%s; trying again in %.0f s", error, seconds)

        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait,
            retry=retry_if_exception_type(Passing),
            before_sleep=tell,
            sleep=sleep_until(self.stop),
            reraise=True,
        )
        return retrying(self._attempt, label, request, accept, denied, most)

    def _attempt(
        self,
        label: str,
        request: Callable[[], dict[str, Any]],
        accept: Callable[[requests.Response], T],
        denied: Callable[[], None],
        most: int,
    ) -> T:
        options = request()  # may fetch a token: not while holding a slot
        while (left := self._resume - time.monotonic()) > 0 and not self.stop.wait(left):
            pass
        with self._slots:
            if self.stop.is_set():
                raise Stopped
            try:
                with (
                    Watch(self.stop) as watch,
                    self._session.request(timeout=TIMEOUT, stream=True, **options) as answer,
                ):
                    self._check(label, answer, denied)
                    if answer.status_code == 200 and "Range" in (options.get("headers") or {}):
                        raise Refused(f"{label}: its server sends no ranges of bytes", 200)
                    _read(label, answer, watch, most)
            except Slow as error:
                raise Passing(f"{label}: {error}") from None
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = type(error).__name__  # its text holds the signed url
                if isinstance(error, ValueError):
                    raise Refused(f"{label}: no valid address ({reason})", 0) from None
                raise Passing(f"{label}: the connection broke off ({reason})") from None
        return accept(answer)

    def _check(self, label: str, answer: requests.Response, denied: Callable[[], None]) -> None:
        """Raise for every status but success; no more of such an answer is read."""
        if answer.status_code in PASSING:
            seconds = retry_after(answer)
            self._resume = max(self._resume, time.monotonic() + (seconds or 0.0))
            raise Passing(f"{label}: HTTP {answer.status_code}", seconds)
        if answer.status_code in (401, 403):
            denied()
            raise Passing(f"{label}: HTTP {answer.status_code}, access denied")
        if answer.status_code not in (200, 206):
            raise Refused(f"{label}: HTTP {answer.status_code}", answer.status_code)


def _read(label: str, answer: requests.Response, watch: Watch, most: int) -> None:
    """Put the body, at most so many bytes, into the answer's `content`."""
    body = bytearray()
    for piece in watch.pieces(answer, decode=True):
        body += piece
        if len(body) > most:
            raise Refused(f"{label}: found more than {most:,} bytes, expected less", 0)
    answer._content = bytes(body)
    answer._content_consumed = True  # type: ignore[attr-defined]


class Bearer(requests.auth.AuthBase):
    """A token in the header, in place of what ~/.netrc says of the host."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Signer:
    """Signs requests for a collection's assets. Tokens are kept in memory only.

    Credentials come from the environment, MMFL_KEY_<CATALOGUE> (query; not needed), or
    MMFL_USER_<CATALOGUE> and MMFL_PASSWORD_<CATALOGUE> (bearer), or else from ~/.netrc.
    """

    def __init__(self, web: Web, name: str, catalogue: Catalogue, collection: str) -> None:
        self.web, self.name, self.catalogue = web, name, catalogue
        self.url = catalogue.token_url.replace("{collection}", collection)
        self._lock = threading.Lock()
        self._token: str | None = None
        self._expiry = 0.0
        if catalogue.signing == "bearer":
            self._login()  # a lack of credentials is said before anything is fetched

    def signed(self, href: str) -> tuple[dict[str, Any], str | None]:
        """The url (and header) of a request, and the token in it.

        Raises:
            Refused: the token must not go there; the address is the item's, not the user's.
        """
        kind = self.catalogue.signing
        if kind == "none":
            return {"url": href}, None
        self._trusted(href)
        with self._lock:
            if self._token is None or time.time() > self._expiry:
                self._token, self._expiry = self._fetch()
            token = self._token
        if kind == "bearer":
            return {"url": href, "auth": Bearer(token)}, token
        return {"url": f"{href}{'&' if '?' in href else '?'}{token}"}, token

    def _trusted(self, href: str) -> None:
        """Tokens go over https (http if the catalogue does), a user's only to known domains."""
        parts, own = urllib3.util.parse_url(href), urlsplit(self.catalogue.url)
        if parts.scheme != "https" and own.scheme != "http":
            raise Refused(f"{unsigned(href)}: no token is sent over plain http", 0)
        known = {domain(own.hostname or ""), domain(urlsplit(self.url).hostname or "")}
        if self.catalogue.signing == "bearer" and domain(parts.host or "") not in known:
            raise Refused(f"{unsigned(href)}: no token is sent there, only to {sorted(known)}", 0)

    def forget(self, token: str | None) -> None:
        """The service denied this token; the next request gets a new one."""
        with self._lock:
            if token == self._token:
                self._token = None

    def _fetch(self) -> tuple[str, float]:
        options: dict[str, Any] = {"method": "GET", "url": self.url}
        if self.catalogue.signing == "bearer":
            user, password = self._login()
            data = {"grant_type": "password", "username": user, "password": password}
            data |= {"client_id": self.catalogue.client_id} if self.catalogue.client_id else {}
            options |= {"method": "POST", "data": data}
        elif key := os.environ.get(self._variable("KEY")):
            options["headers"] = {"Ocp-Apim-Subscription-Key": key}
        try:
            return self.web.ask(self.url, lambda: options, _token, self._refused)
        except Refused as error:
            self._refused(str(error))

    def _refused(self, why: str = "access denied") -> NoReturn:
        """Never tried again: some services lock an account after a few wrong passwords."""
        raise UserError(
            f"imagery.{self.name}: found no token at {unsigned(self.url)} ({why}), expected one; "
            "check the credentials and token_url"
        )

    def _login(self) -> tuple[str, str]:
        names = self._variable("USER"), self._variable("PASSWORD")
        user, password = (os.environ.get(name) for name in names)
        if user and password:
            return user, password
        host = urlsplit(self.url).hostname or ""
        try:
            entry = netrc.netrc().authenticators(host)
        except (OSError, netrc.NetrcParseError):
            entry = None
        if entry and entry[0] and entry[2]:
            return entry[0], entry[2]
        raise UserError(
            f"imagery.{self.name}: found no credentials; set {names[0]} and {names[1]}, or put "
            f"{host} into ~/.netrc"
        )

    def _variable(self, kind: str) -> str:
        return f"MMFL_{kind}_{re.sub(r'[^A-Z0-9]', '_', self.name.upper())}"


def _token(answer: requests.Response) -> tuple[str, float]:
    """Token and time (epoch) from which on it is not used any more."""
    try:
        found = answer.json()
        token = found.get("token") or found["access_token"]
        if not isinstance(token, str):
            raise TypeError
        if "msft:expiry" in found:
            end = instant(found["msft:expiry"]).timestamp()
        else:
            end = time.time() + float(found.get("expires_in") or 3600)
        if not math.isfinite(end):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Passing(f"{unsigned(answer.url)}: the answer holds no token") from None
    # A short-lived token is used for most of its life.
    return token, end - min(EARLY, (end - time.time()) / 4)


def instant(text: str) -> datetime:
    """A time of RFC 3339 as catalogues write it, in UTC, which is its zone where it states none.

    Raises:
        ValueError: it is none.
    """
    text = text.strip().upper().replace("UTC", "Z").replace(" Z", "Z")
    second = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:)60(.*)", text)  # a leap second
    time_ = datetime.fromisoformat(f"{second[1]}59{second[2]}" if second else text)
    time_ += timedelta(seconds=1 if second else 0)
    return (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).astimezone(UTC)
