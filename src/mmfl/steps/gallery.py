"""The test locations that a page shows, with the predictions of one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.params.tasks import IGNORED
from mmfl.patches.labels import read_labels
from mmfl.patches.reader import Images, Patches
from mmfl.reporting.gallery import Gallery, Location, Tile

MODALITIES = 4  # pictures of a location
SHOW = {"s2": ["B04", "B03", "B02"], "s1": ["VV", "VH"]}  # where the store names none

Read = Callable[[str, str], np.ndarray | None]
"""Modality and pair to (C, H, W); None where the modality has no patch of the pair."""


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
    described = read_json(patches / "labels" / "classes.json", "split")
    classes = read_labels(patches / "labels")[1]
    stores = {q: Patches(patches / q) for q in bands}
    table = pd.read_parquet(predictions).sort_values("pair", kind="stable")
    whole = np.all([table["pair"].isin(store.pairs) for store in stores.values()], axis=0)
    table = table[whole] if whole.any() else table
    if table.empty:
        return None
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    rows = table.iloc[places].to_dict("records")
    if described.get("task") == "pixel":
        tiles = _tiles(patches, predictions.parent / "predictions", rows, stores, bands)
        return Gallery(tiles, bands, run, classes, described.get("colours"))
    return Gallery(_locations(rows, stores, bands, classes), bands, run)


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
    rows: list[dict], stores: dict[str, Patches], bands: dict[str, list[str]], classes: tuple
) -> list[Location]:
    images = {}
    for q, names in bands.items():
        size = max(band["size"] for band in stores[q].bands if band["name"] in names)
        images[q] = Images(stores[q], names, size)

    def read(q: str, pair: str) -> np.ndarray | None:
        row = _row(stores[q], pair)
        return None if row is None else images[q].batch(np.array([row]))[0].numpy()

    found = []
    for row in rows:
        predicted = np.flatnonzero(np.asarray(row["probabilities"]) >= 0.5)
        found.append(
            Location(
                str(row["pair"]),
                {q: read(q, row["pair"]) for q in bands},
                tuple(classes[i] for i in row["labels"]),
                tuple(classes[i] for i in predicted),
            )
        )
    return found


def _tiles(
    patches: Path,
    maps: Path,
    rows: list[dict],
    stores: dict[str, Patches],
    bands: dict[str, list[str]],
) -> list[Tile]:
    from mmfl.patches.tiles import Tiles

    masks = Patches(patches / "mask")
    readers = {q: Tiles(stores[q], names) for q, names in bands.items()}
    labels = Tiles(masks, ["class"])

    def read(q: str, pair: str) -> np.ndarray | None:
        row = _row(stores[q], pair)
        return None if row is None else np.asarray(readers[q].tile(row))

    found = []
    for row in rows:
        pair = str(row["pair"])
        place = _row(masks, pair)
        if place is None:
            raise UserError(f"{patches / 'mask'}: has no tile {pair}; run split again")
        mask = np.nan_to_num(np.asarray(labels.tile(place))[0], nan=IGNORED).astype(np.uint8)
        images = {q: read(q, pair) for q in bands}
        found.append(Tile(pair, images, mask, _map(maps / str(row["file"]))))
    return found


def _map(path: Path) -> np.ndarray:
    """(H, W) uint8 of a prediction's first band."""
    import rasterio

    try:
        with rasterio.open(path) as source:
            return source.read(1)
    except rasterio.RasterioIOError as error:
        raise UserError(f"{path}: not readable ({error}); run evaluate again") from None


def _row(store: Patches, pair: str) -> int | None:
    """A pair's row in a store, None where it is not held."""
    place = int(np.searchsorted(store.pairs, pair))
    held = place < len(store.pairs) and store.pairs[place] == pair
    return place if held else None
