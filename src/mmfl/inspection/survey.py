"""What the files of an archive of one's own hold: headers of all, pixels of some."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from rasterio.errors import NotGeoreferencedWarning
from tqdm import tqdm

from mmfl.archives.base import MASK
from mmfl.archives.content import varies, worthless
from mmfl.archives.folder import Folder, files, units
from mmfl.archives.folder.statements import Statements
from mmfl.errors import DamagedFile
from mmfl.facts.tasks import IGNORED

T = TypeVar("T")
WORKERS = 4
SENTINELS = (-9999, -999, -32768, -32767, 65535, 9999, -1e20, 1e20, -3.4028234663852886e38)
RARE = 1e-3  # share of pixels from which a number is odd


@dataclass
class Survey:
    """`grids`: modality (or mask) -> location -> its grid; `kinds`: its file types and dtypes;
    `said`: modality -> what its files say of themselves.
    """

    grids: dict[str, dict[str, files.Grid]] = field(default_factory=dict)
    kinds: dict[str, set[str]] = field(default_factory=dict)
    dtypes: dict[str, set[str]] = field(default_factory=dict)
    said: dict[str, Statements] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def headers(archive: Folder, root: Path, pairs: list[str]) -> Survey:
    """Open every file of some locations without reading pixels."""
    found = Survey(
        said={q: Statements(part, q) for q, part in archive.described.modalities.items()}
    )
    order = [*archive.modalities, *([MASK.name] if archive.task == "pixel" else [])]
    for q in order:
        found.grids[q], found.kinds[q], found.dtypes[q] = {}, set(), set()
    looked = _each(lambda pair: archive.look(root, pair), pairs, "open files")
    for pair, (opened, faults) in zip(pairs, looked, strict=True):
        found.wrong += map(str, faults)
        for q, held in opened.items():
            found.grids[q][pair] = max((h.grid for h in held), key=lambda grid: grid.height)
            found.kinds[q] |= {header.path.suffix.lower() for header in held}
            found.dtypes[q] |= {header.dtype for header in held}
            if q in found.said:
                found.said[q].add(held)
    return found


@dataclass
class Values:
    """What was read of a modality. `bands`: a row per band; `odd`, `wrong`: sentences."""

    bands: list[dict[str, object]]
    odd: list[str]
    wrong: list[str]


def values(archive: Folder, root: Path, q: str, pairs: list[str]) -> Values:
    """Read a modality of some locations: range and gaps of every band, and what looks odd."""
    modality = archive.modality(q)
    rows, wrong, flat, images = [], [], [], []
    part = archive.described.modalities[q]
    nodata = modality.bands[0].nodata

    def look(pair: str) -> tuple[np.ndarray, units.Seen | None] | str:
        try:
            pixels = archive.read_patch(root, q, pair, modality.resolutions[0])
        except DamagedFile as error:
            return str(error)
        differ = [varies(band, nodata) for band in pixels]
        if (reason := worthless(differ)) is not None:
            return f"{archive.path(root, q, pair)}: {reason}"
        if differ == [False]:
            flat.append(archive.path(root, q, pair).name)  # as elevation of the sea
        pixels = pixels.astype(np.float64)
        pixels[pixels == nodata] = np.nan
        dtype = archive.headers(root, q, pair)[0].dtype
        return _seen(pixels), units.seen(archive.path(root, q, pair), q, part, pixels, dtype)

    for item in _each(look, pairs, f"read {q}"):
        if isinstance(item, str):
            wrong.append(item)
        else:
            rows.append(item[0])
            images += [item[1]] if item[1] else []
    if not rows:
        return Values([], [], wrong)
    every = np.stack(rows)  # (files, bands, columns of _seen)
    mixed, odd = units.disagreement(q, images, list(part.bands))
    wrong += mixed
    bands = []
    for place, band in enumerate(modality.bands):
        found = _summary(every[:, place])
        bands.append({"band": band.name, "modality": q, **found})
        odd += [f"{q} {band.name}: {text}" for text in _oddities(every[:, place], found)]
    if flat:
        odd.append(f"{q}: {len(flat):,} of {len(pairs):,} files read are constant, e.g. {flat[0]}")
    empty = every[:, 0, -1].sum() / every[:, 0, 0].sum()
    if len(modality.bands) > 1 and nodata is None and empty > 10 * RARE:
        odd.append(f"{q}: {100 * empty:.1f} % of the pixels are 0 in all bands; if that is no "
                   f"value, set modalities.{q}.nodata: 0")  # fmt: skip
    return Values(bands, odd, wrong)


def _seen(pixels: np.ndarray) -> np.ndarray:
    """(bands, 5 + sentinels): pixels, least, most, sum, with a value, each sentinel, all zero."""
    flat = pixels.reshape(len(pixels), -1)
    good = ~np.isnan(flat)
    least = np.where(good, flat, np.inf).min(axis=1)
    most = np.where(good, flat, -np.inf).max(axis=1)
    total = np.where(good, flat, 0).sum(axis=1)
    rare = [(flat == value).sum(axis=1) for value in SENTINELS]
    zero = np.full(len(flat), (flat == 0).all(axis=0).sum())
    size = np.full(len(flat), flat.shape[1])
    return np.stack([size, least, most, total, good.sum(axis=1), *rare, zero], axis=1)


def _summary(rows: np.ndarray) -> dict[str, object]:
    """least, mean, most and gaps in percent, of a band's rows of `_seen`."""
    size, total, good = rows[:, 0].sum(), rows[:, 3].sum(), rows[:, 4].sum()
    return {
        "least": float(rows[:, 1].min()), "mean": float(total / max(good, 1)),
        "most": float(rows[:, 2].max()), "gaps %": round(float(100 * (1 - good / size)), 2),
    }  # fmt: skip


def _oddities(rows: np.ndarray, found: dict[str, object]) -> list[str]:
    said = []
    if found["gaps %"] == 100:
        return ["holds no value, only gaps"]
    if found["least"] == found["most"]:
        return [f"is {found['least']:g} in every pixel"]
    for place, value in enumerate(SENTINELS):
        share = rows[:, 5 + place].sum() / rows[:, 0].sum()
        if share > RARE and value in (found["least"], found["most"]):
            said.append(f"{100 * share:.1f} % of the pixels are {value:g}; if that is no value, "
                        "say so with nodata")  # fmt: skip
    return said


def masks(archive: Folder, root: Path, pairs: list[str]) -> tuple[pd.DataFrame, list[str], int]:
    """(class, codes, pixels, %, tiles) of the masks of some locations, what is wrong, and how many
    have no pixel with a class.
    """
    part = archive.described.mask
    assert part is not None
    pixels, tiles = np.zeros(256, np.int64), np.zeros(256, np.int64)
    wrong, bare = [], 0

    def look(pair: str) -> np.ndarray | str:
        try:
            found = archive.read_patch(root, MASK.name, pair, MASK.resolutions[0])
        except DamagedFile as error:
            return str(error)
        return np.bincount(found.ravel(), minlength=256)

    for item in _each(look, pairs, "read mask"):
        if isinstance(item, str):
            wrong.append(item)
        else:
            pixels += item
            tiles += item > 0
            bare += not item[:IGNORED].any()
    codes = [", ".join(str(code) for code, name in part.classes.items() if name == wanted)
             for wanted in part.names]  # fmt: skip
    index = [*range(len(part.names)), IGNORED]
    table = pd.DataFrame({"class": [*part.names, "ignored"],
                          "codes": [*codes, _ignored(part.ignore)], "pixels": pixels[index],
                          "%": (100 * pixels[index] / max(pixels.sum(), 1)).round(2),
                          "tiles": tiles[index]})  # fmt: skip
    return table, wrong, bare


def _ignored(codes: list[int] | str) -> str:
    return codes if isinstance(codes, str) else ", ".join(map(str, codes)) or "none"


def _each(look: Callable[[str], T], pairs: list[str], what: str) -> Iterable[T]:
    with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield from tqdm(pool.map(look, pairs), total=len(pairs), desc=what, unit="file", delay=2)
