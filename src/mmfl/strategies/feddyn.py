"""FedDyn: a linear term makes the clients' optima agree with the global one."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl.strategies import aggregation
from mmfl.strategies.base import Context, Server, Slots, Strategy, Tensors, Update


class FedDyn(Strategy):
    """Dynamic regularisation (Acar et al., 2111.04263, algorithm 1).

    Client: f_i - <g_i, w_i> + alpha_i/2 |w_i - w|^2, then g_i -= alpha_i delta_i.
    Server: h -= alpha/N sum_i delta_i, w = mean_i w_i - h/alpha, unweighted over participants.
    alpha_i = alpha / (N pi_i) makes the fixed point that of the weighted objective. Invariant:
    h = sum_i pi_i g_i.
    """

    server_state = ("feddyn.h",)
    client_state = ("feddyn.g",)

    def begin_client(self, context: Context) -> None:
        context.memory["linear"] = context.own("feddyn.g")
        context.memory["alpha"] = own_alpha(self, context)

    def edit_gradient(self, context: Context) -> None:
        context.add_to_gradient(context.memory["linear"], -1.0)
        context.add_to_gradient(context.drift(), context.memory["alpha"])

    def finish_client(self, context: Context, delta: Tensors) -> tuple[Slots, Slots]:
        g, alpha = context.own("feddyn.g"), context.memory["alpha"]
        return {}, {"feddyn.g": {a: g[a] - alpha[a] * d for a, d in delta.items()}}

    def aggregate(self, server: Server, updates: Sequence[Update]) -> Tensors:
        h, alpha = server.state["feddyn.h"], self.hyper.alpha
        for a, total in aggregation.sums(u.delta for u in updates).items():
            h[a] = aggregation.add(h[a], -alpha / self.count(a) * total)
        mean = aggregation.weighted_sums([u.delta for u in updates], [1.0] * len(updates))
        return {a: d - h[a].double() / alpha for a, d in mean.items()}


def own_alpha(strategy: Strategy, context: Context) -> dict[tuple[str, str], float]:
    """alpha_i = alpha / (N pi_i) of every parameter, by the scope that it belongs to."""
    return {
        a: strategy.hyper.alpha / (strategy.count(a) * strategy.share(a, context.client.id))
        for a in context.start
    }
