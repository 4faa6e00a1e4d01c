"""What every registered algorithm has to hold; a new one is covered as soon as it is registered.

Closed forms are in `helpers/numpy_algorithms.py`, the problems in `helpers/toy_problems.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import numpy_algorithms
from helpers import toy_problems as toy
from helpers.conformance import BOTH, EVERYONE, REPRESENTATIONS, SOME, TRAINED, check, params_of
from mmfl.params import BASES, parts
from mmfl.strategies import strategy as algorithm
from mmfl.strategies.base import Client

torch.set_num_threads(1)


def test_every_algorithm_has_a_reference():
    assert set(TRAINED) <= set(numpy_algorithms.REFERENCES)
    assert len({algorithm(name) for name in BASES if name != "prototypes"}) == len(BASES) - 1


@pytest.mark.parametrize("method", [*TRAINED, "mf+mim"])
@pytest.mark.parametrize("who", [EVERYONE, SOME], ids=["everyone", "some"])
def test_rounds_are_those_of_the_closed_form(method, who, tmp_path):
    """Unequal n_i, K_i and curvature, two scopes, five rounds; with absent and late clients."""
    check(method, tmp_path, who)


@pytest.mark.parametrize(
    "method", [m for m in TRAINED if m not in (*REPRESENTATIONS, "late-fusion")]
)
def test_clients_with_several_modalities_too(method, tmp_path):
    """Where clients belong to both modalities' scopes: b and d hold s1 and s2."""
    check(method, tmp_path, SOME, BOTH)


@pytest.mark.parametrize("method", ["mf", "scaffold", "fednova", "feddyn", "feddc", "fedavgm"])
def test_uniform_weights(method, tmp_path):
    check(method, tmp_path, SOME, weights="uniform")


def test_fednova_with_momentum(tmp_path):
    check("fednova", tmp_path, SOME, momentum=0.7)


def test_sampling_half_of_the_clients(tmp_path):
    for method in ("scaffold", "feddyn", "feddc"):
        check(method, tmp_path / method, {"fraction": 0.5, "fails": 0.2, "late": 0.2})


# ---- reductions to MF ---------------------------------------------------------------------------


def parameters(method, work, rounds=3, steps=None, **hyper):
    network, members = toy.Quadratic(), toy.clients()
    if method == "moon":
        network, members = toy.Linear(), toy.clients(overlap=True)
    own = {"algorithms": {method: hyper}} if hyper else {}
    server, _ = toy.run(method, network, members, toy.settings(rounds, **own), work, steps=steps)
    return server.parameters


@pytest.mark.parametrize(
    ("method", "rounds", "hyper"),
    [
        ("fedprox", 3, {"mu": 0.0}),
        ("scaffold", 1, {"server_rate": 1.0}),
        ("fedavgm", 3, {"beta": 0.0}),
        ("moon", 3, {"mu": 0.0}),
        ("moon", 1, {"mu": 5.0}),  # previous = global: the term is constant, its gradient 0
    ],
)
def test_reductions_to_mf_to_the_bit(method, rounds, hyper, tmp_path):
    one = parameters(method, tmp_path / "one", rounds, **hyper)
    network = toy.Linear() if method == "moon" else toy.Quadratic()
    members = toy.clients(overlap=method == "moon")
    two, _ = toy.run("mf", network, members, toy.settings(rounds), tmp_path / "mf")
    for address, value in two.parameters.items():
        if method == "moon" and rounds == 1:
            torch.testing.assert_close(one[address], value, rtol=0, atol=1e-14)
        else:
            assert torch.equal(one[address], value), address


def test_fedbn_without_norm_layers_is_mf_to_the_bit(tmp_path):
    # none of the linear encoder's layers is a norm layer
    two, _ = toy.run("mf", toy.Linear(), toy.clients(), toy.settings(), tmp_path / "mf")
    one, _ = toy.run("fedbn", toy.Linear(), toy.clients(), toy.settings(), tmp_path / "bn")
    assert all(torch.equal(one.parameters[a], v) for a, v in two.parameters.items())


def test_fednova_with_equal_steps_is_mf_within_rounding(tmp_path):
    equal = dict.fromkeys(toy.STEPS, 4)
    one = parameters("fednova", tmp_path / "one", steps=equal)
    two = parameters("mf", tmp_path / "two", steps=equal)
    for address, value in two.items():
        torch.testing.assert_close(one[address], value, rtol=1e-13, atol=1e-14)


def test_fednova_with_a_client_that_took_no_step(tmp_path):
    """Its difference is 0 and its walk 0: it lowers tau_eff, nothing is divided by zero."""
    found = parameters("fednova", tmp_path, steps=toy.STEPS | {"a-s1": 0})
    assert all(torch.isfinite(value).all() for value in found.values())
    start = toy.Quadratic().state_dict()
    assert not torch.equal(found["all", "psi"], start["psi"])


# ---- order and weights ----------------------------------------------------------------------


def built(method, **sections):
    """A strategy for the toy problem, with its network."""
    from mmfl.federation.setup import assemble

    network = toy.Linear() if parts(method)[1] or method == "moon" else toy.Quadratic()
    base, modules = parts(method)
    members = toy.clients(overlap=isinstance(network, toy.Linear))
    params = params_of(method, **sections)
    return assemble(base, modules, params, network.infos(), members), network, params


COMPOSED = [*TRAINED, "mf+mim", "scaffold+mim", "feddyn+mim", "moon+mim+prototypes", "fedbn+mim"]


def one_round(method):
    """The server before a round, the updates, the broadcasts and the strategy."""
    from mmfl.federation.local_update import local_update

    strategy, network, params = built(method)
    initial = {key: value.detach().clone() for key, value in network.state_dict().items()}
    server = strategy.start(initial)
    for _ in range(2):  # the second round: state is not zero any more
        before = server
        broadcasts = {c.id: strategy.broadcast(server, c) for c in strategy.clients}
        updates = [
            local_update(
                toy.Task(network), strategy, broadcasts[c.id], c,
                server.clients.get(c.id, {}), params.train,
            )
            for c in strategy.clients
        ]  # fmt: skip
        server = strategy.server_step(server, updates)
    return strategy, before, broadcasts, updates


@pytest.mark.parametrize("method", COMPOSED)
def test_the_order_in_which_clients_finish_changes_nothing(method):
    from mmfl.federation.checkpoint import flatten

    strategy, server, _, updates = one_round(method)
    one = flatten(strategy.server_step(server, updates))
    two = flatten(strategy.server_step(server, updates[::-1]))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", TRAINED)
def test_weights_sum_to_one_in_every_scope(method):
    strategy, *_ = built(method)
    for address in strategy.start(dict(toy.Quadratic().state_dict()) if method not in
                                  ("moon", "prototypes") else
                                  dict(toy.Linear().state_dict())).parameters:  # fmt: skip
        members = strategy.members[address[0]]
        assert abs(sum(strategy.share(address, client) for client in members) - 1) < 1e-12
        assert strategy.count(address) == len(members)


# ---- where they arrive ----------------------------------------------------------------------


def optimum(network, members):
    """argmin of sum_i n_i f_i / sum_i n_i in closed form: normal equations over all scopes."""
    names = [n for n, _ in network.named_parameters()]
    size = {n: p.numel() for n, p in network.named_parameters()}
    first = dict(zip(names, np.cumsum([0, *(size[n] for n in names)]), strict=False))
    total = sum(size.values())
    hessian, right = np.zeros((total, total)), np.zeros(total)
    for client in members:
        for q in client.modalities:
            rows = client.train[q]
            columns = np.concatenate([
                np.arange(first[n], first[n] + size[n]) for n in (f"theta.{q}", f"gamma.{q}", "psi")
            ])  # fmt: skip
            x = network.x[q][rows]
            weight = len(client.locations) / len(client.modalities) / len(rows)
            hessian[np.ix_(columns, columns)] += weight * x.T @ x
            right[columns] += weight * x.T @ network.y[rows]
    solution = np.linalg.solve(hessian, right)
    return {n: solution[first[n] : first[n] + size[n]] for n in names}


SIZES = {"a-s1": 10, "b-s1": 16, "c-s2": 12, "d-s2": 20}


def after_300_rounds(method, work, **own):
    """A method's server where clients are of unequal size."""
    params = toy.settings(300, rate=0.2, **own)
    return toy.run(method, toy.Quadratic(), toy.clients(sizes=SIZES), params, work)[0]


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    return after_300_rounds("mf", tmp_path_factory.mktemp("mf"))


@pytest.mark.parametrize(
    ("method", "hyper"),
    [
        ("scaffold", {"server_rate": 1.0}),
        ("feddyn", {"alpha": 0.1}),
        ("feddyn", {"alpha": 1.0}),
        ("feddc", {"alpha": 0.1}),
    ],
)
def test_they_reach_the_weighted_optimum_where_mf_does_not(method, hyper, far, tmp_path):
    """Two scopes, psi shared; the optimum is that of the size-weighted objective."""
    expected = optimum(toy.Quadratic(), toy.clients(sizes=SIZES))
    server = after_300_rounds(method, tmp_path, algorithms={method: hyper})
    distance = {
        name: max(np.abs(s.parameters[a].numpy() - expected[a[1]]).max() for a in s.parameters)
        for name, s in (("mf", far), (method, server))
    }
    assert distance[method] < 1e-6, distance
    assert distance["mf"] > 1e-1, distance


# ---- budgets; groups are in tests/federation -------------------------------------------------


@pytest.mark.parametrize("method", COMPOSED)
def test_equal_local_budgets(method, tmp_path):
    """Every algorithm takes the K_i steps of the plan on the n_i samples of the client."""
    if method.startswith("centralised"):
        return
    strategy, network, params = built(method, rounds=2)
    members = strategy.population
    _, rows = toy.run(method, network, members, params, tmp_path)
    taken = [(r["client"], r["steps"]) for r in rows if r["client"] != "server"]
    assert taken == [(c.id, toy.STEPS[c.id]) for c in members] * 2


# ---- invariants under sampling ------------------------------------------------------------------


@pytest.mark.parametrize("who", [EVERYONE, SOME, {"fraction": 0.5, "fails": 0.3, "late": 0.2}])
def test_invariants(who, tmp_path):
    """SCAFFOLD c = sum pi_i c_i; FedDyn h = sum pi_i g_i; FedDC g = sum pi_i g_i, h = mean h_i."""
    for method, slot, own, weight in (
        ("scaffold", "scaffold.c", "scaffold.c", "pi"),
        ("feddyn", "feddyn.h", "feddyn.g", "pi"),
        ("feddc", "feddc.g", "feddc.g", "pi"),
        ("feddc", "feddc.h", "feddc.h", "mean"),
    ):
        strategy, network, params = built(method, participation=who)
        server, _ = toy.run(method, network, strategy.population, params, tmp_path / method / slot)
        for address, value in server.state[slot].items():
            held = {
                c: slots[own][address]
                for c, slots in server.clients.items()
                if address in slots[own]
            }
            expected = sum(
                (strategy.share(address, c) if weight == "pi" else 1 / strategy.count(address)) * x
                for c, x in held.items()
            )
            torch.testing.assert_close(
                value, expected + torch.zeros_like(value), rtol=0, atol=1e-12
            )


# ---- traffic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", COMPOSED)
def test_what_travels_is_what_was_declared(method):
    strategy, server, broadcasts, updates = one_round(method)
    modules = {module.name for module in strategy.modules}
    parameters = {address for address in server.parameters}
    assert set(server.state) - modules == set(strategy.server_state)
    for slot in strategy.server_state:
        assert set(server.state[slot]) == parameters, "state of something that is no parameter"
    by_id = {client.id: client for client in strategy.clients}
    for client, broadcast in broadcasts.items():
        own = set(broadcast.parameters)
        assert own == {strategy.address(t, by_id[client]) for t in strategy.own(by_id[client])}
        assert set(broadcast.extras) - modules == set(strategy.downlink)
        for slot in strategy.downlink:
            assert set(broadcast.extras[slot]) == own
        assert broadcast.bytes == travelling(broadcast.parameters, client) + sum(
            travelling(tensors, None) for tensors in broadcast.extras.values()
        )
    for update in updates:
        own = set(broadcasts[update.client].parameters)
        assert set(update.delta) == own
        assert set(update.extras) - modules == set(strategy.uplink)
        assert set(update.kept) == set(strategy.client_state)
        for slot in strategy.client_state:
            assert set(update.kept[slot]) == own
        assert update.bytes == travelling(
            broadcasts[update.client].parameters, update.client
        ) + sum(travelling(tensors, None) for tensors in update.extras.values())


def travelling(tensors, client):
    """Bytes of tensors in other scopes than the client's own, from NumPy."""
    return sum(t.numpy().nbytes for (scope, _), t in tensors.items() if scope != client)


def test_anchors_without_a_server_send_nothing():
    for method in ("local", "centralised-steps", "centralised-epochs"):
        _, _, broadcasts, updates = one_round(method)
        assert {b.bytes for b in broadcasts.values()} | {u.bytes for u in updates} == {0}


def test_a_scope_without_participant_stays(tmp_path):
    nobody = {"schedule": [{"round": 1, "client": c, "what": "fails"} for c in ("c-s2", "d-s2")]}
    for method in ("mf", "fedavgm", "fedadam", "feddyn", "feddc", "scaffold", "fednova"):
        strategy, network, params = built(method, rounds=1, participation=nobody)
        members = strategy.population
        server, _ = toy.run(method, network, members, params, tmp_path / method)
        assert not server.parameters["s2", "theta.s2"].any()
        assert server.parameters["s1", "theta.s1"].any() and server.parameters["all", "psi"].any()


def test_a_client_is_known_by_what_it_holds():
    client = Client("a", "a", ("s1", "s2"), {"s1": np.arange(4), "s2": np.arange(2, 7)})
    assert client.size == 7
