"""Does a step cost as much per pair in a large archive as in a small one?

    python benchmarks/scale.py                          # 2,000, 10,000, 50,000 pairs: 13 min, 50 GB
    python benchmarks/scale.py --pairs 500 2000 --folder /scratch/scale

Archives in BigEarthNet v2's layout are laid out cheaply: every patch is a hard link to one of a
few hundred simulated ones, under names and in a table of its own, and the same as .tar.zst
(Sentinel-1 by scene, so in another order than Sentinel-2). Each step runs in a process of its own,
without the time of its imports:

- split from the tars and from the folders, whose shards are compared;
- partition, by country;
- one epoch of reading: float32 batches of 64 at 120 px in random order, and windowed by shards;
- one round of mf, all clients, with the count of the statistics.

Printed per size: microseconds per pair, the ratio to the smallest size, and the peak memory of the
largest process (reading and training: without the pages of the shards, which are the system's).
What 549,488 pairs would take is arithmetic: the cost per pair of the largest archive times their
number.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import zstandard

ALL = 549_488
BASE = 240  # simulated pairs that everything links to
COUNTRIES = ("Austria", "Belgium", "Finland", "Ireland", "Kosovo", "Lithuania", "Luxembourg",
             "Portugal", "Serbia", "Switzerland")  # fmt: skip
SHARD = 1024  # patches, so that the smallest archive has several, too
ARCHIVE = "bigearthnet-v2"
LAY_OUT = "lay out"
STEPS = ("split, tar", "split, folders", "partition", "read, random", "read, windowed", "round")
MODULES = {
    "split": ["steps.split"],
    "partition": ["steps.partition"],
    "read": ["federation.task"],
    "round": ["steps.train"],
}
Named = tuple[str, str, int]
"""Names of a pair in Sentinel-2 and Sentinel-1, and the simulated pair that it links to."""


def named(count: int) -> list[Named]:
    """Names as the archive has them: products of up to 2,000 patches, scenes of other dates."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        product, place = divmod(i, 2000)
        day = 1 + product % 28
        tile = f"33U{'ABCDEFGH'[product % 8]}{'ABCDEFGH'[product // 8 % 8]}"
        row, column = divmod(place, 50)
        s2 = f"S2A_MSIL2A_201706{day:02d}T101031_N9999_R022_T{tile}_{row:02d}_{column:02d}"
        scene = f"S1A_IW_GRDH_1SDV_201706{28 - product % 28:02d}T{165000 + product % 60:06d}"
        found.append((s2, f"{scene}_{tile}_{row}_{column}", int(rng.integers(BASE))))
    return found


def lay_out(folder: Path, count: int) -> None:
    """`folders` and `tars`: the same archive twice, with the tables in both."""
    from mmfl.archives import get
    from mmfl.archives.simulation import simulated
    from mmfl.archives.simulation.files import BLOCK, member
    from mmfl.fetch.unpack import unpack

    base = folder / "base"
    if not base.exists():
        simulated.generate(folder / "files", pairs=BASE, seed=1, unpaired=0.0)
        for path in (folder / "files").glob("*.tar.zst"):
            unpack(path, base / path.name)
    archive = get("simulated")
    roots = {q: base / f"BigEarthNet-{q.upper()}.tar.zst" for q in ("s1", "s2")}
    rows = pd.read_parquet(folder / "files" / "metadata.parquet")
    pairs = named(count)
    for name in ("folders", "tars"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    for q, place in (("s2", 0), ("s1", 1)):
        modality = archive.modality(q)
        column = "patch_id" if q == "s2" else "s1_name"
        sources = [
            [archive.band_path(roots[q], q, patch, band.name) for band in modality.bands]
            for patch in rows[column][:BASE]
        ]
        data = [[path.read_bytes() for path in paths] for paths in sources]
        tar = folder / "tars" / f"BigEarthNet-{q.upper()}.tar.zst"
        with tar.open("wb") as handle, zstandard.ZstdCompressor(1).stream_writer(handle) as out:
            for pair in sorted(pairs, key=lambda pair, place=place: pair[place]):
                top = archive.patch_folder(folder / "folders", q, pair[place])
                top.mkdir(parents=True)
                for band, path, content in zip(
                    modality.bands, sources[pair[2]], data[pair[2]], strict=True
                ):
                    target = top / f"{pair[place]}_{band.name}.tif"
                    os.link(path, target)
                    out.write(member(target.relative_to(folder / "folders").as_posix(), content))
            out.write(bytes(2 * BLOCK))
    rng = np.random.default_rng(0)
    chosen = rows.iloc[[pair[2] for pair in pairs]].reset_index(drop=True)
    table = chosen.assign(
        patch_id=[pair[0] for pair in pairs],
        s1_name=[pair[1] for pair in pairs],
        split=rng.choice(["train", "validation", "test"], count, p=[0.5, 0.25, 0.25]),
        country=rng.choice(COUNTRIES, count),
    )
    for name in ("folders", "tars"):
        table.to_parquet(folder / name / "metadata.parquet", index=False)


def split(folder: Path, source: str, workers: int) -> None:
    from mmfl.steps import split as step

    for left in ("patches", "store"):
        shutil.rmtree(folder / left, ignore_errors=True)
    step.run(
        ARCHIVE, root=folder / source, out=folder / "patches" / ARCHIVE, store=folder / "store",
        shard_size=SHARD, snow=False, cloud_or_shadow=False, workers=workers,
    )  # fmt: skip


def partition(folder: Path) -> None:
    from mmfl.steps import partition as step

    step.run(
        patches=folder / "patches" / ARCHIVE, out=folder / "clients.parquet", scenario="country",
        assignment="duplicate",
    )  # fmt: skip


def read(folder: Path, window: int) -> None:
    """Every pair once, both modalities, all bands."""
    import torch

    from mmfl.federation.task import shuffled
    from mmfl.patches.reader import Images, Patches

    torch.set_num_threads(1)
    stores = {q: Patches(folder / "patches" / ARCHIVE / q) for q in ("s1", "s2")}
    images = {q: Images(p, [b["name"] for b in p.bands], 120) for q, p in stores.items()}
    out = {q: torch.empty((64, i.channels, 120, 120)) for q, i in images.items()}
    rows = np.arange(len(stores["s2"].pairs))
    shards = stores["s2"].shards(rows)
    order = shuffled(rows, shards, window, np.random.default_rng(0))
    for start in range(0, len(order), 64):
        pairs = stores["s2"].pairs[order[start : start + 64]]
        for q, i in images.items():
            i.batch(stores[q].rows(pairs), out=out[q][: len(pairs)])


def train(folder: Path, size: int, workers: int) -> None:
    """A round of mf: the step itself."""
    from mmfl.params import Params
    from mmfl.steps import train as step

    os.environ["MMFL_CACHE"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    values = {"methods": ["mf"], "seeds": [1], "rounds": 1, "size": size}
    params = Params.model_validate({"archives": {ARCHIVE: {}}, "train": values})
    step.run(
        params, ARCHIVE, "mf", "default", patches=folder / "patches" / ARCHIVE,
        manifest=folder / "clients.parquet", out=folder / "runs", measured=folder / "measured",
        workers=workers,
    )  # fmt: skip


def one(step: str, folder: Path, count: int, size: int, workers: int) -> None:
    """Run a step here and print seconds and MB as JSON."""
    work: dict[str, Callable[[], None]] = {
        LAY_OUT: lambda: lay_out(folder, count),
        "split, tar": lambda: split(folder, "tars", workers),
        "split, folders": lambda: split(folder, "folders", workers),
        "partition": lambda: partition(folder),
        "read, random": lambda: read(folder, 0),
        "read, windowed": lambda: read(folder, 4),
        "round": lambda: train(folder, size, workers),
    }
    for name in MODULES.get(step.partition(",")[0], ()):
        importlib.import_module(f"mmfl.{name}")
    own: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.05):
            own.append(anonymous(os.getpid()))

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    start = time.perf_counter()
    work[step]()
    seconds = time.perf_counter() - start
    stop.set()
    if step.startswith("split") or step == "partition":
        each = [resource.getrusage(who).ru_maxrss // 1024
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # fmt: skip
        memory = max(each)
    else:
        memory = max(own, default=0)
    print(json.dumps({"seconds": seconds, "memory": memory}))


def anonymous(pid: int) -> int:
    """MB of a process that are no pages of files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) // 1024
    return 0


def measure(
    folder: Path, counts: list[int], size: int, workers: int
) -> Iterator[tuple[int, str, float, int]]:
    """(pairs, step, seconds, MB) of every step."""
    for count in counts:
        made = {}
        for step in (LAY_OUT, *STEPS):
            command = [sys.executable, __file__, "--folder", str(folder), "--step", step]
            command += ["--pairs", str(count), "--size", str(size), "--workers", str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            yield count, step, found["seconds"], found["memory"]
            if step.startswith("split"):
                made[step] = [
                    json.loads((folder / "patches" / ARCHIVE / q / "modality.json").read_text())
                    for q in ("s1", "s2")
                ]
        if made["split, tar"] != made["split, folders"]:
            sys.exit(f"{count:,} pairs: the shards of tar and folders differ")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[2_000, 10_000, 50_000])
    parser.add_argument("--folder", type=Path, help="where 1 MB per pair has room")
    parser.add_argument("--size", type=int, default=60, help="pixels of a side in the round")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--step", choices=(LAY_OUT, *STEPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        one(given.step, given.folder, given.pairs[0], given.size, given.workers)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = {}
        for count, step, seconds, memory in measure(
            Path(folder), given.pairs, given.size, given.workers
        ):
            found[count, step] = seconds, memory
            print(f"{count:,} pairs, {step}: {seconds:.1f} s, {memory} MB", file=sys.stderr)
    print(table(found, given.pairs))


def table(found: dict[tuple[int, str], tuple[float, int]], counts: list[int]) -> str:
    """A row per step."""
    head = [f"{count:,} pairs: µs/pair (ratio), MB" for count in counts]
    lines = ["| step | " + " | ".join(head) + f" | {ALL:,} pairs, arithmetic |"]
    lines.append("|---" * (len(counts) + 2) + "|")
    for step in STEPS:
        first = found[counts[0], step][0] / counts[0]
        cells = []
        for count in counts:
            seconds, memory = found[count, step]
            cells.append(f"{1e6 * seconds / count:,.0f} ({seconds / count / first:.2f}), {memory}")
        last = found[counts[-1], step][0] / counts[-1] * ALL
        lines.append(f"| {step} | " + " | ".join(cells) + f" | {last / 60:,.0f} min |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
