"""Prior: the class frequencies of the training data. Anchor: what nothing learned looks like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmfl.models.ensemble import Ensemble, Expert
from mmfl.strategies.base import Client, Server, Strategy


class Prior(Strategy):
    """No client trains; `start` keeps the frequencies, found by the round loop's data."""

    exchanges = False
    frequencies: Tensor | None = None

    def participants(self, clients: Sequence[Client]) -> list[Client]:
        return []

    def start(self, initial: dict[str, Tensor], clients: Sequence[Client]) -> Server:
        server = Server({}, {"modality": {}, "average": {}, "local": {}})
        assert self.frequencies is not None
        server.state["prior.frequencies"] = self.frequencies
        return server

    def evaluation_view(
        self, server: Server, clients: Sequence[Client], policy: str
    ) -> list[Ensemble]:
        modalities = tuple(sorted({q for client in clients for q in client.modalities}))
        return [(Expert("prior", modalities, {}, server.state["prior.frequencies"]),)]
