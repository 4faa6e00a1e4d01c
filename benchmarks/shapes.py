"""Which shapes train: a local step of many parameters, each in a process of its own.

    python benchmarks/shapes.py                        # 240 draws, prints a table
    python benchmarks/shapes.py --cases 60 --csv docs/shapes.csv

A case is drawn from `GRID`. Its parameters are validated as those of a file are, its network and
strategy are built as the train step builds them, and one client trains an epoch on random images:
forward, backward, optimiser. What came out is

    ok        every weight and the loss are finite
    refused   one line before training: the parameters, or what the client holds
    error     an exception, or a number that is not finite: a fault
    crash     the process ended by a signal: a fault, and the command fails, as for an error
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfl import params as p
from mmfl.errors import UserError
from mmfl.facts.tasks import IGNORED
from mmfl.federation.local_update import local_update
from mmfl.federation.setup import assemble, build_network, require_two_images, tensor_infos
from mmfl.federation.task import Step, classification_loss, pixel_loss, schedule
from mmfl.federation.workers import deterministic
from mmfl.models.network import Network, fewest_values, initialise
from mmfl.randomness import generator
from mmfl.strategies.base import Batch, Client

CLASSES = 5
BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B03", "B04"]}
GRID: dict[str, Sequence[Any]] = {
    "backbone": ("compact", "compact", "compact", "resnet18", "resnet50"),
    "width": (4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64),
    "size": (8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 57, 64, 96, 112, 120, 128, 160, 256),
    "task": ("multilabel", "pixel"),
    "batch": (2, 3, 4, 7),
    "method": ("mf", "mf+fw", "mf+fw", "mf+fw+mim", "moon+fw", "scaffold", "mf+prototypes"),
    "where": ("stem", "stem+layer1", "all"),
    "group": (1, 2, 4, 8, "width"),
    "stride": (1, 1, 2, 3, 8, 64),
    "whitened by": ("cholesky", "zca"),
    "fusion": ("mean", "concat", "logit", "probability"),
    "share": (None, None, 1, 2, 4),
    "precision": ("float32", "bfloat16"),
    "modalities": (1, 2, 2, 2),
    "holds": ("pairs", "few of s2", "one of s2"),
}


class Drawn:
    """A task (mmfl.federation.task.Task) of one client with random images."""

    device = torch.device("cpu")

    def __init__(self, network: Network, task: str, params: p.Params) -> None:
        self.network = network
        self.task = task
        self.params = params
        self.source = torch.Generator().manual_seed(0)
        self.pairs_wanted = fewest_values(network, params.train.size) == 1

    def plan(self, client: Client, round_index: int, steps: int | None) -> list[Step]:
        return schedule(client, self.params, 1, round_index, steps, pairs=self.pairs_wanted)

    def read(self, client: Client, plan: Sequence[Step]) -> Iterator[None]:
        return iter([None] * len(plan))

    def batch(self, client: Client, epoch: int, locations: np.ndarray, read: None) -> Batch:
        size, count = self.params.train.size, len(locations)
        present = {q: np.isin(locations, client.train[q]) for q in client.modalities}
        present = {q: there for q, there in present.items() if there.any()}
        inputs = {
            q: torch.randn(int(there.sum()), self.network.bands[q], size, size,
                           generator=self.source)
            for q, there in present.items()
        }  # fmt: skip
        features = {q: self.network.features(q, x) for q, x in inputs.items()}
        labels = torch.randint(0, 2, (count, CLASSES), generator=self.source).float()
        if self.task == "multilabel":
            loss = classification_loss(self.network, features, present, labels)
        else:
            targets = torch.randint(0, CLASSES + 1, (count, size, size), generator=self.source)
            targets[targets == CLASSES] = IGNORED
            loss = pixel_loss(self.network, features, present, targets.to(torch.uint8))
        return Batch(locations, present, inputs, features, labels, loss, None)


def parameters(case: dict[str, Any]) -> p.Params:
    """The case as a parameter file.

    Raises:
        UserError: it is refused.
    """
    held = sorted(BANDS)[-case["modalities"] :]
    archive = {"multilabel": "simulated", "pixel": "simulated-tiles"}[case["task"]]
    width = case["width"] if case["backbone"] == "compact" else 64
    data = {
        "archives": {archive: {}},
        "partition": {"modalities": held, "assignment": "both"},
        "model": {
            "backbone": case["backbone"], "width": case["width"], "fusion": case["fusion"],
            "share_from_stage": case["share"], "projection": 8,
        },
        "whitening": {
            "where": case["where"], "stride": case["stride"], "method": case["whitened by"],
            "group": width if case["group"] == "width" else case["group"],
        },
        "train": {
            "methods": [case["method"]], "size": case["size"], "batch": case["batch"],
            "bands": {q: BANDS[q] for q in held}, "precision": case["precision"],
        },
        "report": {"baseline": case["method"]},
    }  # fmt: skip
    return p.validate(data).of(archive)


def train(case: dict[str, Any]) -> None:
    """A local epoch of a client.

    Raises:
        UserError: it is refused before training.
        ArithmeticError: a number is not finite.
    """
    params = parameters(case)
    network = build_network(case["method"], params, CLASSES, case["task"])
    initialise(network, 1)
    count = {"pairs": 2 * case["batch"] + 1, "few of s2": 3, "one of s2": 1}[case["holds"]]
    every = np.arange(2 * case["batch"] + 1)
    held = {q: every if q == "s1" else every[-count:] for q in network.modalities}
    client = Client("a", "a", network.modalities, held)
    base, modules = p.parts(case["method"])
    strategy = assemble(base, modules, params, tensor_infos(network), [client])
    require_two_images(case["method"], [client], network, params.train.size)
    initial = {key: value.detach().clone() for key, value in network.state_dict().items()}
    server = strategy.start(initial)
    broadcast = strategy.broadcast(server, client)
    kept = server.clients.get(client.id, {})
    task = Drawn(network, case["task"], params)
    update = local_update(task, strategy, broadcast, client, kept, params.train)
    numbers = [*update.delta.values(), *update.statistics.values()]
    if not all(bool(torch.isfinite(value).all()) for value in numbers):
        raise ArithmeticError("a weight or a statistic is not finite")
    if not np.isfinite(update.metrics["loss"]):
        raise ArithmeticError("the loss is not finite")


def outcome(case: dict[str, Any]) -> tuple[str, str]:
    """What a process of its own makes of the case: ok, refused, error or crash, and why."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            try:
                train(case)
                told = "ok\n"
            except UserError as error:
                told = f"refused\n{error}"
            except Exception as error:
                told = f"error\n{type(error).__name__}: {error}"
            os.write(writing, told.encode()[:4000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "crash", signal.Signals(os.WTERMSIG(status)).name
    kind, _, why = told.partition("\n")
    return kind or "crash", why


def draw(count: int, seed: int) -> list[dict[str, Any]]:
    """Different cases, each value of the grid with the same chance."""
    rng = generator(seed, "shapes")
    cases: dict[str, dict[str, Any]] = {}
    while len(cases) < count:
        case = {key: values[rng.integers(len(values))] for key, values in GRID.items()}
        if case["backbone"] != "compact":
            case["width"] = 64
        if case["size"] <= 128 or case["backbone"] == "compact":
            cases.setdefault(str(case), case)
    return list(cases.values())


def table(found: list[tuple[dict[str, Any], str, str]]) -> str:
    """A markdown table: outcomes by backbone and task, then why cases were refused."""
    kinds = ("ok", "refused", "error", "crash")
    lines = ["| backbone | task | " + " | ".join(kinds) + " |", "|---|---|---|---|---|---|"]
    for backbone in dict.fromkeys(GRID["backbone"]):
        for task in GRID["task"]:
            own = Counter(k for c, k, _ in found if (c["backbone"], c["task"]) == (backbone, task))
            numbers = " | ".join(str(own[kind]) for kind in kinds)
            lines.append(f"| {backbone} | {task} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which shapes train.")
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    deterministic()
    found = [(case, *outcome(case)) for case in draw(args.cases, args.seed)]
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*GRID, "outcome", "why"])
            writer.writerows([*case.values(), kind, why] for case, kind, why in found)
    print(table(found))
    wrong = [(case, kind, why) for case, kind, why in found if kind in ("error", "crash")]
    for case, kind, why in wrong:
        print(kind, why, case)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
