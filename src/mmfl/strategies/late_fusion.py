"""Late fusion: one federation per modality, nothing shared between them."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl.errors import UserError
from mmfl.models.ensemble import Ensemble
from mmfl.strategies.base import Client, Group, Server, Strategy, TensorInfo


class LateFusion(Strategy):
    """As MF, but the classifier is shared within a modality only; probabilities are averaged."""

    def groups(self) -> tuple[Group, ...]:
        *rest, _ = super().groups()
        return (*rest, Group("per federation", lambda t: True, _federation))

    def trainers(self, clients: Sequence[Client]) -> list[Client]:
        for client in clients:
            if len(client.modalities) > 1:
                raise UserError(
                    f"train.methods: late-fusion: client {client.id} holds "
                    f"{'+'.join(client.modalities)}, expected one modality per client; "
                    "use the assignment duplicate or disjoint"
                )
        return list(clients)

    def evaluation_view(self, server: Server, policy: str) -> list[Ensemble]:
        modalities = sorted({q for client in self.clients for q in client.modalities})
        federations = [Client(q, q, (q,), {}) for q in modalities]
        return [tuple(self.expert(server, member, policy) for member in federations)]


def _federation(info: TensorInfo, client: Client) -> str:
    return client.modalities[0]
