"""Local training of one client in one round: a function from a broadcast to an update."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl.federation.data import Data, Normaliser
from mmfl.models.network import Network
from mmfl.params import Params
from mmfl.patches.batching import batches, patterns
from mmfl.randomness import generator
from mmfl.strategies.base import Broadcast, Client, Context, Strategy, Update, nbytes
from mmfl.strategies.modules.mim import keep


def local_update(
    network: Network,
    strategy: Strategy,
    broadcast: Broadcast,
    client: Client,
    data: Data,
    normaliser: Normaliser,
    params: Params,
    seed: int,
    steps: int | None,
    device: torch.device,
) -> Update:
    """Train E local epochs (or `steps` steps) from the broadcast and return the differences.

    `network` is scratch space: its tensors are overwritten by the broadcast, running statistics
    start from zero (see `Update`). A fresh optimiser each round.
    """
    load(network, strategy, broadcast, client)
    network.train()
    owned = {t.key for t in strategy.own(client) if t.kind == "parameter"}
    named = network.named_parameters(remove_duplicate=False)
    parameters = list({id(p): p for key, p in named if key in owned}.values())
    optimiser = _optimiser(parameters, params)
    memory: dict[str, Any] = {}
    losses: dict[str, float] = {"loss": 0.0, "loss_mim": 0.0}
    done = samples = 0
    for epoch, last, chosen in schedule(client, params, seed, broadcast.round, steps):
        features, present = {}, {}
        with torch.autocast(device.type, torch.bfloat16, params.train.precision == "bfloat16"):
            for q in client.modalities:
                held = present[q] = np.isin(chosen, client.train[q])
                if held.any():
                    flips = (seed, epoch) if params.train.augment else None
                    x = data.batch(q, chosen[held], flips).to(device)
                    features[q] = network.features(q, normaliser.client(q, x, client.id))
            labels = torch.from_numpy(data.labels[chosen]).float().to(device)
            context = Context(network, client, broadcast, last, chosen, features, present, memory)
            loss = classification_loss(network, features, present, labels)
            terms = strategy.local_terms(context)
        losses["loss"] += float(loss.detach())
        for name, term in terms:
            losses[f"loss_{name}"] += float(term.detach())
            loss = loss + term
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        strategy.edit_gradient(context)
        optimiser.step()
        done += 1
        samples += len(chosen)
    extras = strategy.finish_client(client, broadcast, memory)
    return _update(network, strategy, broadcast, client, done, samples, losses, extras)


def schedule(
    client: Client, params: Params, seed: int, round_index: int, steps: int | None
) -> list[tuple[int, bool, np.ndarray]]:
    """(global epoch, whether it is the round's last, locations) of every step of a round.

    Each epoch is a permutation keyed by (seed, epoch, client). With a fixed number of steps per
    round, rounds go on where the round before stopped within an epoch.
    """
    locations = client.locations
    slices = batches(len(locations), params.train.batch)
    count = params.train.epochs * len(slices) if steps is None else steps
    first = round_index * count
    last_epoch = (first + count - 1) // len(slices)
    plan, orders = [], {}
    for step in range(first, first + count):
        epoch, position = divmod(step, len(slices))
        if epoch not in orders:
            orders[epoch] = generator(seed, "order", epoch, client.id).permutation(locations)
        plan.append((epoch, epoch == last_epoch, orders[epoch][slices[position]]))
    return plan


def classification_loss(
    network: Network, features: dict[str, Tensor], present: dict[str, np.ndarray], labels: Tensor
) -> Tensor:
    """Binary cross entropy; with several modalities the mean over the branches and the fusion.

    `features[q]` (B_q, D) belong to the rows `present[q]` of `labels` (B, P).
    """
    rows = {q: torch.from_numpy(np.flatnonzero(present[q])).to(labels.device) for q in features}
    branches = [_bce(network.classify({q: z}), labels[rows[q]]) for q, z in features.items()]
    if len(features) == 1:
        return branches[0]
    fused = labels.new_zeros(())
    for members, index in patterns({q: present[q] for q in features}):
        chosen = {q: features[q][_positions(present[q], index)] for q in members}
        target = labels[torch.from_numpy(index).to(labels.device)]
        fused = fused + _bce(network.classify(chosen), target, "sum")
    return torch.stack([*branches, fused / labels.numel()]).mean()


def _positions(present: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy((np.cumsum(present) - 1)[rows])


def _bce(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction=reduction)


def load(network: Network, strategy: Strategy, broadcast: Broadcast, client: Client) -> None:
    """Put a broadcast into the network; running statistics of the client's branches become zero."""
    state = network.state_dict()
    with torch.no_grad():
        for info in strategy.own(client):
            if info.kind == "parameter":
                state[info.key].copy_(broadcast.parameters[info.key])
            else:
                state[info.key].zero_()


def _optimiser(parameters: list[nn.Parameter], params: Params) -> torch.optim.Optimizer:
    if params.train.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=params.train.learning_rate)
    return torch.optim.SGD(
        parameters, lr=params.train.learning_rate, momentum=params.train.momentum
    )


def _update(
    network: Network,
    strategy: Strategy,
    broadcast: Broadcast,
    client: Client,
    steps: int,
    samples: int,
    losses: dict[str, float],
    extras: dict[str, Tensor],
) -> Update:
    state = network.state_dict()
    delta, statistics, decay = {}, {}, {}
    for info in strategy.own(client):
        value = state[info.key]
        if info.kind == "parameter":
            before = broadcast.parameters[info.key].double()
            delta[strategy.address(info, client)] = value.detach().cpu().double() - before
        elif info.kind == "statistic":
            layer = network.get_submodule(info.key.rpartition(".")[0])
            uses = int(state[info.key.rpartition(".")[0] + ".num_batches_tracked"])
            momentum = layer.momentum
            assert isinstance(momentum, float)
            statistics[info.key] = value.detach().cpu().clone()
            decay[info.key] = (1.0 - momentum) ** uses
    metrics = {name: total / max(steps, 1) for name, total in losses.items()}
    wire = (
        nbytes(broadcast.parameters.values()) + broadcast.statistics_bytes + nbytes(extras.values())
    )
    metrics["samples"] = samples
    return Update(client.id, client.size, steps, delta, statistics, decay, extras, metrics, wire)


@torch.no_grad()
def fresh_features(
    network: Network,
    strategy: Strategy,
    broadcast: Broadcast,
    client: Client,
    data: Data,
    normaliser: Normaliser,
    params: Params,
    device: torch.device,
) -> dict[str, Tensor]:
    """The uplink of `fresh`: projected features of the client's pairs under the new weights.

    Batch statistics as in training; running statistics are untouched, since the local training
    that follows starts them anew. No augmentation.
    """
    load(network, strategy, broadcast, client)
    network.train()
    memory: dict[str, Any] = {}
    for q in client.modalities:
        for part in batches(len(client.train[q]), params.train.batch):
            locations = client.train[q][part]
            x = normaliser.client(q, data.batch(q, locations).to(device), client.id)
            keep(memory, q, locations, network.project(q, network.features(q, x)))
    return strategy.finish_client(client, broadcast, memory)
