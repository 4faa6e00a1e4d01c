"""FedProx: a proximal term holds local training near the broadcast weights."""

from __future__ import annotations

from mmfl.strategies.base import Context, Strategy


class FedProx(Strategy):
    """Local objective f_i(w_i) + mu/2 |w_i - w|^2 (Li et al., 1812.06127, algorithm 2)."""

    def edit_gradient(self, context: Context) -> None:
        context.add_to_gradient(context.drift(), self.hyper.mu)  # mu (w_i - w)
