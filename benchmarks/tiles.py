"""Reading training windows of tiles from shards against windowed reads with rasterio.

    make reproduce                              # once: the archive `simulated-tiles` and its shards
    python benchmarks/tiles.py --size 64

Random batches of windows in both modalities, as float32. The other reader opens each GeoTIFF (all
bands in one file) and reads the window. Both in turn, so that a busy machine slows both; median and
quartiles of the ratio within a turn. One thread; the files are in memory: a warm read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from mmfl.archives import get
from mmfl.clients.manifest import read_manifest
from mmfl.federation.tiles import TileData, open_data
from mmfl.files import read_json
from mmfl.params import clients_name, load

ARCHIVE = "simulated-tiles"


def by_rasterio(root: Path, data: TileData, samples: np.ndarray, size: int) -> list[np.ndarray]:
    """Every window from its GeoTIFFs."""
    archive = get(ARCHIVE)
    found = []
    for q in data.bands:
        for pair, top, left in map(data.place, samples):
            with rasterio.open(archive.patch_folder(root, q, pair)) as source:
                found.append(source.read(window=Window(left, top, size, size)).astype(np.float32))
    return found


def by_shards(data: TileData, samples: np.ndarray) -> list[object]:
    """The same from the shards."""
    return [data.batch(q, samples) for q in data.bands]


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    params = load("params.yaml").of(ARCHIVE)
    root = Path(read_json(Path("data/raw", ARCHIVE, "root.json"), "download")["root"])
    frame = read_manifest(Path("data/clients", ARCHIVE, clients_name(params) + ".parquet"))
    data = open_data(Path("data/patches", ARCHIVE), frame, params.train.bands, given.size)
    assert isinstance(data, TileData)
    complete = np.flatnonzero(np.all(list(data.present.values()), axis=0))
    samples = data.samples(complete)
    draw = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"rasterio": [], "shards": []}
    for turn in range(given.turns + 1):
        chosen = draw.choice(samples, given.batch)
        for name, read in (
            ("rasterio", lambda c=chosen: by_rasterio(root, data, c, given.size)),
            ("shards", lambda c=chosen: by_shards(data, c)),
        ):
            begun = time.perf_counter()
            read()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - begun)
    ratio = np.array(seconds["rasterio"]) / np.array(seconds["shards"])
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    for name, values in seconds.items():
        print(f"{name:10} {given.batch / np.median(values):10.0f} windows/s")
    print(f"ratio      {middle:10.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
