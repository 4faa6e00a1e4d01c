"""Encoding against decoding alone, one process: how little the shards cost.

    python benchmarks/encoding.py ARCHIVE_ROOT                       # BigEarthNet v2's layout
    python benchmarks/encoding.py ARCHIVE_ROOT --archive bigearthnet-v1

Decoding opens and reads every band of every patch and keeps nothing; encoding also writes and
checksums the shards. Turns are interleaved; printed are medians and the range over the repeats, and
the peak memory of a process that only encodes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives import get
from mmfl.archives.base import pixels_only
from mmfl.patches.faults import sift
from mmfl.patches.writer import encode


def decode(archive: str, root: Path, rows: pd.DataFrame) -> None:
    """Read every band of every patch."""
    described = get(archive)
    with pixels_only():
        for q, modality in described.modalities.items():
            for patch in rows[q].dropna():
                for band in modality.bands:
                    described.read(root, q, patch, band.name)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--archive", default="bigearthnet-v2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only-encode", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    described = get(chosen.archive)
    rows, faults = sift(described, chosen.root, described.metadata(chosen.root))
    seconds: dict[str, list[float]] = {"decode": [], "encode": []}
    for _ in range(1 if chosen.only_encode else chosen.repeats):
        if not chosen.only_encode:
            start = time.perf_counter()
            decode(chosen.archive, chosen.root, rows)
            seconds["decode"].append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as store:
            start = time.perf_counter()
            for q in described.modalities:
                encode(described, chosen.root, Path(store), modality=q, metadata=rows)
            seconds["encode"].append(time.perf_counter() - start)
    if chosen.only_encode:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    print(f"{len(rows):,} locations, {len(faults):,} faults")
    for name, found in seconds.items():
        rate = len(rows) / np.array(found)
        print(f"{name}: {np.median(rate):,.0f} pairs/s ({rate.min():,.0f} to {rate.max():,.0f})")
    ratio = np.array(seconds["decode"]) / np.array(seconds["encode"])
    print(f"encode / decode: {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
    command = [sys.executable, __file__, str(chosen.root), "--archive", chosen.archive]
    done = subprocess.run([*command, "--only-encode"], capture_output=True, text=True, check=True)
    print(f"peak memory of encoding: {done.stdout.strip()} MB")


if __name__ == "__main__":
    main()
