"""Centralised: all pairs on one machine. Anchor: what pooling the images would give."""

from __future__ import annotations

from collections.abc import Sequence

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
