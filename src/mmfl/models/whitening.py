"""FW, feature whitening: batch whitening in place of batch normalisation.

    BW(x) = gamma * W_B (x - mu_B) + beta,   W_B^T W_B = Sigma_eps^-1,
    Sigma_eps = (1 - eps) Sigma_B + eps s I

(Roy et al., "Unsupervised Domain Adaptation using Feature-Whitening and Consensus Loss", CVPR
2019). Channels are whitened in groups of g; Sigma is biased, over N * H * W.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmfl.errors import UserError

FLOOR = 1e-6


def moments(x: Tensor, group: int, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (C,) and biased covariance (C/g, g, g) of x (N, C, H, W), at every stride-th pixel."""
    mean, covariance = _Moments.apply(x, group, stride)
    return mean, covariance


class _Moments(torch.autograd.Function):
    """`moments` with its gradient written out: one grouped product in place of six passes over x.

    With M pixels and the incoming gradients m of the mean and S of the covariance,

        dL/dx = 1/M [(S + S^T) (x - mu) + m]
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: int, stride: int) -> tuple[Tensor, Tensor]:
        seen = x[:, :, ::stride, ::stride]
        n, channels, height, width = seen.shape
        pixels = n * height * width
        mean = seen.mean(dim=(0, 2, 3))
        centred = (seen - mean[:, None, None]).reshape(n, channels // group, group, -1)
        covariance = (centred @ centred.transpose(2, 3)).sum(dim=0) / pixels
        ctx.save_for_backward(x, mean)
        ctx.stride = stride
        return mean, covariance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_cov: Tensor) -> tuple[Tensor, None, None]:
        x, mean = ctx.saved_tensors
        seen = x[:, :, :: ctx.stride, :: ctx.stride]
        pixels = seen.numel() // seen.shape[1]
        kernel = (grad_cov + grad_cov.transpose(1, 2)) / pixels
        grad = grouped(kernel, seen, grad_mean / pixels - apart(kernel, mean))
        if ctx.stride > 1:
            full = torch.zeros_like(x)
            full[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = full
        return grad, None, None


def apart(kernel: Tensor, vector: Tensor) -> Tensor:
    """Each group's matrix (C/g, g, g) times its part of a vector (C,)."""
    return (kernel @ vector.reshape(len(kernel), -1, 1)).reshape(-1)


def grouped(kernel: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """Grouped 1x1 convolution: kernel (C/g, g, g), x (N, C, H, W), bias (C,) -> (N, C, H, W).

    On a CPU with contiguous x as a batched matrix product, which takes a third of the time.
    """
    groups, size = len(kernel), kernel.shape[-1]
    if x.device.type == "cpu" and x.is_contiguous():
        n, _, height, width = x.shape
        out = kernel @ x.reshape(n, groups, size, height * width)
        return (out + bias.reshape(groups, size, 1)).reshape(x.shape)
    return F.conv2d(x, kernel.reshape(groups * size, size, 1, 1), bias, groups=groups)


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


def whitening_matrix(
    shrunk: Tensor, method: Literal["cholesky", "zca"] = "cholesky"
) -> tuple[Tensor, int]:
    """W (G, g, g) with W Sigma W^T = I for shrunk Sigma (G, g, g), and the number of fallbacks.

    cholesky: W = L^-1. Where the factorisation fails the diagonal is raised by 1 %, 10 %, 100 %
    of the mean variance; the groups concerned are counted.
    """
    if method == "zca":
        root: Tensor = _InverseRoot.apply(shrunk)
        return root, 0
    eye = torch.eye(shrunk.shape[-1], dtype=shrunk.dtype, device=shrunk.device)
    factor, info = torch.linalg.cholesky_ex(shrunk)
    fallbacks = int((info != 0).sum())
    if fallbacks:
        factor = _raised(shrunk, eye, info)
    return torch.linalg.solve_triangular(factor, eye.expand_as(shrunk), upper=False), fallbacks


class _InverseRoot(torch.autograd.Function):
    """Sigma^(-1/2) of symmetric Sigma (G, g, g), with a gradient that stays finite.

    That of `eigh` divides by differences of eigenvalues and is NaN where two are equal, as in a
    group of dead channels. With Sigma = V diag(s^2) V^T, from W Sigma^(1/2) = I:

        dL/dSigma = -V [ (V^T sym(dL/dW) V)_ij / (s_i s_j (s_i + s_j)) ] V^T
    """

    @staticmethod
    def forward(ctx: Any, shrunk: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(shrunk)
        root = values.clamp_min(FLOOR * 1e-3).sqrt()
        ctx.save_for_backward(root, vectors)
        return vectors / root[..., None, :] @ vectors.transpose(-1, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        root, vectors = ctx.saved_tensors
        row, column = root[..., :, None], root[..., None, :]
        symmetric = (grad + grad.transpose(-1, -2)) / 2
        inner = vectors.transpose(-1, -2) @ symmetric @ vectors
        inner = -inner / (row * column * (row + column))
        return vectors @ inner @ vectors.transpose(-1, -2)


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


class BatchWhitening2d(nn.Module):
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
            if self.training:
                mean, covariance = moments(wide, self.group, self.stride)
                self._track(mean, covariance)
            else:
                mean, covariance = self.running_mean, self.running_cov
            matrix, fallbacks = whitening_matrix(
                shrink(covariance, self.epsilon, self.shrinkage), self.method
            )
            self.fallbacks += fallbacks
            # gamma W (x - mu) + beta as one product
            kernel = matrix * self.weight.to(wide.dtype).reshape(-1, self.group, 1)
            out = grouped(kernel, wide, self.bias.to(wide.dtype) - apart(kernel, mean))
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, covariance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_cov.lerp_(covariance.to(self.running_cov.dtype), self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, group={self.group}, epsilon={self.epsilon}, {self.shrinkage}"
