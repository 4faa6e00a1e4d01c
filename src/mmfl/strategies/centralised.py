"""Centralised: all pairs on one machine. Anchor: what pooling the images would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmfl.strategies.base import Client
from mmfl.strategies.local import Local


class CentralisedEpochs(Local):
    """One client with everything, trained for as many epochs as a federated client."""

    def trainers(self, clients: Sequence[Client]) -> list[Client]:
        modalities = sorted({q for client in clients for q in client.modalities})
        train = {
            q: np.unique(np.concatenate([c.train[q] for c in clients if q in c.train]))
            for q in modalities
        }
        return [Client("all", "all", tuple(modalities), train)]


class CentralisedSteps(CentralisedEpochs):
    """The same with as many optimiser steps a round as one client takes (the clients' mean)."""

    def steps(self, epoch: Callable[[Client], int]) -> int | None:
        return max(1, round(float(np.mean([epoch(client) for client in self.population]))))
