"""The ways to read random batches of pairs, each with what shows that it reads the same pixels.

A function of `READERS` makes a reader from (pairs, folder, batch); `folder` is its own, for what it
writes first. Where a package is missing it raises ImportError.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.alternatives.archive import Pairs, stored
from benchmarks.reading import common_reader, gather_reader, memcpy_reader, shard_reader

from mmfl.patches.reader import resize

Arrays = dict[str, Any]
"""modality -> (N, bands, size, size), bands in the order of `Pairs.bands`."""
RESOLUTIONS = {"s1": (10,), "s2": (10, 20, 60)}
ROUNDING = 0.51  # of whole numbers, and what GDAL's and torch's bilinear weights differ by


@dataclass
class Reader:
    """A way to read a batch.

    Attributes:
        read: pairs (N,) -> a batch in the reader's own form; only this is timed.
        check: (pairs, what `read` gave) -> what is equal, in words; AssertionError: other pixels.
        bytes: on disk, of all pairs.
    """

    read: Callable[[np.ndarray], Any]
    check: Callable[[np.ndarray, Any], str]
    bytes: int


def same(pairs: Pairs, names: np.ndarray, found: Arrays, whole: tuple[str, ...] = ()) -> str:
    """Compare a batch with our reader's: 10 m bands to the bit, resized ones within rounding.

    whole: modalities that the reader rounds to whole numbers.
    """
    ours, exact = pairs.batch(names), True
    for q, modality in pairs.archive.modalities.items():
        assert tuple(found[q].shape) == ours[q].shape, f"{q}: {found[q].shape}"
        for channel, band in enumerate(modality.bands):
            a, b = np.asarray(found[q][:, channel]), ours[q][:, channel]
            if np.array_equal(a, b):
                continue
            exact = False
            far = float(np.abs(a - b).max())
            assert band.resolution != 10 or q in whole, f"{band.name} differs by {far}"
            assert far <= ROUNDING, f"{band.name} differs by {far}"
    if exact:
        return "all 14 bands equal to the bit"
    if whole:
        return "10 m bands of s2 equal to the bit, the rest within 0.51: s1 is whole dB, not float"
    return "10 m bands equal to the bit, the others within 0.51 (whole numbers)"


def repeated(pairs: Pairs, names: np.ndarray, found: Arrays) -> str:
    """Compare with the native pixels, each repeated as often as nearest neighbours are."""
    for q, native in pairs.native(names).items():
        for channel, (band, pixels) in enumerate(zip(pairs.bands[q], native, strict=True)):
            times = pairs.size // pixels.shape[-1]
            expected = pixels.repeat(times, axis=1).repeat(times, axis=2).astype(np.float32)
            assert np.array_equal(np.asarray(found[q][:, channel]), expected), band
    return "all 14 bands equal to the bit to the native pixels, repeated (nearest)"


def ours(pairs: Pairs, folder: Path, batch: int, reuse: bool = True) -> Reader:
    """The project's reader; into one buffer that is used again, or a fresh one."""

    def check(names: np.ndarray, found: list[torch.Tensor]) -> str:
        """The 10 m bands against a rasterio open per band."""
        native = pairs.native(names)
        for q, images in zip(pairs.bands, found, strict=True):
            for channel, pixels in enumerate(native[q]):
                if pixels.shape[-1] == pairs.size:
                    assert np.array_equal(images[:, channel].numpy(), pixels.astype(np.float32))
        return "10 m bands equal to the bit to rasterio's"

    return Reader(shard_reader(pairs.images, batch, reuse), check, stored(pairs.shards))


def fresh(pairs: Pairs, folder: Path, batch: int) -> Reader:
    return ours(pairs, folder, batch, reuse=False)


def gather(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """The shards' native bytes, not resized and not converted."""
    return Reader(
        gather_reader(pairs.patches, batch), lambda names, found: "bytes only", stored(pairs.shards)
    )


def memcpy(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """As many bytes as a batch has in its native types."""
    return Reader(memcpy_reader(pairs.patches, batch), lambda names, found: "bytes only", 0)


def rasterio_per_band(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """A rasterio open per band, resampled while it is read."""
    read = common_reader(pairs.archive, pairs.root, pairs.patches, pairs.size)

    def check(names: np.ndarray, found: list[np.ndarray]) -> str:
        return same(pairs, names, dict(zip(pairs.bands, found, strict=True)))

    return Reader(read, check, images_bytes(pairs))


def images_bytes(pairs: Pairs) -> int:
    return stored(*pairs.root.glob("BigEarthNet-S*"))


def import_torchgeo() -> Any:
    """torchgeo's class of BigEarthNet v2.

    torchvision's wheel from PyPI is built for CUDA. Beside a torch without CUDA its compiled
    operators cannot be loaded, and its import stops at two that it describes without asking
    whether they are there. They are declared here, without a body; no dataset calls them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise ImportError(f"torchvision: {error}") from error
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(declared)
    from torchgeo.datasets import BigEarthNetV2

    return BigEarthNetV2


KEPT: list[Any] = []  # operators exist as long as the library that declares them


def torchgeo(pairs: Pairs, folder: Path, batch: int, images_only: bool = True) -> Reader:
    """torchgeo's `BigEarthNetV2`: only its images, or with reference map and labels."""
    dataset = import_torchgeo()(str(pairs.root), split="train", bands="all")
    place = {name: i for i, name in enumerate(dataset.metadata_df["patch_id"])}

    def read(names: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for name in names:
            if images_only:
                found.append([dataset._load_image(place[name], q) for q in ("s1", "s2")])
            else:
                sample = dataset[place[name]]
                found.append([sample["image_s1"], sample["image_s2"]])
        s1, s2 = zip(*found, strict=True)
        return torch.stack(s1), torch.stack(s2)

    def check(names: np.ndarray, found: tuple[torch.Tensor, torch.Tensor]) -> str:
        s1 = found[0][:, [1, 0]].numpy()  # it has VH, VV
        return same(pairs, names, {"s1": s1, "s2": found[1].numpy()}, whole=("s1",))

    return Reader(read, check, images_bytes(pairs))


def torchgeo_samples(pairs: Pairs, folder: Path, batch: int) -> Reader:
    return torchgeo(pairs, folder, batch, images_only=False)


def write_lmdb(pairs: Pairs, folder: Path) -> Path:
    """The encoding of the archive's authors.

    An entry per patch and modality under the patch's name: its bands in safetensors, native sizes.
    """
    import lmdb
    from safetensors.numpy import save

    path = folder / "encoded.lmdb"
    with lmdb.open(str(path), map_size=1 << 36) as env, env.begin(write=True) as transaction:
        for pair in pairs.names:
            for q, bands in pairs.encode(pair).items():
                name = pairs.s1_name[pair] if q == "s1" else pair
                transaction.put(name.encode(), save(bands))
    return path


def configilm(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """The authors' class `BENv2DataSet` with 14 channels; it resizes to nearest neighbours."""
    with contextlib.redirect_stdout(io.StringIO()):
        from configilm.extra.DataSets.BENv2_DataSet import BENv2DataSet

        path = write_lmdb(pairs, folder)
        dataset = BENv2DataSet(
            {
                "images_lmdb": path,
                "metadata_parquet": pairs.root / "metadata.parquet",
                "metadata_snow_cloud_parquet": None,
            },
            img_size=(14, pairs.size, pairs.size),
        )
        _ = dataset[0]  # opens the file
    place = {name: i for i, name in enumerate(dataset.patches)}
    order = list(dataset.channel_order)

    def read(names: np.ndarray) -> torch.Tensor:
        return torch.stack([dataset[place[name]][0] for name in names])

    def check(names: np.ndarray, found: torch.Tensor) -> str:
        channels = {q: [order.index(b) for b in bands] for q, bands in pairs.bands.items()}
        return repeated(pairs, names, {q: found[:, c].numpy() for q, c in channels.items()})

    return Reader(read, check, stored(path))


class Lmdb:
    """The same file read by hand, into buffers that are used again."""

    def __init__(self, pairs: Pairs, folder: Path, batch: int) -> None:
        import lmdb
        from safetensors.numpy import load

        self.pairs, self.load = pairs, load
        self.path = write_lmdb(pairs, folder)
        self.env = lmdb.open(str(self.path), readonly=True, lock=False)
        self.groups = {
            (q, r): pairs.archive.modality(q).at(r) for q, rs in RESOLUTIONS.items() for r in rs
        }
        self.held = {
            key: np.empty((batch, len(bands), bands[0].size, bands[0].size), bands[0].dtype)
            for key, bands in self.groups.items()
        }
        self.out = {
            q: torch.empty((batch, len(bands), pairs.size, pairs.size))
            for q, bands in pairs.bands.items()
        }

    def native(self, names: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
        """(modality, resolution) -> (N, bands, H, W) in native types."""
        with self.env.begin(buffers=True) as transaction:
            for row, pair in enumerate(names):
                for q in self.pairs.bands:
                    key = self.pairs.s1_name[pair] if q == "s1" else pair
                    found = self.load(bytes(transaction.get(key.encode())))
                    for r in RESOLUTIONS[q]:
                        for channel, band in enumerate(self.groups[q, r]):
                            self.held[q, r][row, channel] = found[band.name]
        return self.held

    def resized(self, names: np.ndarray) -> dict[str, torch.Tensor]:
        """Resized as ours, all of a batch's bands of one size together."""
        square = (self.pairs.size, self.pairs.size)
        for (q, r), pixels in self.native(names).items():
            places = [self.pairs.bands[q].index(band.name) for band in self.groups[q, r]]
            x = torch.from_numpy(pixels).float()
            self.out[q][:, places] = x if x.shape[-2:] == square else resize(x, square)
        return self.out


def lmdb_bilinear(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """The LMDB without its authors' class, by code written for speed, resized as ours."""
    held = Lmdb(pairs, folder, batch)

    def check(names: np.ndarray, found: dict[str, torch.Tensor]) -> str:
        return same(pairs, names, {q: x.numpy() for q, x in found.items()})

    return Reader(held.resized, check, stored(held.path))


def lmdb_native(pairs: Pairs, folder: Path, batch: int) -> Reader:
    """The LMDB's pixels in native types and sizes."""
    held = Lmdb(pairs, folder, batch)

    def check(names: np.ndarray, found: dict[tuple[str, int], np.ndarray]) -> str:
        native = pairs.native(names)
        for (q, r), pixels in found.items():
            for channel, band in enumerate(held.groups[q, r]):
                expected = native[q][pairs.bands[q].index(band.name)]
                assert np.array_equal(pixels[:, channel], expected), band.name
        return "all 14 bands equal to the bit, native sizes"

    return Reader(held.native, check, stored(held.path))


def tar_shards(pairs: Pairs, folder: Path, batch: int, resized: bool = False) -> Reader:
    """webdataset: tar shards of 64 pairs read in sequence, through a shuffle buffer of 256 pairs.

    Members are npy: a file per resolution, native; or with `resized` one per modality, float32 of
    the wanted size. It returns the pairs that come next, not those asked for.
    """
    import webdataset

    square = (pairs.size, pairs.size)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=64, verbose=0) as writer,
    ):
        for pair in pairs.names:
            writer.write({"__key__": pair, **_members(pairs, pair, resized)})

    def decoded(sample: dict[str, Any]) -> tuple[str, torch.Tensor, torch.Tensor]:
        images = []
        for q, bands in pairs.bands.items():
            if resized:
                images.append(torch.from_numpy(sample[f"{q}.npy"]))
                continue
            out = torch.empty((len(bands), *square))
            for r in RESOLUTIONS[q]:
                places = [bands.index(b.name) for b in pairs.archive.modality(q).at(r)]
                x = torch.from_numpy(sample[f"{q}-{r}m.npy"]).float()
                out[places] = x if x.shape[-2:] == square else resize(x[None], square)[0]
            images.append(out)
        return (sample["__key__"], *images)

    urls = sorted(map(str, folder.glob("*.tar")))
    stream = webdataset.WebDataset(urls, resampled=True, shardshuffle=False)
    stream = stream.shuffle(256).decode().map(decoded).batched(batch, partial=False)
    batches: Iterator[Any] = iter(stream)

    def check(names: np.ndarray, found: tuple[Any, torch.Tensor, torch.Tensor]) -> str:
        own = np.array(list(found[0]), object)
        arrays = {"s1": found[1].numpy(), "s2": found[2].numpy()}
        return same(pairs, own, arrays)

    return Reader(lambda names: next(batches), check, stored(folder))


def _members(pairs: Pairs, pair: str, resized: bool) -> dict[str, np.ndarray]:
    if resized:
        return {f"{q}.npy": x[0] for q, x in pairs.batch(np.array([pair], object)).items()}
    encoded = pairs.encode(pair)
    return {
        f"{q}-{r}m.npy": np.stack([encoded[q][b.name] for b in pairs.archive.modality(q).at(r)])
        for q, rs in RESOLUTIONS.items()
        for r in rs
    }


def tar_shards_resized(pairs: Pairs, folder: Path, batch: int) -> Reader:
    return tar_shards(pairs, folder, batch, resized=True)


OURS = "mmfl shards, into one buffer"
READERS: dict[str, Callable[[Pairs, Path, int], Reader]] = {
    OURS: ours,
    "mmfl shards, a fresh tensor per batch": fresh,
    "rasterio open per band": rasterio_per_band,
    "torchgeo BigEarthNetV2, images only": torchgeo,
    "torchgeo BigEarthNetV2, samples (+ map, labels)": torchgeo_samples,
    "configilm BENv2DataSet (LMDB, nearest)": configilm,
    "LMDB + safetensors by hand, bilinear": lmdb_bilinear,
    "LMDB + safetensors by hand, native sizes": lmdb_native,
    "webdataset, native npy, sequential": tar_shards,
    "webdataset, float32 npy of the size, sequential": tar_shards_resized,
    "mmfl raw gather, native sizes": gather,
    "memcpy of as many bytes": memcpy,
}
