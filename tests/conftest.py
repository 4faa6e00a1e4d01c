"""Shared fixtures: the real samples, and a tiny store of patches."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rasterio.transform import from_origin

from mmfl.archives import get
from mmfl.archives.base import MASK, Archive, Band, Mask, Modality
from mmfl.params.tasks import IGNORED
from mmfl.patches.labels import write_labels, write_store
from mmfl.patches.writer import encode, group_columns, shard_files, write_index


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real samples, see CONTRIBUTING.md."""
    folder = os.environ.get("MMFL_SAMPLES")
    if not folder:
        pytest.skip("MMFL_SAMPLES is not set: real samples not tested")
    return Path(folder).resolve()


def make_store(folder: Path, *, pairs=48, seed=0, countries=("A", "B"), lonely=4) -> pd.DataFrame:
    """A small store of patches in the format of `split`; random pixels, the mean carries labels."""
    rng = np.random.default_rng(seed)
    archive = get("bigearthnet-v2")
    names = [f"pair-{i:03d}" for i in range(pairs)]
    labels = [np.flatnonzero(rng.random(19) < 0.3).astype(np.int8) for _ in names]
    table = pd.DataFrame(
        {
            "pair": names,
            "s1": [f"{n}-s1" if i >= lonely else None for i, n in enumerate(names)],
            "s2": [f"{n}-s2" if i < pairs - lonely else None for i, n in enumerate(names)],
            "split": [("train", "train", "validation", "test")[i % 4] for i in range(pairs)],
            "country": [countries[(i // 4) % len(countries)] for i in range(pairs)],
            "month": 6,
            "season": "JJA",
            "tile": "T33UUP",
            "labels": labels,
        }
    )
    for q, modality in archive.modalities.items():
        held = table[table[q].notna()]
        target = folder / q
        target.mkdir(parents=True)
        for resolution, name in shard_files(modality, 0).items():
            bands = modality.at(resolution)
            shape = (len(held), len(bands), bands[0].size, bands[0].size)
            level = np.array([label.sum() for label in held["labels"]])[:, None, None, None]
            values = rng.normal(level, 20, shape) + (100 if q == "s2" else -120)
            if q == "s2":
                values = np.clip(values, 0, 65535)
            np.save(target / name, values.astype(bands[0].dtype))
        groups = group_columns(table, list(archive.modalities))
        write_index(target, modality, table, 4096, "test", groups=groups)
    write_labels(folder / "labels", table, archive)
    write_store(folder)
    return table


@pytest.fixture
def store(tmp_path) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of patches."""
    return tmp_path / "patches", make_store(tmp_path / "patches")


# ---- tiles -----------------------------------------------------------------------------------

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
        coarse = rng.integers(0, 3, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
        classes = coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()
        classes[rng.random(classes.shape) < 0.1] = IGNORED
        if i == 4:
            classes[:16, :16] = IGNORED
        place = tuple(from_origin(4e5 + 1000 * i, 58e5, 10, 10))[:6]
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
    write_store(folder)
    return table


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of tiles; to be read only."""
    folder = tmp_path_factory.mktemp("tiles") / "patches"
    return folder, make_tiles(folder)
