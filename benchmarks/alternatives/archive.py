"""The pairs that are read: a small archive in BigEarthNet v2's layout, and our shards of it."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio

from mmfl.archives import Archive, get
from mmfl.archives.bigearthnet_v2 import METADATA
from mmfl.archives.simulation.simulated import generate
from mmfl.fetch.unpack import unpack
from mmfl.patches.reader import Images, Patches
from mmfl.steps import split

NAME = "bigearthnet-v2"
MAPS = "Reference_Maps"
ARABLE = 211  # the CORINE code of a map that is written where the archive has none


@dataclass
class Pairs:
    """Pairs that have both modalities, as an archive and as shards.

    `root` is a folder in BigEarthNet v2's layout that holds these pairs, every one in the split
    `train`, and one more in `test`, which `split` wants; `shards` is what it makes of them.
    """

    root: Path
    shards: Path
    size: int = 120  # pixels of a batch's images; torchgeo's class knows no other

    @property
    def archive(self) -> Archive:
        return get(NAME)

    @cached_property
    def names(self) -> np.ndarray:
        """(N,) names of the pairs in the split `train`, sorted."""
        index = self.patches["s2"].index
        return np.sort(index["pair"][index["split"] == "train"].to_numpy())

    @cached_property
    def bands(self) -> dict[str, list[str]]:
        """modality -> its bands in the order of a batch's channels."""
        return {q: [b.name for b in m.bands] for q, m in self.archive.modalities.items()}

    @cached_property
    def patches(self) -> dict[str, Patches]:
        return {q: Patches(self.shards / q) for q in self.archive.modalities}

    @cached_property
    def images(self) -> dict[str, Images]:
        return {q: Images(p, self.bands[q], self.size) for q, p in self.patches.items()}

    @cached_property
    def s1_name(self) -> dict[str, str]:
        """pair -> the name of its Sentinel-1 patch."""
        index = self.patches["s1"].index
        return dict(zip(index["pair"], index["patch"], strict=True))

    def batch(self, pairs: np.ndarray) -> dict[str, np.ndarray]:
        """(N, bands, size, size) float32 per modality by our reader."""
        return {q: i.batch(i.patches.rows(pairs)).numpy() for q, i in self.images.items()}

    def native(self, pairs: np.ndarray) -> dict[str, list[np.ndarray]]:
        """(N, H, W) of each band, not resized, by a rasterio open per band."""
        found: dict[str, list[np.ndarray]] = {}
        for q, names in self.bands.items():
            patches = [self.s1_name[p] if q == "s1" else p for p in pairs]
            found[q] = [np.stack([self._open(q, p, band) for p in patches]) for band in names]
        return found

    def _open(self, q: str, patch: str, band: str) -> np.ndarray:
        with rasterio.open(self.archive.band_path(self.root, q, patch, band)) as source:
            return source.read(1)

    def encode(self, pair: str) -> dict[str, dict[str, np.ndarray]]:
        """modality -> band -> (H, W) in the native type, from the GeoTIFFs."""
        return {
            q: {b: self._open(q, self.s1_name[pair] if q == "s1" else pair, b) for b in names}
            for q, names in self.bands.items()
        }

    def __len__(self) -> int:
        return len(self.names)


def simulate(folder: Path, pairs: int) -> Path:
    """Write a simulated archive into `folder` and unpack it; its root."""
    packed, root = folder / "packed", folder / "root"
    generate(packed, pairs=pairs, seed=7, unpaired=0.0)
    root.mkdir()
    for path in packed.glob("*.tar.zst"):
        unpack(path, folder / "unpacked")
        for part in (folder / "unpacked").iterdir():
            part.rename(root / part.name)
        (folder / "unpacked").rmdir()
    for path in packed.glob("*.parquet"):
        path.rename(root / path.name)
    shutil.rmtree(packed)
    return root


def prepare(source: Path, folder: Path, count: int) -> Pairs:
    """Copy `count` pairs drawn from an archive into `folder`, and encode them into shards.

    Reference maps are copied, too; where the archive has none, maps of one class are written,
    because torchgeo's class cannot be opened without them.
    """
    archive, root = get(NAME), folder / "archive"
    table = archive.metadata(source)
    table = table[table["s1"].notna() & table["s2"].notna()]
    chosen = table.sample(min(count + 1, len(table)), random_state=0)
    test = chosen["pair"].iloc[-1]
    chosen = chosen.sort_values("pair")
    for q in archive.modalities:
        for patch in chosen[q]:
            own = archive.patch_folder(source, q, patch)
            shutil.copytree(own, root / own.relative_to(source))
    for patch in chosen["s2"]:
        _map(source, root, patch)
    known = pd.read_parquet(source / METADATA)
    known = known[known["patch_id"].isin(chosen["pair"])]
    split_of = known["patch_id"].map(lambda pair: "test" if pair == test else "train")
    known.assign(split=split_of).to_parquet(root / METADATA)
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
        split.run(
            NAME, root=root, out=folder / "shards", store=folder / "store",
            shard_size=4096, snow=False, cloud_or_shadow=False,
        )  # fmt: skip
    return Pairs(root, folder / "shards")


def _map(source: Path, root: Path, patch: str) -> None:
    path = Path(MAPS, patch.rsplit("_", 2)[0], patch, f"{patch}_reference_map.tif")
    (root / path).parent.mkdir(parents=True)
    if (source / path).exists():
        shutil.copy(source / path, root / path)
        return
    image = get(NAME).band_path(root, "s2", patch, "B02")
    with rasterio.open(image) as like:
        profile = like.profile | {"dtype": "uint16"}
    with rasterio.open(root / path, "w", **profile) as out:
        out.write(np.full((120, 120), ARABLE, np.uint16), 1)


def stored(*folders: Path) -> int:
    """Bytes of the files below some folders."""
    return sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())
