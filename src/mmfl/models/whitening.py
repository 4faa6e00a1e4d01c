"""FW, feature whitening: batch whitening in place of batch normalisation.

    BW(x) = gamma * W_B (x - mu_B) + beta,   W_B^T W_B = Sigma_eps^-1,
    Sigma_eps = (1 - eps) Sigma_B + eps s I

(Roy et al., "Unsupervised Domain Adaptation using Feature-Whitening and Consensus Loss", CVPR
2019). Channels are whitened in groups of g; Sigma is biased, over N * H * W.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmfl.errors import UserError
from mmfl.models.norms import OwnNorm

FLOOR = 1e-6
PIECE = 1 << 18  # numbers: 1 MB of float32
BLOCK = 16  # channels; smaller products than 16 x 16 are slower, larger ones waste more zeros


def moments(x: Tensor, group: int, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (C,) and biased covariance (C/g, g, g) of x (N, C, H, W), at every stride-th pixel."""
    seen = pixels(x, stride)
    mean = seen.mean(dim=0)
    return mean, products(seen, seen, group, mean) / len(seen)


def pixels(x: Tensor, stride: int = 1) -> Tensor:
    """(N, C, H, W) -> (M, C), every stride-th pixel of every image; no copy of channels_last."""
    return x[:, :, ::stride, ::stride].permute(0, 2, 3, 1).flatten(0, 2)


def products(x: Tensor, y: Tensor, group: int, mean: Tensor) -> Tensor:
    """x^T (y - mean) of each group's channels, for x and y (M, C), mean (C,): (C/g, g, g).

    Where x is y, both are centred: with a large mean, one alone loses the digits of the covariance.
    """
    channels = x.shape[1]
    size = block(channels, group)
    dense = x.new_zeros(channels // size, size, size)
    for rows in _pieces(x):
        right = y[rows] - mean
        left = right if x is y else x[rows]
        for number, start in enumerate(range(0, channels, size)):
            part = slice(start, start + size)
            dense[number].addmm_(left[:, part].T, right[:, part])
    return _groups(dense, group).flatten(0, 1)


def grouped(terms: Sequence[tuple[Tensor, Tensor]], shift: Tensor) -> Tensor:
    """shift (C,) + the sum of K x over the terms: x (M, C), each group's K (C/g, g, g); (M, C)."""
    group, channels = terms[0][1].shape[-1], len(shift)
    size = block(channels, group)
    out = _grouped(terms, shift, size)
    if size > group and not out.sum().isfinite():
        out = _grouped(terms, shift, group)  # 0 x NaN is NaN: in a block it reaches other groups
    return out


def _grouped(terms: Sequence[tuple[Tensor, Tensor]], shift: Tensor, size: int) -> Tensor:
    """`grouped` by dense blocks of `size` channels."""
    group, channels = terms[0][1].shape[-1], len(shift)
    matrices = []
    for _, kernel in terms:
        dense = kernel.new_zeros(channels // size, size, size)
        view = _groups(dense, group)
        view.copy_(kernel.mT.reshape(view.shape))
        matrices.append(dense)
    out = torch.empty_like(terms[0][0])
    for rows in _pieces(out):
        piece = out[rows]
        piece.copy_(shift)
        for (x, _), dense in zip(terms, matrices, strict=True):
            for number, start in enumerate(range(0, channels, size)):
                part = slice(start, start + size)
                piece[:, part].addmm_(x[rows, part], dense[number])
    return out


def _pieces(x: Tensor) -> Iterator[slice]:
    """Rows of x (M, C), so many at a time that they stay in the processor's cache."""
    count = max(1, PIECE // x.shape[1])
    return (slice(start, start + count) for start in range(0, len(x), count))


def _groups(dense: Tensor, group: int) -> Tensor:
    """(B, n, n) -> (B, n/g, g, g), a view of the blocks on the diagonals."""
    batch, count = len(dense), dense.shape[1] // group
    blocks = dense.view(batch, count, group, count, group)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def block(channels: int, group: int) -> int:
    """Channels, some whole groups, that are multiplied at a time as one dense matrix."""
    return group * math.gcd(channels // group, max(BLOCK // group, 1))


@contextmanager
def group_by_group() -> Iterator[None]:
    """Every group's products alone: the operations of the algorithm, which blocks add zeros to."""
    global BLOCK
    before, BLOCK = BLOCK, 1
    try:
        yield
    finally:
        BLOCK = before


def apart(kernel: Tensor, vector: Tensor) -> Tensor:
    """Each group's matrix (C/g, g, g) times its part of a vector (C,)."""
    return (kernel @ vector.reshape(len(kernel), -1, 1)).reshape(-1)


def shrink(
    covariance: Tensor, epsilon: float, shrinkage: Literal["relative", "absolute"]
) -> Tensor:
    """(1 - eps) Sigma + eps s I for Sigma (G, g, g); s = tr(Sigma)/g (floored) or 1."""
    size = covariance.shape[-1]
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    if shrinkage == "absolute":
        return (1 - epsilon) * covariance + epsilon * eye
    trace = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp_min(FLOOR)
    return (1 - epsilon) * covariance + epsilon * trace[..., None, None] * eye


def shrink_gradient(
    covariance: Tensor, grad: Tensor, epsilon: float, shrinkage: Literal["relative", "absolute"]
) -> Tensor:
    """dL/dSigma from that of `shrink`'s result, all (G, g, g)."""
    found = (1 - epsilon) * grad
    if shrinkage == "relative":
        above = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1) >= FLOOR
        share = epsilon * above * grad.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        found.diagonal(dim1=-2, dim2=-1).add_(share[:, None])
    return found


def whitening_matrix(
    shrunk: Tensor, method: Literal["cholesky", "zca"] = "cholesky"
) -> tuple[Tensor, int]:
    """W (G, g, g) with W Sigma W^T = I for shrunk Sigma (G, g, g), and the number of fallbacks.

    cholesky: W = L^-1. Where the factorisation fails the diagonal is raised by 1 %, 10 %, 100 %
    of the mean variance; the groups concerned are counted.
    """
    if method == "zca":
        values, vectors = _eigh(shrunk)
        root = values.clamp_min(FLOOR * 1e-3).sqrt()
        return vectors / root[..., None, :] @ vectors.mT, 0
    eye = torch.eye(shrunk.shape[-1], dtype=shrunk.dtype, device=shrunk.device)
    factor, info = torch.linalg.cholesky_ex(shrunk)
    fallbacks = int(info.count_nonzero())
    if fallbacks:
        factor = _raised(shrunk, eye, info)
    return torch.linalg.solve_triangular(factor, eye.expand_as(shrunk), upper=False), fallbacks


def matrix_gradient(
    matrix: Tensor, grad: Tensor, method: Literal["cholesky", "zca"] = "cholesky"
) -> Tensor:
    """dL/dSigma (G, g, g), up to its antisymmetric part, from W and dL/dW of `whitening_matrix`.

    cholesky: with Phi the lower triangle, its diagonal halved (Murray, 1602.07527),

        dL/dSigma = -W^T Phi(dL/dW W^T) W

    zca: with the eigenvalues r_i of W and its eigenvectors V, from W Sigma W = I,

        dL/dSigma = -V [ (V^T sym(dL/dW) V)_ij r_i^2 r_j^2 / (r_i + r_j) ] V^T

    That of `eigh` divides by differences of eigenvalues and is NaN where two are equal, as in a
    group of dead channels; these are finite.
    """
    if method == "zca":
        values, vectors = _eigh(matrix)
        row, column = values[..., :, None], values[..., None, :]
        inner = vectors.mT @ (grad + grad.mT) @ vectors / 2
        inner = inner * (row * column).square() / (row + column)
        return -(vectors @ inner @ vectors.mT)
    inner = (grad @ matrix.mT).tril()
    inner.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    return -(matrix.mT @ inner @ matrix)


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (G, g) and vectors (G, g, g); NaN for a matrix with a number that is not finite.

    LAPACK stops at such a matrix, and with it for all groups.
    """
    whole = matrices.isfinite().all(dim=-1).all(dim=-1)
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    values, vectors = torch.linalg.eigh(torch.where(whole[:, None, None], matrices, eye))
    return torch.where(whole[:, None], values, torch.nan), vectors


def _raised(shrunk: Tensor, eye: Tensor, info: Tensor) -> Tensor:
    """Cholesky factors (G, g, g) with more shrinkage for the groups where `info` is not 0."""
    scale = shrunk.detach().diagonal(dim1=-2, dim2=-1).abs().mean(dim=-1).clamp_min(FLOOR)
    extra = torch.zeros_like(scale)
    factor = shrunk
    for more in (0.01, 0.1, 1.0):
        extra = torch.where(info != 0, more * scale, extra)  # a group keeps what made it work
        factor, info = torch.linalg.cholesky_ex(shrunk + extra[..., None, None] * eye)
        if not info.any():
            break
    return factor


class _Whitened(torch.autograd.Function):
    """gamma W (x - mu) + beta with the mean mu and the matrix W of x itself.

    The gradient is written out: with y's gradient D (M, C) at M pixels, K = gamma W, the mean and
    the covariance Sigma taken at m of them, and S = dL/dSigma,

        dL/dx = D K,  and at the m pixels also  + 1/m [(x - mu) (S + S^T) - (sum D) K]
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        statistics: tuple[Tensor, Tensor, Tensor],
        layer: BatchWhitening2d,
    ) -> Tensor:
        mean, covariance, matrix = statistics
        kernel = matrix * weight.reshape(-1, layer.group, 1)
        ctx.save_for_backward(x, weight, mean, covariance, matrix, kernel)
        ctx.layer = layer
        return images(grouped([(pixels(x), kernel)], bias - apart(kernel, mean)), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        with torch.autocast(grad.device.type, enabled=False):  # also where that of the loss is on
            return *_Whitened.gradients(ctx, grad), None, None

    @staticmethod
    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dL/dx, dL/dgamma, dL/dbeta from dL/dy."""
        x, weight, mean, covariance, matrix, kernel = ctx.saved_tensors
        layer, group = ctx.layer, ctx.layer.group
        flat = pixels(grad)
        total = flat.sum(dim=0)
        grad_kernel = products(flat, pixels(x), group, mean)
        grad_weight = (grad_kernel * matrix).sum(dim=2).reshape(-1)
        grad_kernel *= weight.reshape(-1, group, 1)
        slope = matrix_gradient(matrix, grad_kernel, layer.method)
        slope = shrink_gradient(covariance, slope, layer.epsilon, layer.shrinkage)
        seen = pixels(x, layer.stride)
        slope = (slope + slope.mT) / len(seen)
        shift = -apart(slope, mean) - apart(kernel.mT, total) / len(seen)
        if layer.stride == 1:
            found = images(grouped([(flat, kernel.mT), (seen, slope)], shift), x)
        else:
            found = images(grouped([(flat, kernel.mT)], torch.zeros_like(shift)), x)
            part = found[:, :, :: layer.stride, :: layer.stride]
            part += images(grouped([(seen, slope)], shift), part)
        return found, grad_weight, total


def images(flat: Tensor, like: Tensor) -> Tensor:
    """(M, C) -> (N, C, H, W) of the shape of `like`, in channels_last: not copied."""
    n, channels, height, width = like.shape
    return flat.view(n, height, width, channels).permute(0, 3, 1, 2)


class BatchWhitening2d(OwnNorm):
    """Drop-in for `nn.BatchNorm2d`: (N, C, H, W) -> the same shape, whitened within groups.

    `running_mean` (C,) and `running_cov` (C/g, g, g) are kept un-shrunk, from 0 and I.
    `fallbacks` counts groups whose covariance could not be factorised as it was.

    Raises:
        UserError: g does not divide C.
    """

    running_mean: Tensor
    running_cov: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        *,
        group: int = 4,
        epsilon: float = 1e-3,
        shrinkage: Literal["relative", "absolute"] = "relative",
        momentum: float = 0.1,
        stride: int = 1,
        method: Literal["cholesky", "zca"] = "cholesky",
    ) -> None:
        super().__init__()
        if channels % group:
            raise UserError(
                f"whitening.group: found {group}, expected a divisor of {channels} channels"
            )
        self.group = group
        self.epsilon = epsilon
        self.shrinkage: Literal["relative", "absolute"] = shrinkage
        self.momentum = momentum
        self.stride = stride
        self.method: Literal["cholesky", "zca"] = method
        self.fallbacks = 0
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        eye = torch.eye(group).repeat(channels // group, 1, 1)
        self.register_buffer("running_cov", eye)
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
            with torch.no_grad():
                mean, covariance = self.running_mean, self.running_cov
                if self.training:
                    mean, covariance = moments(wide, self.group, self.stride)
                    self._track(mean, covariance)
                shrunk = shrink(covariance, self.epsilon, self.shrinkage)
                matrix, fallbacks = whitening_matrix(shrunk, self.method)
                self.fallbacks += fallbacks
            if self.training:
                out = _Whitened.apply(wide, weight, bias, (mean, covariance, matrix), self)
            else:
                kernel = matrix * weight.reshape(-1, self.group, 1)
                shift = bias - apart(kernel, mean)
                out = F.conv2d(
                    wide, kernel.reshape(-1, self.group, 1, 1), shift, groups=len(kernel)
                )
        return out.to(x.dtype)

    counted = staticmethod(group_by_group)

    @torch.no_grad()
    def _track(self, mean: Tensor, covariance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_cov.lerp_(covariance.to(self.running_cov.dtype), self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, group={self.group}, epsilon={self.epsilon}, {self.shrinkage}"
