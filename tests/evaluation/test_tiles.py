"""Probabilities of whole tiles by hand: the mean over those experts that see something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmfl.evaluation.tiles import Tiles, Windows, ensemble_maps
from mmfl.models.ensemble import Expert

SHAPES = [(8, 8), (5, 13), (11, 9)]
SUBSETS = [("s1",), ("s1", "s2"), ("s2",)]
WINDOWS = Windows(8, 0.5, 3)


class Pixels(nn.Module):
    """Logits of a pixel are its own two bands, each times a scale; several modalities: the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 1, 1))
        self.asked: list[str] = []

    def features(self, q, x):
        assert not self.training and not torch.is_grad_enabled()
        self.asked.append(q)
        return x * self.scale

    def classify(self, features):
        return torch.stack(list(features.values())).mean(0)


def image(q, number):
    rng = np.random.default_rng([number, len(q), int(q[1])])
    return torch.from_numpy(rng.normal(size=(2, *SHAPES[number]))).float()


def expert(*modalities, scale=(1.0, 1.0)):
    tensors = {"scale": torch.tensor(scale).reshape(2, 1, 1)}
    return Expert("+".join(modalities), modalities, tensors)


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=0)


def by_hand(experts, subset, number):
    found = []
    for one in experts:
        seen = [image(q, number).numpy() for q in subset if q in one.modalities]
        if seen:
            found.append(softmax(np.mean(seen, axis=0) * one.tensors["scale"].numpy()))
    return np.mean(found, axis=0)


def maps(ensemble, network=None, subsets=SUBSETS):
    tiles = Tiles(SHAPES, image)
    return ensemble_maps(network or Pixels().train(), ensemble, tiles, subsets, WINDOWS, 2)


def test_probabilities_are_the_mean_over_the_experts_that_see_something():
    """Of s2 alone one of three sees nothing: the mean is over two, and adds up to 1."""
    ensemble = (expert("s1", "s2"), expert("s1", scale=(3.0, 0.0)), expert("s2", scale=(-0.5, 2.0)))
    found = maps(ensemble)
    assert set(found) == set(SUBSETS)
    for subset, each in found.items():
        for number, (values, shape) in enumerate(zip(each, SHAPES, strict=True)):
            assert values.shape == (2, *shape)
            np.testing.assert_allclose(values, by_hand(ensemble, subset, number), atol=1e-6)
            torch.testing.assert_close(values.sum(0), torch.ones(shape), rtol=0, atol=1e-6)


def test_what_no_expert_sees_is_left_out_and_nothing_else_is_read():
    network = Pixels()
    found = maps((expert("s1"),), network)
    assert set(found) == {("s1",), ("s1", "s2")} and set(network.asked) == {"s1"}
    for number in range(3):
        assert torch.equal(found["s1",][number], found["s1", "s2"][number])


def test_a_modality_that_nobody_asks_for_is_not_read():
    """The archive may not hold it of these tiles."""
    network = Pixels()
    assert set(maps((expert("s1", "s2"),), network, [("s2",)])) == {("s2",)}
    assert set(network.asked) == {"s2"}


def test_a_constant_counts_as_one_expert():
    constant = Expert("prior", ("s1", "s2"), {}, torch.tensor([0.9, 0.1], dtype=torch.float64))
    one = expert("s2")
    found = maps((constant, one))
    for number, shape in enumerate(SHAPES):
        alone = np.broadcast_to(np.array([0.9, 0.1])[:, None, None], (2, *shape))
        np.testing.assert_allclose(found["s1",][number], alone, atol=1e-6)
        expected = (by_hand((one,), ("s2",), number) + alone) / 2
        np.testing.assert_allclose(found["s2",][number], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_expert_that_diverged_is_not_outvoted(bad):
    """Nor is it certain of the other class where a logit is minus infinity."""
    found = maps((expert("s1"), expert("s2", scale=(1.0, bad))))
    assert all(values.isfinite().all() for values in found["s1",])
    for subset in (("s2",), ("s1", "s2")):
        assert not any(values.isfinite().any() for values in found[subset])
