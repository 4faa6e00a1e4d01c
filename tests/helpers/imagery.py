"""Imagery fetched from the STAC server of a test, and what its scenes hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil

from helpers.stac_server import (
    Site,
    tiles,
)
from mmfl.fetch.stac.imagery import COLUMNS, fetch_imagery
from mmfl.params.imagery import Imagery

BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B11"]}
ROWS, COLS = slice(30, 78), slice(40, 80)  # the tile in the scenes' 10 m pixels
S2 = "S2A_MSIL2A_20190701T103031_R108_T33TWL_20201005T151515"
B02 = f"/data/{S2}_B02.tif"


def choice(site: Site, **changed: object) -> Imagery:
    entry = site.catalogue(**changed.pop("catalogue", {}))  # type: ignore[arg-type]
    given = {"s1": "own", "s2": "own", "catalogues": {"own": entry}}
    return Imagery.model_validate(given | changed)


def fetched(
    site: Site, frame: pd.DataFrame | None = None, **changed: object
) -> tuple[Path, dict[tuple[str, str], dict[str, str]]]:
    """The folder, and the rows of its table by tile and modality."""
    frame = tiles() if frame is None else frame
    store, bands = site.folder.parent / "store", changed.pop("bands", BANDS)
    folder = fetch_imagery(
        frame, choice(site, **changed), store, bands=bands, pause=0.01, progress=False
    )
    with (folder / "scenes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    keys = [(row["tile"], row["modality"]) for row in rows]
    assert keys == sorted(keys) and len(keys) == 2 * len(frame)
    images = {(path.stem, path.parent.name) for path in folder.glob("s*/*.tif")}
    assert images == {key for key, row in zip(keys, rows, strict=True) if row["outcome"] == "ok"}
    return folder, dict(zip(keys, rows, strict=True))


def row_of(site: Site, modality: str, **changed: object) -> dict[str, str]:
    return fetched(site, **changed)[1]["dw_0", modality]


def read(folder: Path, modality: str, name: str = "dw_0") -> np.ndarray:
    with rasterio.open(folder / modality / f"{name}.tif") as source:
        return source.read()


def centres(size: float) -> np.ndarray:
    """(2, 48, 40): row and column of the tile's pixels in a scene of pixels of `size` m."""
    rows, cols = np.mgrid[30:78, 40:80] + 0.5
    return np.stack([rows, cols]) * 10 / size - 0.5
