"""FedAvgM: the server moves with momentum."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl.strategies.base import Server, Strategy, Tensors, Update


class FedAvgM(Strategy):
    """v = beta v + sum_i p_i delta_i, w += v (Hsu et al., 1909.06335, section 4.3)."""

    server_state = ("fedavgm.v",)

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        v = server.state["fedavgm.v"]
        moved = {}
        for a, change in self.mean_change(updates).items():
            moved[a] = self.hyper.beta * v[a].double() + change
            v[a] = moved[a].to(v[a].dtype)
        return moved
