"""What a user would pick instead, side by side in one run: one table.

    python -m benchmarks.alternatives ARCHIVE_ROOT          # a folder in BigEarthNet v2's layout
    python -m benchmarks.alternatives --simulate 400        # an archive that it draws itself

Part 1 reads random batches of Sentinel-1 and Sentinel-2 pairs, all 14 bands, as float32 squares,
with one process and one thread. Part 2 trains a small network by federated averaging, each job in
a process of its own. All take turns, in another order each time, so that a busy machine slows all
of them; shown are the median and the quartiles over the turns of the time over ours within a turn.
Before it is timed, every reader's batch is compared with ours or with the GeoTIFFs, and after each
turn the trained weights are; the exit status is 1 where they differ. Whatever is not installed gets
a row that says so. The files were just written and lie in memory: warm reads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.alternatives.archive import Pairs, prepare, simulate
from benchmarks.alternatives.federated import apart, differences, write_job
from benchmarks.alternatives.readers import READERS, Reader
from safetensors.torch import load_file

# Of the difference of two weights after a round from the same start, float32's rounding; and after
# all rounds, each of which amplifies what the one before rounded.
BOUND, LATER = 2e-6, 1e-3
LONGEST = 1200  # seconds of a job; one that takes longer is ended
TURN = 0.3  # seconds that a reader's turn should take, at least
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
JOBS = {
    "mmfl federated averaging, one process": ("ours", 1),
    "mmfl federated averaging, two workers": ("ours", 2),
    "Flower simulation (ray), two workers": ("flower", 2),
}
PACKAGES = ("torch", "rasterio", "torchgeo", "torchvision", "configilm", "lmdb", "safetensors",
            "webdataset", "flwr", "ray")  # fmt: skip


@dataclass
class Row:
    """A row of the table; `note` instead of numbers where there are none."""

    name: str
    checked: str = ""
    size: str = ""
    note: str = ""
    wrong: bool = False
    seconds: list[float] = field(default_factory=list)

    def look(self, reader: Reader, names: np.ndarray, found: Any, pairs: int) -> None:
        """Note what a batch shows."""
        self.size = f"{reader.bytes / pairs / 1000:,.0f}" if reader.bytes else ""
        try:
            self.checked = reader.check(names, found)
        except AssertionError as error:
            self.wrong, self.note = True, f"OTHER PIXELS: {_line(error)}"

    def weights(self, alone: float, end: float) -> None:
        """Note how far weights are from ours: after a round alone, and after all rounds."""
        self.checked = (
            f"a round alone within {alone:.1e} of ours, after all {end:.1e}"
            if end
            else "to the bit"
        )
        if not (alone <= BOUND and end <= LATER):
            self.wrong, self.note = True, f"OTHER WEIGHTS: {alone:.1e} in a round, {end:.1e}"

    def line(self, base: Row, per_second: float | None) -> str:
        """Markdown: the ratio to `base`; `per_second`: what is counted in a second, else s."""
        if self.note:
            return f"| {self.name} | – | – | {self.note} | | |"
        ratio = np.array(self.seconds) / np.array(base.seconds)
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        took = float(np.median(self.seconds))
        rate = f"{per_second / took:,.0f} pairs/s" if per_second else f"{took:.2f} s"
        return (
            f"| {self.name} | {middle:.3g} | {low:.3g} to {high:.3g} | {rate} | {self.size} "
            f"| {self.checked} |"
        )


def reading(pairs: Pairs, folder: Path, batch: int, repeats: int) -> list[Row]:
    """Part 1: a row per reader."""
    rng = np.random.default_rng(0)
    readers: dict[str, Reader] = {}
    rows = {name: Row(name) for name in READERS}
    some = rng.choice(pairs.names, batch)
    for number, (name, make) in enumerate(READERS.items()):
        own = folder / f"reader-{number}"
        own.mkdir()
        try:
            readers[name] = make(pairs, own, batch)
            found = readers[name].read(some)
        except ImportError as error:
            rows[name].note = f"not installed: {_line(error)}"
        except Exception as error:  # a rival's own failure must not end the others
            rows[name].note = f"failed: {type(error).__name__} {_line(error)}"
        else:
            rows[name].look(readers[name], some, found, len(pairs))
        if not number and rows[name].note:
            raise SystemExit(f"{name}: {rows[name].note}")  # there is nothing to compare with
        readers = {n: r for n, r in readers.items() if not rows[n].note}
    counts = {name: _batches(reader, some) for name, reader in readers.items()}
    for turn in range(repeats):
        for name in _rotated(list(readers), turn):
            drawn = [rng.choice(pairs.names, batch) for _ in range(counts[name])]
            begun = time.perf_counter()
            for names in drawn:
                readers[name].read(names)
            rows[name].seconds.append((time.perf_counter() - begun) / len(drawn))
    return list(rows.values())


def _batches(reader: Reader, names: np.ndarray) -> int:
    """How many batches of a reader fill a turn; it is warm afterwards."""
    begun = time.perf_counter()
    reader.read(names)
    return max(1, min(64, round(TURN / (time.perf_counter() - begun))))


def federated(folder: Path, repeats: int) -> tuple[list[Row], list[Row]]:
    """Part 2: rows of the whole job, and of a round after the first."""
    whole = {name: Row(f"{name}: whole job") for name in JOBS}
    later = {name: Row(f"{name}: a round after the first") for name in JOBS}
    missing = [p for p in ("flwr", "ray") if importlib.util.find_spec(p) is None]
    worst = dict.fromkeys(JOBS, (0.0, 0.0))
    for name, (side, _) in JOBS.items():
        if side == "flower" and missing:
            whole[name].note = f"not installed: No module named '{missing[0]}'"
    for turn in range(repeats):
        for name in _rotated([n for n in JOBS if not whole[n].note], turn):
            begun = time.perf_counter()
            fault = _job(folder, *JOBS[name])
            took = time.perf_counter() - begun
            if fault and JOBS[name][0] == "ours":
                raise SystemExit(fault)
            if fault:
                whole[name].note = f"failed: {_clean(fault.splitlines()[-1])}"
                continue
            whole[name].seconds.append(took)
            rounds = json.loads(_file(folder, name, ".json").read_text())
            later[name].seconds.append(float(np.mean(rounds[1:])))
        for name in [n for n in JOBS if not whole[n].note]:
            found = _differences(folder, name)
            worst[name] = (max(worst[name][0], found[0]), max(worst[name][1], found[1]))
    for name, (alone, end) in worst.items():
        whole[name].weights(alone, end)
        later[name].note = "" if not whole[name].note else "see the whole job"
    return list(whole.values()), list(later.values())


def _job(folder: Path, side: str, workers: int) -> str:
    """Run a job in a process of its own; what it says where it fails."""
    module = "benchmarks.alternatives.federated"
    command = [sys.executable, "-m", module, side, str(folder), "--workers", str(workers)]
    try:
        done = subprocess.run(
            command, env=os.environ | QUIET, capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {LONGEST} s"
    return (done.stderr.strip() or "no message") if done.returncode else ""


def _file(folder: Path, name: str, suffix: str) -> Path:
    side, workers = JOBS[name]
    return folder / f"{side}-{workers}{suffix}"


def _differences(folder: Path, name: str) -> tuple[float, float]:
    """A job's weights against those of the first: of a round alone, and after all."""
    first, own = (_file(folder, n, ".safetensors") for n in (next(iter(JOBS)), name))
    if JOBS[name][0] == "flower":
        return differences(folder, own, first)
    end = apart(load_file(first), load_file(own))
    return end, end


def _rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def _line(error: BaseException) -> str:
    return _clean(str(error))


def _clean(text: str) -> str:
    """One line that fits into a cell."""
    return " ".join(text.split())[:160].replace("|", "/")


def versions() -> str:
    """The packages that were measured."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return f"Python {platform.python_version()}, {', '.join(found)}"


def table(parts: list[tuple[list[Row], float | None]]) -> str:
    """Markdown; the first row of each part is what the others are compared with."""
    lines = [
        "| what | time over ours | quartiles | rate or time | kB a pair | checked |",
        "|---|---:|---|---:|---:|---|",
    ]
    for rows, per_second in parts:
        lines += [row.line(rows[0], per_second) for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, nargs="?", help="folder of an extracted archive")
    parser.add_argument("--simulate", type=int, metavar="PAIRS", help="draw an archive instead")
    parser.add_argument("--pairs", type=int, default=400, help="pairs taken from the archive")
    parser.add_argument("--batch", type=int, default=64, help="of part 1")
    parser.add_argument("--repeats", type=int, default=15, help="turns of part 1; 0: leave it out")
    parser.add_argument("--jobs", type=int, default=5, help="turns of part 2; 0: leave it out")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-size", type=int, default=60, help="pixels of a side, of part 2")
    parser.add_argument("--train-batch", type=int, default=8, help="of part 2")
    given = parser.parse_args()
    if (given.root is None) == (given.simulate is None):
        parser.error("name the folder of an archive, or --simulate PAIRS")
    torch.set_num_threads(1)
    parts: list[tuple[list[Row], float | None]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = given.root or simulate(folder, given.simulate)
        pairs = prepare(root, folder, given.pairs)
        if given.repeats:
            with contextlib.redirect_stderr(io.StringIO()):
                parts.append((reading(pairs, folder, given.batch, given.repeats), given.batch))
        if given.jobs:
            write_job(
                folder, pairs.shards, pairs.archive.metadata(pairs.root), clients=given.clients,
                rounds=given.rounds, size=given.train_size, batch=given.train_batch,
            )  # fmt: skip
            parts += [(rows, None) for rows in federated(folder, given.jobs)]
        print(f"{len(pairs)} pairs, {pairs.size} px, batch {given.batch}, {given.repeats} turns;",
              f"{given.clients} clients, {given.rounds} rounds, {given.train_size} px, batch",
              f"{given.train_batch}, {given.jobs} turns; {versions()}\n")  # fmt: skip
        print(table(parts), flush=True)
    if wrong := [row.name for rows, _ in parts for row in rows if row.wrong]:
        raise SystemExit(f"not the same as ours: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
