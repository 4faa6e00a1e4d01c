"""What an algorithm is: data plus a few small functions. The round loop knows no algorithm's name.

A `Strategy` declares groups of tensors (who shares what) and named state, may add loss terms or
edit gradients, and turns the clients' updates into the next server state. The default is MF,
multi-modal FedAvg (docs/method.md, section 2). A `Module` (MIM, prototypes) adds to a strategy
without owning any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmfl.models.dense import Features
from mmfl.models.ensemble import Ensemble, Expert
from mmfl.strategies import aggregation
from mmfl.strategies.exchange import (
    POLICIES,
    Address,
    Batch,
    Broadcast,
    Client,
    Context,
    Group,
    Server,
    Slots,
    TensorInfo,
    Tensors,
    Update,
    nbytes,
    slot_bytes,
)

__all__ = [
    "POLICIES", "Address", "Batch", "Broadcast", "Client", "Context", "Group", "Module", "Server",
    "Slots", "Strategy", "TensorInfo", "Tensors", "Update", "everyone", "nbytes", "slot_bytes",
]  # fmt: skip


class Module:
    """An addition to a strategy: loss terms and state in a slot of its own (see `modules/`)."""

    name = ""

    def bind(self, clients: Sequence[Client]) -> None:
        """Learn who trains."""

    def fresh(self, client: Client) -> bool:
        """Whether this client makes an extra forward pass before the round."""
        return False

    def extra(
        self, memory: dict[str, Any], network: Any, q: str, features: Features, ids: np.ndarray
    ) -> None:
        """Take note of the extra pass's features of the locations `ids` in modality q."""

    def broadcast(self, server: Server, client: Client) -> Tensors:
        """What goes down to this client, in the slot `name`."""
        return {}

    def loss(self, context: Context) -> Tensor | None:
        """A weighted loss term of the step, or None."""
        return None

    def finish(self, client: Client, memory: dict[str, Any]) -> Tensors:
        """What goes up from this client, in the slot `name`."""
        return {}

    def receive(self, server: Server, uploads: dict[str, Tensors]) -> None:
        """Take the clients' uploads, client id -> tensors, into `server.state[name]`."""


class Strategy:
    """MF, multi-modal FedAvg: backbones within a modality, the classifier over all clients.

    Server step: w += sum_i p_i delta_i per scope (McMahan et al., 1602.05629, algorithm 1, with
    the weights of docs/method.md). Subclasses override what differs.

    Args:
        hyper: own hyper-parameters, a section of `params.algorithms`.
        weights: nu_i = n_i (`size`) or 1 (`uniform`).
        policy: which running statistics are shown first.
    """

    exchanges = True
    """Whether anything travels between clients and server."""
    server_state: tuple[str, ...] = ()
    """Slots of the server, a tensor per parameter, zero at the start."""
    client_state: tuple[str, ...] = ()
    """Slots that each client keeps for itself."""
    downlink: tuple[str, ...] = ()
    """Slots of the server that a client receives beside its parameters."""
    uplink: tuple[str, ...] = ()
    """Slots that a client returns beside its differences."""
    extra_forwards = 0
    """Forward passes (features and projection) that a local step adds."""
    counts_labels = False
    """Whether it wants the class frequencies of the training data, in `frequencies`."""
    frequencies: Tensor | None = None

    def __init__(
        self,
        tensors: Sequence[TensorInfo],
        clients: Sequence[Client],
        hyper: Any = None,
        modules: Sequence[Module] = (),
        weights: Literal["size", "uniform"] = "size",
        policy: str = "modality",
    ) -> None:
        self.tensors = tuple(tensors)
        self.hyper = hyper
        self.modules = tuple(modules)
        self.weights = weights
        self.policy = policy
        self._groups = {info.key: self._claim(info) for info in self.tensors}
        self.population = sorted(clients, key=lambda client: client.id)
        self.clients = self.trainers(self.population)
        self.members: dict[str, dict[str, float]] = {}  # scope -> client -> nu_i
        for client in self.clients:
            for info in self.own(client):
                if info.kind == "parameter":
                    scope = self.address(info, client)[0]
                    self.members.setdefault(scope, {})[client.id] = self.nu(client.size)
        for module in self.modules:
            module.bind(self.clients)

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
        held = [t for t in self.tensors if t.modality is None or t.modality in client.modalities]
        return [t for t in held if self.projects or not t.projection]

    @property
    def projects(self) -> bool:
        """Whether a loss reaches the projection heads; if not, nobody has or sends them."""
        return bool(self.modules) or self.extra_forwards > 0

    def address(self, info: TensorInfo, client: Client) -> Address:
        """Where a client's tensor is kept."""
        return self._groups[info.key].scope(info, client), info.name

    def statistic_address(self, info: TensorInfo, client: Client, policy: str) -> Address:
        """The same for running statistics; under the policy `local` each client keeps its own."""
        if policy == "local":
            return client.id, info.name
        return self.address(info, client)

    # ---- weights -----------------------------------------------------------------------------
    def nu(self, size: int) -> float:
        """nu_i of a client with n_i = `size` locations."""
        return float(size) if self.weights == "size" else 1.0

    def share(self, address: Address, client: str) -> float:
        """pi_i = nu_i / sum nu over all clients of the tensor's scope."""
        members = self.members[address[0]]
        return members[client] / sum(members.values())

    def count(self, address: Address) -> int:
        """N: the number of clients in the tensor's scope."""
        return len(self.members[address[0]])

    # ---- which clients train -------------------------------------------------------------------
    def trainers(self, clients: Sequence[Client]) -> list[Client]:
        """Who trains, given the clients of the partition in the order of their ids."""
        return list(clients)

    def steps(self, epoch: Callable[[Client], int]) -> int | None:
        """A fixed number of steps per round; None: the client's own local epochs.

        `epoch` tells how many steps a client's local epochs take.
        """
        return None

    # ---- rounds -----------------------------------------------------------------------------
    def start(self, initial: dict[str, Tensor]) -> Server:
        """The server before round 1: every scope starts from the same initial network."""
        server = Server({}, {policy: {} for policy in POLICIES})
        for client in self.clients or self.population:
            for info in self.own(client):
                if info.kind == "parameter":
                    server.parameters.setdefault(self.address(info, client), initial[info.key])
                elif info.kind == "statistic":
                    for policy in POLICIES:
                        place = self.statistic_address(info, client, policy)
                        server.statistics[policy].setdefault(place, initial[info.key])
        for slot in self.server_state:
            server.state[slot] = {a: torch.zeros_like(w) for a, w in server.parameters.items()}
        return server

    def broadcast(self, server: Server, client: Client) -> Broadcast:
        """What a client starts its local training from."""
        own = [self.address(t, client) for t in self.own(client) if t.kind == "parameter"]
        parameters = {address: server.parameters[address] for address in own}
        extras: Slots = {s: {a: server.state[s][a] for a in parameters} for s in self.downlink}
        for module in self.modules:
            tensors = module.broadcast(server, client)
            if tensors:
                extras[module.name] = tensors
        statistics = self.statistics_bytes(server, client)
        total = self.travelling(parameters, client) + statistics + slot_bytes(extras)
        return Broadcast(server.round, parameters, extras, statistics, total)

    def travelling(self, parameters: Tensors, client: Client) -> int:
        """Bytes of those parameters that do not belong to the client alone."""
        return nbytes(value for (scope, _), value in parameters.items() if scope != client.id)

    def statistics_bytes(self, server: Server, client: Client) -> int:
        """Bytes of running statistics in one direction, under the policy in use."""
        if self.policy == "local":
            return 0
        places = [self.address(t, client) for t in self.own(client) if t.kind == "statistic"]
        return self.travelling({a: server.statistics[self.policy][a] for a in places}, client)

    # ---- a client's side -----------------------------------------------------------------------
    def begin_client(self, context: Context) -> None:
        """Prepare what the steps of this round need, in `context.memory`."""

    def local_terms(self, context: Context) -> list[Tensor]:
        """Extra terms of the local loss, each already weighted."""
        terms = [module.loss(context) for module in self.modules]
        return [term for term in terms if term is not None]

    def edit_gradient(self, context: Context) -> None:
        """Change the gradients before the optimiser's step."""

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        """What goes up (the slots `uplink`) and what the client keeps (`client_state`).

        `delta` is w_i - w in float64; results are rounded to the parameters' type by the caller.
        """
        return {}, {}

    def module_uploads(self, client: Client, memory: dict[str, Any]) -> Slots:
        """What the modules send up."""
        found = {module.name: module.finish(client, memory) for module in self.modules}
        return {name: tensors for name, tensors in found.items() if tensors}

    # ---- the server's side ---------------------------------------------------------------------
    def server_step(self, server: Server, updates: Sequence[Update]) -> Server:
        """The next server. `updates` may come in any order; sums run in order of ids."""
        ordered = sorted(updates, key=lambda update: update.client)
        after = Server(
            dict(server.parameters),
            {policy: self._statistics(server, ordered, policy) for policy in POLICIES},
            {slot: dict(tensors) for slot, tensors in server.state.items()},
            server.clients | {u.client: u.kept for u in ordered if u.kept},
            server.round + 1,
        )
        for address, change in self.aggregate(after, ordered).items():
            after.parameters[address] = aggregation.add(server.parameters[address], change)
        self.receive(after, {u.client: u.extras for u in ordered})
        return after

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        """What is added to the parameters of every scope that took part, in float64.

        `server.parameters` are those before the round; `server.state` may be replaced.
        """
        return self.mean_change(updates)

    def mean_change(self, updates: Sequence[Update]) -> Tensors:
        """sum_i p_i delta_i per scope."""
        return aggregation.weighted_sums(
            [u.delta for u in updates], [self.nu(u.size) for u in updates]
        )

    def population_sum(self, updates: Sequence[Update], slot: str) -> Tensors:
        """sum_i pi_i x_i of an uplink slot: over participants, weighted in the whole scope."""
        return aggregation.sums(
            {a: self.share(a, u.client) * x.double() for a, x in u.extras[slot].items()}
            for u in updates
        )

    def receive(self, server: Server, uploads: dict[str, Slots]) -> None:
        """Hand the clients' uploads to the modules that they belong to."""
        for module in self.modules:
            own = {c: slots[module.name] for c, slots in uploads.items() if module.name in slots}
            module.receive(server, own)

    def _statistics(self, server: Server, updates: Sequence[Update], policy: str) -> Tensors:
        before = server.statistics[policy]
        by_id = {client.id: client for client in self.clients}
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
                scopes.setdefault(scope, []).append((self.nu(update.size), tensors))
        after = dict(before)
        for scope, members in scopes.items():
            for name, value in aggregation.combine_statistics(
                members, pooled=policy == "modality"
            ).items():
                after[scope, name] = value.to(before[scope, name].dtype)
        return after

    # ---- evaluation --------------------------------------------------------------------------
    def evaluation_view(self, server: Server, policy: str) -> list[Ensemble]:
        """The models under test; scores are averaged over the ensembles of the list."""
        return [(self.expert(server, everyone(self.population), policy),)]

    def expert(self, server: Server, client: Client, policy: str) -> Expert:
        """The model that a (possibly imagined) client would see under a policy."""
        tensors = {}
        for info in self.own(client):
            if info.kind == "parameter":
                tensors[info.key] = self.tested(server, info, client)
            elif info.kind == "statistic":
                place = self.statistic_address(info, client, policy)
                tensors[info.key] = server.statistics[policy][place]
        return Expert(client.id, client.modalities, tensors)

    def tested(self, server: Server, info: TensorInfo, client: Client) -> Tensor:
        """A parameter of the model that a client would see."""
        return server.parameters[self.address(info, client)]


def _modality(info: TensorInfo, client: Client) -> str:
    assert info.modality is not None
    return info.modality


def everyone(clients: Sequence[Client]) -> Client:
    """An imagined client that holds every modality."""
    modalities = tuple(sorted({q for client in clients for q in client.modalities}))
    return Client("all", "all", modalities, {})
