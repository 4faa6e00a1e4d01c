"""What the clients of a federation train: a network, their data, a loss, a validation score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl.evaluation.metrics import scores
from mmfl.evaluation.predict import Inputs, ensemble_probabilities
from mmfl.federation.data import Data, Normaliser
from mmfl.models.ensemble import Ensemble
from mmfl.models.network import Network
from mmfl.params import Params
from mmfl.patches.batching import batches, patterns
from mmfl.randomness import generator
from mmfl.strategies.base import Batch, Client

Step = tuple[int, bool, np.ndarray]
"""(global epoch, whether it is the round's last, locations of the batch)."""


class Task(Protocol):
    """What the round loop needs to know; `Classification` is the one of the pipeline.

    `network` is scratch space of one process; an objective without layers is one, too.
    """

    network: Any
    device: torch.device

    def plan(self, client: Client, round_index: int, steps: int | None) -> list[Step]:
        """The batches of a client's local training; `steps` None: its local epochs."""
        ...

    def batch(self, client: Client, epoch: int, locations: np.ndarray) -> Batch:
        """A training batch and its loss."""
        ...

    def pairs(self, client: Client, modality: str) -> Sequence[tuple[np.ndarray, Tensor]]:
        """(locations, inputs) of all that a client holds in a modality, without augmentation."""
        ...

    def validate(self, ensembles: Sequence[Ensemble]) -> float | None:
        """The validation score of some models, None where there is no validation data."""
        ...


class Classification:
    """Multi-label classification of the patches of a partition."""

    def __init__(
        self,
        network: Network,
        data: Data,
        normaliser: Normaliser,
        params: Params,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network = network.to(device)
        self.data = data
        self.normaliser = normaliser
        self.params = params
        self.seed = seed
        self.device = device

    def plan(self, client: Client, round_index: int, steps: int | None) -> list[Step]:
        return schedule(client, self.params, self.seed, round_index, steps)

    def batch(self, client: Client, epoch: int, locations: np.ndarray) -> Batch:
        inputs, present = {}, {}
        flips = (self.seed, epoch) if self.params.train.augment else None
        for q in client.modalities:
            held = present[q] = np.isin(locations, client.train[q])
            if held.any():
                x = self.data.batch(q, locations[held], flips).to(self.device)
                inputs[q] = self.normaliser.client(q, x, client.id)
        labels = torch.from_numpy(self.data.labels[locations]).float().to(self.device)
        features = {q: self.network.features(q, x) for q, x in inputs.items()}
        loss = classification_loss(self.network, features, present, labels)
        return Batch(locations, present, inputs, features, labels, loss)

    def pairs(self, client: Client, modality: str) -> list[tuple[np.ndarray, Tensor]]:
        found = []
        for part in batches(len(client.train[modality]), self.params.train.batch):
            locations = client.train[modality][part]
            x = self.data.batch(modality, locations).to(self.device)
            found.append((locations, self.normaliser.client(modality, x, client.id)))
        return found

    def validate(self, ensembles: Sequence[Ensemble]) -> float | None:
        """Macro average precision on the clients' validation locations, all modalities."""
        data = self.data
        locations = data.splits.get("validation", np.empty(0, np.int64))
        if not len(locations) or not data.labels[locations].any():
            return None
        mask = {q: data.present[q][locations] for q in data.bands}
        inputs = standardised(data, self.normaliser, self.device)
        found = []
        for ensemble in ensembles:
            probabilities = ensemble_probabilities(
                self.network, ensemble, locations, [mask], inputs,
                len(data.classes), self.params.evaluate.batch,
            )[0]  # fmt: skip
            seen = ~np.isnan(probabilities[:, 0])
            if seen.any():
                found.append(scores(data.labels[locations][seen], probabilities[seen])["ap_macro"])
        return float(np.mean(found)) if found else None


def schedule(
    client: Client, params: Params, seed: int, round_index: int, steps: int | None
) -> list[Step]:
    """The steps of a round.

    Each epoch is a permutation keyed by (seed, epoch, client). With a fixed number of steps per
    round, rounds go on where the round before stopped within an epoch.
    """
    locations = client.locations
    slices = batches(len(locations), params.train.batch)
    count = params.train.epochs * len(slices) if steps is None else steps
    first = round_index * count
    last_epoch = (first + count - 1) // len(slices)
    plan, orders = [], {}
    for step in range(first, first + count):
        epoch, position = divmod(step, len(slices))
        if epoch not in orders:
            orders[epoch] = generator(seed, "order", epoch, client.id).permutation(locations)
        plan.append((epoch, epoch == last_epoch, orders[epoch][slices[position]]))
    return plan


def classification_loss(
    network: nn.Module, features: dict[str, Tensor], present: dict[str, np.ndarray], labels: Tensor
) -> Tensor:
    """Binary cross entropy; with several modalities the mean over the branches and the fusion.

    `features[q]` (B_q, D) belong to the rows `present[q]` of `labels` (B, P).
    """
    assert isinstance(network, Network)
    rows = {q: torch.from_numpy(np.flatnonzero(present[q])).to(labels.device) for q in features}
    branches = [_bce(network.classify({q: z}), labels[rows[q]]) for q, z in features.items()]
    if len(features) == 1:
        return branches[0]
    fused = labels.new_zeros(())
    for members, index in patterns({q: present[q] for q in features}):
        chosen = {q: features[q][_positions(present[q], index)] for q in members}
        target = labels[torch.from_numpy(index).to(labels.device)]
        fused = fused + _bce(network.classify(chosen), target, "sum")
    return torch.stack([*branches, fused / labels.numel()]).mean()


def _positions(present: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy((np.cumsum(present) - 1)[rows])


def _bce(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction=reduction)


def shown_policy(params: Params) -> str:
    """The statistics under which the union model is tested; `local` has none, so pooled ones."""
    return "modality" if params.train.statistics == "local" else params.train.statistics


def standardised(data: Data, normaliser: Normaliser, device: torch.device) -> Inputs:
    """Images of locations, standardised as the test bench does it."""

    def inputs(q: str, locations: np.ndarray) -> Tensor:
        return normaliser.locations(q, data.batch(q, locations).to(device), locations)

    return inputs
