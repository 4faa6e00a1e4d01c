"""Real patches, damaged in every way."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio

from mmfl.archives import get
from mmfl.files import file_sha256
from mmfl.steps import split

ARCHIVE = get("bigearthnet-v2")


def run(root: Path, folder: Path, **choice) -> Path:
    choice = {"shard_size": 4, "snow": False, "cloud_or_shadow": False} | choice
    split.run("bigearthnet-v2", root=root, out=folder / "out", store=folder / "store", **choice)
    return folder / "out"


def row(root: Path, number: int) -> pd.Series:
    return ARCHIVE.metadata(root).iloc[number]


def band(root: Path, q: str, number: int, name: str) -> Path:
    return ARCHIVE.band_path(root, q, row(root, number)[q], name)


def rewrite(path: Path, change, **profile) -> Path:
    with rasterio.open(path) as source:
        kept, pixels = source.profile, change(source.read())
    path.unlink()
    with rasterio.open(path, "w", **(kept | profile)) as target:
        target.write(pixels)
    return path


def truncated(root):
    path = band(root, "s2", 3, "B08")
    os.truncate(path, 9_000)
    return "s2", row(root, 3).s2, path


def corrupt(root):
    path = band(root, "s2", 5, "B01")
    path.write_bytes(b"II*\0" + os.urandom(300))
    return "s2", row(root, 5).s2, path


def missing_band(root):
    path = band(root, "s1", 2, "VH")
    path.unlink()
    return "s1", row(root, 2).s1, path


def wrong_size(root):
    path = band(root, "s2", 7, "B05")
    return "s2", row(root, 7).s2, rewrite(path, lambda x: x[:, :30, :30], width=30, height=30)


def wrong_type(root):
    path = band(root, "s1", 7, "VV")
    return "s1", row(root, 7).s1, rewrite(path, lambda x: x.astype("int32"), dtype="int32")


def nan(root):
    path = band(root, "s1", 0, "VV")
    return "s1", row(root, 0).s1, rewrite(path, lambda x: np.where(x > x.max() - 1, np.nan, x))


def no_folder(root):
    folder = band(root, "s1", 4, "VV").parent
    name = row(root, 4).s1
    shutil.rmtree(folder)
    return "s1", name, folder


def empty(root):
    path = band(root, "s1", 9, "VH")
    path.write_bytes(b"")
    return "s1", row(root, 9).s1, path


def constant(root):
    """Every band of one value of its own, as where nothing was recorded."""
    for number, name in enumerate(band.name for band in ARCHIVE.modality("s2").bands):
        path = rewrite(band(root, "s2", 8, name), lambda x, value=number: x * 0 + value)
    return "s2", row(root, 8).s2, path.parent


FAULTS = [empty, truncated, corrupt, missing_band, wrong_size, wrong_type, nan, no_folder, constant]


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}
