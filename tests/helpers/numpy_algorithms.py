"""The compared algorithms once more, in NumPy, from the formulas: nothing of the project is used.

A model is a dict name -> array: "psi", "theta.s1", ... Who shares a name is in `scope`. A reference
is a function (problem) -> the models after `problem.rounds` rounds, scope -> name -> array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Problem:
    """What is trained, by whom, and who takes part in each round."""

    network: Any
    members: list
    rate: float
    rounds: int
    steps: dict[str, int]
    attending: list[list]
    hyper: dict[str, float] = field(default_factory=dict)
    momentum: float = 0.0
    own: tuple[str, ...] = ()  # prefixes of names that a client keeps for itself
    uniform: bool = False

    def initial(self):
        return {k: v.detach().numpy().copy() for k, v in self.network.state_dict().items()}

    def names(self, client):
        return [n for n in self.initial() if "." not in n or n.split(".")[1] in client.modalities]

    def scope(self, name, client):
        if name.split(".")[0] in self.own:
            return client.id
        return "all" if "." not in name else name.split(".")[1]

    def nu(self, client):
        return 1.0 if self.uniform else float(len(client.locations))

    def holders(self, scope, name, among=None):
        return [
            c for c in (self.members if among is None else among)
            if name in self.names(c) and self.scope(name, c) == scope
        ]  # fmt: skip

    def pi(self, client, name):
        scope = self.scope(name, client)
        return self.nu(client) / sum(self.nu(c) for c in self.holders(scope, name))

    def start(self):
        first = self.initial()
        return {(self.scope(n, c), n): first[n] for c in self.members for n in self.names(c)}

    def gradient(self, client, w, extra=None):
        """By hand where the objective has one, else by differences (5 points) of the NumPy loss."""
        if extra is None and hasattr(self.network, "gradient"):
            return self.network.gradient(client, w)

        def value(point):
            return self.network.loss(client, point) + (extra(point) if extra else 0.0)

        found = {}
        for name in w:
            g = np.zeros_like(w[name])
            for place in np.ndindex(w[name].shape):
                at = {}
                for offset in (-2, -1, 1, 2):
                    point = {k: v.copy() for k, v in w.items()}
                    point[name][place] += offset * 1e-4
                    at[offset] = value(point)
                g[place] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / 12e-4
            found[name] = g
        return found

    def descend(self, client, w, more=None, extra=None, trace=None):
        """K_i steps of SGD from w; `more(x)`: added to the gradient; `extra(x)`: to the loss."""
        x = {n: w[self.scope(n, client), n].copy() for n in self.names(client)}
        velocity = {n: np.zeros_like(v) for n, v in x.items()}
        for _ in range(self.steps[client.id]):
            if trace is not None:
                trace.append({n: v.copy() for n, v in x.items()})
            g = self.gradient(client, x, extra)
            added = more(x) if more else {}
            for n in x:
                velocity[n] = self.momentum * velocity[n] + g[n] + added.get(n, 0)
                x[n] = x[n] - self.rate * velocity[n]
        return x

    def average(self, w, locals_, weights=None):
        """w + sum_i p_i (w_i - w) per scope; `weights`: nu_i, else sizes."""
        after = dict(w)
        for scope, n in w:
            group = self.holders(scope, n, [c for c in self.members if c.id in locals_])
            total = sum(weights[c.id] if weights else self.nu(c) for c in group)
            if group:
                after[scope, n] = w[scope, n] + sum(
                    (weights[c.id] if weights else self.nu(c)) / total
                    * (locals_[c.id][n] - w[scope, n])
                    for c in group
                )  # fmt: skip
        return after


def mf(p: Problem):
    w = p.start()
    for there in p.attending:
        w = p.average(w, {c.id: p.descend(c, w) for c in there})
    return w


def local(p: Problem):
    p.own = ("psi", "theta", "gamma", "omega")
    return mf(p)


def late_fusion(p: Problem):
    """Two federations: psi has a copy per modality."""
    w = {}
    for q in ("s1", "s2"):
        members = [c for c in p.members if c.modalities == (q,)]
        attending = [[c for c in there if c in members] for there in p.attending]
        alone = mf(Problem(p.network, members, p.rate, p.rounds, p.steps, attending))
        w |= {(q, n): value for (_, n), value in alone.items()}
    return w


def centralised(p: Problem, steps=None):
    from mmfl.strategies.base import Client

    modalities = tuple(sorted({q for c in p.members for q in c.modalities}))
    train = {
        q: np.unique(np.concatenate([c.train[q] for c in p.members if q in c.train]))
        for q in modalities
    }
    one = Client("all", "all", modalities, train)
    p.steps = p.steps | ({"all": steps} if steps else {})
    p.members, p.attending = [one], [[one]] * p.rounds
    return local(p)


def centralised_steps(p: Problem):
    return centralised(p, round(sum(p.steps[c.id] for c in p.members) / len(p.members)))


def fedprox(p: Problem):
    w = p.start()
    for there in p.attending:
        w = p.average(w, {
            c.id: p.descend(c, w, lambda x, c=c, w=w: {
                n: p.hyper["mu"] * (x[n] - w[p.scope(n, c), n]) for n in x
            }) for c in there
        })  # fmt: skip
    return w


def scaffold(p: Problem):
    """y <- y - eta (g - c_i + c); c_i+ = c_i - c + (w - y)/(K eta); c += sum pi_i (c_i+ - c_i)."""
    w = p.start()
    c = {a: np.zeros_like(v) for a, v in w.items()}
    ci = {m.id: {n: np.zeros_like(p.initial()[n]) for n in p.names(m)} for m in p.members}
    for there in p.attending:
        locals_, gain = {}, {a: np.zeros_like(v) for a, v in w.items()}
        for m in there:
            x = p.descend(m, w, lambda x, m=m: {n: c[p.scope(n, m), n] - ci[m.id][n] for n in x})
            locals_[m.id] = x
            for n in x:
                a = (p.scope(n, m), n)
                new = ci[m.id][n] - c[a] + (w[a] - x[n]) / (p.steps[m.id] * p.rate)
                gain[a] = gain[a] + p.pi(m, n) * (new - ci[m.id][n])
                ci[m.id] = ci[m.id] | {n: new}
        moved = p.average(w, locals_)
        w = {a: w[a] + p.hyper["server_rate"] * (moved[a] - w[a]) for a in w}
        c = {a: c[a] + gain[a] for a in c}
    return w


def fednova(p: Problem):
    """w += tau_eff sum p_i Delta_i / |a_i|; |a_i| by summing the weights of SGD's gradients."""

    def length(k):  # gradient j of k is carried by steps j..k: 1 + rho + ... + rho^(k-1-j)
        return sum(sum(p.momentum**e for e in range(k - j)) for j in range(k))

    w = p.start()
    for there in p.attending:
        locals_ = {c.id: p.descend(c, w) for c in there}
        after = dict(w)
        for scope, n in w:
            group = p.holders(scope, n, there)
            total = sum(p.nu(c) for c in group)
            if group:
                share = {c.id: p.nu(c) / total for c in group}
                tau = sum(share[c.id] * length(p.steps[c.id]) for c in group)
                after[scope, n] = w[scope, n] + tau * sum(
                    share[c.id] * (locals_[c.id][n] - w[scope, n]) / length(p.steps[c.id])
                    for c in group
                )
        w = after
    return w


def feddyn(p: Problem):
    alpha = p.hyper["alpha"]
    w = p.start()
    h = {a: np.zeros_like(v) for a, v in w.items()}
    g = {m.id: {n: np.zeros_like(p.initial()[n]) for n in p.names(m)} for m in p.members}

    def own(m, n):  # alpha / (N pi_i)
        return alpha / (len(p.holders(p.scope(n, m), n)) * p.pi(m, n))

    for there in p.attending:
        locals_ = {
            m.id: p.descend(m, w, lambda x, m=m, w=w: {
                n: -g[m.id][n] + own(m, n) * (x[n] - w[p.scope(n, m), n]) for n in x
            }) for m in there
        }  # fmt: skip
        after = dict(w)
        for scope, n in w:
            group = p.holders(scope, n, there)
            if group:
                count = len(p.holders(scope, n))
                moves = [locals_[m.id][n] - w[scope, n] for m in group]
                h[scope, n] = h[scope, n] - alpha / count * sum(moves)
                mean = sum(locals_[m.id][n] for m in group) / len(group)
                after[scope, n] = mean - h[scope, n] / alpha
        for m in there:
            for n in locals_[m.id]:
                g[m.id][n] = g[m.id][n] - own(m, n) * (locals_[m.id][n] - w[p.scope(n, m), n])
        w = after
    return w


def feddc(p: Problem):
    alpha = p.hyper["alpha"]
    w = p.start()
    g = {a: np.zeros_like(v) for a, v in w.items()}
    gi = {m.id: {n: np.zeros_like(p.initial()[n]) for n in p.names(m)} for m in p.members}
    h = {m.id: {n: np.zeros_like(p.initial()[n]) for n in p.names(m)} for m in p.members}

    def own(m, n):
        return alpha / (len(p.holders(p.scope(n, m), n)) * p.pi(m, n))

    for there in p.attending:
        locals_ = {
            m.id: p.descend(m, w, lambda x, m=m, w=w: {
                n: own(m, n) * (x[n] + h[m.id][n] - w[p.scope(n, m), n])
                + g[p.scope(n, m), n] - gi[m.id][n]
                for n in x
            }) for m in there
        }  # fmt: skip
        gain = {a: np.zeros_like(v) for a, v in w.items()}
        for m in there:
            for n, x in locals_[m.id].items():
                a = (p.scope(n, m), n)
                h[m.id][n] = h[m.id][n] + x - w[a]
                new = gi[m.id][n] - g[a] + (w[a] - x) / (p.steps[m.id] * p.rate)
                gain[a] = gain[a] + p.pi(m, n) * (new - gi[m.id][n])
                gi[m.id][n] = new
        after = dict(w)
        for scope, n in w:
            group = p.holders(scope, n, there)
            if group:
                everyone = p.holders(scope, n)
                after[scope, n] = sum(locals_[m.id][n] for m in group) / len(group) + sum(
                    h[m.id][n] for m in everyone
                ) / len(everyone)
        g = {a: g[a] + gain[a] for a in g}
        w = after
    return w


def fedavgm(p: Problem):
    w = p.start()
    v = {a: np.zeros_like(x) for a, x in w.items()}
    for there in p.attending:
        moved = p.average(w, {c.id: p.descend(c, w) for c in there})
        for scope, n in w:
            if p.holders(scope, n, there):
                a = (scope, n)
                v[a] = p.hyper["beta"] * v[a] + moved[a] - w[a]
                w = w | {a: w[a] + v[a]}
    return w


def fedadam(p: Problem):
    h = p.hyper
    w = p.start()
    m = {a: np.zeros_like(x) for a, x in w.items()}
    v = {a: np.full_like(x, h["tau"] ** 2) for a, x in w.items()}
    for there in p.attending:
        moved = p.average(w, {c.id: p.descend(c, w) for c in there})
        for scope, n in list(w):
            if p.holders(scope, n, there):
                a = (scope, n)
                d = moved[a] - w[a]
                m[a] = h["beta1"] * m[a] + (1 - h["beta1"]) * d
                v[a] = h["beta2"] * v[a] + (1 - h["beta2"]) * d**2
                w = w | {a: w[a] + h["server_rate"] * m[a] / (np.sqrt(v[a]) + h["tau"])}
    return w


def fedbn(p: Problem):
    p.own = ("gamma",)
    return mf(p)


def moon(p: Problem):
    """Per sample -log e^{cos(z,g)/t} / (e^{cos(z,g)/t} + e^{cos(z,b)/t}), mean over the batch."""
    w, before = p.start(), {}
    for there in p.attending:
        locals_ = {}
        for c in there:
            now = {n: w[p.scope(n, c), n] for n in p.names(c)}
            last = before.get(c.id, now)

            def term(x, c=c, now=now, last=last):
                total = 0.0
                for q in c.modalities:
                    rows = c.train[q]
                    z, g, b = (p.network.projected(model, q, rows) for model in (x, now, last))
                    near, far = (np.exp((z * o).sum(1) / p.hyper["temperature"]) for o in (g, b))
                    total += -np.log(near / (near + far)).mean()
                return p.hyper["mu"] * total / len(c.modalities)

            locals_[c.id] = p.descend(c, w, extra=term)
        before |= locals_
        w = p.average(w, locals_)
    return w


def ntxent(u, v, temperature, negatives):
    """Equation by equation, in loops."""

    def one(x, y, i):
        top = np.exp(x[i] @ y[i] / temperature)
        bottom = sum(np.exp(x[i] @ y[k] / temperature) for k in range(len(x)))
        if negatives == "all":
            bottom += sum(np.exp(x[i] @ x[k] / temperature) for k in range(len(x)) if k != i)
        return -np.log(top / bottom)

    return sum(one(u, v, i) + one(v, u, i) for i in range(len(u))) / (2 * len(u))


def mf_mim(p: Problem):
    """MF with a bank of projections from before the last local step, used a round later."""
    w, bank = p.start(), {}
    for there in p.attending:
        locals_, uploads = {}, {}
        for c in there:
            (q,) = c.modalities
            other = {"s1": "s2", "s2": "s1"}[q]
            rows = c.train[q]
            both = [place for place, r in enumerate(rows) if (other, r) in bank]

            def term(x, c=c, q=q, rows=rows, both=both, other=other):
                if not both:
                    return 0.0
                u = p.network.projected(x, q, rows)[both]
                v = np.array([bank[other, rows[k]] for k in both])
                return p.hyper["weight"] * ntxent(
                    u, v, p.hyper["temperature"], p.hyper["negatives"]
                )

            trace = []
            locals_[c.id] = p.descend(c, w, extra=term, trace=trace)
            uploads |= {
                (q, r): z
                for r, z in zip(rows, p.network.projected(trace[-1], q, rows), strict=True)
            }
        bank = bank | uploads
        w = p.average(w, locals_)
    return w


def prototypes(p: Problem):
    """Class means of the last step's projections, averaged by counts, used a round later."""
    w, known = p.start(), {}
    classes = p.network.labels.shape[1]
    for there in p.attending:
        locals_, total, count = {}, {}, {}
        for c in there:
            (q,) = c.modalities
            other = {"s1": "s2", "s2": "s1"}[q]

            def term(x, c=c, q=q, other=other):
                found = []
                z = p.network.projected(x, q, c.train[q])
                for row, z_l in zip(c.train[q], z, strict=True):
                    has = [k for k in range(classes) if (other, k) in known
                           and p.network.labels[row, k]]  # fmt: skip
                    lacks = [k for k in range(classes) if (other, k) in known
                             and not p.network.labels[row, k]]  # fmt: skip
                    e = {
                        k: np.exp(z_l @ known[other, k] / np.linalg.norm(known[other, k])
                                  / p.hyper["temperature"])
                        for k in (*has, *lacks)
                    }  # fmt: skip
                    if has:
                        down = sum(e[k] for k in lacks)
                        found.append(np.mean([-np.log(e[k] / (e[k] + down)) for k in has]))
                return p.hyper["weight"] * np.mean(found) if found else 0.0

            trace = []
            locals_[c.id] = p.descend(c, w, extra=term, trace=trace)
            for row, z in zip(
                c.train[q], p.network.projected(trace[-1], q, c.train[q]), strict=True
            ):
                for k in np.flatnonzero(p.network.labels[row]):
                    total[q, k] = total.get((q, k), 0) + z
                    count[q, k] = count.get((q, k), 0) + 1
        known = known | {key: total[key] / count[key] for key in total}
        w = p.average(w, locals_)
    return w


REFERENCES = {
    "local": local,
    "centralised-steps": centralised_steps,
    "centralised-epochs": centralised,
    "late-fusion": late_fusion,
    "mf": mf,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "moon": moon,
    "fedbn": fedbn,
    "fednova": fednova,
    "feddyn": feddyn,
    "feddc": feddc,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "prototypes": prototypes,
    "mf+mim": mf_mim,
}
