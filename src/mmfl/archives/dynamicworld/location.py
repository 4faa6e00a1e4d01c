"""The label tiles below a root: files, dates, regions, places and splits."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import REMEDY
from mmfl.archives.dynamicworld import blocks
from mmfl.archives.dynamicworld.files import Grid, grid_of, opened
from mmfl.archives.dynamicworld.table import XLSX, Row, date_of, place_of, read_table
from mmfl.errors import DamagedFile, UserError

THREADS = 8  # that wait for the disk
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label:
    """A label tile: its name, its file, and whether it is an expert's (else a test tile)."""

    name: str
    path: Path
    expert: bool


def labels(root: Path) -> list[Label]:
    """Every label tile below the root, by name.

    Raises:
        UserError: there is no expert tile.
    """
    paths: list[Path] = []
    for top in sorted(root.iterdir()) if root.is_dir() else []:
        if not top.is_dir():
            paths.append(top)
        elif top.name != "imagery" and not _ignored(top.name):
            for folder, inner, names in os.walk(top):  # `top` may be a link into the store
                inner[:] = sorted(name for name in inner if not _ignored(name))
                paths += [Path(folder, name) for name in names]
    found = [_as_label(root, path) for path in paths if _is_label(path)]
    if not any(label.expert for label in found):
        raise UserError(
            f"{root}: found no Experts/<hemisphere>/<biome>/dw_*.tif, expected the label tiles; "
            "run download"
        )
    return sorted(found, key=lambda label: (label.name, label.expert, str(label.path)))


def _ignored(folder: str) -> bool:
    return folder.lower().startswith("non") or folder.startswith((".", "__MACOSX"))


def _is_label(path: Path) -> bool:
    """Not the class probabilities that Zenodo's copy of the validation tiles holds, too."""
    return path.suffix == ".tif" and not path.name.startswith((".", "probs_"))


def _as_label(root: Path, path: Path) -> Label:
    folders = [name.lower() for name in path.relative_to(root).parts[:-1]]
    held_out = any("valid" in name or "test" in name for name in folders)
    expert = not held_out and any(name.startswith("expert") for name in folders)
    return Label(path.stem.removeprefix("label_"), path, expert)


@lru_cache(maxsize=8)
def _paths(root: Path) -> dict[str, Path]:
    """Name -> file; a test tile before an expert's of the same name, which has no split."""
    return {label.name: label.path for label in reversed(labels(root))}


def label_path(root: Path, name: str) -> Path:
    """A tile's label file; looked for again where it is not where it was."""
    path = _paths(root).get(name)
    if path is None or not path.is_file():
        _paths.cache_clear()
        path = _paths(root).get(name)
    if path is None:
        raise DamagedFile(root / f"{name}.tif", f"no such label tile, expected one; {REMEDY}")
    return path


def located(root: Path) -> pd.DataFrame:
    """The tiles that belong to a split, sorted: where and when they are.

    Columns: pair; split; hemisphere; biome; place; date YYYY-MM-DD; product or None; grid, a
    `Grid`, or None for a file that cannot be read (a fault when its mask is asked for).
    """
    found = labels(root)
    table = read_table(root / XLSX, {label.name for label in found})
    with ThreadPoolExecutor(THREADS) as pool:
        grids = list(pool.map(_grid, (label.path for label in found)))
    whole = [n for n, grid in enumerate(grids) if grid is not None]
    box = np.full((len(found), 4), np.nan)
    box[whole] = blocks.boxes([grid for grid in grids if grid is not None])
    rows = pd.DataFrame({"pair": [label.name for label in found]})
    rows[["hemisphere", "biome"]] = _regions(root, found, table, box)
    rows["date"] = [_date(root, label, table) for label in found]
    products = [table[x.name].product if x.name in table else None for x in found]
    rows["product"] = pd.Series(products, dtype=object)
    rows["grid"] = pd.Series(grids, dtype=object)
    rows["place"] = _places(found, box, whole)
    rows["split"] = _splits(root, found, rows["hemisphere"] + " " + rows["biome"], box, whole)
    return rows[rows["split"].notna()].reset_index(drop=True)


def _date(root: Path, label: Label, table: dict[str, Row]) -> str:
    date = table[label.name].date if label.name in table else date_of(label.name)
    if date is None:
        raise UserError(
            f"{label.path}: neither {root / XLSX} nor the name has a date, expected a name like "
            "dw_<lon>_<lat>-<YYYYMMDD>.tif; complete the table"
        )
    return date


def _regions(
    root: Path, found: list[Label], table: dict[str, Row], box: np.ndarray
) -> list[tuple[str, str]]:
    """Hemisphere and biome: of the table, else of an expert tile's folders, else the nearest's."""
    regions: list[tuple[str, str] | None] = []
    for label in found:
        row, folders = table.get(label.name), label.path.relative_to(root).parts[:-1]
        if row is not None:
            regions.append((row.hemisphere, row.biome))
        elif label.expert and len(folders) > 2:
            regions.append((folders[-2], folders[-1]))
        else:
            regions.append(None)
    known = [n for n, region in enumerate(regions) if region and not np.isnan(box[n, 0])]
    bare = [n for n, region in enumerate(regions) if region is None]
    if bare:
        log.warning(
            "%s: %d tiles have no row and get the region of the nearest tile that has one, e.g. %s",
            root / XLSX, len(bare), found[bare[0]].name,
        )  # fmt: skip
    if not known:
        raise UserError(f"{root / XLSX}: lists none of the tiles, expected all; fetch it again")
    near = blocks.nearest(np.nan_to_num(box[bare]), box[known])
    for n, other in zip(bare, near, strict=True):
        regions[n] = regions[known[other]]
    return [region for region in regions if region is not None]


def _places(found: list[Label], box: np.ndarray, whole: list[int]) -> list[str]:
    """The first name, without its date, of the tiles that overlap."""
    names = [place_of(label.name) for label in found]
    first: dict[int, str] = {}
    for n, number in zip(whole, blocks.places(box[whole]).tolist(), strict=True):
        names[n] = first.setdefault(number, names[n])
    return names


def _splits(
    root: Path, found: list[Label], region: pd.Series, box: np.ndarray, whole: list[int]
) -> pd.Series:
    """train, validation, test, or None for an expert tile that is too near to a test tile."""
    expert = np.array([label.expert for label in found])
    split = np.where(expert, "train", "test").astype(object)
    near = np.full(len(found), -1)
    near[whole] = blocks.neighbourhoods(box[whole])
    tested = {label.name for label in found if not label.expert}
    lost = expert & (near >= 0) & np.isin(near, near[~expert])
    lost |= expert & np.array([label.name in tested for label in found])
    left = np.flatnonzero(expert & (near >= 0) & ~lost)
    chosen = blocks.validation(
        [found[n].name for n in left], region.iloc[left].tolist(), near[left]
    )
    split[left[chosen]] = "validation"
    split[lost] = None
    if lost.any():
        log.warning(
            "%s: %d of %d expert tiles overlap a test tile or lie in its block of 1 degree and "
            "are left out",
            root, lost.sum(), expert.sum(),
        )  # fmt: skip
    return pd.Series(split, dtype=object)


def _grid(path: Path) -> Grid | None:
    try:
        with opened(path) as source:
            return grid_of(path, source)
    except DamagedFile:
        return None
