"""What an algorithm is: data plus a few small functions. The round loop knows no algorithm's name.

A `Strategy` declares groups of tensors (who shares what), may add loss terms or edit gradients,
and turns the clients' updates into the next server state. The default is MF, multi-modal FedAvg
(docs/method.md, section 2). A `Module` (MIM) adds to a strategy without owning any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmfl.models.ensemble import Ensemble, Expert
from mmfl.strategies import aggregation

Address = tuple[str, str]
"""Where a tensor lives on the server: (scope, tensor name)."""

POLICIES = ("modality", "average", "local")
"""How running statistics of normalisation layers travel; see `aggregation.combine_statistics`."""


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the network's state_dict.

    `name` is `key`, but the same for all modalities where a tensor is shared by them.
    """

    key: str
    name: str
    modality: str | None
    kind: Literal["parameter", "statistic", "counter"]
    is_norm: bool
    shared: bool


@dataclass(frozen=True)
class Client:
    """Who trains: `train[q]` are its training locations (rows of the label table) in modality q."""

    id: str
    group: str
    modalities: tuple[str, ...]
    train: dict[str, np.ndarray]

    @property
    def locations(self) -> np.ndarray:
        """All training locations of the client, sorted, each once."""
        return np.unique(np.concatenate(list(self.train.values())))

    @property
    def size(self) -> int:
        """n_i: number of the client's training locations."""
        return len(self.locations)


@dataclass(frozen=True)
class Group:
    """A rule: tensors that match form scopes; `scope` names the one that a client belongs to."""

    name: str
    match: Callable[[TensorInfo], bool]
    scope: Callable[[TensorInfo, Client], str]


@dataclass
class Server:
    """Everything that the server keeps between rounds, as named tensors (float32 if not noted)."""

    parameters: dict[Address, Tensor]
    statistics: dict[str, dict[Address, Tensor]]
    state: dict[str, Tensor] = field(default_factory=dict)
    round: int = 0


@dataclass
class Broadcast:
    """What goes down to one client: parameters by state_dict key, and declared extras."""

    round: int
    parameters: dict[str, Tensor]
    extras: dict[str, Tensor]
    statistics_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Bytes on the wire; statistics are counted once, for the policy in use."""
        return (
            nbytes(self.parameters.values()) + nbytes(self.extras.values()) + self.statistics_bytes
        )


@dataclass
class Update:
    """What comes back: differences (float64), statistics as an affine map, declared extras.

    After K steps with momentum m a running statistic is r_K = (1-m)^K r_0 + c whatever the
    policy's r_0; `statistics` holds c and `decay` the factor, so one local training serves
    every policy.
    """

    client: str
    size: int
    steps: int
    delta: dict[Address, Tensor]
    statistics: dict[str, Tensor]
    decay: dict[str, float]
    extras: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    wire_bytes: int = 0


@dataclass
class Context:
    """What a strategy sees at one local step.

    Attributes:
        locations: (B,) int64, rows of the label table.
        features: modality -> (B_q, D), for the rows `present[q]` of the batch.
        present: modality -> (B,) bool.
    """

    network: Any
    client: Client
    broadcast: Broadcast
    last_epoch: bool
    locations: np.ndarray
    features: dict[str, Tensor]
    present: dict[str, np.ndarray]
    memory: dict[str, Any]


class Module:
    """An addition to a strategy: loss terms and name-spaced state (see `modules/`)."""

    name = ""

    def fresh(self, client: Client) -> bool:
        """Whether this client makes an extra forward pass before the round."""
        return False

    def broadcast(self, server: Server, client: Client) -> dict[str, Tensor]:
        """Extras that go down to this client."""
        return {}

    def loss(self, context: Context) -> Tensor | None:
        """A weighted loss term of the step, or None."""
        return None

    def finish(
        self, client: Client, broadcast: Broadcast, memory: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Extras that go up from this client."""
        return {}

    def receive(self, server: Server, extras: dict[str, dict[str, Tensor]]) -> None:
        """Take the clients' extras, client id -> name -> tensor, into `server.state`."""


class Strategy:
    """MF, multi-modal FedAvg: backbones within a modality, the classifier over all clients.

    Server step: w += sum_i p_i delta_i per scope (McMahan et al., 1602.05629, algorithm 1, with
    the weights of docs/method.md). Subclasses override what differs.
    """

    exchanges = True
    """Whether anything travels between clients and server."""

    def __init__(
        self,
        tensors: Sequence[TensorInfo],
        modules: Sequence[Module] = (),
        weights: Literal["size", "uniform"] = "size",
        policy: str = "modality",
    ) -> None:
        self.tensors = tuple(tensors)
        self.modules = tuple(modules)
        self.weights = weights
        self.policy = policy
        self._groups = {info.key: self._claim(info) for info in self.tensors}

    # ---- who shares what ---------------------------------------------------------------------
    def groups(self) -> tuple[Group, ...]:
        """Ordered rules, the first match wins; together they claim every tensor."""
        return (
            Group("counters", lambda t: t.kind == "counter", lambda t, c: c.id),
            Group("statistics", lambda t: t.kind == "statistic", lambda t, c: t.modality or "all"),
            Group("backbones", lambda t: t.modality is not None and not t.shared, _modality),
            Group("shared", lambda t: True, lambda t, c: "all"),
        )

    def _claim(self, info: TensorInfo) -> Group:
        for group in self.groups():
            if group.match(info):
                return group
        raise AssertionError(f"no group claims {info.key}")

    def own(self, client: Client) -> list[TensorInfo]:
        """The tensors that a client has: those of its modalities and the common ones."""
        return [t for t in self.tensors if t.modality is None or t.modality in client.modalities]

    def address(self, info: TensorInfo, client: Client) -> Address:
        """Where the server keeps a client's tensor."""
        return self._groups[info.key].scope(info, client), info.name

    def statistic_address(self, info: TensorInfo, client: Client, policy: str) -> Address:
        """The same for running statistics; under the policy `local` each client keeps its own."""
        if policy == "local":
            return client.id, info.name
        return self.address(info, client)

    # ---- which clients take part ---------------------------------------------------------------
    def participants(self, clients: Sequence[Client]) -> list[Client]:
        """The clients that train, in the order of their ids."""
        return sorted(clients, key=lambda client: client.id)

    def steps(self, clients: Sequence[Client], batches: Callable[[Client], int]) -> int | None:
        """A fixed number of steps per round; None: the client's own local epochs."""
        return None

    # ---- rounds -----------------------------------------------------------------------------
    def start(self, initial: dict[str, Tensor], clients: Sequence[Client]) -> Server:
        """The server before round 1: every scope starts from the same initial network."""
        server = Server({}, {policy: {} for policy in POLICIES})
        for client in clients:
            for info in self.own(client):
                if info.kind == "parameter":
                    server.parameters.setdefault(self.address(info, client), initial[info.key])
                elif info.kind == "statistic":
                    for policy in POLICIES:
                        place = self.statistic_address(info, client, policy)
                        server.statistics[policy].setdefault(place, initial[info.key])
        return server

    def broadcast(self, server: Server, client: Client) -> Broadcast:
        """What goes down to a client before its local training."""
        own = self.own(client)
        parameters = {
            t.key: server.parameters[self.address(t, client)] for t in own if t.kind == "parameter"
        }
        extras: dict[str, Tensor] = {}
        for module in self.modules:
            extras |= module.broadcast(server, client)
        return Broadcast(server.round, parameters, extras, self.statistics_bytes(server, client))

    def statistics_bytes(self, server: Server, client: Client) -> int:
        """Bytes of running statistics in one direction, under the policy in use."""
        if self.policy == "local":
            return 0
        return nbytes(
            server.statistics[self.policy][self.address(t, client)]
            for t in self.own(client)
            if t.kind == "statistic"
        )

    def local_terms(self, context: Context) -> list[tuple[str, Tensor]]:
        """Extra terms of the local loss, each already weighted, with their names."""
        terms = [(module.name, module.loss(context)) for module in self.modules]
        return [(name, term) for name, term in terms if term is not None]

    def edit_gradient(self, context: Context) -> None:
        """Change the gradients before the optimiser's step."""

    def finish_client(
        self, client: Client, broadcast: Broadcast, memory: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Declared extras of the uplink."""
        extras: dict[str, Tensor] = {}
        for module in self.modules:
            extras |= module.finish(client, broadcast, memory)
        return extras

    def server_step(
        self, server: Server, updates: Sequence[Update], clients: Sequence[Client]
    ) -> Server:
        """The next server state. `updates` may come in any order; sums run in order of ids."""
        ordered = sorted(updates, key=lambda update: update.client)
        nu = {u.client: float(u.size) if self.weights == "size" else 1.0 for u in ordered}
        parameters = dict(server.parameters)
        for place, delta in aggregation.weighted_sums(
            [u.delta for u in ordered], list(nu.values())
        ).items():
            parameters[place] = aggregation.add(server.parameters[place], delta)
        statistics = {
            policy: self._statistics(server.statistics[policy], ordered, nu, clients, policy)
            for policy in POLICIES
        }
        after = Server(parameters, statistics, dict(server.state), server.round + 1)
        for module in self.modules:
            module.receive(after, {u.client: u.extras for u in ordered})
        return after

    def _statistics(
        self,
        before: dict[Address, Tensor],
        updates: Sequence[Update],
        nu: dict[str, float],
        clients: Sequence[Client],
        policy: str,
    ) -> dict[Address, Tensor]:
        by_id = {client.id: client for client in clients}
        infos = {t.key: t for t in self.tensors if t.kind == "statistic"}
        scopes: dict[str, list[tuple[float, dict[str, Tensor]]]] = {}
        for update in updates:
            client = by_id[update.client]
            local: dict[str, dict[str, Tensor]] = {}
            for key, constant in update.statistics.items():
                scope, name = self.statistic_address(infos[key], client, policy)
                moved = update.decay[key] * before[scope, name].double() + constant.double()
                local.setdefault(scope, {})[name] = moved
            for scope, tensors in local.items():
                scopes.setdefault(scope, []).append((nu[update.client], tensors))
        after = dict(before)
        for scope, members in scopes.items():
            for name, value in aggregation.combine_statistics(
                members, pooled=policy == "modality"
            ).items():
                after[scope, name] = value.float()
        return after

    # ---- evaluation --------------------------------------------------------------------------
    def evaluation_view(
        self, server: Server, clients: Sequence[Client], policy: str
    ) -> list[Ensemble]:
        """The models under test; scores are averaged over the ensembles of the list."""
        return [(self.expert(server, _everyone(clients), policy),)]

    def expert(self, server: Server, client: Client, policy: str) -> Expert:
        """The model that a (possibly imagined) client would see under a policy."""
        tensors = {}
        for info in self.own(client):
            if info.kind == "parameter":
                tensors[info.key] = server.parameters[self.address(info, client)]
            elif info.kind == "statistic":
                place = self.statistic_address(info, client, policy)
                tensors[info.key] = server.statistics[policy][place]
        return Expert(client.id, client.modalities, tensors)


def _modality(info: TensorInfo, client: Client) -> str:
    assert info.modality is not None
    return info.modality


def _everyone(clients: Sequence[Client]) -> Client:
    modalities = tuple(sorted({q for client in clients for q in client.modalities}))
    return Client("all", "all", modalities, {})


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
