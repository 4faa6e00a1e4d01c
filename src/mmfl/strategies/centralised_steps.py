"""Centralised training of a federated client's length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmfl.strategies.base import Client
from mmfl.strategies.centralised_epochs import CentralisedEpochs


class CentralisedSteps(CentralisedEpochs):
    """One client with everything; of steps a round as many as a client takes (their mean)."""

    def steps(self, epoch: Callable[[Client], int]) -> int | None:
        return max(1, round(float(np.mean([epoch(client) for client in self.population]))))
