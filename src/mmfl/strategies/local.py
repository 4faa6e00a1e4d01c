"""Local: every client trains alone. Anchor: what federation has to beat."""

from __future__ import annotations

from mmfl.models.ensemble import Ensemble
from mmfl.strategies.base import Client, Group, Server, Strategy


class Local(Strategy):
    """Every tensor is the client's own; nothing is exchanged."""

    exchanges = False

    def groups(self) -> tuple[Group, ...]:
        return (Group("own", lambda t: True, lambda t, c: c.id),)

    def evaluation_view(self, server: Server, policy: str) -> list[Ensemble]:
        """One ensemble per group: the mean probability of the group's clients."""
        groups: dict[str, list[Client]] = {}
        for client in self.clients:
            groups.setdefault(client.group, []).append(client)
        return [
            tuple(self.expert(server, client, policy) for client in members)
            for members in groups.values()
        ]
