"""Probabilities of an ensemble for any subset of the modalities.

Features are computed once per modality; subsets, missing rates and fusion only combine them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmfl.models.ensemble import Ensemble, Expert
from mmfl.models.network import Network
from mmfl.patches.batching import batches, patterns

UNSEEN = -1.0
"""Fills the row of a location of which nothing is seen; a model that diverged answers NaN."""
Inputs = Callable[[str, np.ndarray], Tensor]
"""(modality, locations) -> standardised images (N, C, H, W) on the device."""


def load_expert(network: Network, expert: Expert) -> None:
    """Put an expert's tensors into the network and switch it to running statistics."""
    state = network.state_dict()
    with torch.no_grad():
        for key, value in expert.tensors.items():
            state[key].copy_(value)
    network.eval()


@torch.no_grad()
def expert_probabilities(
    network: Network,
    expert: Expert,
    locations: np.ndarray,
    masks: list[dict[str, np.ndarray]],
    inputs: Inputs,
    classes: int,
    batch: int,
) -> list[np.ndarray]:
    """(N, P) float32 for each availability mask; rows `UNSEEN` where the expert sees nothing.

    NaN where a logit is not finite: the model has diverged.

    `masks[k][q]` is (N,) bool: whether location i offers modality q in the k-th question.
    """
    seen = {q for mask in masks for q in mask} & set(expert.modalities)
    if expert.constant is not None:
        row = expert.constant.numpy().astype(np.float32)
        return [np.tile(row, (len(locations), 1)) for _ in masks]
    load_expert(network, expert)
    features = {}
    for q in sorted(seen):
        needed = np.any([mask[q] for mask in masks if q in mask], axis=0)
        features[q] = _features(network, q, locations, needed, inputs, batch)
    found = []
    for mask in masks:
        own = {q: mask[q] for q in mask if q in features}
        result = np.full((len(locations), classes), UNSEEN, np.float32)
        for members, rows in patterns(own) if own else []:
            index = torch.from_numpy(rows)
            logits = network.classify({q: features[q][index] for q in members})
            result[rows] = torch.sigmoid(finite(logits.float())).cpu().numpy()
        found.append(result)
    return found


def finite(logits: Tensor) -> Tensor:
    """Logits with NaN for what is infinite, which sigmoid and softmax would call certain."""
    return torch.where(torch.isfinite(logits), logits, torch.nan)


def _features(
    network: Network, q: str, locations: np.ndarray, needed: np.ndarray, inputs: Inputs, batch: int
) -> Tensor:
    rows = np.flatnonzero(needed)
    parts: list[Tensor] = []
    for part in batches(len(rows), batch):
        found = network.features(q, inputs(q, locations[rows[part]]))
        assert isinstance(found, Tensor)
        parts.append(found)
    if not parts:
        return torch.empty(0)
    values = torch.cat(parts)
    features = values.new_zeros((len(locations), values.shape[1]))
    features[torch.from_numpy(rows).to(values.device)] = values
    return features


def ensemble_probabilities(
    network: Network,
    ensemble: Ensemble,
    locations: np.ndarray,
    masks: list[dict[str, np.ndarray]],
    inputs: Inputs,
    classes: int,
    batch: int,
) -> list[np.ndarray]:
    """Mean probability of the experts that see something of a location; `UNSEEN` where none does.

    NaN where one of those has diverged: the mean over the others would be another model.
    """
    every = [
        expert_probabilities(network, expert, locations, masks, inputs, classes, batch)
        for expert in ensemble
    ]
    combined = []
    for answers in zip(*every, strict=True):
        stack = np.stack(answers)
        seen = stack[:, :, :1] != UNSEEN
        total = np.where(seen, stack, 0).sum(axis=0, dtype=np.float64)
        count = seen.sum(axis=0)
        mean = np.where(count, total / np.maximum(count, 1), UNSEEN)
        combined.append(mean.astype(np.float32))
    return combined
