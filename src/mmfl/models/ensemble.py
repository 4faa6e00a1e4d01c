"""What is tested: experts, and ensembles of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Expert:
    """One model under test: parameters and statistics by state_dict key, and what it can see.

    `constant` (P,) replaces the network by fixed probabilities.
    """

    name: str
    modalities: tuple[str, ...]
    tensors: dict[str, Tensor]
    constant: Tensor | None = None


Ensemble = tuple[Expert, ...]
"""Experts whose probabilities are averaged."""
