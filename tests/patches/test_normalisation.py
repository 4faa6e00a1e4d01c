"""Counts, sums and sums of squares by NumPy; gaps count nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfl.patches.augment import Turned, symmetry, turns
from mmfl.patches.normalisation import moments


@pytest.fixture
def images() -> torch.Tensor:
    """(6, 2, 3, 3) with gaps, another number of them in each band."""
    x = np.random.default_rng(1).normal(900, 70, (6, 2, 3, 3)).astype(np.float32)
    x[0, 0, 1:, :] = np.nan
    x[5, 1, 2, 2] = np.nan
    return torch.from_numpy(x)


def test_moments_of_what_is_no_gap(images: torch.Tensor) -> None:
    origin = np.array([1000.0, 800.0])
    found = moments([images[:4], images[4:]], origin)
    x = images.numpy().astype(np.float64)
    assert found.count.tolist() == [48, 53]
    np.testing.assert_allclose(found.mean, np.nanmean(x, axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(x, axis=(0, 2, 3)), rtol=1e-9)
    shifted = x - origin[:, None, None]
    np.testing.assert_allclose(found.sum, np.nansum(shifted, axis=(0, 2, 3)), rtol=1e-12)
    squares = np.nansum(shifted**2, axis=(0, 2, 3))
    np.testing.assert_allclose(found.sum_squares, squares, rtol=1e-12)


def test_a_sample_is_turned_by_its_own_name_seed_and_epoch() -> None:
    names = np.array([f"p{i}" for i in range(40)])
    turned = Turned(seed=3, epoch=5)
    codes = turned.codes(names)
    assert codes.tolist() == turns(names, seed=3, epoch=5).tolist()
    assert codes.tolist() != turns(names, seed=5, epoch=3).tolist()
    x = torch.randn(40, 2, 4, 4)
    found = turned.apply(x, names).numpy()
    for row, code in enumerate(codes.tolist()):
        assert np.array_equal(found[row], symmetry(x[row].numpy(), code))
