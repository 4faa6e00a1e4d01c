"""Time and peak memory of the partition step on as many locations as BigEarthNet v2 has.

    python benchmarks/partition.py [--locations 549488]

The table is drawn at random;
each combination runs in a process of its own, reading from files as the step does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

CHOICES = [
    ("country", "duplicate"),
    ("country", "disjoint"),
    ("random", "duplicate"),
    ("random", "disjoint"),
    ("country-season", "mixed"),
    ("tile", "duplicate"),
    ("dirichlet", "both"),
]
COUNTRIES = ["Austria", "Belgium", "Finland", "Ireland", "Kosovo", "Lithuania", "Luxembourg",
             "Portugal", "Serbia", "Switzerland"]  # fmt: skip


def write_store(folder: Path, locations: int) -> None:
    """The parts of `data/patches/<archive>` that the step reads."""
    rng = np.random.default_rng(0)
    pairs = [
        f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{i // 120:04d}_{i % 120:03d}"
        for i in range(locations)
    ]
    table = pd.DataFrame(
        {
            "pair": pairs,
            "split": rng.choice(["train", "validation", "test"], locations, p=[0.5, 0.25, 0.25]),
            "country": rng.choice(COUNTRIES, locations),
            "month": rng.integers(1, 13, locations),
            "season": rng.choice(["DJF", "MAM", "JJA", "SON"], locations),
            "tile": rng.choice([f"T33U{a}{b}" for a in "ABCDEF" for b in "ABCDEFGHI"], locations),
            "labels": [np.sort(rng.choice(19, 3, replace=False)) for _ in range(locations)],
        }
    )
    from mmfl.patches import labels

    (folder / "labels").mkdir(parents=True)
    table.to_parquet(folder / "labels/index.parquet", index=False)
    classes = {"task": "multilabel", "classes": [str(k) for k in range(19)]}
    (folder / "labels/classes.json").write_text(json.dumps(classes))
    for q in ("s1", "s2"):
        (folder / q).mkdir()
        table[["pair"]].to_parquet(folder / q / "index.parquet", index=False)
        (folder / q / "modality.json").write_text("{}")
    labels.write_store(folder, "bigearthnet-v2")


def measure(folder: Path, scenario: str, assignment: str, answer: multiprocessing.Queue) -> None:
    """Put (seconds after the imports, peak MB)."""
    from mmfl.steps.partition import run

    begun = time.perf_counter()
    out = folder / "clients" / f"{scenario}-{assignment}.parquet"
    out.parent.mkdir(exist_ok=True)
    run(patches=folder, out=out, scenario=scenario, assignment=assignment, clients=10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.put((time.perf_counter() - begun, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--locations", type=int, default=549_488)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write = spawn.Process(target=write_store, args=(folder, args.locations))
        write.start()
        write.join()
        print(f"{args.locations:,} locations\n\n| scenario | assignment | s, median (range) | MB |")
        print("|---|---|---|---|")
        for scenario, assignment in CHOICES:
            found = []
            for _ in range(args.repeats):
                answer = spawn.Queue()
                job = spawn.Process(target=measure, args=(folder, scenario, assignment, answer))
                job.start()
                found.append(answer.get())
                job.join()
            seconds = sorted(s for s, _ in found)
            middle = seconds[len(seconds) // 2]
            spread = f"{middle:.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})"
            print(f"| {scenario} | {assignment} | {spread} | {max(m for _, m in found):.0f} |")


if __name__ == "__main__":
    main()
