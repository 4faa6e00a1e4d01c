"""Prior: the class frequencies of the training data. Anchor: what nothing learned looks like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmfl.models.ensemble import Ensemble, Expert
from mmfl.strategies.base import Client, Server, Strategy, everyone

PLACE = ("all", "frequencies")


class Prior(Strategy):
    """No client trains; `start` keeps the frequencies, which `setup` counts in the labels."""

    exchanges = False
    counts_labels = True

    def trainers(self, clients: Sequence[Client]) -> list[Client]:
        return []

    def start(self, initial: dict[str, Tensor]) -> Server:
        server = Server({}, {"modality": {}, "average": {}, "local": {}})
        assert self.frequencies is not None
        server.state["prior"] = {PLACE: self.frequencies}
        return server

    def evaluation_view(self, server: Server, policy: str) -> list[Ensemble]:
        modalities = everyone(self.population).modalities
        return [(Expert("prior", modalities, {}, server.state["prior"][PLACE]),)]
