"""FedAdam: the server is an Adam without bias correction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmfl.strategies.base import Server, Strategy, Tensors, Update


class FedAdam(Strategy):
    """Adaptive federated optimisation (Reddi et al., 2003.00295, algorithm 2, FedAdam).

        m = b1 m + (1 - b1) delta,  v = b2 v + (1 - b2) delta^2,  w += eta_s m / (sqrt(v) + tau)

    with delta = sum_i p_i delta_i, m = 0 and v = tau^2 before the first round.
    """

    server_state = ("fedadam.m", "fedadam.v")

    def start(self, initial: dict[str, Tensor]) -> Server:
        server = super().start(initial)
        v = server.state["fedadam.v"]
        server.state["fedadam.v"] = {a: torch.full_like(x, self.hyper.tau**2) for a, x in v.items()}
        return server

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        m, v, h = server.state["fedadam.m"], server.state["fedadam.v"], self.hyper
        moved = {}
        for a, delta in self.mean_change(updates).items():
            first = h.beta1 * m[a].double() + (1 - h.beta1) * delta
            second = h.beta2 * v[a].double() + (1 - h.beta2) * delta.square()
            moved[a] = h.server_rate * first / (second.sqrt() + h.tau)
            m[a], v[a] = first.to(m[a].dtype), second.to(v[a].dtype)
        return moved
