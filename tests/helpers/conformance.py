"""An algorithm in the real round loop against its closed form in NumPy."""

from __future__ import annotations

import numpy as np

from helpers import numpy_algorithms
from helpers import toy_problems as toy
from mmfl.params import BASES

TRAINED = [name for name in BASES if name != "prior"]
REPRESENTATIONS = ("moon", "prototypes", "mf+mim")  # need projections: the linear encoder
HYPER = {
    "fedprox": {"mu": 0.7},
    "scaffold": {"server_rate": 0.8},
    "moon": {"mu": 1.3, "temperature": 0.4},
    "feddyn": {"alpha": 0.6},
    "feddc": {"alpha": 0.3},
    "fedavgm": {"beta": 0.6},
    "fedadam": {"server_rate": 0.2, "beta1": 0.7, "beta2": 0.9, "tau": 0.05},
    "prototypes": {"weight": 0.8, "temperature": 0.4},
}
MIM = {"weight": 0.9, "temperature": 0.4, "negatives": "all"}
EVERYONE = {}
SOME = {  # b fails in round 2; c is late in round 2; nobody has s2 in round 3; all are back later
    "schedule": [
        {"round": 2, "client": "b-s1", "what": "fails"},
        {"round": 2, "client": "c-s2", "what": "late"},
        {"round": 3, "client": "c-s2", "what": "late"},
        {"round": 3, "client": "d-s2", "what": "fails"},
    ]
}
BOTH = {"a-s1": ("s1",), "b-s1": ("s1", "s2"), "c-s2": ("s2",), "d-s2": ("s1", "s2")}


def params_of(method, rounds=5, participation=EVERYONE, **train):
    own = {"algorithms": {method: HYPER[method]}} if method in HYPER else {}
    return toy.settings(rounds, participation=participation, mim=MIM, train=train, **own)


def check(method, work, participation=EVERYONE, held=toy.HELD, strategy=None, **train):
    """The real loop against NumPy, to 1e-11 of the largest value (1e-8 by differences)."""
    linear = method in REPRESENTATIONS
    network = toy.Linear() if linear else toy.Quadratic()
    members = toy.clients(held, overlap=linear)
    params = params_of(method, 3 if linear else 5, participation, **train)
    there = ("trained", "late") if method == "local" else ("trained",)  # late for what?
    problem = numpy_algorithms.Problem(
        network,
        members,
        toy.RATE,
        params.train.rounds,
        toy.STEPS,
        [toy.present(members, params, t, there) for t in range(params.train.rounds)],
        HYPER.get(method, MIM),
        params.train.momentum,
        uniform=params.train.weights == "uniform",
    )
    if method.startswith("centralised"):
        problem.attending = [members] * params.train.rounds
    expected = numpy_algorithms.REFERENCES[method](problem)
    server, _ = toy.run(method, network, members, params, work, strategy)
    assert set(server.parameters) == set(expected)
    scale = max(np.abs(value).max() for value in expected.values())
    for address, value in expected.items():
        np.testing.assert_allclose(
            server.parameters[address].numpy(), value, rtol=0,
            atol=(1e-8 if linear else 1e-11) * scale, err_msg=f"{method} {address}",
        )  # fmt: skip
    return server
