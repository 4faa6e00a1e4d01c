"""Weighted sums in float64, and the pooling of running statistics. Pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def weighted_sums(
    deltas: Sequence[dict[Key, Tensor]], weights: Sequence[float]
) -> dict[Key, Tensor]:
    """sum_i p_i delta_i per key, p_i = weight_i / sum of the weights of those who have the key.

    Summed in the order given, in float64; keys that nobody has are absent.
    """
    totals: dict[Key, float] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        for key in delta:
            totals[key] = totals.get(key, 0.0) + weight
    sums: dict[Key, Tensor] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        for key, value in delta.items():
            term = value.double() * (weight / totals[key])
            sums[key] = sums[key] + term if key in sums else term
    return sums


def sums(parts: Iterable[dict[Key, Tensor]]) -> dict[Key, Tensor]:
    """Sum per key in the order given; keys that nobody has are absent."""
    totals: dict[Key, Tensor] = {}
    for part in parts:
        for key, value in part.items():
            totals[key] = totals[key] + value if key in totals else value
    return totals


def add(value: Tensor, delta: Tensor) -> Tensor:
    """value + delta, formed in float64 and rounded once to the type of `value`."""
    return (value.double() + delta.double()).to(value.dtype)


def combine_statistics(
    members: Sequence[tuple[float, dict[str, Tensor]]], *, pooled: bool
) -> dict[str, Tensor]:
    """Running statistics of a scope from those of its members (weight, name -> tensor).

    pooled: law of total variance, Sigma = sum_k p_k [Sigma_k + (mu_k - mu)(mu_k - mu)^T] for
    `running_cov` (C/g, g, g) and its diagonal form for `running_var` (C,); otherwise the
    p-weighted mean of every buffer. Means are p-weighted either way.
    """
    tensors = [values for _, values in members]
    weights = [weight for weight, _ in members]
    mean = weighted_sums(tensors, weights)
    if not pooled:
        return mean
    between: list[dict[str, Tensor]] = []
    for values in tensors:
        spread: dict[str, Tensor] = {}
        for name in values:
            stem, _, kind = name.rpartition(".")
            if kind in ("running_var", "running_cov"):
                centre = f"{stem}.running_mean"
                offset = values[centre].double() - mean[centre]
                if kind == "running_cov":
                    offset = offset.reshape(values[name].shape[0], -1)
                    spread[name] = torch.einsum("ki,kj->kij", offset, offset)
                else:
                    spread[name] = offset.square()
        between.append(spread)
    for name, value in weighted_sums(between, weights).items():
        mean[name] = mean[name] + value
    return mean
