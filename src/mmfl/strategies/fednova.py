"""FedNova: differences are divided by how far a client's optimiser walked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmfl.strategies import aggregation
from mmfl.strategies.base import Context, Server, Slots, Strategy, Tensors, Update

NORM = ("update", "norm")


class FedNova(Strategy):
    """Normalised averaging (Wang et al., 2007.07481, section 4.1).

        w += tau_eff sum_i p_i delta_i / |a_i|,   tau_eff = sum_i p_i |a_i|

    |a_i| = K_i for plain SGD. A client that took no step adds nothing to the sum.
    """

    uplink = ("fednova",)

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        norm = walked(context.steps, context.momentum)
        return {"fednova": {NORM: torch.tensor(norm, dtype=torch.float64)}}, {}

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        nu = [self.nu(u.size) for u in updates]
        norms = [u.extras["fednova"][NORM] for u in updates]
        unit = [
            {a: d / n if n else torch.zeros_like(d) for a, d in u.delta.items()}
            for u, n in zip(updates, norms, strict=True)
        ]
        lengths = [{a: n for a in u.delta} for u, n in zip(updates, norms, strict=True)]
        effective = aggregation.weighted_sums(lengths, nu)
        return {a: effective[a] * d for a, d in aggregation.weighted_sums(unit, nu).items()}


def walked(steps: int, momentum: float) -> float:
    """|a|_1 of SGD: K, or [K - rho (1 - rho^K) / (1 - rho)] / (1 - rho) with momentum rho."""
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
