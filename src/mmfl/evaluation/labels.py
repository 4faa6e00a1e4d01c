"""The test bench of multi-label classification: answers are probabilities (N, P)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfl.evaluation.metrics import best_thresholds, scores
from mmfl.evaluation.predict import UNSEEN, Inputs, ensemble_probabilities
from mmfl.evaluation.protocol import Cut, Mask, available
from mmfl.facts.tasks import TASKS
from mmfl.models.ensemble import Ensemble
from mmfl.models.network import Network


@dataclass
class LabelBench:
    """A `Bench` (protocol.py) for labels of whole patches.

    Attributes:
        labels: (L, P) uint8 of all locations.
        inputs: standardised images of locations.
        thresholds: half (0.5), or validation: per class the threshold of the best F1 there.
    """

    network: Network
    pairs: np.ndarray
    labels: np.ndarray
    present: dict[str, np.ndarray]
    class_names: Sequence[str]
    inputs: Inputs
    batch: int
    thresholds: str = "half"
    task = TASKS["multilabel"]

    def ask(self, ensemble: Ensemble, locations: np.ndarray, masks: list[Mask]) -> list[np.ndarray]:
        """(N, P) probabilities for each availability mask; `UNSEEN` where nothing is, or NaN."""
        return ensemble_probabilities(
            self.network, ensemble, locations, masks, self.inputs, len(self.class_names), self.batch
        )

    def seen(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: rows with probabilities."""
        return answer[:, 0] != UNSEEN

    def finite(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: rows without NaN."""
        return ~np.isnan(answer).any(axis=1)

    def cut(self, ensemble: Ensemble, validation: np.ndarray) -> Cut | None:
        """0.5, or (P,) thresholds from the validation locations; None if it diverged there."""
        if self.thresholds == "half" or not len(validation):
            return 0.5
        answer = self.ask(ensemble, validation, [available(self, validation)])[0]
        seen = self.seen(answer)
        if not self.finite(answer).all():
            return None
        return best_thresholds(self.labels[validation][seen], answer[seen])

    def score(self, locations: np.ndarray, answer: np.ndarray, cut: Cut) -> dict[str, Any]:
        """Multi-label scores of probabilities."""
        return scores(self.labels[locations], answer, cut)
