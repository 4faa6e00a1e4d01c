"""Reading patches from shards against a rasterio open per band.

    python benchmarks/reading.py ARCHIVE_ROOT          # a folder in BigEarthNet v2's layout
    python benchmarks/reading.py ARCHIVE_ROOT --size 32 --pairs 256

Random batches of Sentinel-1 and Sentinel-2 pairs, all 14 bands, as float32 squares. The common
reader opens every band with rasterio and resamples while it reads. Readers run interleaved, a few
batches of each in turn, so that a busy machine slows all of them; printed are the median and the
quartiles over the repeats of the ratio to the common reader within a turn, and pairs per second.
`raw gather / memcpy` copies the shards' native bytes in random order against a plain copy of as
many bytes. The shards go to a temporary folder beside the root's copy in memory: a warm read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling

from mmfl.archives import Archive, get
from mmfl.patches.reader import Images, Patches
from mmfl.steps import split

Reader = Callable[[np.ndarray], object]


def common_reader(archive: Archive, root: Path, patches: dict[str, Patches], size: int) -> Reader:
    """A rasterio open per band, resampled while it is read."""

    def read(pairs: np.ndarray) -> list[np.ndarray]:
        batch = []
        for q, modality in archive.modalities.items():
            names = patches[q].index["patch"].to_numpy()[patches[q].rows(pairs)]
            out = np.empty((len(pairs), len(modality.bands), size, size), np.float32)
            for row, name in enumerate(names):
                for channel, band in enumerate(modality.bands):
                    with rasterio.open(archive.band_path(root, q, name, band.name)) as source:
                        out[row, channel] = source.read(
                            1, out_shape=(size, size), resampling=Resampling.bilinear
                        )
            batch.append(out)
        return batch

    return read


def shard_reader(images: dict[str, Images], batch: int, reuse: bool = True) -> Reader:
    """The project's reader, into one buffer per modality that is used again, or a fresh one."""
    held = {
        q: torch.empty((batch, i.channels, i.size, i.size)) if reuse else None
        for q, i in images.items()
    }

    def read(pairs: np.ndarray) -> list[torch.Tensor]:
        return [i.batch(i.patches.rows(pairs), out=held[q]) for q, i in images.items()]

    return read


def gather_reader(patches: dict[str, Patches], batch: int) -> Reader:
    """The shards' native bytes in random order into buffers that are used again."""
    held = {
        (q, resolution): np.empty(
            (batch, len(bands := p.at(resolution)), bands[0]["size"], bands[0]["size"]),
            bands[0]["dtype"],
        )
        for q, p in patches.items()
        for resolution in sorted({band["resolution"] for band in p.bands})
    }

    known: dict[int, dict[str, np.ndarray]] = {}  # rows by batch: training has no names to look up

    def read(pairs: np.ndarray) -> None:
        if id(pairs) not in known:
            known[id(pairs)] = {q: p.rows(pairs) for q, p in patches.items()}
        for (q, resolution), out in held.items():
            patches[q].read(known[id(pairs)][q], resolution, range(out.shape[1]), out)

    return read


def memcpy_reader(patches: dict[str, Patches], batch: int) -> Reader:
    """As many bytes as a batch has, from one place to another."""
    count = sum(
        b["size"] ** 2 * np.dtype(b["dtype"]).itemsize for p in patches.values() for b in p.bands
    )
    # 16 sources in turn: as in a gather, the bytes do not come from the processor's cache
    sources = np.ones((16, batch * count), np.uint8)
    target = np.empty(batch * count, np.uint8)
    turn = iter(range(10**9))
    return lambda pairs: np.copyto(target, sources[next(turn) % 16])


def seconds(read: Reader, batches: Sequence[np.ndarray]) -> float:
    """Mean seconds of a batch."""
    start = time.perf_counter()
    for pairs in batches:
        read(pairs)
    return (time.perf_counter() - start) / len(batches)


def table(times: dict[str, list[float]], baseline: str, batch: int) -> str:
    """A row per reader: the ratio of its speed to the baseline's, and pairs per second."""
    lines = ["| reader | ratio | quartiles | pairs/s |", "|---|---|---|---|"]
    for name, found in times.items():
        ratio = np.array(times[baseline]) / np.array(found)
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        rate = batch / np.median(found)
        lines.append(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {rate:,.0f} |")
    return "\n".join(lines)


def measure(root: Path, folder: Path, pairs: int, size: int, batch: int, repeats: int) -> str:
    """Both tables of an archive below `root`; `folder` takes the shards."""
    archive = get("bigearthnet-v2")
    started = time.perf_counter()
    split.run(
        archive.name,
        root=root,
        out=folder / "patches",
        store=folder / "store",
        shard_size=4096,
        snow=True,
        cloud_or_shadow=True,
    )
    took = time.perf_counter() - started
    patches = {q: Patches(folder / "patches" / q) for q in archive.modalities}
    count = sum(len(p.pairs) * len(p.bands) for p in patches.values())
    both = np.array(sorted(set.intersection(*(set(p.pairs) for p in patches.values()))), object)
    images = {q: Images(p, [b["name"] for b in p.bands], size) for q, p in patches.items()}
    common = "rasterio open per band"
    readers = {
        common: common_reader(archive, root, patches, size),
        "shards": shard_reader(images, batch),
        "shards, a fresh tensor per batch": shard_reader(images, batch, reuse=False),
    }
    copies = {"memcpy": memcpy_reader(patches, batch), "raw gather": gather_reader(patches, batch)}
    rng = np.random.default_rng(0)
    few = [rng.choice(both, batch) for _ in range(max(1, pairs // batch))]
    many = [rng.choice(both, batch) for _ in range(16)]
    times: dict[str, list[float]] = {name: [] for name in readers | copies}
    for turn in range(repeats + 1):
        for name, read in (readers | copies).items():
            found = seconds(read, few if name == common else many)
            if turn:  # the first one warms up
                times[name].append(found)
    return "\n\n".join(
        [
            f"{len(both)} pairs, {size} px, batch {batch}, {torch.get_num_threads()} threads; "
            f"encoded in {took:.1f} s by one process: {count / took:,.0f} bands/s",
            table({name: times[name] for name in readers}, common, batch),
            table({name: times[name] for name in copies}, "memcpy", batch),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of an extracted archive")
    parser.add_argument(
        "--pairs", type=int, default=64, help="pairs the common reader reads per turn"
    )
    parser.add_argument("--size", type=int, default=120, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(
            measure(given.root, Path(folder), given.pairs, given.size, given.batch, given.repeats)
        )


if __name__ == "__main__":
    main()
