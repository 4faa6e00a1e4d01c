"""Parts of the algorithms on their own, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from mmfl.strategies.fednova import walked
from mmfl.strategies.modules import prototypes
from mmfl.strategies.moon import contrast


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_how_far_sgd_walks(steps, momentum):
    """Gradient 1 at every step, rate 1: the distance is |a|_1."""
    x = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=1.0, momentum=momentum)
    for _ in range(steps):
        x.grad = torch.ones(1)
        optimiser.step()
    assert walked(steps, momentum) == pytest.approx(-x.item(), rel=1e-5)


def test_prototypes_are_the_means_of_all_patches_of_a_class():
    """Two clients, two batches each: the server's average is the mean over all of them."""
    rng = np.random.default_rng(0)
    uploads, everything = [], []
    for _ in range(2):
        memory = {}
        for size in (5, 3):
            z, y = rng.normal(size=(size, 4)), (rng.random((size, 3)) < 0.6) * [1.0, 1.0, 0.0]
            prototypes._add(memory, "x", torch.from_numpy(z), torch.from_numpy(y))
            everything.append((z, y))
        total, count = memory["x"]
        uploads.append({("s1", "values"): total / count.clamp_min(1)[:, None],
                        ("s1", "counts"): count})  # fmt: skip
    means, counts = prototypes.average(uploads, "s1")
    z = np.concatenate([z for z, _ in everything])
    y = np.concatenate([y for _, y in everything])
    np.testing.assert_allclose(counts, y.sum(0))
    for k in (0, 1):
        np.testing.assert_allclose(means[k], z[y[:, k] > 0].mean(0), rtol=1e-12)
    assert counts[2] == 0 and not means[2].any()


def test_a_class_that_a_round_did_not_see_keeps_its_prototype():
    from mmfl.strategies.base import Server

    module = prototypes.Prototypes("p", weight=1.0, temperature=0.5)
    server = Server({}, {})

    def upload(values, counts):
        module.receive(server, {"a": {("s1", "values"): torch.tensor(values),
                                      ("s1", "counts"): torch.tensor(counts)}})  # fmt: skip

    upload([[1.0, 0.0], [0.0, 0.0]], [2.0, 0.0])
    upload([[0.0, 0.0], [0.0, 3.0]], [0.0, 1.0])
    state = server.state["p"]
    assert state["s1", "values"].tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert state["s1", "counts"].tolist() == [2.0, 1.0]


def test_pull_by_scipy():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(6, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    means = rng.normal(size=(5, 4)) * 3
    seen = np.array([1, 1, 1, 1, 0], bool)
    labels = rng.random((6, 5)) < 0.4
    labels[0], labels[1] = False, True  # nothing to pull to; nothing to push from
    rows = []
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    for i in range(6):
        has, lacks = np.flatnonzero(labels[i] & seen), np.flatnonzero(~labels[i] & seen)
        if len(has):
            rows.append(np.mean([
                -log_softmax(z[i] @ unit[[c, *lacks]].T / 0.5)[0] for c in has
            ]))  # fmt: skip
    x = torch.from_numpy(z).requires_grad_()
    arguments = [torch.from_numpy(v) for v in (means, seen, labels)]
    found = prototypes.pull(x, *arguments, 0.5)
    assert found.item() == pytest.approx(np.mean(rows), rel=1e-12)
    found.backward()
    assert torch.isfinite(x.grad).all() and not x.grad[0].any()
    nothing = prototypes.pull(x, arguments[0], torch.zeros(5, dtype=torch.bool), arguments[2], 0.5)
    assert nothing.item() == 0
    assert torch.autograd.gradcheck(lambda u: prototypes.pull(u, *arguments, 0.5), (x,))


def test_contrast_by_scipy():
    rng = np.random.default_rng(2)
    z, near, far = rng.normal(size=(3, 6, 4))

    def cosine(a, b):
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    logits = np.stack([cosine(z, near), cosine(z, far)], axis=1) / 0.5
    expected = -log_softmax(logits, axis=1)[:, 0].mean()
    found = contrast(*(torch.from_numpy(v) for v in (z, near, far)), 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-12)
