"""Centralised: all pairs on one machine. Anchor: what pooling the images would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmfl.models.ensemble import Ensemble
from mmfl.strategies.base import Client, Server
from mmfl.strategies.local import Local


class CentralisedEpochs(Local):
    """One client with everything, trained for as many epochs as a federated client."""

    def participants(self, clients: Sequence[Client]) -> list[Client]:
        modalities = sorted({q for client in clients for q in client.modalities})
        train = {
            q: np.unique(np.concatenate([c.train[q] for c in clients if q in c.train]))
            for q in modalities
        }
        return [Client("all", "all", tuple(modalities), train)]

    def evaluation_view(
        self, server: Server, clients: Sequence[Client], policy: str
    ) -> list[Ensemble]:
        return [(self.expert(server, self.participants(clients)[0], policy),)]


class CentralisedSteps(CentralisedEpochs):
    """The same with as many optimiser steps a round as one client takes (the clients' mean)."""

    def steps(self, clients: Sequence[Client], batches: Callable[[Client], int]) -> int | None:
        return max(1, round(float(np.mean([batches(client) for client in clients]))))
