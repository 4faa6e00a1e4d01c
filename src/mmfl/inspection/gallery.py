"""Pictures of some locations of a folder of patches, with the predictions of a run if there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.archives.base import MASK, pixels_only
from mmfl.archives.folder.units import spaced
from mmfl.errors import UserError
from mmfl.patches.labels import read_classes, read_labels
from mmfl.patches.reader import Patches
from mmfl.patches.tiles import Masks, Tiles
from mmfl.reporting.gallery import Gallery, Location, Tile
from mmfl.sealed import Sealed

MODALITIES = 4  # pictures of a location


def load_gallery(
    patches: Path,
    count: int,
    *,
    pairs: set[str] | None = None,
    predictions: Sealed | None = None,
    run: str = "",
) -> Gallery | None:
    """Some locations, at equal steps of the sorted list; those with every modality if any.

    Args:
        patches: data/patches/<archive>.
        count: locations; 0 for none.
        pairs: the locations to choose from; all by default.
        predictions: the scores of a run. The locations of its predictions are shown with what was
            predicted, by the first model; of the pixel task, these are maps.
        run: what the caption calls the predictions.

    Returns:
        None without a location to show.

    Raises:
        UserError: a store or a map is missing or damaged.
    """
    stores = shown_stores(patches) if count else {}
    if not stores:
        return None
    if predictions is None:
        table = read_labels(patches / "labels")[0]
    else:
        table, model = _read(predictions)
        run += model
    table = table[table["pair"].isin(pairs)] if pairs is not None else table
    whole = np.all([table["pair"].isin(store.patches.pairs) for store in stores.values()], axis=0)
    table = table[whole] if whole.any() else table
    if table.empty:
        return None
    described = read_classes(patches / "labels")
    classes = tuple(described["classes"])
    rows = table.iloc[spaced(len(table), count)].to_dict("records")
    places: list[Tile] | list[Location]
    if described["task"] == "pixel":
        masks = Masks(patches / MASK.name)
        places = [_tile(row, stores, masks, predictions) for row in rows]
    else:
        places = [_location(row, stores, classes) for row in rows]
    bands = {q: [*store.names] for q, store in stores.items()}
    return Gallery(places, bands, run, classes, described["colours"])


def shown_stores(patches: Path) -> dict[str, Tiles]:
    """The bands that make a picture of each modality; most bands first, at most `MODALITIES`."""
    found = {}
    for path in sorted(patches.glob("*/modality.json")):
        store = Patches(path.parent)
        if path.parent.name != MASK.name and store.show:
            found[path.parent.name] = Tiles(store, store.show)
    order = sorted(found, key=lambda q: (-found[q].channels, q))
    return {q: found[q] for q in order[:MODALITIES]}


def _read(predictions: Sealed) -> tuple[pd.DataFrame, str]:
    """The predictions of the first model, and words about it where there are several."""
    table = predictions.table("predictions.parquet")
    names = table["model"].unique()
    table = table[table["model"] == names[0]].sort_values("pair", kind="stable")
    return table, f", model of group {names[0]}" if len(names) > 1 else ""


def _location(row: dict[Any, Any], stores: dict[str, Tiles], classes: tuple[str, ...]) -> Location:
    labels, predicted = tuple(classes[i] for i in row["labels"]), None
    if "probabilities" in row and not row["state"]:
        there = np.flatnonzero(np.asarray(row["probabilities"]) >= 0.5)
        predicted = tuple(classes[i] for i in there)
    return Location(str(row["pair"]), _images(stores, row["pair"]), labels, predicted)


def _tile(row: dict[Any, Any], stores: dict[str, Tiles], masks: Masks, maps: Sealed | None) -> Tile:
    mask = masks.tile(int(masks.rows(np.array([row["pair"]], dtype=object))[0]))
    predicted = None if maps is None else _map(maps, f"predictions/{row['file']}")
    return Tile(str(row["pair"]), _images(stores, row["pair"]), mask, predicted)


def _images(stores: dict[str, Tiles], pair: str) -> dict[str, np.ndarray | None]:
    """(C, H, W) of each modality; None where it has no patch of the pair."""
    rows = {q: _row(store.patches, pair) for q, store in stores.items()}
    return {q: None if r is None else stores[q].tile(r).numpy() for q, r in rows.items()}


def _map(maps: Sealed, name: str) -> np.ndarray:
    """(H, W) uint8 of a prediction's first band."""
    from rasterio import MemoryFile, RasterioIOError

    content = maps.content(name)
    try:
        with pixels_only(), MemoryFile(content) as file, file.open() as source:
            return source.read(1)
    except RasterioIOError as error:
        raise UserError(
            f"{maps.folder / name}: not readable ({error}); {maps.watch.remedy}"
        ) from None


def _row(store: Patches, pair: str) -> int | None:
    """A pair's row in a store, None where it is not held."""
    place = int(np.searchsorted(store.pairs, pair))
    held = place < len(store.pairs) and store.pairs[place] == pair
    return place if held else None
