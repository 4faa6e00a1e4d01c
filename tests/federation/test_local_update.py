"""Local training of one client against NumPy: losses, samples, what is kept, sent and timed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from helpers.small_federation import federation
from helpers.toy_problems import RATE, Quadratic, Task, clients, settings
from mmfl.federation.local_update import local_update
from mmfl.strategies.base import Client, Module, Strategy

STEPS = 4


class Pull(Module):
    """Terms whose value and gradient are known: 0.25 (1, 2, ...) + 3 times the sum of psi."""

    name = "pull"

    def __init__(self):
        self.seen = []

    def loss(self, context):
        self.seen.append((context.steps, context.last_epoch, torch.is_autocast_enabled("cpu")))
        psi = context.network.psi
        return 0.25 * len(self.seen) + 3 * (psi - psi.detach()).sum()


class Told(Module):
    """Three numbers in float32 go up."""

    name = "told"

    def finish(self, client, memory):
        return {("s1", "numbers"): torch.tensor([1.0, 2.0, float(memory["begun"] is not None)])}


class Kept(Strategy):
    """Notes what it is given, and keeps and sends something at another place and type."""

    client_state = ("own", "more")
    uplink = ("sent",)

    def begin_client(self, context):
        context.memory["begun"] = {a: w.clone() for a, w in context.start.items()}
        self.found = context.own("own")
        self.rates = (context.rate, context.momentum)

    def finish_client(self, context, delta):
        self.steps = context.steps
        for place, start in context.start.items():  # as they were received
            assert torch.equal(start, context.memory["begun"][place])
        return ({"sent": {a: d.float() for a, d in delta.items()}},
                {"own": {a: d * 2 for a, d in delta.items()}, "more": delta})  # fmt: skip


def trained(client, modules=(), strategy=Strategy, kept=None, steps=STEPS, **train):
    """(update, strategy, network, what NumPy's descent says) after `STEPS` steps of a client."""
    network = Quadratic()
    built = strategy(network.infos(), [client], None, modules)
    server = built.start({k: v.detach().clone() for k, v in network.state_dict().items()})
    with torch.no_grad():  # of whoever trained last
        for parameter in network.parameters():
            parameter += 7
    params = settings(train=train)
    task = Task(network, {client.id: steps})
    broadcast = built.broadcast(server, client)
    if kept:
        broadcast.statistics_bytes = 1000
    found = local_update(task, built, broadcast, client, kept or {}, params.train)
    return found, built, network


def descent(network, client, pull=0.0):
    """(losses of the steps, differences of the weights) by the gradient by hand."""
    start = {n: np.zeros(p.shape) for n, p in network.named_parameters()}
    w, losses = dict(start), []
    for _ in range(STEPS):
        losses.append(network.loss(client, w))
        gradient = network.gradient(client, w)
        gradient["psi"] = gradient["psi"] + pull
        w |= {name: w[name] - RATE * g for name, g in gradient.items()}
    return losses, {name: w[name] - start[name] for name in gradient}


def both():
    """A client with s1 and s2 of some locations: 2 of both, 1 of s1, 3 of s2."""
    return Client(
        "a", "a", ("s1", "s2"), {"s1": np.array([1, 2, 9]), "s2": np.array([2, 4, 5, 6, 9])}
    )


@pytest.mark.parametrize("client", [clients()[1], both()], ids=["one", "both"])
def test_losses_are_means_over_the_steps_and_terms_are_apart(client):
    pull = Pull()
    found, _, network = trained(client, (pull,))
    losses, change = descent(network, client, 3.0)
    assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert found.metrics["loss_terms"] == pytest.approx(0.25 * np.mean([1, 2, 3, 4]))
    assert {name for _, name in found.delta} == set(change)
    for (_, name), value in found.delta.items():
        np.testing.assert_allclose(value.numpy(), change[name], rtol=1e-9, atol=1e-12)
    assert [seen[:2] for seen in pull.seen] == [(0, False), (1, False), (2, False), (3, True)]


class Pushed(Strategy):
    def edit_gradient(self, context):
        context.parameters["all", "psi"].grad += 3


def test_an_edited_gradient_is_the_one_of_the_step():
    client = clients()[1]
    found, _, network = trained(client, strategy=Pushed)
    _, change = descent(network, client, 3.0)
    for (_, name), value in found.delta.items():
        np.testing.assert_allclose(value.numpy(), change[name], rtol=1e-9, atol=1e-12)


def test_a_client_that_takes_no_step_has_lost_nothing_and_changed_nothing():
    found, *_ = trained(clients()[0], steps=0)
    assert found.metrics == {"loss": 0.0, "loss_terms": 0.0} and found.samples == {}
    assert found.steps == 0 and not any(value.any() for value in found.delta.values())


def test_samples_are_counted_by_what_they_have_and_weigh_by_the_client():
    """What the steps saw grows with them; a client's weight is the number of its samples."""
    found, *_ = trained(both())
    assert found.samples == {("s1",): 1 * STEPS, ("s2",): 3 * STEPS, ("s1", "s2"): 2 * STEPS}
    assert found.size == 6 and found.steps == STEPS


def test_what_is_kept_comes_back_and_what_is_sent_has_the_parameters_type():
    client = clients()[0]
    before = {("s1", "theta.s1"): torch.arange(3, dtype=torch.float64)}
    found, built, network = trained(client, (Told(),), Kept, {"own": before}, momentum=0.5)
    assert torch.equal(built.found["s1", "theta.s1"], before["s1", "theta.s1"])
    assert not built.found["all", "psi"].any()
    assert built.rates == (RATE, 0.5) and built.steps == STEPS
    for place, delta in found.delta.items():
        assert delta.dtype == torch.float64 and delta.any()
        assert torch.equal(found.kept["own"][place], 2 * delta)
        sent = found.extras["sent"][place]
        assert sent.dtype == torch.float64 and torch.equal(sent, delta.float().double())
    own = sum(
        parameter.numel() for name, parameter in network.named_parameters() if "s2" not in name
    )
    assert found.extras["told"]["s1", "numbers"].tolist() == [1, 2, 1]
    assert found.bytes == 2 * 8 * own + 12 + 1000  # what is kept stays


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_the_parameters(precision):
    pull = Pull()
    trained(clients()[0], (pull,), precision=precision)
    assert {autocast for *_, autocast in pull.seen} == {precision == "bfloat16"}
    assert not torch.is_autocast_enabled("cpu")


def test_the_plan_is_that_of_the_round_and_of_a_fixed_number_of_steps(store, tmp_path):
    fed, initial = federation(store, tmp_path)
    asked, plan = [], fed.task.plan
    fed.task.plan = lambda *given: asked.append(given) or plan(*given)
    server = fed.strategy.start(initial)
    server.round = 5
    client = fed.strategy.clients[0]
    broadcast = fed.strategy.broadcast(server, client)
    found = local_update(fed.task, fed.strategy, broadcast, client, {}, fed.params.train, 2)
    assert asked == [(client, 5, 2)] and found.steps == 2


def test_waiting_is_all_the_time_between_asking_and_reading():
    """Four reads of a hundredth of a second each."""
    client, network = clients()[0], Quadratic()
    built = Strategy(network.infos(), [client])
    server = built.start({k: v.detach().clone() for k, v in network.state_dict().items()})
    task = Task(network, {client.id: STEPS})
    task.read = lambda client, plan: (time.sleep(0.01) for _ in plan)
    broadcast = built.broadcast(server, client)
    found = local_update(task, built, broadcast, client, {}, settings().train)
    assert 0.04 <= found.seconds["waiting"] <= found.seconds["steps"]


def test_statistics_are_the_clients_own_also_when_the_next_one_trains(store, tmp_path):
    """The layers' decay is (1 - momentum) to the number of their batches, from zero."""
    fed, initial = federation(store, tmp_path)
    server = fed.strategy.start(initial)
    one, two = (c for c in fed.strategy.clients if c.modalities == ("s1",))

    def train(client, steps):
        broadcast = fed.strategy.broadcast(server, client)
        return local_update(fed.task, fed.strategy, broadcast, client, {}, fed.params.train, steps)

    first = train(one, 3)
    before = {key: value.clone() for key, value in first.statistics.items()}
    second = train(two, 2)
    assert before and all(torch.equal(first.statistics[key], v) for key, v in before.items())
    assert any(not torch.equal(second.statistics[key], v) for key, v in before.items())
    assert set(first.decay.values()) == {0.9**3} and set(second.decay.values()) == {0.9**2}
