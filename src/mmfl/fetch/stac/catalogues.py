"""A STAC catalogue at work: searches, and ranges of its assets' bytes."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import warnings
from typing import Any

import requests
from pystac.errors import STACError, STACTypeError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from mmfl.fetch.stac.web import LARGEST, Refused, Signer, Web, instant, unsigned
from mmfl.fetch.watch import Passing
from mmfl.params.imagery import Catalogue

HEAD = 1 << 16  # bytes read at least: a COG's header is in the first of them
PAGE = 100  # items of a page of results
PAGES = 50  # of one search; a tile's weeks fill one
Item = dict[str, Any]  # a STAC item as the catalogue sent it
MALFORMED = (  # what is raised where an item is not what it should be
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError,
    RasterioError, CPLE_BaseError,
)  # fmt: skip
FOREIGN = (  # what pystac-client raises where the answers are not those of a STAC API
    APIError, ClientTypeError, STACError, STACTypeError, NotImplementedError, *MALFORMED,
)  # fmt: skip

log = logging.getLogger(__name__)


class Unusable(Exception):
    """A scene that cannot be used, and why; another one may do."""


def malformed(error: Exception) -> str:
    """The reason for one of `MALFORMED`, in one line without signatures."""
    text = re.sub(r"\?\S*", "", " ".join(str(error).split()))
    return f"malformed item ({type(error).__name__}: {text[:120]})"


class _Io(StacApiIO):
    """pystac-client's requests through `Web`."""

    def __init__(self, web: Web) -> None:
        super().__init__(max_retries=None)
        self.web = web
        self.asked = threading.local()  # .pages: of the thread's search

    def begin(self) -> None:
        """A search begins: its pages are counted from here."""
        self.asked.pages = 0

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        self.asked.pages = getattr(self.asked, "pages", 0) + 1
        if self.asked.pages > PAGES:
            raise Refused(f"{unsigned(href)}: found more than {PAGES} pages, expected an end", 0)
        body = "json" if (method or "GET").upper() == "POST" else "params"
        options = {"method": method or "GET", "url": href, "headers": headers, body: parameters}
        return self.web.ask(href, lambda: options, _json_text)

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> Any:
        """Python's own, which takes the NaN of a careless item."""
        return json.loads(txt)


def _json_text(answer: requests.Response) -> str:
    try:
        json.loads(answer.content)
    except (ValueError, RecursionError):
        raise Passing(f"{unsigned(answer.url)}: the answer is not JSON") from None
    return answer.content.decode("utf-8")


def _is_whole(item: Any) -> bool:
    """Whether an item has all that is looked at without asking."""
    try:
        properties = item["properties"]
        instant(properties.get("datetime") or properties["start_datetime"])
        parts = item["geometry"]["coordinates"], item["assets"].keys()
        return isinstance(item["id"], str) and all(part is not None for part in parts)
    except MALFORMED:
        name = item.get("id") if isinstance(item, dict) else item
        log.warning("an item without time, place or assets is left out: %.80s", name)
        return False


class Service:
    """One modality's collection of a catalogue; `web` is shared by all of the catalogue's."""

    def __init__(self, name: str, catalogue: Catalogue, modality: str, web: Web) -> None:
        self.name, self.catalogue, self.web = name, catalogue, web
        self.collection = catalogue.collections[modality]
        self.signer = Signer(web, name, catalogue, self.collection)
        self._lock = threading.Lock()
        self._io = _Io(web)
        self._client: Client | None = None

    def search(self, area: dict[str, Any], start: str, end: str) -> list[Item]:
        """All items that intersect `area` (GeoJSON geometry) from `start` to `end`, by id.

        Raises:
            Passing, Refused: the catalogue does not answer as it should.
        """
        try:
            with warnings.catch_warnings(), self._lock:
                warnings.simplefilter("ignore")  # of conformance classes that are not needed
                self._io.begin()
                self._client = self._client or Client.open(self.catalogue.url, stac_io=self._io)
                search = self._client.search(
                    collections=[self.collection],
                    intersects=area,
                    datetime=f"{start}/{end}",
                    limit=PAGE,
                )
            found = {item["id"]: item for item in search.items_as_dicts() if _is_whole(item)}
        except FOREIGN as error:
            text = " ".join(str(error).split())[:200]
            raise Refused(f"{unsigned(self.catalogue.url)}: no STAC API ({text})", 0) from None
        return [found[key] for key in sorted(found)]

    def href(self, item: Item, band: str) -> str:
        """The http(s) address of a band's asset, as the item gives it."""
        key = self.catalogue.assets[band]
        asset = item["assets"].get(key)
        if asset is None:
            raise Unusable(f"{item['id']} has no asset {key}")
        for one in (asset, *(asset.get("alternate") or {}).values()):
            href = one.get("href")
            if isinstance(href, str) and re.match(r"https?://", href):
                return href
        raise Unusable(f"{item['id']}: asset {key} has no http(s) address")

    def read(self, href: str, start: int, size: int) -> tuple[bytes, int]:
        """Bytes of an asset from `start` on, at most `size`, and the asset's size.

        Raises:
            Passing: broken off, or denied with new tokens too.
            Unusable: the asset is not there, or its server sends no ranges.
        """
        token: str | None = None

        def request() -> dict[str, Any]:
            nonlocal token
            options, token = self.signer.signed(href)
            headers = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
            return {"method": "GET", "headers": headers, **options}

        def accept(answer: requests.Response) -> tuple[bytes, int]:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status_code != 206 or span is None:
                raise Unusable(f"{unsigned(href)}: its server sends no ranges of bytes")
            first, last, total = map(int, span.groups())
            whole = min(start + size, total) - start
            if first != start or last - first + 1 != whole or len(answer.content) != whole:
                raise Passing(f"{unsigned(href)}: found half an answer")
            return answer.content, total

        try:
            return self.web.ask(href, request, accept, lambda: self.signer.forget(token), most=size)
        except Refused as error:
            raise Unusable(str(error)) from None


class Remote:
    """An asset for rasterio: only what is read is fetched, the header at once.

    rasterio hides what goes wrong in a read, so `error` keeps it.
    """

    def __init__(self, service: Service, href: str) -> None:
        self.service, self.href = service, href
        self.error: Exception | None = None
        self._total: int | None = None
        self._first, self._held = 0, b""

    def opened(self, name: str, mode: str = "rb") -> Handle:
        """The asset as a file, whatever its name is to rasterio: this is its `opener`."""
        return Handle(self)

    @property
    def size(self) -> int:
        self.bytes(0, 1)
        return self._total or 0

    def bytes(self, start: int, size: int) -> bytes:
        """Bytes from `start` on, fewer at the end; none once something went wrong."""
        if self.error is not None or (self._total is not None and start >= self._total):
            return b""
        end = start + size if self._total is None else min(start + size, self._total)
        at = start - self._first
        if self._held and at >= 0 and end - self._first <= len(self._held):
            return self._held[at : end - self._first]
        try:
            if size > LARGEST:
                raise Unusable(f"{unsigned(self.href)}: a block of {size:,} bytes, damaged")
            data, self._total = self.service.read(self.href, start, max(size, HEAD))
        except Exception as error:  # rasterio would swallow it
            self.error = error
            return b""
        self._first, self._held = start, data
        return data[:size]


class Handle(io.RawIOBase):
    """A position in a `Remote`."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.at = remote, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at}.get(whence)
        self.at = offset + (self.remote.size if base is None else base)
        return self.at

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self.remote.size - self.at
        data = self.remote.bytes(self.at, size)
        self.at += len(data)
        return data
