"""What passes between server, clients and strategies: plain data, named by who shares it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmfl.models.dense import Features

Address = tuple[str, str]
"""Where a tensor lives: (scope, tensor name)."""
Tensors = dict[Address, Tensor]
Slots = dict[str, Tensors]
"""Named state, e.g. "scaffold.c": a tensor at every address of a parameter."""

POLICIES = ("modality", "average", "local")
"""How running statistics of normalisation layers travel; see `aggregation.combine_statistics`."""


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the network's state_dict.

    `name` is `key`, but the same for all modalities where a tensor is shared by them.
    `projection`: of a projection head, which exists only where a loss reaches it.
    """

    key: str
    name: str
    modality: str | None
    kind: Literal["parameter", "statistic", "counter"]
    is_norm: bool
    shared: bool
    projection: bool = False


@dataclass(frozen=True)
class Client:
    """Who trains: `train[q]` are the numbers of its training samples in modality q.

    A sample is a location (a row of the label table), or of tiles a window of one.
    """

    id: str
    group: str
    modalities: tuple[str, ...]
    train: dict[str, np.ndarray]

    @cached_property
    def locations(self) -> np.ndarray:
        """All training samples of the client, sorted, each once."""
        return np.unique(np.concatenate(list(self.train.values())))

    @cached_property
    def size(self) -> int:
        """n_i: number of the client's training samples."""
        return len(self.locations)


@dataclass(frozen=True)
class Group:
    """A rule: tensors that match form scopes; `scope` names the one that a client belongs to."""

    name: str
    match: Callable[[TensorInfo], bool]
    scope: Callable[[TensorInfo, Client], str]


@dataclass
class Server:
    """The federation between two rounds.

    `clients[id]` is what that client keeps for itself; it is here because a simulation has to
    keep it somewhere, never travels, and changes only when an update of the client is accepted.
    """

    parameters: Tensors
    statistics: dict[str, Tensors]
    state: Slots = field(default_factory=dict)
    clients: dict[str, Slots] = field(default_factory=dict)
    round: int = 0


@dataclass
class Broadcast:
    """What goes down to one client. `bytes` counts what travels: nothing that is its own."""

    round: int
    parameters: Tensors
    extras: Slots
    statistics_bytes: int = 0
    bytes: int = 0


@dataclass
class Update:
    """What comes back: differences (float64), statistics as an affine map, declared extras.

    After K steps with momentum m a running statistic is r_K = (1-m)^K r_0 + c whatever the
    policy's r_0; `statistics` holds c and `decay` the factor, so one local training serves
    every policy. `kept` does not travel: it is the client's own state after the round. `samples`
    counts what the steps saw, by the modalities that a location has.
    """

    client: str
    size: int
    steps: int
    delta: Tensors
    statistics: dict[str, Tensor]
    decay: dict[str, float]
    extras: Slots = field(default_factory=dict)
    kept: Slots = field(default_factory=dict)
    samples: dict[tuple[str, ...], int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0


@dataclass
class Batch:
    """One local step's data and what the network made of it.

    Attributes:
        locations: (B,) int64, the samples' numbers.
        present: modality -> (B,) bool.
        inputs: modality -> (B_q, C, H, W), standardised, for the rows `present[q]`.
        features: modality -> (B_q, D), or maps of B_q images (`Dense`), for the same rows.
        labels: (B, P) float: the location's labels; for pixels, which classes the sample shows.
        loss: the task's loss, a scalar.
        turns: (B,) int64, the symmetry with which each image was turned
            (`patches.augment.symmetry`); None where none was.
    """

    locations: np.ndarray
    present: dict[str, np.ndarray]
    inputs: dict[str, Tensor]
    features: Mapping[str, Features]
    labels: Tensor
    loss: Tensor
    turns: np.ndarray | None = None


@dataclass
class Context:
    """What a strategy sees of one client in one round.

    Attributes:
        parameters: the parameters being trained, w_i.
        start: their values as received, w.
        kept: what the client kept from its last accepted round.
        rate: eta of the local optimiser.
        momentum: rho of the local optimiser.
        steps: local steps taken so far; K_i at the end.
        batch: data of the current step.
        memory: scratch space of this client and round.
    """

    network: Any
    client: Client
    broadcast: Broadcast
    parameters: dict[Address, nn.Parameter]
    start: Tensors
    kept: Slots
    rate: float
    momentum: float
    steps: int = 0
    last_epoch: bool = False
    batch: Batch | None = None
    memory: dict[str, Any] = field(default_factory=dict)

    def own(self, slot: str) -> Tensors:
        """State that the client keeps for each of its parameters; zero before its first round."""
        kept = self.kept.get(slot, {})
        return {
            a: kept[a].to(w.device) if a in kept else torch.zeros_like(w)
            for a, w in self.start.items()
        }

    def received(self, slot: str) -> Tensors:
        """State of the server for each of the client's parameters."""
        return {a: t.to(self.start[a].device) for a, t in self.broadcast.extras[slot].items()}

    def drift(self) -> Tensors:
        """w_i - w at this step, without gradient."""
        with torch.no_grad():
            found = torch._foreach_sub(list(self.parameters.values()), list(self.start.values()))
        return dict(zip(self.parameters, found, strict=True))

    def add_to_gradient(self, values: Tensors, scale: float | dict[Address, float] = 1.0) -> None:
        """grad += scale * values; parameters that the loss did not reach have gradient 0."""
        with torch.no_grad():
            for address, parameter in self.parameters.items():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                factor = scale[address] if isinstance(scale, dict) else scale
                parameter.grad.add_(values[address], alpha=factor)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def slot_bytes(slots: Slots) -> int:
    """Bytes of all tensors of some slots."""
    return nbytes(tensor for tensors in slots.values() for tensor in tensors.values())
