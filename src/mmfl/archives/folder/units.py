"""Whether the images of a modality are of one unit, by what each file's pixels are like.

Radar: decibels are below 0 nearly everywhere, linear power and digital numbers never are, and no
surface scatters less than -50 dB. Optical: reflectance as a fraction has a point, as a whole number
it reaches hundreds, per cent do not; eight bits end at 255. Bands are compared one by one, too.

The offset of 1,000 that Sentinel-2 has since baseline 04.00 is found by darkest pixels: moved down
by just that, some files fall on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfl.archives.folder import naming
from mmfl.errors import DamagedFile
from mmfl.facts.description_parts import Images

if TYPE_CHECKING:
    from mmfl.archives.folder.archive import Folder

READ = 64  # files of a modality that are read, at equal steps
PIXELS = 1 << 16  # of a band that are looked at
RADAR, OPTICAL, OTHER = "radar", "optical", "other"
NAMES = {
    RADAR: ("s1", "sar", "radar", "sentinel1", "gamma0", "sigma0"),
    OPTICAL: ("s2", "sentinel2", "msi", "optical", "rgb", "landsat", "planet", "naip", "aerial"),
}
DARKEST = -50.0  # decibels
TENTH = 12.0  # what a typical median of decibels is, without its sign
SHARE = (8.0, 150.0)  # per cent: more than any fraction has, less than 16-bit numbers of land
PLAIN_DN = 30.0  # digital numbers of one band; a bright town may have 10 dB
BRIGHT = 300.0  # what 16-bit reflectance exceeds somewhere in nearly every image
OFFSET = 1000.0  # of Sentinel-2 since baseline 04.00, in units of 1 / 10,000
BESIDE = (250.0, 500.0, 750.0, 1250.0, 1500.0)  # offsets that nobody adds, for comparison
LINEAR = "no value below 0, as linear power"
RADIO = ("decibels", LINEAR)
LEAST = 6  # files below which an offset cannot be seen


@dataclass(frozen=True)
class Seen:
    """Of one image: its `unit`, and that of each band, or None where it may be any.

    `floors` of the bands compared.
    """

    path: Path
    unit: str | None
    bands: tuple[str | None, ...]
    floors: np.ndarray
    fraction: bool


def spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places at equal steps from 0 to count - 1."""
    steps = np.linspace(0, count - 1, min(count, wanted)).round().astype(int)
    return np.unique(steps).tolist() if count else []


def agreement(
    archive: Folder, root: Path, modality: str, pairs: Sequence[str], workers: int = 1
) -> tuple[list[str], list[str]]:
    """Read some images of a modality: what is wrong with their units, and what may be.

    Images that cannot be read are told where they are read.
    """

    def look(pair: str) -> Seen | None:
        try:
            (resolution,) = archive.modality(modality).resolutions
            pixels = archive.read_patch(root, modality, pair, resolution)
            dtype = archive.headers(root, modality, pair)[0].dtype
        except DamagedFile:
            return None
        band = archive.modality(modality).bands[0]
        if band.nodata is not None:
            pixels = np.where(pixels == band.nodata, np.nan, pixels)
        part = archive.described.modalities[modality]
        return seen(archive.path(root, modality, pair), modality, part, pixels, dtype)

    chosen = [pairs[i] for i in spaced(len(pairs), READ)]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        images = [item for item in pool.map(look, chosen) if item]
    return disagreement(modality, images, list(archive.described.modalities[modality].bands))


def seen(path: Path, modality: str, part: Images, pixels: np.ndarray, dtype: str) -> Seen | None:
    """What an image (bands, H, W) is like; NaN in gaps. None: it holds nothing.

    `dtype`: that of the file; `part` describes the modality.
    """
    step = max(1, int(np.sqrt(pixels[0].size / PIXELS)))
    flat = pixels[:, ::step, ::step].reshape(len(pixels), -1).astype(np.float64)
    there = np.asarray(np.isfinite(flat).any(axis=1))
    if not there.any():
        return None
    kind = sensor(modality, part)
    find: Callable[..., str | None] = {RADAR: _radar, OPTICAL: _optical, OTHER: _other}[kind]
    stored = np.dtype("float32" if part.scaled else dtype)

    def unit(chosen: np.ndarray, **how: float) -> str | None:
        values = chosen[np.isfinite(chosen)]
        middle, high = np.nanpercentile(chosen, (50, 99), axis=1)
        return find(chosen, values, middle, high, stored, **how)

    each = [unit(flat[[i]], **({"plain": PLAIN_DN} if kind == RADAR else {})) if there[i] else None
            for i in range(len(flat))]  # fmt: skip
    flat = flat[there]
    low, high = np.nanpercentile(flat, (2, 99), axis=1)
    floors = np.empty(0)
    if kind == OPTICAL and len(flat) == len(part.bands):
        visible = [i for i, band in enumerate(part.bands)
                   if naming.known(band) in ("b01", "b02", "b03", "b04")]  # fmt: skip
        floors = low[visible] if visible else low
    return Seen(path, unit(flat), tuple(each), floors, float(high.max()) <= 3)


def sensor(modality: str, part: Images) -> str:
    """What made the images, by the names of the bands or of the modality."""
    names = {naming.known(band) for band in part.bands} - {None}
    if names:
        return RADAR if names <= set(naming.RADAR) else OPTICAL
    for kind, words in NAMES.items():
        if modality.startswith(words):
            return kind
    return OPTICAL if len(part.bands) > 2 else OTHER


def _radar(
    flat: np.ndarray, values: np.ndarray, middle: np.ndarray, high: np.ndarray, dtype: np.dtype,
    plain: float = 10.0,
) -> str | None:  # fmt: skip
    darkest = int(middle.argmin())
    band = flat[darkest]
    below = float((band < 0).sum() / np.isfinite(band).sum())
    if middle[darkest] <= DARKEST:
        power = max(1, round(np.log10(-middle[darkest] / TENTH)))
        return {1: "tenths of decibels", 2: "hundredths of decibels"}.get(
            power, f"decibels times {10**power:,}"
        )
    if below > 0.05:
        return "decibels"
    if middle[darkest] < 0.6:
        return LINEAR
    return "no value below 0, as digital numbers" if middle[darkest] >= plain else None


def _optical(
    flat: np.ndarray, values: np.ndarray, middle: np.ndarray, high: np.ndarray, dtype: np.dtype
) -> str | None:
    top = float(high.max())
    whole = bool((values == np.round(values)).all())
    if dtype.name in ("uint8", "int8"):
        return "eight bits"
    if not whole:
        small = top <= 3 and float(values.min()) >= -1
        if SHARE[0] < top <= SHARE[1] and float(values.min()) >= -10:
            return "per cent"
        return "fractions" if small else "16-bit numbers" if top > BRIGHT else None
    if values.max() == 255 and values.min() >= 0 and (values >= 250).mean() > 1e-3:
        return "eight bits"
    return "16-bit numbers" if top > BRIGHT else None


def _other(
    flat: np.ndarray, values: np.ndarray, middle: np.ndarray, high: np.ndarray, dtype: np.dtype
) -> str | None:
    """Only where types differ as well: elevation may be 0.3 m here and 3,000 m there."""
    whole = bool((values == np.round(values)).all())
    if dtype.kind == "f" and not whole and values.min() >= -1 and values.max() <= 1:
        return "fractions"
    return "whole numbers" if dtype.kind in "ui" and high.max() > 50 else None


def disagreement(
    modality: str, images: Sequence[Seen], bands: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What is wrong with the units of a modality's images, and what may be."""
    remedy = f"bring them to one unit, or give modalities.{modality}.scale and .offset columns"
    if told := _groups(images, lambda item: item.unit):
        return [f"{modality}: {told}; {remedy}"], []
    for place, band in enumerate(bands):
        if told := _groups(images, lambda item, place=place: item.bands[place]):  # type: ignore[misc]
            found = f"{modality}: the band {band} alone: {told}; {remedy}"
            # a dark band, resampled, looks like fractions
            return ([found], []) if any(item.unit in RADIO for item in images) else ([], [found])
    moved = offset(images)
    if not moved:
        return [], []
    by = f"{OFFSET:g}" if not images[0].fraction else f"{OFFSET / 1e4:g}"
    return [], [f"{modality}: of {len(images):,} files read, the darkest pixels of {len(moved):,}, "
                f"e.g. {min(moved)}, lie just {by} above those of others, as with the offset of "
                f"Sentinel-2 since baseline 04.00; if so, subtract it, or give modalities."
                f"{modality}.offset a column"]  # fmt: skip


def _groups(images: Sequence[Seen], of: Callable[[Seen], str | None]) -> str:
    """The units that images are of, with an example of each; "" where there is but one."""
    groups: dict[str, list[Path]] = {}
    for item in images:
        if (unit := of(item)) is not None:
            groups.setdefault(unit, []).append(item.path)
    told = [f"{len(paths):,} {unit}, e.g. {min(paths)}"
            for unit, paths in sorted(groups.items(), key=lambda g: -len(g[1]))]  # fmt: skip
    return f"of {len(images):,} files read, {'; '.join(told)}" if len(told) > 1 else ""


def offset(images: Sequence[Seen]) -> list[Path]:
    """The files that have an offset which others lack; none where that cannot be said.

    Moved down by `OFFSET` they fall on other files, in all bands, and as many do not where they
    are moved by anything `BESIDE` it: brightness differs by all amounts, an offset by one.
    """
    sizes = [len(item.floors) for item in images]
    used = [item for item in images if item.fraction == images[0].fraction and len(item.floors)]
    used = [item for item in used if len(item.floors) == max(sizes)]
    if len(used) < LEAST:
        return []
    floors = np.stack([item.floors for item in used]) * (1e4 if used[0].fraction else 1)
    apart = np.abs(floors[:, None] - floors[None]).max(axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.clip(3 * np.median(apart.min(axis=1)), 15, 150)

    def fallen(by: float) -> np.ndarray:
        moved = np.abs(floors[:, None] - by - floors[None]).max(axis=2)
        return np.flatnonzero(moved.min(axis=1) <= near)

    found = fallen(OFFSET)
    chance = max(len(fallen(by)) for by in BESIDE)
    if len(found) < max(2, 0.05 * len(used)) or len(found) <= 2 * chance:
        return []
    return [used[i].path for i in found]
