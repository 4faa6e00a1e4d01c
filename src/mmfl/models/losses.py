"""Losses as pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def ntxent(
    u: Tensor, v: Tensor, temperature: float, negatives: Literal["all", "cross"] = "all"
) -> Tensor:
    """NT-Xent between L2-normalised projections u, v (B, d) of the same B pairs; a scalar.

    1/(2B) sum_i [l(u_i, v_i) + l(v_i, u_i)] with

        all:   l(u_i, v_i) = -log e^{u_i.v_i/t} / (sum_{k != i} e^{u_i.u_k/t} + sum_k e^{u_i.v_k/t})
        cross: l(u_i, v_i) = -log e^{u_i.v_i/t} / sum_k e^{u_i.v_k/t}

    (Chen et al., 2002.05709, for the form; docs/method.md, section 4). B = 0 gives 0.
    In float32 or wider, also under autocast.
    """
    if not len(u):
        return (u.sum() + v.sum()) * 0
    with torch.autocast(u.device.type, enabled=False):
        return _ntxent(wide(u), wide(v), temperature, negatives)


def wide(x: Tensor) -> Tensor:
    """float32 of anything narrower; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def _ntxent(u: Tensor, v: Tensor, temperature: float, negatives: str) -> Tensor:
    across = u @ v.T / temperature
    positives = across.diagonal()
    if negatives == "cross":
        left, right = across, across.T
    else:
        itself = torch.eye(len(u), dtype=torch.bool, device=u.device)
        within_u = (u @ u.T / temperature).masked_fill(itself, -torch.inf)
        within_v = (v @ v.T / temperature).masked_fill(itself, -torch.inf)
        left = torch.cat([within_u, across], dim=1)
        right = torch.cat([within_v, across.T], dim=1)
    return ((left.logsumexp(1) - positives).mean() + (right.logsumexp(1) - positives).mean()) / 2
