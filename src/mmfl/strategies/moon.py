"""MOON: projections of the local model are drawn to the global model's, away from the last own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mmfl.strategies.base import Context, Slots, Strategy, Tensors


class Moon(Strategy):
    """Model-contrastive learning (Li, He, Song, 2103.16257, algorithm 1), per modality.

        mu * -log e^{cos(z, z_glob)/tau} / (e^{cos(z, z_glob)/tau} + e^{cos(z, z_prev)/tau})

    z is the projection head's output. The two extra forward passes use batch statistics, have
    no gradient and leave the buffers alone. Before a client's first round previous = global.
    """

    client_state = ("moon.previous",)
    extra_forwards = 2

    def begin_client(self, context: Context) -> None:
        previous = context.kept.get("moon.previous", context.start)
        context.memory["near"] = frozen(context, context.start)
        context.memory["far"] = frozen(context, previous)

    def local_terms(self, context: Context) -> list[Tensor]:
        assert context.batch is not None
        terms = []
        for q, features in context.batch.features.items():
            z = context.network.project(q, features)
            near, far = (
                embed(context.network, context.memory[name], q, context.batch.inputs[q])
                for name in ("near", "far")
            )
            terms.append(contrast(z, near, far, self.hyper.temperature))
        own = self.hyper.mu * torch.stack(terms).mean()
        return [own, *super().local_terms(context)]

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        return {}, {"moon.previous": {a: context.start[a] + d for a, d in delta.items()}}


def contrast(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """-log e^{cos(z, near)/tau} / (e^{cos(z, near)/tau} + e^{cos(z, far)/tau}); all (B, d)."""
    positive = F.cosine_similarity(z, near, dim=1) / temperature
    negative = F.cosine_similarity(z, far, dim=1) / temperature
    return F.softplus(negative - positive).mean()


class _Embedding(nn.Module):
    """A network as one function of its parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, modality: str, x: Tensor) -> Tensor:
        return self.network.project(modality, self.network.features(modality, x))  # type: ignore


def frozen(context: Context, tensors: Tensors) -> dict[str, Tensor]:
    """The network's tensors with other parameters, and buffers of their own to spoil."""
    network, device = context.network, next(iter(context.start.values())).device
    address = {id(p): a for a, p in context.parameters.items()}
    found = {f"network.{key}": buffer.clone() for key, buffer in network.named_buffers()}
    for key, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in address:
            found[f"network.{key}"] = tensors[address[id(parameter)]].to(device)
    return found


@torch.no_grad()
def embed(network: nn.Module, tensors: dict[str, Tensor], modality: str, x: Tensor) -> Tensor:
    """Projections (B, d) of x by a network with other tensors in place of its own."""
    return functional_call(_Embedding(network), tensors, (modality, x), tie_weights=False)
