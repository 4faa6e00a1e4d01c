"""Objectives in place of a network, for the real round loop: small, in float64, known to NumPy.

A location l has, per modality q, a vector a_lq and a target y_l. Every objective is the mean over a
client's modalities of the mean over the locations that it holds in each. Each is written twice: in
torch for the project, in NumPy (`loss`) for the closed forms.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mmfl.federation.attendance import attendance
from mmfl.federation.loop import Federation, federate
from mmfl.federation.setup import assemble
from mmfl.params import Params, parts
from mmfl.strategies.base import Batch, Client, TensorInfo

RATE = 0.1
HELD = {"a-s1": ("s1",), "b-s1": ("s1",), "c-s2": ("s2",), "d-s2": ("s2",)}
SIZES = {"a-s1": 3, "b-s1": 9, "c-s2": 5, "d-s2": 14}
STEPS = {"a-s1": 2, "b-s1": 5, "c-s2": 3, "d-s2": 4, "all": 5}


def clients(held=HELD, sizes=SIZES, overlap=False):
    """Clients with locations of their own; `overlap`: a and c share pairs, as do b and d."""
    found, first = [], 0
    for name, modalities in held.items():
        begin = {"c-s2": 0, "d-s2": 3}.get(name, first) if overlap else first
        rows = np.arange(begin, begin + sizes[name])
        found.append(Client(name, name[0], modalities, {q: rows for q in modalities}))
        first = max(first, rows[-1] + 1)
    return found


class Quadratic(nn.Module):
    """(theta_q . a + psi . b + gamma_q . e - y)^2 / 2; gamma counts as a norm layer's parameter."""

    def __init__(self, modalities=("s1", "s2"), seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        locations = 60
        self.x = {q: rng.normal(size=(locations, 7)) * rng.uniform(0.3, 1.5, 7) for q in modalities}
        self.y = rng.normal(size=locations) + np.arange(locations) / 15
        self.theta = nn.ParameterDict({q: _vector(3) for q in modalities})
        self.gamma = nn.ParameterDict({q: _vector(2) for q in modalities})
        self.psi = _vector(2)

    def infos(self):
        """psi for all; theta and gamma per modality, gamma of a norm layer."""
        found = [TensorInfo("psi", "psi", None, "parameter", False, False)]
        for q in self.theta:
            found.append(TensorInfo(f"theta.{q}", f"theta.{q}", q, "parameter", False, False))
            found.append(TensorInfo(f"gamma.{q}", f"gamma.{q}", q, "parameter", True, False))
        return found

    def objective(self, client, rows):
        terms = []
        for q in client.modalities:
            held = rows[np.isin(rows, client.train[q])]
            x = torch.from_numpy(self.x[q][held])
            w = torch.cat([self.theta[q], self.gamma[q], self.psi])
            terms.append(((x @ w - torch.from_numpy(self.y[held])) ** 2).mean() / 2)
        return torch.stack(terms).mean(), {}, {}

    def loss(self, client, w):
        """The same in NumPy; w: name -> array."""
        total = 0.0
        for q in client.modalities:
            rows = client.train[q]
            joint = np.concatenate([w[f"theta.{q}"], w[f"gamma.{q}"], w["psi"]])
            total += ((self.x[q][rows] @ joint - self.y[rows]) ** 2).mean() / 2
        return total / len(client.modalities)

    def gradient(self, client, w):
        """d loss / d w by hand: X^T (X w - y) / n, cut into its parts."""
        found = {}
        for q in client.modalities:
            rows = client.train[q]
            joint = np.concatenate([w[f"theta.{q}"], w[f"gamma.{q}"], w["psi"]])
            x = self.x[q][rows]
            g = x.T @ (x @ joint - self.y[rows]) / len(rows) / len(client.modalities)
            found[f"theta.{q}"], found[f"gamma.{q}"] = g[:3], g[3:5]
            found["psi"] = found.get("psi", 0) + g[5:]
        return found


class Linear(nn.Module):
    """A linear encoder, a linear head and a linear classifier: (psi theta_q a - y)^2 / 2.

    Projections are omega_q theta_q a, normalised. `labels`: two classes per location.
    """

    def __init__(self, modalities=("s1", "s2"), seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        locations = 60
        self.a = {q: rng.normal(size=(locations, 4)) for q in modalities}
        self.y = rng.normal(size=locations)
        self.labels = (rng.random((locations, 3)) < 0.5).astype(np.float64)
        self.theta = nn.ParameterDict(
            {q: nn.Parameter(torch.from_numpy(rng.normal(size=(3, 4)) / 2)) for q in modalities}
        )
        self.omega = nn.ParameterDict(
            {q: nn.Parameter(torch.from_numpy(rng.normal(size=(2, 3)))) for q in modalities}
        )
        self.psi = nn.Parameter(torch.from_numpy(rng.normal(size=3) / 2))

    def infos(self):
        found = [TensorInfo("psi", "psi", None, "parameter", False, False)]
        for name in ("theta", "omega"):
            for q in self.theta:
                key = f"{name}.{q}"
                head = name == "omega"
                found.append(TensorInfo(key, key, q, "parameter", False, False, head))
        return found

    def features(self, modality, x):
        return x @ self.theta[modality].T

    def project(self, modality, features):
        return F.normalize(features @ self.omega[modality].T, dim=1)

    def objective(self, client, rows):
        terms, inputs, features = [], {}, {}
        for q in client.modalities:
            held = rows[np.isin(rows, client.train[q])]
            inputs[q] = torch.from_numpy(self.a[q][held])
            features[q] = self.features(q, inputs[q])
            error = features[q] @ self.psi - torch.from_numpy(self.y[held])
            terms.append((error**2).mean() / 2)
        return torch.stack(terms).mean(), inputs, features

    def loss(self, client, w):
        total = 0.0
        for q in client.modalities:
            rows = client.train[q]
            error = self.a[q][rows] @ w[f"theta.{q}"].T @ w["psi"] - self.y[rows]
            total += (error**2).mean() / 2
        return total / len(client.modalities)

    def projected(self, w, q, rows):
        """(B, d) in NumPy."""
        z = self.a[q][rows] @ w[f"theta.{q}"].T @ w[f"omega.{q}"].T
        return z / np.linalg.norm(z, axis=1, keepdims=True)


def _vector(size):
    return nn.Parameter(torch.zeros(size, dtype=torch.float64))


class Task:
    """Whole-batch descent on an objective: K_i steps a round, the last one its last epoch."""

    def __init__(self, network, steps=None):
        self.network = network
        self.device = torch.device("cpu")
        self.steps = steps or STEPS

    def plan(self, client, round_index, steps):
        count = self.steps[client.id] if steps is None else steps
        return [(k, k == count - 1, client.locations) for k in range(count)]

    def read(self, client, plan):
        return [None] * len(plan)

    def batch(self, client, epoch, locations, read=None):
        loss, inputs, features = self.network.objective(client, locations)
        present = {q: np.isin(locations, client.train[q]) for q in client.modalities}
        labels = getattr(self.network, "labels", np.zeros((60, 1)))[locations]
        return Batch(locations, present, inputs, features, torch.from_numpy(labels), loss)

    def pairs(self, client, modality):
        rows = client.train[modality]
        return [(rows, torch.from_numpy(self.network.a[modality][rows]))]

    def validate(self, ensembles):
        return None


def settings(rounds=3, rate=RATE, **sections):
    """Parameters for the loop: plain SGD."""
    train = {"methods": ["mf"], "rounds": rounds, "learning_rate": rate}
    return Params.model_validate({"train": train | sections.pop("train", {})} | sections)


def run(method, network, members, params, work, strategy=None, workers=1, steps=None):
    """The real round loop on an objective: the final server and its rows."""
    base, modules = parts(method)
    built = assemble(base, modules, params, network.infos(), members)
    if strategy is not None:  # another class in its place
        built = strategy(
            network.infos(), members, built.hyper, built.modules, built.weights, built.policy
        )
    fed = Federation(
        Task(network, steps), built, params, 1, lambda m: 1.0, lambda q: 0.0, work, workers=workers
    )
    initial = {key: value.detach().clone() for key, value in network.state_dict().items()}
    return federate(fed, initial)


def present(members, params, round_index, states=("trained",)):
    """The clients whose updates count in a round, by the drawn schedule."""
    found = attendance(members, params.participation, 1, round_index)
    return [client for client in members if found.get(client.id) in states]
