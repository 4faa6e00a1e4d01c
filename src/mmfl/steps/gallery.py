"""The test locations that a page shows, with the predictions of one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import pixels_only
from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.patches.labels import read_classes
from mmfl.patches.reader import Patches
from mmfl.patches.tiles import Masks, Tiles
from mmfl.reporting.gallery import Gallery, Location, Tile

MODALITIES = 4  # pictures of a location
SHOW = {"s2": ["B04", "B03", "B02"], "s1": ["VV", "VH"]}  # where the store names none


def load_gallery(patches: Path, predictions: Path, count: int, run: str) -> Gallery | None:
    """Some test locations, at equal steps of the sorted list; those with every modality if any.

    Args:
        patches: data/patches/<archive>.
        predictions: predictions.parquet, beside which lie the maps of the pixel task.
        count: locations; 0 for none.
        run: what the caption calls the predictions.

    Returns:
        None without a location to show.

    Raises:
        UserError: a store or a map is missing or damaged.
    """
    bands = shown_bands(patches) if count else {}
    if not bands:
        return None
    described = read_classes(patches / "labels")
    classes = tuple(described["classes"])
    stores = {q: Tiles(Patches(patches / q), names) for q, names in bands.items()}
    table = pd.read_parquet(predictions).sort_values("pair", kind="stable")
    whole = np.all([table["pair"].isin(store.patches.pairs) for store in stores.values()], axis=0)
    table = table[whole] if whole.any() else table
    if table.empty:
        return None
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    rows = table.iloc[places].to_dict("records")
    if described["task"] == "pixel":
        tiles = _tiles(Masks(patches / "mask"), predictions.parent / "predictions", rows, stores)
        return Gallery(tiles, bands, run, classes, described["colours"])
    return Gallery(_locations(rows, stores, classes), bands, run)


def shown_bands(patches: Path) -> dict[str, list[str]]:
    """Modality -> the 1 to 3 bands that its store says to show; most bands first, at most four.

    The first band where the store says nothing.
    """
    found = {}
    for path in sorted(patches.glob("*/modality.json")):
        if path.parent.name != "mask":
            described = read_json(path, "split")
            names = [band["name"] for band in described["bands"]]
            usual = SHOW.get(path.parent.name, [])
            usual = usual if set(usual) <= set(names) else []
            found[path.parent.name] = described.get("show") or usual or names[:1]
    order = sorted(found, key=lambda q: (-len(found[q]), q))
    return {q: found[q] for q in order[:MODALITIES]}


def _locations(
    rows: list[dict], stores: dict[str, Tiles], classes: tuple[str, ...]
) -> list[Location]:
    found = []
    for row in rows:
        predicted = np.flatnonzero(np.asarray(row["probabilities"]) >= 0.5)
        found.append(
            Location(
                str(row["pair"]),
                _images(stores, row["pair"]),
                tuple(classes[i] for i in row["labels"]),
                tuple(classes[i] for i in predicted),
            )
        )
    return found


def _tiles(masks: Masks, maps: Path, rows: list[dict], stores: dict[str, Tiles]) -> list[Tile]:
    found = []
    for row in rows:
        mask = masks.tile(int(masks.rows(np.array([row["pair"]], dtype=object))[0]))
        images = _images(stores, row["pair"])
        found.append(Tile(str(row["pair"]), images, mask, _map(maps / str(row["file"]))))
    return found


def _images(stores: dict[str, Tiles], pair: str) -> dict[str, np.ndarray | None]:
    """(C, H, W) of each modality; None where it has no patch of the pair."""
    rows = {q: _row(store.patches, pair) for q, store in stores.items()}
    return {q: None if r is None else stores[q].tile(r).numpy() for q, r in rows.items()}


def _map(path: Path) -> np.ndarray:
    """(H, W) uint8 of a prediction's first band."""
    import rasterio

    try:
        with pixels_only(), rasterio.open(path) as source:
            return source.read(1)
    except rasterio.RasterioIOError as error:
        raise UserError(f"{path}: not readable ({error}); run evaluate again") from None


def _row(store: Patches, pair: str) -> int | None:
    """A pair's row in a store, None where it is not held."""
    place = int(np.searchsorted(store.pairs, pair))
    held = place < len(store.pairs) and store.pairs[place] == pair
    return place if held else None
