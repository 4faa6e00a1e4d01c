"""SCAFFOLD: control variates correct each local step for the client's drift."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl.strategies import aggregation
from mmfl.strategies.base import Context, Server, Slots, Strategy, Tensors, Update


class Scaffold(Strategy):
    """Stochastic controlled averaging (Karimireddy et al., 1910.06378, algorithm 1, option II).

    Invariant: c = sum_i pi_i c_i, also when some clients are absent. The weights pi_i make the
    fixed point that of the weighted objective. Parameters only; statistics are not corrected.
    """

    server_state = ("scaffold.c",)
    client_state = ("scaffold.c",)
    downlink = ("scaffold.c",)
    uplink = ("scaffold.dc",)

    def begin_client(self, context: Context) -> None:
        c, own = context.received("scaffold.c"), context.own("scaffold.c")
        context.memory["correction"] = {a: c[a] - own[a] for a in own}

    def edit_gradient(self, context: Context) -> None:
        context.add_to_gradient(context.memory["correction"])  # g - c_i + c

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        c, own = context.received("scaffold.c"), context.own("scaffold.c")
        # c_i+ - c_i = -c + (w - w_i) / (K_i eta)
        change = {a: -c[a] - d / (context.steps * context.rate) for a, d in delta.items()}
        return {"scaffold.dc": change}, {"scaffold.c": {a: own[a] + x for a, x in change.items()}}

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        c = server.state["scaffold.c"]
        for a, change in self.population_sum(updates, "scaffold.dc").items():
            c[a] = aggregation.add(c[a], change)
        return {a: self.hyper.server_rate * d for a, d in self.mean_change(updates).items()}
