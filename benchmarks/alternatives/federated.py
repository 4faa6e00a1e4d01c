"""Federated averaging of one small network: by this project, and by Flower's simulation.

    python -m benchmarks.alternatives.federated ours FOLDER --workers 2
    python -m benchmarks.alternatives.federated flower FOLDER --workers 2

Each is a process of its own that opens the data, trains all rounds and writes the weights to
FOLDER/<side>-<workers>.safetensors and the seconds of its rounds to a .json. `FOLDER/job.json` says
what to train; `write_job` makes it. Both take the network, the initial weights, the batches and
their order, the loss and the images from `parts`; a client's training in Flower is a plain loop of
PyTorch's SGD over them. Nothing is validated, and images are read from the shards at every step.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmfl.clients.manifest import build, read_manifest, write_manifest
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.loop import Federation, federate
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import Classification
from mmfl.federation.workers import Job, deterministic
from mmfl.models.network import initialise
from mmfl.params import Params
from mmfl.strategies.base import Server, Strategy, everyone

SEED = 1
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
State = dict[str, torch.Tensor]
"""Key of the network's state_dict -> tensor."""


def write_job(
    folder: Path, patches: Path, table: Any, *, clients: int, rounds: int, size: int, batch: int
) -> None:
    """Sentinel-2's 10 and 20 m bands, spread unevenly over clients.

    `table`: the archive's metadata; every location is trained on. `average` is the mean of running
    statistics that Flower forms, too.
    """
    params = {
        "partition": {"modalities": ["s2"]},
        "model": {"width": 8, "projection": 8},
        "train": {
            "methods": ["mf"],
            "bands": {"s2": list(BANDS)},
            "size": size,
            "rounds": rounds,
            "batch": batch,
            "learning_rate": 0.01,
            "statistics": "average",
            "normalisation": "archive",
            "augment": False,
        },
    }
    frame = build(
        table, scenario="dirichlet", assignment="duplicate", clients=clients, modalities=("s2",),
        alpha=1.0,
    ).frame  # fmt: skip
    write_manifest(folder / "clients.parquet", frame)
    job = {"params": params, "patches": str(patches)}
    (folder / "job.json").write_text(json.dumps(job))


@functools.cache
def parts(folder: Path) -> tuple[Classification, Strategy, Params]:
    """Data, task with a freshly initialised network, and strategy of a job; once per process."""
    deterministic()
    job = json.loads((folder / "job.json").read_text())
    params = Params.model_validate(job["params"])
    frame = read_manifest(folder / "clients.parquet")
    data = Data(Path(job["patches"]), frame, params.train.bands, params.train.size)
    network = build_network("mf", params, len(data.classes))
    initialise(network, SEED)
    strategy = build_strategy("mf", params, network, data)
    normaliser = Normaliser(data.statistics(params.train.normalisation), data)
    task = Classification(network, data, normaliser, params, SEED, torch.device("cpu"))
    return task, strategy, params


def travelling(task: Classification) -> State:
    """The network's parameters and running statistics, without projection heads and counters."""
    state = task.network.state_dict()
    return {k: v for k, v in state.items() if v.is_floating_point() and not k.startswith("heads.")}


def ours(folder: Path, workers: int) -> tuple[State, list[float]]:
    """Final weights, and the moments at which rounds ended, the start first."""
    task, strategy, params = parts(folder)
    moments = [time.perf_counter()]
    task.validate = lambda ensembles: moments.append(time.perf_counter())  # type: ignore
    initial = {k: v.detach().clone() for k, v in task.network.state_dict().items()}
    with tempfile.TemporaryDirectory() as work:
        fed = Federation(
            task, strategy, params, SEED, lambda m: 0.0, lambda q: 0.0, Path(work), workers=workers
        )
        server, _ = federate(fed, initial)
    return model(task, strategy, server), moments


def one_round(folder: Path, turn: int, state: State) -> State:
    """The weights after round `turn` (0 is the first) if it starts from `state`."""
    task, strategy, params = parts(folder)
    server = strategy.start(task.network.state_dict() | state)
    server.round = turn
    updates = [
        Job(client, strategy.broadcast(server, client), {}, params.train).run(task, strategy)
        for client in strategy.clients
    ]
    return model(task, strategy, strategy.server_step(server, updates))


def model(task: Classification, strategy: Strategy, server: Server) -> State:
    """The weights of the server that travel, running statistics averaged."""
    expert = strategy.expert(server, everyone(strategy.population), "average")
    return {key: expert.tensors[key] for key in travelling(task)}


def differences(folder: Path, flower: Path, ours: Path) -> tuple[float, float]:
    """Flower's weights against ours, two files: (largest of a single round, after all rounds).

    The first takes each of Flower's rounds alone, both from what Flower had before it: what is left
    is the rounding of one average. From round to round training amplifies it.
    """
    parts.cache_clear()  # its network is scratch space
    start = {key: value.clone() for key, value in travelling(parts(folder)[0]).items()}
    found, alone = rounds_of(flower), 0.0
    for turn, after in enumerate(found):
        alone = max(alone, apart(one_round(folder, turn, start), after))
        start = after
    return alone, apart(load_file(ours), found[-1])


def rounds_of(path: Path) -> list[State]:
    """The weights after each round."""
    found: list[State] = []
    for name, value in sorted(load_file(path).items()):
        turn, _, key = name.partition("/")
        found += [{} for _ in range(int(turn) + 1 - len(found))]
        found[int(turn)][key] = value
    return found


def apart(a: State, b: State) -> float:
    """The largest difference of two weights, relative to those that are above 1."""
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    return max(float(((a[k] - b[k]).abs() / b[k].abs().clamp_min(1)).max()) for k in a)


def train_client(folder: Path, number: int, turn: int, state: State) -> int:
    """Local training of a client from `state` in the process's network; its number of samples."""
    task, strategy, params = parts(folder)
    client = strategy.population[number]
    task.network.load_state_dict(state, strict=False)
    task.network.train()
    optimiser = torch.optim.SGD(task.network.parameters(), lr=params.train.learning_rate)
    for epoch, _, chosen in task.plan(client, turn, None):
        loss = task.batch(client, epoch, chosen).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return client.size


def flower(folder: Path, workers: int) -> tuple[State, list[float]]:
    """The same by Flower's FedAvg in its simulation, `workers` clients at a time.

    The weights are those of all rounds, their names led by the round and a slash.
    """
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    job, strategy, params = parts(folder)
    clients = len(strategy.population)
    moments: list[float] = []
    results: list[Any] = []
    client_app, server_app = ClientApp(), ServerApp()

    class Timed(FedAvg):
        """FedAvg that notes when its rounds end, and what they gave."""

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            result = super().aggregate_train(server_round, replies)
            moments.append(time.perf_counter())
            results.append(result[0])
            return result

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        state = message.content["arrays"].to_torch_state_dict()
        number = int(context.node_config["partition-id"])
        turn = int(message.content["config"]["server-round"]) - 1
        samples = train_client(folder, number, turn, state)
        arrays = ArrayRecord(travelling(parts(folder)[0]))
        metrics = MetricRecord({"num-examples": samples})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        moments.append(time.perf_counter())
        averaging = Timed(fraction_evaluate=0.0, min_train_nodes=clients,
                          min_available_nodes=clients)  # fmt: skip
        initial = ArrayRecord(travelling(job))
        averaging.start(grid, initial, num_rounds=params.train.rounds)

    resources = {
        "init_args": {"num_cpus": workers},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server_app, client_app, clients, backend_config=resources)
    found = [arrays.to_torch_state_dict() for arrays in results]
    return {f"{turn}/{k}": v for turn, state in enumerate(found) for k, v in state.items()}, moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("ours", "flower"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    from benchmarks.alternatives import federated  # by its name, as Flower's processes need it

    train = federated.ours if given.side == "ours" else federated.flower
    weights, moments = train(given.folder, given.workers)
    weights = {key: value.detach().contiguous() for key, value in weights.items()}
    name = f"{given.side}-{given.workers}"
    save_file(weights, given.folder / f"{name}.safetensors")
    rounds = [b - a for a, b in itertools.pairwise(moments)]
    (given.folder / f"{name}.json").write_text(json.dumps(rounds))


if __name__ == "__main__":
    main()
