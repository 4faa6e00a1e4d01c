"""Running statistics of several clients: weights, policies, and how often a layer was used."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.small_federation import federation
from mmfl.federation.local_update import local_update
from mmfl.federation.loop import federate
from mmfl.federation.task import schedule
from mmfl.patches.augment import Turned
from mmfl.strategies.base import POLICIES, Client, Strategy, TensorInfo, Update

MEAN, VAR = "s1.bn.running_mean", "s1.bn.running_var"
INFOS = [TensorInfo(key, key, "s1", "statistic", True, False) for key in (MEAN, VAR)]
CLIENTS = [Client(c, c, ("s1",), {"s1": np.arange(n)}) for c, n in (("a", 3), ("b", 9))]


def update(client, mean, var, decay):
    statistics = {MEAN: torch.tensor([mean]), VAR: torch.tensor([var])}
    return Update(client.id, client.size, 4, {}, statistics, dict.fromkeys((MEAN, VAR), decay))


@pytest.mark.parametrize(("weights", "p"), [("size", (0.25, 0.75)), ("uniform", (0.5, 0.5))])
def test_statistics_of_two_clients_by_hand(weights, p):
    """r_i = decay_i r + c_i, then by policy; the clients have 3 and 9 locations."""
    strategy = Strategy(INFOS, CLIENTS, weights=weights)
    server = strategy.start({MEAN: torch.tensor([2.0]), VAR: torch.tensor([1.0])})
    updates = [update(CLIENTS[0], 1.0, 3.0, 0.5), update(CLIENTS[1], 5.0, 0.25, 0.25)]
    after = strategy.server_step(server, updates)
    means, variances = (2.0, 5.5), (3.5, 0.5)
    mean = p[0] * means[0] + p[1] * means[1]
    within = p[0] * variances[0] + p[1] * variances[1]
    between = p[0] * (means[0] - mean) ** 2 + p[1] * (means[1] - mean) ** 2
    expected = {"average": (mean, within), "modality": (mean, within + between)}
    for policy, (m, v) in expected.items():
        assert after.statistics[policy]["s1", MEAN].item() == pytest.approx(m)
        assert after.statistics[policy]["s1", VAR].item() == pytest.approx(v)
        (expert,) = strategy.evaluation_view(after, policy)[0]
        assert expert.tensors[VAR].item() == pytest.approx(v)
    for client, m, v in zip(CLIENTS, means, variances, strict=True):
        own = strategy.expert(after, client, "local").tensors
        assert (own[MEAN].item(), own[VAR].item()) == pytest.approx((m, v))
    alone = strategy.server_step(server, updates[:1])  # the other is absent
    for policy in ("average", "modality"):
        assert alone.statistics[policy]["s1", VAR].item() == pytest.approx(3.5)
    assert torch.equal(alone.statistics["local"]["b", VAR], torch.tensor([1.0]))


def pooled(members, weights, centre):
    """By NumPy, of running mean and variance per layer: law of total variance."""
    found = {}
    for key in members[0]:
        values = np.stack([m[key].double().numpy() for m in members])
        found[key] = np.average(values, axis=0, weights=weights)
        if centre and key.endswith("var"):
            means = np.stack([m[key.replace("var", "mean")].double().numpy() for m in members])
            mean = np.average(means, axis=0, weights=weights)
            found[key] += np.average((means - mean) ** 2, axis=0, weights=weights)
    return {key: torch.from_numpy(np.asarray(value)).float() for key, value in found.items()}


def test_statistics_of_two_clients_in_the_loop(store, tmp_path):
    """Two clients of unequal size, three rounds, by torch's own layers that start from r."""
    store[1]["country"] = np.resize(np.repeat(list("AAAB"), 4), len(store[1]))
    fed, initial = federation(store, tmp_path, modalities=("s1",))
    given = fed.task.normaliser.client  # b's images are brighter: so are the means of its layers
    fed.task.normaliser.client = lambda q, x, client: given(q, x, client) + 5.0 * (client == "b-s1")
    server, _ = federate(fed, initial)
    clients = fed.task.data.clients
    sizes = [c.size for c in clients]
    assert len(clients) == 2 and sizes[0] > 2 * sizes[1]
    net, weights = copy.deepcopy(fed.task.network), {k: v.clone() for k, v in initial.items()}
    names = [n for n in initial if n.endswith(("running_mean", "running_var")) and ".s1." in n]
    start = {name: initial[name] for name in names}
    running = {"average": start, "modality": start} | {c.id: start for c in clients}
    for index in range(3):
        moved = {policy: [] for policy in ("average", "modality")}
        deltas = []
        for client in clients:
            for policy in ("average", "modality", client.id):
                net.load_state_dict(weights | running[policy])
                net.train()
                optimiser = torch.optim.SGD(net.parameters(), lr=fed.params.train.learning_rate)
                for epoch, _, chosen in schedule(client, fed.params, 1, index, None):
                    x = fed.task.data.batch("s1", chosen, Turned(1, epoch))
                    y = torch.from_numpy(fed.task.data.labels[chosen]).float()
                    z = net({"s1": fed.task.normaliser.client("s1", x, client.id)})
                    optimiser.zero_grad()
                    F.binary_cross_entropy_with_logits(z, y).backward()
                    optimiser.step()
                found = {name: net.state_dict()[name].clone() for name in names}
                if policy == client.id:
                    running[policy] = found
                else:
                    moved[policy].append(found)
            deltas.append({k: p.detach() - weights[k] for k, p in net.named_parameters()})
        for policy, members in moved.items():
            running[policy] = pooled(members, sizes, policy == "modality")
        for key in deltas[0]:
            change = np.average([d[key].double() for d in deltas], axis=0, weights=sizes)
            weights[key] = (weights[key].double() + torch.from_numpy(np.asarray(change))).float()
    shown = {"average": ["s1"], "modality": ["s1"], "local": ["a-s1", "b-s1"]}
    for policy, scope in ((policy, scope) for policy, scopes in shown.items() for scope in scopes):
        expected = running[scope if policy == "local" else policy]
        for name in names:
            value = server.statistics[policy][scope, name]
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    key = next(n for n in names if n.endswith("var"))
    one, two = (server.statistics[policy]["s1", key] for policy in ("average", "modality"))
    assert (two > 1.01 * one).any()


@pytest.mark.parametrize("method", ["mf", "mf+fw"])
def test_decay_counts_the_uses_of_a_layer(store, tmp_path, method):
    """s1 is missing from some batches: r_K = decay r_0 + c holds for any r_0 in every layer."""
    fed, initial = federation(store, tmp_path, method, assignment="both")
    held = fed.task.data.clients[0].train
    few = {"s1": np.setdiff1d(held["s1"], held["s2"][:-1])[:2], "s2": held["s2"]}
    client = Client("a-s1-s2", "a", ("s1", "s2"), few)
    fed.strategy = type(fed.strategy)(fed.strategy.tensors, [client])
    broadcast = fed.strategy.broadcast(fed.strategy.start(initial), client)
    found = local_update(fed.task, fed.strategy, broadcast, client, {}, fed.params.train)
    net, draw = fed.task.network, torch.Generator().manual_seed(0)
    before = {key: torch.rand(initial[key].shape, generator=draw) for key in found.statistics}
    net.load_state_dict(initial | before)
    net.train()
    uses = {}
    for name, layer in net.named_modules():
        if hasattr(layer, "running_mean"):
            layer.register_forward_hook(
                lambda *_, name=name: uses.update({name: uses.get(name, 0) + 1})
            )
    plan = fed.task.plan(client, 0, None)
    optimiser = torch.optim.SGD(net.parameters(), lr=fed.params.train.learning_rate)
    for (epoch, _, chosen), read in zip(plan, fed.task.read(client, plan), strict=True):
        optimiser.zero_grad()
        fed.task.batch(client, epoch, chosen, read).loss.backward()
        optimiser.step()
    assert min(uses.values()) < len(plan) == max(uses.values())
    for key, value in found.statistics.items():
        assert found.decay[key] == pytest.approx(0.9 ** uses[key.rpartition(".")[0]], rel=1e-12)
        expected = found.decay[key] * before[key] + value
        torch.testing.assert_close(net.state_dict()[key], expected, rtol=1e-4, atol=1e-5)


def test_every_policy_starts_from_the_networks_own_statistics():
    strategy = Strategy(INFOS, CLIENTS)
    server = strategy.start({MEAN: torch.tensor([2.0]), VAR: torch.tensor([3.0])})
    for policy in POLICIES:
        for client in CLIENTS:
            tensors = strategy.expert(server, client, policy).tensors
            assert (tensors[MEAN].item(), tensors[VAR].item()) == (2.0, 3.0)
