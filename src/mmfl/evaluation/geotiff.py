"""Class maps as GeoTIFF files that a geographic information system opens at the right place."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from affine import Affine

from mmfl.facts.tasks import IGNORED

LONGEST = 100  # characters of a file's name before its suffix


def file_names(pairs: Sequence[str]) -> list[str]:
    """A file name for each pair's id: itself where it can be, else shortened with a hash.

    Letters, digits, `.`, `_` and `-` stay; names differ in more than upper and lower case.
    """
    safe = [re.sub(r"[^A-Za-z0-9._-]+", "_", pair).lstrip("._-")[:LONGEST] for pair in pairs]
    count = Counter(name.lower() for name in safe)
    names = [
        name if name == pair and count[name.lower()] == 1 else f"{name}-{_hash(pair)}".lstrip("-")
        for name, pair in zip(safe, pairs, strict=True)
    ]
    if len({name.lower() for name in names}) < len(names):  # an id that ends like another's hash
        names = [_hash(pair, 32) for pair in pairs]
    return [f"{name}.tif" for name in names]


def _hash(text: str, length: int = 10) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def write_class_map(
    path: Path,
    classes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str] | None = None,
    georeference: tuple[str, Affine] | None = None,
) -> None:
    """Write class indices (H, W) uint8 with nodata 255; the names are tags of the band.

    Args:
        colours: "#rrggbb" of each class, for the colour table.
        georeference: (CRS, transform from column and row to its coordinates).
    """
    import rasterio  # not needed to score labels
    from rasterio.errors import NotGeoreferencedWarning

    height, width = classes.shape
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width,
        "nodata": IGNORED, "compress": "deflate",
    }  # fmt: skip
    if colours:
        profile["photometric"] = "palette"
    if georeference:
        profile |= {"crs": georeference[0], "transform": georeference[1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as target:
            if colours:
                target.write_colormap(1, {i: _rgb(colour) for i, colour in enumerate(colours)})
            target.write(classes, 1)
            target.set_band_description(1, "class")
            target.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})


def _rgb(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, 255


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path` that takes its place when all is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
