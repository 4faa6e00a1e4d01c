"""Windows: every pixel covered, shares that add up to 1, blending that changes nothing."""

import numpy as np
import pytest
import torch

from mmfl.evaluation.windows import bell, coverage, padded, places, share, starts

SHAPES = [(16, 16), (17, 16), (40, 33), (5, 9), (16, 3), (100, 16), (1, 1)]


def blended(x, size, overlap, model):
    """The model's maps of a tile (C, H, W), put together from its windows."""
    height, width = x.shape[-2:]
    tile, weight = padded(x, size), bell(size)
    total = coverage(height, width, size, overlap)
    out = torch.zeros(model(tile[None])[0].shape)
    for row, column in places(*tile.shape[-2:], size, overlap):
        window = tile[:, row : row + size, column : column + size]
        part = model(window[None])[0] * share(total, (row, column), weight)
        out[:, row : row + size, column : column + size] += part
    return out[:, :height, :width]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_shares_add_up_to_one(shape, overlap):
    ones = blended(torch.zeros(1, *shape), 16, overlap, torch.ones_like)
    torch.testing.assert_close(ones, torch.ones(1, *shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0, 0.5, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_single_pixels_is_reproduced(shape, overlap):
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    found = blended(x, 16, overlap, torch.sigmoid)
    torch.testing.assert_close(found, torch.sigmoid(x), rtol=0, atol=1e-6)


def test_a_tile_of_one_window_is_the_plain_forward_pass():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.Softmax(1))
    x = torch.randn(2, 16, 16)
    with torch.no_grad():
        assert torch.equal(blended(x, 16, 0.5, model), model(x[None])[0])


def test_without_overlap_windows_do_not_mix():
    """The number of the window, as a model: constant within each."""
    numbers = iter(torch.arange(1.0, 100))
    found = blended(torch.zeros(1, 32, 48), 16, 0, lambda x: torch.ones_like(x) * next(numbers))
    next(numbers)
    values = found[0].reshape(2, 16, 3, 16).permute(0, 2, 1, 3).reshape(6, -1)
    assert torch.equal(values, torch.arange(2.0, 8)[:, None].expand(6, 256))


def test_starts():
    assert starts(16, 16, 0.5) == [0]
    assert starts(5, 16, 0.5) == [0]
    assert starts(32, 16, 0.5) == [0, 8, 16]
    assert starts(33, 16, 0.5) == [0, 8, 16, 17]
    assert starts(33, 16, 0) == [0, 16, 17]
    assert starts(20, 16, 0.99) == [0, 1, 2, 3, 4]


def test_weights_are_smooth_and_positive():
    weight = bell(64)
    assert weight.min() > 0 and weight.max() <= 1
    assert weight.diff(dim=0).abs().max() < np.pi / 64  # the slope of sin² is at most 1
    torch.testing.assert_close(weight, weight.flip(0).T)


@pytest.mark.parametrize("shape", [(5, 9), (9, 16), (20, 3), (1, 4), (2, 2)])
def test_padding_mirrors_as_often_as_needed(shape):
    x = torch.arange(float(np.prod(shape))).reshape(1, *shape)
    found = padded(x, 16)
    after = [(0, max(16 - length, 0)) for length in shape]
    expected = np.pad(x.numpy(), [(0, 0), *after], mode="reflect")
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_large_tile_is_not_padded():
    x = torch.zeros(3, 16, 20)
    assert padded(x, 16) is x
