"""Federated averaging of one small network: by this project, and by Flower's simulation.

    python -m benchmarks.alternatives.federated ours FOLDER --workers 2
    python -m benchmarks.alternatives.federated flower FOLDER

Each is a process of its own that opens the data, trains all rounds and writes the weights to
FOLDER/<side>.safetensors and the seconds of its rounds to FOLDER/<side>.json. `FOLDER/job.json`
says what to train; `write_job` makes it. Both take the network, the initial weights, the batches
and their order, the loss and the images from `parts`; a client's training in Flower is a plain
loop of PyTorch's SGD over them. Nothing is validated, and images are read from the shards at every
step.
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
from safetensors.torch import save_file

from mmfl.clients.manifest import build, read_manifest, write_manifest
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.loop import Federation, federate
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import Classification
from mmfl.federation.workers import deterministic
from mmfl.models.network import initialise
from mmfl.params import Params
from mmfl.strategies.base import Strategy, everyone

SEED = 1


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


BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


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


def travelling(task: Classification) -> dict[str, torch.Tensor]:
    """The network's parameters and running statistics, without projection heads and counters."""
    state = task.network.state_dict()
    return {k: v for k, v in state.items() if v.is_floating_point() and not k.startswith("heads.")}


def ours(folder: Path, workers: int) -> tuple[dict[str, torch.Tensor], list[float]]:
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
    expert = strategy.expert(server, everyone(strategy.population), "average")
    return {key: expert.tensors[key] for key in travelling(task)}, moments


def train_client(folder: Path, number: int, turn: int, state: dict[str, torch.Tensor]) -> int:
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


def flower(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same by Flower's FedAvg in its simulation, a client at a time on each core."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    job, strategy, params = parts(folder)
    clients, moments, found = len(strategy.population), [], {}
    client_app, server_app = ClientApp(), ServerApp()

    class Timed(FedAvg):
        """FedAvg that notes when its rounds end."""

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            result = super().aggregate_train(server_round, replies)
            moments.append(time.perf_counter())
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
        result = averaging.start(grid, initial, num_rounds=params.train.rounds)
        found.update(result.arrays.to_torch_state_dict())

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, clients, backend_config=resources)
    return found, moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("ours", "flower"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    from benchmarks.alternatives import federated  # by its name, as Flower's processes need it

    if given.side == "ours":
        weights, moments = federated.ours(given.folder, given.workers)
    else:
        weights, moments = federated.flower(given.folder)
    weights = {key: value.detach().contiguous() for key, value in weights.items()}
    save_file(weights, given.folder / f"{given.side}.safetensors")
    rounds = [b - a for a, b in itertools.pairwise(moments)]
    (given.folder / f"{given.side}.json").write_text(json.dumps(rounds))


if __name__ == "__main__":
    main()
