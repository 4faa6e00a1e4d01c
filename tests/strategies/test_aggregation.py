"""Aggregation against NumPy and against closed forms."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl.strategies.aggregation import add, combine_statistics, weighted_sums

sizes = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(sizes, st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_weighted_sum_is_numpys_average(weights, seed):
    values = np.random.default_rng(seed).normal(size=(len(weights), 3, 2))
    deltas = [{"w": torch.from_numpy(v)} for v in values]
    found = weighted_sums(deltas, weights)["w"].numpy()
    np.testing.assert_allclose(
        found, np.average(values, axis=0, weights=weights), rtol=1e-12, atol=1e-14
    )


@given(sizes)
@settings(max_examples=50, deadline=None)
def test_weights_sum_to_one_in_every_scope(weights):
    one = torch.ones(2, dtype=torch.float64)
    deltas = [{"all": one, ("own", i % 2): one} for i in range(len(weights))]
    for value in weighted_sums(deltas, weights).values():
        torch.testing.assert_close(value, one, rtol=1e-12, atol=0)


def test_add_rounds_once():
    value = torch.tensor([1.0], dtype=torch.float32)
    assert add(value, torch.tensor([2.0**-30], dtype=torch.float64)).item() == 1.0
    assert add(value, torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32


def test_pooled_statistics_are_those_of_the_pooled_sample():
    """Law of total variance: with weights n_k, the pooled biased covariance is np.cov's."""
    rng = np.random.default_rng(0)
    parts = [
        rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4) for n in (7, 50, 23)
    ]
    members = []
    for x in parts:
        cov = np.cov(x.T, bias=True)
        blocks = np.stack([cov[:2, :2], cov[2:, 2:]])
        members.append(
            (
                float(len(x)),
                {
                    "a.running_mean": torch.from_numpy(x.mean(0)),
                    "a.running_cov": torch.from_numpy(blocks),
                    "b.running_mean": torch.from_numpy(x.mean(0)),
                    "b.running_var": torch.from_numpy(x.var(0)),
                },
            )
        )
    whole = np.concatenate(parts)
    cov = np.cov(whole.T, bias=True)
    pooled = combine_statistics(members, pooled=True)
    np.testing.assert_allclose(pooled["a.running_mean"], whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(pooled["b.running_var"], whole.var(0), rtol=1e-12)
    np.testing.assert_allclose(pooled["a.running_cov"][1], cov[2:, 2:], rtol=1e-12)
    plain = combine_statistics(members, pooled=False)
    expected = np.average([x.var(0) for x in parts], axis=0, weights=[len(x) for x in parts])
    np.testing.assert_allclose(plain["b.running_var"], expected, rtol=1e-12)
    assert (pooled["b.running_var"] > plain["b.running_var"]).all()
