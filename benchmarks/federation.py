"""What a round costs beside its gradient steps, what algorithms add, and what workers save.

    make reproduce                                        # once: patches and clients to train on
    python benchmarks/federation.py --size 120
    python benchmarks/federation.py --archive simulated-tiles --size 64 --batch 4
    python benchmarks/federation.py --backbone resnet18 --methods mf mf+fw+mim --samples 32

1. Time per local step of each method against mf's: one client's local training of each in turn, so
   that a busy machine slows all of them; median and quartiles of the ratio within a turn, of the
   time that the processor spends.
2. A round of mf: share of the time that is not spent in gradient steps and reading, without the
   validation, which is shown apart.
3. Rounds with 1, 2 and 4 worker processes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmfl.clients.manifest import read_manifest
from mmfl.federation.loop import Federation, federate
from mmfl.federation.tiles import open_data
from mmfl.federation.workers import Job, deterministic
from mmfl.params import MethodEntry, Params, RunSpec, clients_name, load, resolve
from mmfl.steps.train import parts_of

METHODS = (
    "mf", "mf+fw", "mf+fw, stem, every 2nd pixel", "mf+mim", "mf+fw+mim",
    "mf+fw+mim, stem, every 2nd pixel", "prototypes", "fedprox", "scaffold", "feddc", "moon",
)  # fmt: skip
FAST = {"whitening.where": "stem", "whitening.stride": 2}


class Bench:
    """The default experiment's data of an archive at another image size."""

    def __init__(
        self, archive: str, size: int, batch: int, rounds: int, backbone: str, samples: int | None
    ) -> None:
        self.archive = archive
        self.params = load("params.yaml").of(archive)
        self.changes = {"train.size": size, "train.batch": batch, "train.rounds": rounds}
        self.changes["model.backbone"] = backbone
        name = clients_name(self.params)
        frame = read_manifest(Path(f"data/clients/{archive}/{name}.parquet"))
        bands = self.params.train.bands
        self.data = open_data(Path("data/patches", archive), frame, bands, size)
        self.data.preload()
        for client in self.data.clients:
            client.train.update({q: found[:samples] for q, found in client.train.items()})

    def federation(self, label: str, work: Path, workers: int = 1) -> tuple[Federation, dict]:
        """A method by its label, ready to train."""
        method, _, fast = label.partition(", ")
        changes = self.changes | (FAST if fast else {})
        params: Params = resolve(self.params, MethodEntry(method=method, set=changes))
        spec = RunSpec(self.archive, "", method, "default", 1, label)
        task, strategy, _ = parts_of(spec, params, self.data, torch.device("cpu"))
        initial = {k: v.detach().clone() for k, v in task.network.state_dict().items()}
        fed = Federation(
            task, strategy, params, 1, lambda m: 0.0, lambda q: 0.0, work, label, workers=workers
        )
        return fed, initial


def steps(bench: Bench, methods: Sequence[str], turns: int, folder: Path) -> None:
    """Part 1."""
    jobs = {}
    for label in methods:
        fed, initial = bench.federation(label, folder / label.replace(" ", "-"))
        fed.task.validate = lambda ensembles: None
        server, _ = federate(fed, initial)  # a round before: banks and states are there
        client = fed.strategy.clients[0]
        broadcast = fed.strategy.broadcast(server, client)
        kept = server.clients.get(client.id, {})
        jobs[label] = (fed, Job(client, broadcast, kept, fed.params.train))
    seconds: dict[str, list[float]] = {label: [] for label in methods}
    for _ in range(turns):
        for label, (fed, job) in jobs.items():
            begun = time.process_time()
            update = job.run(fed.task, fed.strategy)
            seconds[label].append((time.process_time() - begun) / update.steps)
    print(f"{'method':36} ratio to mf (quartiles)     ms per step")
    for label in methods:
        ratio = np.array(seconds[label]) / np.array(seconds["mf"])
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        print(f"{label:36} {middle:.3f} ({low:.3f} to {high:.3f})"
              f"   {1e3 * np.median(seconds[label]):10.1f}")  # fmt: skip


def rounds(bench: Bench, folder: Path) -> None:
    """Parts 2 and 3."""
    for workers in (1, 2, 4):
        fed, initial = bench.federation("mf", folder / f"workers-{workers}", workers)
        validate, spent = fed.task.validate, [0.0]

        def timed(ensembles, validate=validate, spent=spent):
            begun = time.perf_counter()
            score = validate(ensembles)
            spent[0] += time.perf_counter() - begun
            return score

        fed.task.validate = timed
        begun = time.perf_counter()
        federate(fed, initial)
        total = time.perf_counter() - begun - spent[0]
        print(f"{workers} workers: {total / fed.params.train.rounds:.2f} s per round", end="")
        if workers == 1:
            print(f", {100 * (1 - fed.seconds['steps'] / total):.1f} % of it outside steps", end="")
        print(f"; validation {spent[0] / fed.params.train.rounds:.2f} s")


def main() -> None:
    """Print the three parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--archive", default="simulated")
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=2, help="0: part 1 only")
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="mf among them")
    parser.add_argument("--samples", type=int, help="a client's at most, for a shorter run")
    given = parser.parse_args()
    deterministic()
    with tempfile.TemporaryDirectory() as folder:
        parts = (given.backbone, given.samples)
        one = Bench(given.archive, given.size, given.batch, 1, *parts)
        steps(one, given.methods, given.turns, Path(folder))
        if given.rounds:
            several = Bench(given.archive, given.size, given.batch, given.rounds, *parts)
            rounds(several, Path(folder))


if __name__ == "__main__":
    main()
