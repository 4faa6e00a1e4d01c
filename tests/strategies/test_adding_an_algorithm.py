"""The worked example of docs/adding-an-algorithm.md, through the real round loop."""

import re
from pathlib import Path

import numpy as np
import pytest
import reference
import test_conformance
import torch
import toy

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def example():
    """The strategy of the page with the hyper-parameters of the page."""
    text = (DOCS / "adding-an-algorithm.md").read_text(encoding="utf-8")
    section, strategy = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "fedyogi"}
    exec(compile(section, "adding-an-algorithm.md", "exec"), names)
    hyper = names["FedYogi"](server_rate=0.2, beta1=0.7, beta2=0.9, tau=0.05)
    exec(compile(strategy, "adding-an-algorithm.md", "exec"), names)

    def build(tensors, clients, _, *rest):
        return names["FedYogi"](tensors, clients, hyper, *rest)

    return build


def fedyogi(p):
    """v - (1 - b2) d^2 sign(v - d^2), in NumPy."""
    w = p.start()
    m = {a: np.zeros_like(x) for a, x in w.items()}
    v = {a: np.zeros_like(x) for a, x in w.items()}
    for there in p.attending:
        moved = p.average(w, {c.id: p.descend(c, w) for c in there})
        for scope, n in list(w):
            if p.holders(scope, n, there):
                a = (scope, n)
                d = moved[a] - w[a]
                m[a] = 0.7 * m[a] + 0.3 * d
                v[a] = v[a] - 0.1 * d**2 * np.sign(v[a] - d**2)
                w = w | {a: w[a] + 0.2 * m[a] / (np.sqrt(v[a]) + 0.05)}
    return w


def test_the_example_is_its_formula(example, tmp_path, monkeypatch):
    monkeypatch.setitem(reference.REFERENCES, "mf", fedyogi)
    test_conformance.check("mf", tmp_path, test_conformance.SOME, strategy=example)


def test_the_example_resumes(example, tmp_path):
    whole, _ = toy.run(
        "mf", toy.Quadratic(), toy.clients(), toy.settings(4), tmp_path / "a", example
    )
    for rounds in (2, 4):
        network, params = toy.Quadratic(), toy.settings(rounds)
        parts, _ = toy.run("mf", network, toy.clients(), params, tmp_path / "b", example)
    for slot, tensors in whole.state.items():
        assert all(torch.equal(parts.state[slot][a], value) for a, value in tensors.items())
    assert all(torch.equal(parts.parameters[a], v) for a, v in whole.parameters.items())
