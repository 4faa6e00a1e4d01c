"""FedBN: normalisation layers stay with the client."""

from __future__ import annotations

from torch import Tensor

from mmfl.strategies import aggregation
from mmfl.strategies.base import Client, Group, Server, Strategy, TensorInfo


class FedBn(Strategy):
    """Parameters and statistics of norm layers, found by type, stay local (2102.07623).

    The model for patches of no client in particular has norm parameters averaged with the
    weights pi_i and statistics pooled within the modality: the experimenter's view, not traffic.
    """

    def groups(self) -> tuple[Group, ...]:
        own = Group("norms", lambda t: t.is_norm and t.kind == "parameter", lambda t, c: c.id)
        return (own, *super().groups())

    def statistics_bytes(self, server: Server, client: Client) -> int:
        return 0

    def tested(self, server: Server, info: TensorInfo, client: Client) -> Tensor:
        if self.address(info, client) in server.parameters:
            return super().tested(server, info, client)
        holders = [
            c for c in self.clients if info.modality is None or info.modality in c.modalities
        ]
        mean = aggregation.weighted_sums(
            [{info.name: super(FedBn, self).tested(server, info, c)} for c in holders],
            [self.nu(c.size) for c in holders],
        )
        return mean[info.name].to(server.parameters[self.address(info, holders[0])].dtype)
