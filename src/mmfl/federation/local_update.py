"""Local training of one client in one round: a function from a broadcast to an update."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from mmfl.federation.optimiser import optimiser
from mmfl.federation.task import Task
from mmfl.params.sections import Train
from mmfl.patches.batching import patterns
from mmfl.strategies.base import (
    Broadcast,
    Client,
    Context,
    Slots,
    Strategy,
    Tensors,
    Update,
    slot_bytes,
)


def local_update(
    task: Task,
    strategy: Strategy,
    broadcast: Broadcast,
    client: Client,
    kept: Slots,
    train: Train,
    steps: int | None = None,
) -> Update:
    """Train E local epochs (or `steps` steps) from the broadcast and return the differences.

    `task.network` is scratch space: its tensors are overwritten by the broadcast, running
    statistics start from zero (see `Update`). A fresh optimiser each round.
    """
    network = task.network
    load(network, strategy, broadcast, client)
    network.train()
    parameters = addressed(network, strategy, client)
    start = {a: broadcast.parameters[a].to(task.device) for a in parameters}
    context = Context(
        network, client, broadcast, parameters, start, kept, train.learning_rate, train.momentum
    )
    strategy.begin_client(context)
    stepper = optimiser(list(parameters.values()), train)
    # on the device, so that a GPU need not be waited for in every step
    losses = torch.zeros(2, dtype=torch.float64, device=task.device)
    samples: dict[tuple[str, ...], int] = {}
    plan = task.plan(client, broadcast.round, steps)
    reads = iter(task.read(client, plan))
    begun, waiting = time.perf_counter(), 0.0
    for epoch, context.last_epoch, chosen in plan:
        asked = time.perf_counter()
        read = next(reads)
        waiting += time.perf_counter() - asked
        with torch.autocast(task.device.type, torch.bfloat16, train.precision == "bfloat16"):
            context.batch = task.batch(client, epoch, chosen, read)
            terms = strategy.local_terms(context)
        loss = context.batch.loss
        losses[0] += loss.detach()
        for term in terms:
            losses[1] += term.detach()
            loss = loss + term
        stepper.zero_grad()
        loss.backward()
        strategy.edit_gradient(context)
        stepper.step()
        context.steps += 1
        for modalities, rows in patterns(context.batch.present):
            samples[modalities] = samples.get(modalities, 0) + len(rows)
    means = (losses / max(context.steps, 1)).tolist()
    seconds = {"steps": time.perf_counter() - begun, "waiting": waiting}
    update = _update(strategy, context, samples, seconds)
    update.metrics |= dict(zip(("loss", "loss_terms"), means, strict=True))
    return update


def addressed(
    network: nn.Module, strategy: Strategy, client: Client
) -> dict[tuple[str, str], nn.Parameter]:
    """The client's parameters of a network by address, each once."""
    named = dict(network.named_parameters(remove_duplicate=False))
    return {
        strategy.address(t, client): named[t.key]
        for t in strategy.own(client)
        if t.kind == "parameter"
    }


def load(network: nn.Module, strategy: Strategy, broadcast: Broadcast, client: Client) -> None:
    """Put a broadcast into the network; running statistics of the client's branches become zero."""
    state = network.state_dict()
    with torch.no_grad():
        for info in strategy.own(client):
            if info.kind == "parameter":
                state[info.key].copy_(broadcast.parameters[strategy.address(info, client)])
            else:
                state[info.key].zero_()


def _update(
    strategy: Strategy,
    context: Context,
    samples: dict[tuple[str, ...], int],
    seconds: dict[str, float],
) -> Update:
    network, client, broadcast = context.network, context.client, context.broadcast
    delta = {
        a: (w.detach().cpu().double() - broadcast.parameters[a].double()).contiguous()
        for a, w in context.parameters.items()
    }
    state = network.state_dict()
    statistics, decay = {}, {}
    for info in strategy.own(client):
        if info.kind == "statistic":
            layer = network.get_submodule(info.key.rpartition(".")[0])
            uses = int(layer.num_batches_tracked)
            statistics[info.key] = state[info.key].detach().cpu().clone()
            decay[info.key] = (1.0 - layer.momentum) ** uses
    moved = {a: d.to(context.start[a].device) for a, d in delta.items()}
    sent, kept = strategy.finish_client(context, moved)
    extras = _rounded(sent, broadcast.parameters)
    extras |= strategy.module_uploads(client, context.memory)
    return Update(
        client.id,
        client.size,
        context.steps,
        delta,
        statistics,
        decay,
        extras,
        _rounded(kept, broadcast.parameters),
        samples,
        {},
        seconds,
        strategy.travelling(broadcast.parameters, client)
        + broadcast.statistics_bytes
        + slot_bytes(extras),
    )


def _rounded(slots: Slots, parameters: Tensors) -> Slots:
    """Tensors at a parameter's address in its type, on the CPU; others as they are."""
    return {
        slot: {
            a: t.detach()
            .to("cpu", parameters[a].dtype if a in parameters else t.dtype)
            .contiguous()
            for a, t in tensors.items()
        }
        for slot, tensors in slots.items()
    }


@torch.no_grad()
def fresh_features(
    task: Task, strategy: Strategy, broadcast: Broadcast, client: Client
) -> dict[str, dict[tuple[str, str], Tensor]]:
    """The uplink of `mim.bank: fresh`: projected features of the client's pairs, new weights.

    Batch statistics as in training; running statistics are untouched, since the local training
    that follows starts them anew. No augmentation.
    """
    load(task.network, strategy, broadcast, client)
    task.network.train()
    memory: dict[str, Any] = {}
    for q in client.modalities:
        for locations, x in task.pairs(client, q):
            features = task.network.features(q, x)
            for module in strategy.modules:
                module.extra(memory, task.network, q, features, locations)
    return strategy.module_uploads(client, memory)
