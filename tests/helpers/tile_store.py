"""Tiles that no file holds: an archive drawn in memory, and its store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import MASK, Archive, Band, Mask, Modality
from mmfl.facts.tasks import IGNORED
from mmfl.patches.labels import write_store
from mmfl.patches.writer import encode, write_labels

TILE_BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B04", "B08"), "dem": ("height",)}
TILE_SHAPES = ((16, 16), (32, 32), (21, 16), (16, 33), (9, 12), (40, 24))  # windows: 16 px


@dataclass(frozen=True)
class DrawnTiles(Archive):
    """Tiles drawn where they are asked for; a pixel's values are its class's level and noise.

    s1: float32 at 10 m with NaN; s2: uint16 at 20 m, 0 is a gap; dem: int16 at 10 m, -9999 is
    one. Tile 1 lacks s1, tile 3 s2; tile 2 has no georeference; no pixel of the first window of
    tile 4 has a class; all of tile 5's VH is a gap. Every split and country has all shapes.
    """

    count: int = field(default=24, kw_only=True)
    countries: tuple[str, ...] = field(default=("A", "B"), kw_only=True)

    def metadata(self, root, **_):
        numbers = range(self.count)
        names = [f"tile-{i:02d}" for i in numbers]
        lacking = {"s1": "tile-01", "s2": "tile-03"}
        held = {q: [n if n != lacking.get(q) else None for n in names] for q in self.modalities}
        return pd.DataFrame(
            {
                "pair": names,
                **held,
                "split": [("train", "train", "validation", "test")[i % 4] for i in numbers],
                "country": [self.countries[i // 4 % len(self.countries)] for i in numbers],
                "labels": None,
            }
        )  # fmt: skip

    def mask(self, root, pair):
        i = int(pair[-2:])
        rng = np.random.default_rng(i)
        height, width = TILE_SHAPES[i // 4 % len(TILE_SHAPES)]
        coarse = rng.integers(0, 3, (height // 8 + 1, width // 8 + 1)).astype(np.uint8)
        classes = coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()
        classes[rng.random(classes.shape) < 0.1] = IGNORED
        if i == 4:
            classes[:16, :16] = IGNORED
        place = (10.0, 0.0, 4e5 + 1000 * i, 0.0, -10.0, 58e5)
        return Mask(classes) if i == 2 else Mask(classes, "EPSG:32633", place)

    def shape(self, root, modality, patch):
        height, width = TILE_SHAPES[int(patch[-2:]) // 4 % len(TILE_SHAPES)]
        return ((height + 1) // 2, (width + 1) // 2) if modality == "s2" else (height, width)

    def read(self, root, modality, patch, band):
        step = 2 if modality == "s2" else 1
        classes = self.mask(root, patch).classes[::step, ::step]
        rng = np.random.default_rng([int(patch[-2:]), sum(map(ord, band))])
        values = 1000 + classes % 3 * 300.0 + rng.normal(0, 100, classes.shape)
        gaps = rng.random(classes.shape) < 0.03
        if (patch, band) == ("tile-05", "VH"):
            gaps[:] = True
        value = {"s1": np.nan, "s2": 0, "dem": -9999}[modality]
        return np.where(gaps, value, values).astype(self.modality(modality).band(band).dtype)

    def folders(self, root, modality):
        raise NotImplementedError

    def patch_folder(self, root, modality, patch):
        raise NotImplementedError


def drawn_tiles(count: int = 24, countries: tuple[str, ...] = ("A", "B")) -> DrawnTiles:
    kinds = {
        "s1": {"resolution": 10, "dtype": "float32", "gaps": True},
        "s2": {"resolution": 20, "dtype": "uint16", "nodata": 0},
        "dem": {"resolution": 10, "dtype": "int16", "nodata": -9999},
    }
    modalities = {
        q: Modality(q, tuple(Band(name, size=None, **kinds[q]) for name in names), names[:1])
        for q, names in TILE_BANDS.items()
    }
    return DrawnTiles(
        "drawn", "pixel", ("water", "trees", "built"), modalities, (),
        colours=("#419bdf", "#397d49", "#c4281b"), count=count, countries=countries,
    )  # fmt: skip


def make_tiles(folder: Path, archive: Archive | None = None, **choice) -> pd.DataFrame:
    """A small store of tiles by the writer of `split`; the table of its locations."""
    archive = archive or drawn_tiles()
    table, _ = archive.labelled(folder, archive.metadata(folder))
    table[MASK.name] = table["pair"]
    for name in (MASK.name, *archive.modalities):
        encode(archive, folder, folder, modality=name, metadata=table, **choice)
    write_labels(folder / "labels", table, archive)
    write_store(folder, "simulated-tiles")
    return table
