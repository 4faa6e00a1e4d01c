"""FedDC: every client tracks its drift; the server averages what the drifts correct."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl.strategies import aggregation
from mmfl.strategies.base import Context, Server, Slots, Strategy, Tensors, Update
from mmfl.strategies.feddyn import own_alpha


class FedDc(Strategy):
    """Local drift decoupling and correction (Gao et al., 2203.11751, algorithm 1).

    Client: f_i + alpha_i/2 |w_i + h_i - w|^2 + <w_i, g - g_i>, then h_i += delta_i and
    g_i+ = g_i - g + (w - w_i) / (K_i eta). Server: w = mean_i w_i over participants + mean of h_i
    over the whole scope; g += sum_i pi_i (g_i+ - g_i). alpha_i = alpha / (N pi_i), as in FedDyn.
    Invariants: g = sum_i pi_i g_i, and the server's h is the mean of all h_i.
    """

    server_state = ("feddc.g", "feddc.h")
    client_state = ("feddc.g", "feddc.h")
    downlink = ("feddc.g",)
    uplink = ("feddc.dg",)

    def begin_client(self, context: Context) -> None:
        g, own = context.received("feddc.g"), context.own("feddc.g")
        context.memory["linear"] = {a: g[a] - own[a] for a in own}
        context.memory["drift"] = context.own("feddc.h")
        context.memory["alpha"] = own_alpha(self, context)

    def edit_gradient(self, context: Context) -> None:
        context.add_to_gradient(context.memory["linear"])
        context.add_to_gradient(context.memory["drift"], context.memory["alpha"])
        context.add_to_gradient(context.drift(), context.memory["alpha"])

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        g, own, h = context.received("feddc.g"), context.own("feddc.g"), context.own("feddc.h")
        change = {a: -g[a] - d / (context.steps * context.rate) for a, d in delta.items()}
        kept = {
            "feddc.g": {a: own[a] + x for a, x in change.items()},
            "feddc.h": {a: h[a] + d for a, d in delta.items()},
        }
        return {"feddc.dg": change}, kept

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        g, h = server.state["feddc.g"], server.state["feddc.h"]
        for a, change in self.population_sum(updates, "feddc.dg").items():
            g[a] = aggregation.add(g[a], change)
        for a, total in aggregation.sums(u.delta for u in updates).items():
            h[a] = aggregation.add(h[a], total / self.count(a))
        mean = aggregation.weighted_sums([u.delta for u in updates], [1.0] * len(updates))
        return {a: d + h[a].double() for a, d in mean.items()}
