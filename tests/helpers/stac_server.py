"""A STAC API and its COG files on the own machine, with faults that a test chooses."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.shutil import copy
from rasterio.transform import Affine, array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
]
UTM = "EPSG:32633"
CORNER = (500_000.0, 5_000_000.0)  # upper left of every scene
SENSING = datetime(2019, 7, 1, 10, 30, 31, tzinfo=UTC)
PRODUCT = "S2A_MSIL1C_20190701T103031_N0207_R108_T33TWL_20190701T124051"
GRID = (10, 0, CORNER[0] + 400, 0, -10, CORNER[1] - 300)
SECRET = "sig=never-written"


def tiles(count: int = 1, **changed: object) -> pd.DataFrame:
    """Label tiles of 48 x 40 pixels, the same place under several names."""
    row = {"crs": UTM, "transform": GRID, "height": 48, "width": 40, "product": PRODUCT}
    rows = [{"name": f"dw_{i}", **row, "date": "2019-07-01", **changed} for i in range(count)]
    return pd.DataFrame(rows)


@dataclass
class Fault:
    """One answer that goes wrong: a status, the body cut after so many bytes, another range."""

    status: int = 200
    retry_after: str | None = None
    cut: int | None = None
    shift: int = 0
    shorter: int = 0


@dataclass
class Site:
    """What the site serves, its faults, and what it was asked."""

    folder: Path
    url: str = ""
    items: list[dict] = field(default_factory=list)
    page: int = 100
    signed: bool = False  # assets need the newest token
    bearer: bool = False  # assets need the header
    ranges: bool = True
    slow: float = 0.0  # seconds of an answer's work
    together: int = 0  # answers wait until once so many were asked for at a time
    token: int = 0
    life: float = 3600.0  # seconds of a token
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # path -> of the next answers
    asked: Counter = field(default_factory=Counter)  # path -> requests
    sizes: Counter = field(default_factory=Counter)  # path -> bytes sent
    queries: list[dict] = field(default_factory=list)  # searches
    logins: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    endless: str = ""  # each page of results names a next one, "full" or "empty"
    raw: dict[str, bytes] = field(default_factory=dict)  # path -> the body, whatever is asked
    busy: int = 0
    most: int = 0

    def catalogue(self, **changed: object) -> dict:
        """The entry of `imagery.catalogues` for this site."""
        bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "VV", "VH")
        return {
            "url": self.url,
            "collections": {"s1": "s1-rtc", "s2": "s2-l2a"},
            "assets": {band: band for band in bands},
            "offset": "baseline",
            **changed,
        }

    def add(self, item_id: str, collection: str, assets: dict, **properties: object) -> dict:
        """An item around the scenes' place; `assets` band -> fields, href relative."""
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": item_id,
            "collection": collection,
            "geometry": outline(),
            "bbox": [0, 0, 1, 1],
            "links": [],
            "properties": properties,
            "assets": {
                band: {**one, "href": f"{self.url}/data/{one['href']}"}
                for band, one in assets.items()
            },
        }
        self.items.append(item)
        return item

    def s2(self, item_id: str = "", baseline: str = "02.13", bands=("B02", "B11"), **more) -> dict:
        """A Sentinel-2 scene of 160 x 160 pixels of 10 m, bands of 10 and 20 m."""
        item_id = item_id or "S2A_MSIL2A_20190701T103031_R108_T33TWL_20201005T151515"
        shift = more.pop("shift", 1000 if float(baseline) >= 4 else 0)
        stated = more.pop("stated", {})
        assets = {}
        for band in bands:
            size = 10 if band in ("B02", "B03", "B04", "B08") else 20
            pixels = numbers(band, 1600 // size) + shift
            name = f"{item_id}_{band}.tif"
            cog(self.folder / name, pixels.astype(np.uint16), size, nodata=0)
            assets[band] = {"href": name, **stated}
        properties = {
            "datetime": "2019-07-01T10:30:31.024Z",
            "s2:mgrs_tile": "33TWL",
            "s2:processing_baseline": baseline,
        }
        return self.add(item_id, "s2-l2a", assets, **(properties | more))

    def s1(self, days: float = 2.0, orbit: int = 27_000, rows=(0, 160), crs: str = UTM, **more):
        """A Sentinel-1 scene, `rows` of the 160 of the place; the rest is no data."""
        time_ = SENSING + timedelta(days=days)
        item_id = more.pop("item_id", f"S1A_IW_GRDH_1SDV_{time_:%Y%m%dT%H%M%S}_{orbit:06d}_rtc")
        assets = {}
        for band in ("VV", "VH"):
            pixels = power(band, int(orbit))
            pixels[: rows[0]], pixels[rows[1] :] = -32768, -32768
            name = f"{item_id}_{band}.tif"
            cog(self.folder / name, pixels, 10, nodata=-32768, crs=crs)
            assets[band] = {"href": name}
        properties = {
            "datetime": time_.isoformat(),
            "platform": "SENTINEL-1A",
            "sat:absolute_orbit": orbit,
            "sar:instrument_mode": "IW",
            "sar:polarizations": ["VV", "VH"],
        }
        item = self.add(item_id, "s1-rtc", assets, **(properties | more))
        item["geometry"] = outline(rows)
        return item

    def fail(self, path: str, *faults: Fault) -> None:
        self.faults.setdefault(path, []).extend(faults)


def numbers(band: str, size: int) -> np.ndarray:
    """Digital numbers 200 to 3000, different for each band."""
    rng = np.random.default_rng(sum(map(ord, band)))
    return rng.integers(200, 3000, (size, size))


def power(band: str, orbit: int) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, band)) + orbit)
    return rng.gamma(4, 0.02, (160, 160)).astype(np.float32) + 1e-4


def outline(rows: tuple[int, int] = (0, 160)) -> dict:
    """Footprint of the scenes' place, or of some of its rows, as GeoJSON."""
    grid = Affine(10, 0, CORNER[0], 0, -10, CORNER[1] - 10 * rows[0])
    west, south, east, north = array_bounds(rows[1] - rows[0], 160, grid)
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return transform_geom(UTM, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})


def meet(one: dict | None, other: dict) -> bool:
    """Whether the boxes around two geometries overlap; one that is none is everywhere."""
    try:
        a, b = (np.array(part["coordinates"][0])[:, :2] for part in (one, other))
        return bool((a.min(0) <= b.max(0)).all() and (b.min(0) <= a.max(0)).all())
    except (LookupError, TypeError, ValueError):
        return True


def cog(
    path: Path, pixels: np.ndarray, size: int, nodata: float, crs: str = UTM, pack: str = "deflate"
) -> None:
    """A COG of small blocks; in another `crs` the same place, on the grid that GDAL chooses."""
    grid = Affine(size, 0, CORNER[0], 0, -size, CORNER[1])
    profile = {"dtype": pixels.dtype, "count": 1, "nodata": nodata, "crs": UTM, "transform": grid}
    shape = {"height": pixels.shape[0], "width": pixels.shape[1]}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile, **shape) as plain:
            plain.write(pixels, 1)
        with memory.open() as plain, WarpedVRT(plain, crs=crs) as warped:
            source = plain if crs == UTM else warped
            copy(source, path, driver="COG", compress=pack, blocksize=128)


def ground_control(path: Path) -> None:
    """A raster as a plain GRD is one: ground control points in place of a grid."""
    points = [
        GroundControlPoint(row=r, col=c, x=15 + c / 1e4, y=45 - r / 1e4)
        for r, c in ((0, 0), (0, 160), (160, 0), (160, 160))
    ]
    with rasterio.open(
        path, "w", driver="GTiff", height=160, width=160, count=1, dtype="uint16",
        gcps=points, crs="EPSG:4326",
    ) as target:  # fmt: skip
        target.write(np.ones((160, 160), np.uint16), 1)


@contextmanager
def serving(folder: Path) -> Iterator[Site]:
    """A site on 127.0.0.1, of the files in `folder`."""
    site, lock = Site(folder), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._do({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._do(json.loads(body) if body.startswith(b"{") else {"form": body.decode()})

        def _do(self, body: dict) -> None:
            path = urlsplit(self.path).path
            with lock:
                site.busy += 1
                site.most = max(site.most, site.busy)
                site.asked[path] += 1
                site.times.append(time.monotonic())
                faults = site.faults.get(path) or site.faults.get("*") or []
                fault = faults.pop(0) if faults else Fault()
            try:
                time.sleep(site.slow)
                end = time.monotonic() + 60  # of a test that fails
                while site.most < site.together and time.monotonic() < end:
                    time.sleep(0.005)
                self._answer(path, body, fault)
            except OSError:  # the client went away
                self.close_connection = True
            finally:
                with lock:
                    site.busy -= 1

        def _answer(self, path: str, body: dict, fault: Fault) -> None:
            if fault.status != 200:
                extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return self._send(b"", fault.status, extra)
            if path in site.raw:
                return self._send(site.raw[path], 200, {})
            if path.startswith("/data/"):
                return self._asset(path, fault)
            if path == "/search":
                found = self._search(body)
            elif path.startswith("/token"):
                site.keys.append(self.headers.get("Ocp-Apim-Subscription-Key"))
                found = self._token(body)
            else:
                link = {"rel": "search", "type": "application/geo+json", "method": "POST"}
                found = {
                    "type": "Catalog", "id": "site", "stac_version": "1.0.0", "description": "x",
                    "conformsTo": CONFORMS, "links": [{**link, "href": f"{site.url}/search"}],
                }  # fmt: skip
            self._send(json.dumps(found).encode(), 200, {"Content-Type": "application/json"})

        def _token(self, body: dict) -> dict:
            with lock:
                site.token += 1
            if "form" in body:
                site.logins.append({k: v[0] for k, v in parse_qs(body["form"]).items()})
                return {"access_token": f"{SECRET}-{site.token}", "expires_in": site.life}
            end = datetime.now(UTC) + timedelta(seconds=site.life)
            return {"token": f"{SECRET}-{site.token}", "msft:expiry": end.isoformat()}

        def _search(self, body: dict) -> dict:
            site.queries.append(body)
            start, end = body["datetime"].split("/")
            found = [
                item
                for item in site.items
                if item["collection"] in body["collections"]
                and meet(item["geometry"], body["intersects"])
                and start <= item["properties"].get("datetime", start)[:19] + "Z" <= end
            ]
            first = body.get("token", 0)
            links = []
            if first + site.page < len(found) or site.endless:
                more = {**body, "token": first + site.page}
                links = [
                    {"rel": "next", "method": "POST", "href": f"{site.url}/search", "body": more}
                ]
            page = found[:1] if site.endless == "full" else found[first : first + site.page]
            return {"type": "FeatureCollection", "features": page, "links": links}

        def _asset(self, path: str, fault: Fault) -> None:
            newest = f"{SECRET}-{site.token}"
            if site.signed and urlsplit(self.path).query != newest:
                return self._send(b"", 403, {})
            if site.bearer and self.headers.get("Authorization") != f"Bearer {newest}":
                return self._send(b"", 401, {})
            file = site.folder / path.removeprefix("/data/")
            if not file.is_file():
                return self._send(b"", 404, {})
            data = file.read_bytes()
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if not span or not site.ranges:
                return self._send(data, 200, {})
            first, last = int(span[1]), min(int(span[2]), len(data) - 1)
            if first >= len(data):
                return self._send(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
            first, last = first + fault.shift, last + fault.shift - fault.shorter
            part = data[first : last + 1]
            site.sizes[path] += len(part)
            extra = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self._send(part, 206, extra, fault.cut)

        def _send(self, data: bytes, status: int, extra: dict, cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data if cut is None else data[:cut])
            self.close_connection |= cut is not None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
