"""Whitening against torch's batch norm, NumPy and automatic differentiation's checker."""

import numpy as np
import pytest
import torch
from torch import nn

from mmfl.errors import UserError
from mmfl.models import whitening
from mmfl.models.whitening import (
    FLOOR,
    BatchWhitening2d,
    matrix_gradient,
    moments,
    shrink,
    shrink_gradient,
    whitening_matrix,
)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlated(n=6, channels=8, size=5):
    x = draw(n, channels, size, size)
    mix = draw(channels, channels, seed=1)
    return torch.einsum("dc,nchw->ndhw", mix, x) + 3


def test_group_of_one_is_batch_norm():
    """g = 1, absolute: (1-eps) v + eps = (1-eps)(v + eps'), eps' = eps/(1-eps), so the normalised
    input is batch norm's (biased variance in both in training mode) divided by sqrt(1-eps)."""
    eps, x = 1e-2, correlated()
    bw = BatchWhitening2d(8, group=1, epsilon=eps, shrinkage="absolute").double()
    bn = nn.BatchNorm2d(8, eps=eps / (1 - eps)).double()
    torch.testing.assert_close(bw(x), bn(x) / (1 - eps) ** 0.5, rtol=1e-10, atol=1e-12)


def test_moments_are_numpys():
    x = correlated()
    flat = x.transpose(0, 1).reshape(8, -1).numpy()
    mean, covariance = moments(x, 4)
    np.testing.assert_allclose(mean, flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(covariance[1], np.cov(flat[4:], bias=True), rtol=1e-10)
    strided = x[:, :, ::2, ::2].transpose(0, 1).reshape(8, -1).numpy()
    np.testing.assert_allclose(moments(x, 4, 2)[1][0], np.cov(strided[:4], bias=True), rtol=1e-10)


@pytest.mark.parametrize("method", ["cholesky", "zca"])
@pytest.mark.parametrize("shrinkage", ["relative", "absolute"])
def test_matrix_whitens(method, shrinkage):
    shrunk = shrink(moments(correlated(), 4)[1], 1e-3, shrinkage)
    matrix, fallbacks = whitening_matrix(shrunk, method)
    eye = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    torch.testing.assert_close(matrix @ shrunk @ matrix.mT, eye, rtol=1e-9, atol=1e-9)
    assert fallbacks == 0


def test_output_has_identity_covariance():
    out = BatchWhitening2d(8, epsilon=1e-9).double()(correlated())
    mean, covariance = moments(out, 4)
    torch.testing.assert_close(mean, torch.zeros(8).double(), rtol=0, atol=1e-9)
    eye = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    torch.testing.assert_close(covariance, eye, rtol=1e-6, atol=1e-6)


def test_running_statistics_and_evaluation_mode():
    layer, x = BatchWhitening2d(8, momentum=0.25).double(), correlated()
    mean, covariance = moments(x, 4)
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.25 * mean)
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(layer.running_cov, 0.75 * eye + 0.25 * covariance)
    layer.running_mean.copy_(mean)
    layer.running_cov.copy_(covariance)
    trained = layer.train()(x)
    layer.running_mean.copy_(mean)
    layer.running_cov.copy_(covariance)
    torch.testing.assert_close(layer.eval()(x), trained)


@pytest.mark.parametrize("method", ["cholesky", "zca"])
def test_gradients(method):
    layer = BatchWhitening2d(4, group=2, method=method).double()
    x = draw(3, 4, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t), (x,), atol=1e-6)


@pytest.mark.parametrize("method", ["cholesky", "zca"])
@pytest.mark.parametrize("dead", [slice(1, 2), slice(0, 3), slice(0, 4), slice(0, 8)])
def test_dead_and_constant_channels_stay_finite(method, dead):
    """Equal eigenvalues, where the gradient of `torch.linalg.eigh` is NaN."""
    for value in (0.0, 7.0):
        x = correlated().float()
        x[:, 5] = x[:, 6]
        x[:, dead] = value
        out = BatchWhitening2d(8, method=method)(x.requires_grad_())
        (out * draw(*x.shape, seed=2).float()).sum().backward()
        assert torch.isfinite(out).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [8, 24])  # one block of groups, and three of them
def test_layouts_and_strides_against_automatic_differentiation(monkeypatch, stride, last, channels):
    """The gradients written by hand against those of `torch.cov` and a dense 1x1 convolution."""
    monkeypatch.setattr(whitening, "PIECE", 20 * channels)  # some pieces, the last one shorter
    x, weights = correlated(channels=channels), draw(6, channels, 5, 5, seed=3)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    layer = BatchWhitening2d(channels, stride=stride).double()
    with torch.no_grad():
        layer.weight.copy_(draw(channels, seed=4))
        layer.bias.copy_(draw(channels, seed=5))

    def plain(x):
        flat = x[:, :, ::stride, ::stride].transpose(0, 1).flatten(1)
        parts = []
        for part in flat.split(4):
            covariance = torch.cov(part, correction=0)
            shrunk = 0.999 * covariance + 1e-3 * covariance.trace() / 4 * torch.eye(4)
            parts.append(torch.linalg.inv(torch.linalg.cholesky(shrunk)))
        kernel = torch.block_diag(*parts)
        centred = x - flat.mean(1)[:, None, None]
        out = nn.functional.conv2d(centred, kernel[:, :, None, None])
        return out * layer.weight[:, None, None] + layer.bias[:, None, None]

    found, expected = [], []
    for function, into in ((layer, found), (plain, expected)):
        leaf = x.detach().clone().requires_grad_()
        out = function(leaf)
        targets = (leaf, layer.weight, layer.bias)
        into += [out, *torch.autograd.grad((out * weights).sum(), targets)]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shrinkage", ["relative", "absolute"])
@pytest.mark.parametrize("method", ["cholesky", "zca"])
def test_gradient_of_the_matrix_is_that_of_torchs_own_factorisations(method, shrinkage):
    """Three groups of five channels; the last one is below the floor of its mean variance."""
    root = draw(3, 5, 5)
    scale = torch.tensor([1.0, 3.0, 1e-4], dtype=torch.float64)[:, None, None]
    covariance = (root @ root.mT * scale**2).requires_grad_()
    assert covariance[2].trace() / 5 < FLOOR
    weights = draw(3, 5, 5, seed=1)
    shrunk = shrink((covariance + covariance.mT) / 2, 0.1, shrinkage)
    if method == "cholesky":
        plain = torch.linalg.inv(torch.linalg.cholesky(shrunk))
    else:
        values, vectors = torch.linalg.eigh(shrunk)
        plain = vectors @ torch.diag_embed(values**-0.5) @ vectors.mT
    (expected,) = torch.autograd.grad((plain * weights).sum(), covariance)
    with torch.no_grad():
        matrix, _ = whitening_matrix(shrunk, method)
        slope = matrix_gradient(matrix, weights, method)
        found = shrink_gradient(covariance, slope, 0.1, shrinkage)
    torch.testing.assert_close(matrix, plain, rtol=1e-8, atol=1e-10)
    # torch divides by differences of eigenvalues, which are small in the last group
    torch.testing.assert_close((found + found.mT) / 2, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mean", [0.1, 100.3, 1000.7])
def test_a_large_mean_costs_no_digits(mean):
    """Constant and nearly constant channels far from 0: NumPy's covariance, nothing negative."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((8, 8, 16, 16), mean)
    x[:, 4:] += 1e-5 * torch.randn(8, 4, 16, 16, generator=generator)
    wide = torch.randn(8, 8, 16, 16, generator=generator) + mean
    for images, tolerance in ((x, 1e-6), (wide, 1e-4)):
        _, covariance = whitening.moments(images, 4)
        assert torch.equal(covariance, covariance.mT)
        flat = images.double().transpose(0, 1).reshape(8, -1).numpy()
        full = np.cov(flat, bias=True)
        expected = np.stack([full[:4, :4], full[4:, 4:]])
        np.testing.assert_allclose(covariance.numpy(), expected, atol=tolerance)
        assert (covariance.diagonal(dim1=1, dim2=2) >= 0).all()
    layer = BatchWhitening2d(8, group=4)
    assert layer(x).isfinite().all() and layer.fallbacks == 0


def test_fallback_is_counted():
    broken = torch.tensor([[[1.0, 1.5], [1.5, 1.0]]])  # not positive definite; + I is
    matrix, fallbacks = whitening_matrix(broken)
    assert fallbacks == 1
    assert torch.isfinite(matrix).all()


def test_fallback_of_a_group_does_not_depend_on_the_others():
    """The first needs 1 % more on its diagonal, the second 10 %, the third nothing."""
    pairs = [[[1.0, c], [c, 1.0]] for c in (1.005, 1.08, 0.5)]
    together, fallbacks = whitening_matrix(torch.tensor(pairs))
    assert fallbacks == 2
    for matrix, pair, more in zip(together, pairs, (0.01, 0.1, 0.0), strict=True):
        raised = torch.tensor(pair) + more * torch.eye(2)
        torch.testing.assert_close(matrix @ raised @ matrix.T, torch.eye(2), rtol=0, atol=1e-4)


def test_bfloat16_is_whitened_in_float32():
    x = correlated().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = BatchWhitening2d(8)(x)
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()


@pytest.mark.parametrize("method", ["cholesky", "zca"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [True, False])
def test_a_group_with_nan_leaves_the_others_as_they_were(method, stride, value, training):
    """Channel 5 belongs to channels 4 to 7 and to the first block of 16."""

    def run(x):
        layer = BatchWhitening2d(32, method=method, stride=stride).double().train(training)
        leaf = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        out = layer(leaf)
        (out * weights).sum().backward()
        return out, leaf.grad, layer.weight.grad, layer.bias.grad, layer.running_mean

    x, weights = draw(2, 32, 6, 6), draw(2, 32, 6, 6, seed=1)
    spoiled = x.clone()
    spoiled[0, 5, 1, 1] = value  # at a pixel that stride 2 does not see
    others = [channel for channel in range(32) if channel // 4 != 1]
    for one, two in zip(run(x), run(spoiled), strict=True):
        place = 1 if one.ndim == 4 else 0
        index = torch.tensor(others)
        expected, found = one.index_select(place, index), two.index_select(place, index)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not run(spoiled)[0][:, 4:8].isfinite().all()


@pytest.mark.parametrize("method", ["cholesky", "zca"])
def test_a_backward_pass_within_autocast_is_the_same_to_the_bit(method):
    found = []
    for inside in (False, True):
        layer = BatchWhitening2d(8, method=method, stride=2)
        x = correlated().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            out.backward()
        found.append((x.grad, layer.weight.grad, layer.bias.grad))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_group_must_divide():
    with pytest.raises(UserError, match="divisor of 6"):
        BatchWhitening2d(6)
