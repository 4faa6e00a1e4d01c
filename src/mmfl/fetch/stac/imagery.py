"""The imagery of an archive of label tiles: every tile's outcome, done once and never again."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
from rasterio.transform import Affine

from mmfl.errors import UserError
from mmfl.facts.bands import IMAGERY
from mmfl.fetch.files import alone
from mmfl.fetch.stac.catalogues import MALFORMED, Item, Service, Unusable, malformed
from mmfl.fetch.stac.grids import Tile
from mmfl.fetch.stac.listing import (
    COLUMNS,
    DOUBTFUL,
    FAILED,
    NO_COVERAGE,
    NO_SCENE,
    OK,
    SCENES,
    TOO_LITTLE,
    UNUSABLE,
    Row,
    table,
)
from mmfl.fetch.stac.reading import Scene, read_scene, write_scene
from mmfl.fetch.stac.scenes import LOOSE, apart, passes, sentinel2, taken, window
from mmfl.fetch.stac.values import Doubtful
from mmfl.fetch.stac.web import Refused, Web, unsigned
from mmfl.fetch.transfer import progress_bar
from mmfl.fetch.watch import Passing, Stopped
from mmfl.files import digest, write_json, write_text
from mmfl.params.imagery import Imagery

LABEL = "label"  # in an outcome's file beside the columns: the tile's key
GIVE_UP = 16  # failures in a row after which the service is taken to be away

log = logging.getLogger(__name__)


def fetch_imagery(
    tiles: pd.DataFrame,
    imagery: Imagery,
    store: Path,
    *,
    bands: Mapping[str, Sequence[str]] = IMAGERY,
    parallel: int = 4,
    pause: float = 1.0,
    progress: bool = True,
) -> Path:
    """Fetch what is not there yet; return the folder, named by choice and bands.

    It holds `<modality>/<tile>.tif`, `outcomes/<modality>/<tile>.json` and `scenes.csv`, a row
    per tile of the list and modality. A tile whose row changed is fetched again, alone. That no
    scene was found, or none with enough pixels, is an outcome and stays one; `failed` (the service
    did not answer) is tried again by the next call: see `check`.

    Args:
        tiles: name, crs, transform, height, width, product, date (see `Archive.tiles`).
        imagery: catalogues and limits.
        store: folder of all downloads.
        bands: modality -> bands of an image, in this order.
        parallel: images fetched at a time; a catalogue's own limit holds beside it.
        pause: first back-off in seconds; it doubles. The server's Retry-After goes first.

    Raises:
        UserError: credentials are lacking, or a tile's name is no file name.
    """
    listed = _tiles(tiles)
    key = digest([imagery.choice(), {q: list(names) for q, names in bands.items()}])
    folder = Path(store) / f"imagery-{key}"
    stop = threading.Event()
    services = _services(imagery, pause, stop)
    with alone(folder):
        for left in folder.glob("**/.*.tmp"):  # by a process that was killed
            left.unlink()
        run = _Run(folder, imagery, bands, services, stop)
        jobs = [(tile, modality) for tile in listed for modality in IMAGERY]
        rows = list(_each(run.row, jobs, stop, parallel, progress))
        rows.sort(key=lambda row: (row["tile"], row["modality"]))
        write_text(folder / SCENES, table(rows))
    _tell(rows, folder / SCENES)
    return folder


def _tell(rows: Sequence[Row], scenes: Path) -> None:
    """Warn of what nobody expects: that no pair is found is an outcome as any other."""
    for doubt, found in (
        (DOUBTFUL, [row for row in rows if row["outcome"] == DOUBTFUL]),
        ("ok against a statement", [row for row in rows if row["outcome"] == OK and row["reason"]]),
    ):
        if found:
            text = "%s: %d of %d images: %s, e.g. %s %s (%s)"
            first = found[0]["tile"], found[0]["modality"], found[0]["reason"]
            log.warning(text, scenes, len(found), len(rows), doubt, *first)


def _tiles(frame: pd.DataFrame) -> list[Tile]:
    found = [
        Tile(
            name=str(row["name"]),
            crs=str(row["crs"]),
            transform=Affine(*map(float, row["transform"])),
            height=int(row["height"]),
            width=int(row["width"]),
            product=row["product"] if isinstance(row["product"], str) else None,
            date=str(row["date"]),
        )
        for row in frame.to_dict("records")
    ]
    names = [tile.name for tile in found]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", name):
            raise UserError(f"tile {name!r}: expected a name of letters, digits and _.+-")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"tile {twice}: listed twice, expected distinct names")
    return sorted(found, key=lambda tile: tile.name)


def _services(imagery: Imagery, pause: float, stop: threading.Event) -> dict[str, Service]:
    webs: dict[str, Web] = {}
    found = {}
    for modality in IMAGERY:
        name, catalogue = imagery.name(modality), imagery.catalogue(modality)
        web = webs.setdefault(name, Web(catalogue.parallel, pause, stop))
        found[modality] = Service(name, catalogue, modality, web)
    return found


def _each(
    work: Callable[[Tile, str], Row],
    jobs: Sequence[tuple[Tile, str]],
    stop: threading.Event,
    parallel: int,
    progress: bool,
) -> Iterator[Row]:
    """Rows as they come, at most `parallel` at a time. Whatever ends this ends all of them."""
    with (
        ThreadPoolExecutor(parallel) as pool,
        progress_bar("imagery", len(jobs), 0, " images", not progress) as bar,
    ):
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
                bar.update(1)
        finally:
            stop.set()
            for future in futures:
                future.cancel()


class _Run:
    """One call's work on single images."""

    def __init__(
        self,
        folder: Path,
        imagery: Imagery,
        bands: Mapping[str, Sequence[str]],
        services: dict[str, Service],
        stop: threading.Event,
    ) -> None:
        self.folder, self.imagery, self.bands = folder, imagery, bands
        self.services, self.stop = services, stop
        self._lock = threading.Lock()
        self._in_a_row = 0

    def row(self, tile: Tile, modality: str) -> Row:
        """The image's row: of an earlier run, or of this one, which then is kept."""
        image = self.folder / modality / f"{tile.name}.tif"
        record = self.folder / "outcomes" / modality / f"{tile.name}.json"
        known = _known(record, tile)
        if known is not None and (known["outcome"] != OK or image.is_file()):
            return known
        image.unlink(missing_ok=True)  # it may be of another grid
        service = self.services[modality]
        row = dict.fromkeys(COLUMNS, "")
        row |= {"tile": tile.name, "modality": modality}
        row |= {"catalogue": service.name, "collection": service.collection}
        if self._in_a_row >= GIVE_UP:
            reason = f"not tried: {GIVE_UP} images in a row failed"
            return row | {"outcome": FAILED, "reason": reason}
        try:
            found, scene = self._choose(service, modality, tile)
        except (Passing, Refused) as error:
            self._count(failed=True)
            return row | {"outcome": FAILED, "reason": str(error)}
        except MALFORMED as error:
            log.warning("%s %s: %s", tile.name, modality, malformed(error))
            found, scene = {"outcome": UNUSABLE, "reason": malformed(error)}, None
        self._count(failed=False)
        row |= found
        if self.stop.is_set():
            raise Stopped
        if row["outcome"] == OK and scene is not None:
            write_scene(image, modality, tile, scene, self.bands[modality])
        write_json(record, {**row, LABEL: tile.key})
        return row

    def _count(self, failed: bool) -> None:
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failed else 0

    def _choose(self, service: Service, modality: str, tile: Tile) -> tuple[Row, Scene | None]:
        """The first candidate with enough pixels that are what they are said to be, or why none."""
        days, least = self.imagery.days, self.imagery.coverage
        start, end = window(tile, modality, days)
        items = service.search(tile.area, start, end)
        bands = self.bands[modality]
        if modality == "s2":
            candidates, what = sentinel2(tile, items), tile.product or tile.date
        else:
            candidates, what = passes(tile, items, days, bands), f"IW, {'+'.join(bands)}"
        if not candidates:
            reason = f"{len(items)} items from {start} to {end}, none is {what}"
            return {"outcome": NO_SCENE, "reason": reason}, None
        covering = [
            one
            for one in candidates
            if modality == "s2" or tile.covered(_outlines(one)) >= least - LOOSE
        ]
        if not covering:
            reason = f"{len(candidates)} passes from {start} to {end}, none covers the tile"
            return {"outcome": NO_COVERAGE, "reason": reason}, None
        best: Scene | None = None
        faults: list[str] = []
        doubts: list[str] = []
        for candidate in covering:
            try:
                scene = read_scene(service, modality, tile, candidate, bands, least)
            except Doubtful as error:
                doubts.append(str(error))
                continue
            except Unusable as error:
                faults.append(str(error))
                continue
            except MALFORMED as error:
                faults.append(f"{candidate[0]['id']}: {malformed(error)}")
                continue
            if best is None or scene.valid > best.valid:
                best = scene
            if scene.valid >= least:
                facts = {**_facts(tile, scene), "sha256": scene.sha256}
                note = "; ".join([*doubts, *([scene.note] if scene.note else [])])
                return {"outcome": OK, "reason": note, **facts}, scene
        if doubts:
            return {"outcome": DOUBTFUL, "reason": doubts[0]}, None
        if best is None:
            return {"outcome": UNUSABLE, "reason": faults[0]}, None
        reason = f"found {best.valid:.1%} of the pixels, expected {least:.1%}"
        return {"outcome": TOO_LITTLE, "reason": reason, **_facts(tile, best)}, None


def _facts(tile: Tile, scene: Scene) -> Row:
    return {
        "items": " ".join(item["id"] for item in scene.items),
        "datetime": min(taken(item) for item in scene.items).isoformat(),
        "days": f"{apart(tile, scene.items):.4f}",
        "hrefs": " ".join(map(unsigned, scene.hrefs)),
        "offset": scene.rule,
        "valid": f"{scene.valid:.6f}",
    }


def _outlines(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [item["geometry"] for item in items]


def _known(record: Path, tile: Tile) -> Row | None:
    """The row of an earlier run, if it was of this very tile."""
    try:
        row = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(row, dict) and row.pop(LABEL, None) == tile.key
    return row if same and set(row) == set(COLUMNS) else None
