"""The command on an archive in Dynamic World's layout: its images, served, come back."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.warp import transform_geom

from helpers.stac_server import Fault, Site
from helpers.warm_python import python
from mmfl.archives import get
from mmfl.archives.dynamicworld.table import XLSX
from mmfl.archives.simulation.simulated_tiles import EXPERTS, IMAGERY, VALIDATION, generate
from mmfl.facts.bands import IMAGERY as BANDS
from mmfl.fetch.unpack import unpack

NAME = "dynamicworld-expert"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated archive, unpacked: labels and images."""
    packed, root = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("root")
    generate(packed, tiles=18, tile_size=40, seed=3, unpaired=0.4, workers=1)
    shutil.copy(packed / XLSX, root)
    for name in (EXPERTS, VALIDATION, IMAGERY):
        unpack(packed / name, packed / f"{name}.unpacked")
        for item in (packed / f"{name}.unpacked").iterdir():
            item.rename(root / item.name)
    return root


def publish(site: Site, root: Path) -> None:
    """An item for each of the archive's images, each band a file of linear power or numbers."""
    tiles = get(NAME).tiles(root)
    assert tiles is not None
    for tile in tiles.itertuples():
        sensing = datetime.strptime(f"{tile.product.split('_')[2]}Z", "%Y%m%dT%H%M%S%z")
        for q, bands in BANDS.items():
            path = root / "imagery" / q / f"{tile.name}.tif"
            if path.is_file():
                item_id = tile.product if q == "s2" else f"S1B_IW_{tile.name}"
                item = site.add(item_id, {"s1": "s1-rtc", "s2": "s2-l2a"}[q], {}, **{
                    "datetime": (sensing + timedelta(days=3 * (q == "s1"))).isoformat(),
                    "s2:processing_baseline": "02.11", "sar:instrument_mode": "IW",
                    "sar:polarizations": ["VH", "VV"], "platform": "sentinel-1b",
                })  # fmt: skip
                item["geometry"] = write_bands(site, path, q, bands, item)


def write_bands(site: Site, path: Path, q: str, bands: tuple[str, ...], item: dict) -> dict:
    """The files of an item, and its footprint."""
    with rasterio.open(path) as source:
        profile = {**source.profile, "count": 1, "driver": "COG", "compress": "deflate"}
        profile |= {"nodata": -32768} if q == "s1" else {}
        for key in ("blockxsize", "blockysize", "tiled", "interleave"):
            profile.pop(key, None)
        for band in bands:
            pixels = source.read(source.descriptions.index(band) + 1)
            if q == "s1":
                pixels = np.nan_to_num(10 ** (pixels / 10), nan=-32768).astype(np.float32)
            name = f"{path.stem}_{band}.tif"
            with rasterio.open(site.folder / name, "w", **profile) as target:
                target.write(pixels, 1)
            item["assets"][band] = {"href": f"{site.url}/data/{name}"}
        west, south, east, north = source.bounds
        ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        box = {"type": "Polygon", "coordinates": [ring]}
        return transform_geom(source.crs, "EPSG:4326", box)


def command(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python(), "-m", "mmfl.cli", "download", "--archive", NAME],
        cwd=folder, env={**os.environ, "MMFL_CACHE": str(folder / "cache")},
        capture_output=True, text=True,
    )  # fmt: skip


def test_round_trip(stac: Site, images: Path, tmp_path: Path) -> None:
    """First a run in which a file cannot be had: one line, exit status 2; then all of it."""
    publish(stac, images)
    labels, folder = tmp_path / "labels", tmp_path / "project"
    shutil.copytree(images, labels, ignore=shutil.ignore_patterns("imagery"))
    folder.mkdir()
    imagery = {
        "s1": "own", "s2": "own", "coverage": 0.3,
        "catalogues": {"own": stac.catalogue()},
    }  # fmt: skip
    local = {"local": {NAME: str(labels)}}
    params = {"archives": {NAME: {}}, "download": local, "imagery": imagery}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    some = next(path.stem for path in sorted((images / "imagery/s2").iterdir()))
    stac.fail(f"/data/{some}_B8A.tif", *[Fault(429, "0")] * 6)

    done = command(folder)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mmfl: data/raw/dynamicworld-expert/scenes.csv: found 1 of 36 images")
    assert some in last and "Traceback" not in done.stderr
    before = stac.asked.total()

    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert stac.asked.total() - before == 12  # landing page, search, ten bands
    out = folder / "data/raw" / NAME
    root = folder / json.loads((out / "root.json").read_text())["root"]
    archive, rows = get(NAME), list(csv.DictReader((out / "scenes.csv").open()))
    held = {(path.parent.name, path.stem) for path in images.glob("imagery/*/*.tif")}
    assert {(r["modality"], r["tile"]) for r in rows if r["outcome"] == "ok"} == held
    assert {r["outcome"] for r in rows} == {"ok", "no scene"} and len(rows) == 36
    for q, tile in sorted(held):
        for band in BANDS[q]:
            found = archive.read(root, q, tile, band)
            expected = get("simulated-tiles").read(images, q, tile, band)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # dB and back
    assert archive.metadata(root).equals(archive.metadata(images))
