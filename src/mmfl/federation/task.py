"""What the clients of a federation train: a network, their data, a loss, a validation score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl.evaluation.protocol import validation_score
from mmfl.facts.tasks import IGNORED
from mmfl.federation.bench import build_bench
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.loading import Read, read_ahead
from mmfl.federation.tiles import TileData
from mmfl.models.compiled import compiled
from mmfl.models.ensemble import Ensemble
from mmfl.models.losses import wide
from mmfl.models.network import Network, fewest_values
from mmfl.params import Params
from mmfl.patches.augment import Turned
from mmfl.patches.batching import batches, patterns
from mmfl.randomness import generator
from mmfl.strategies.base import Batch, Client

Step = tuple[int, bool, np.ndarray]
"""(global epoch, whether it is the round's last, locations of the batch)."""


class Task(Protocol):
    """What the round loop needs to know; `Classification` and `Segmentation` are the pipeline's.

    `network` is scratch space of one process; an objective without layers is one, too.
    """

    network: Any
    device: torch.device

    def plan(self, client: Client, round_index: int, steps: int | None) -> list[Step]:
        """The batches of a client's local training; `steps` None: its local epochs."""
        ...

    def read(self, client: Client, plan: Sequence[Step]) -> Iterable[Any]:
        """What `batch` needs of each step, read ahead; valid until the next one is asked for."""
        ...

    def batch(self, client: Client, epoch: int, locations: np.ndarray, read: Any) -> Batch:
        """A training batch and its loss."""
        ...

    def pairs(self, client: Client, modality: str) -> Iterable[tuple[np.ndarray, Tensor]]:
        """(locations, inputs) of all that a client holds in a modality, without augmentation."""
        ...

    def validate(self, ensembles: Sequence[Ensemble]) -> float | None:
        """The validation score of some models: None without validation data, NaN if diverged."""
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
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of streams and pinned memory that name no device
        self.network = network.to(device)
        self.data = data
        self.normaliser = normaliser
        self.params = params
        self.seed = seed
        self.device = device
        self._features = compiled(self.network) if params.train.compile else self.network.features
        self._bench = build_bench(self.network, data, normaliser, params, device)
        self._pairs = fewest_values(self.network, params.train.size) == 1

    def plan(self, client: Client, round_index: int, steps: int | None) -> list[Step]:
        return schedule(
            client, self.params, self.seed, round_index, steps, self.data.shards, self._pairs
        )

    def read(self, client: Client, plan: Sequence[Step]) -> Iterator[Read]:
        requests = [(locations, self._turned(epoch)) for epoch, _, locations in plan]
        return read_ahead(self.data, client, requests, self.device)

    def _turned(self, epoch: int) -> Turned | None:
        return Turned(self.seed, epoch) if self.params.train.augment else None

    def batch(
        self, client: Client, epoch: int, locations: np.ndarray, read: Read | None = None
    ) -> Batch:
        if read is None:
            read = next(self.read(client, [(epoch, False, locations)]))
        turned = self._turned(epoch)
        inputs = {q: self.normaliser.client(q, x, client.id) for q, x in read.images.items()}
        features = {q: self._features(q, x) for q, x in inputs.items()}
        labels, loss = self.loss(features, read.present, locations, turned)
        codes = None if turned is None else turned.codes(self.data.names(locations))
        return Batch(locations, read.present, inputs, features, labels, loss, codes)

    def loss(
        self,
        features: dict[str, Any],
        present: dict[str, np.ndarray],
        samples: np.ndarray,
        turned: Turned | None,
    ) -> tuple[Tensor, Tensor]:
        """The samples' labels (B, P) float, and the loss of their features."""
        labels = torch.from_numpy(self.data.labels[samples]).float().to(self.device)
        return labels, classification_loss(self.network, features, present, labels)

    def pairs(self, client: Client, modality: str) -> Iterator[tuple[np.ndarray, Tensor]]:
        for part in batches(len(client.train[modality]), self.params.train.batch):
            locations = client.train[modality][part]
            x = self.data.batch(modality, locations).to(self.device)
            yield locations, self.normaliser.client(modality, x, client.id)

    def validate(self, ensembles: Sequence[Ensemble]) -> float | None:
        """The task's first score on the clients' validation locations, all modalities."""
        locations = self.data.splits.get("validation", np.empty(0, np.int64))
        return validation_score(self._bench, ensembles, locations)


class Segmentation(Classification):
    """Pixel-based classification of the windows of tiles."""

    def loss(
        self,
        features: dict[str, Any],
        present: dict[str, np.ndarray],
        samples: np.ndarray,
        turned: Turned | None,
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.data, TileData)
        targets = self.data.targets(samples, turned).to(self.device)
        classes = torch.arange(len(self.data.classes), device=self.device)
        flat = targets.flatten(1)[:, :, None]
        labels = (flat == classes).any(dim=1).float()
        return labels, pixel_loss(self.network, features, present, targets)


def schedule(
    client: Client,
    params: Params,
    seed: int,
    round_index: int,
    steps: int | None,
    shards: Callable[[Client, np.ndarray], np.ndarray] | None = None,
    pairs: bool = False,
) -> list[Step]:
    """The steps of a round.

    Each epoch is a permutation keyed by (seed, epoch, client), see `shuffled`. With a fixed number
    of steps per round, rounds go on where the round before stopped within an epoch. `shards` says
    in which shard each of a client's samples lies. With `pairs` no batch has a single image of a
    modality, see `accompanied`.
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
            rng, window = generator(seed, "order", epoch, client.id), params.train.window
            numbers = shards(client, locations) if shards is not None and window else None
            orders[epoch] = shuffled(locations, numbers, window, rng)
        order, part = orders[epoch], slices[position]
        batch = accompanied(order, part, client.train) if pairs else order[part]
        plan.append((epoch, epoch == last_epoch, batch))
    return plan


def accompanied(order: np.ndarray, part: slice, train: dict[str, np.ndarray]) -> np.ndarray:
    """The samples `order[part]`, and a second one of each modality that only one of them has.

    It is the next in the epoch's order, which begins anew at its end, and is seen twice in that
    epoch. For networks that end in one pixel, where a single image has no variance; to leave it out
    would keep a modality that few samples have from being learned.
    """
    batch, later = order[part], np.roll(order, -part.stop)
    for _ in train:
        for own in train.values():
            if np.isin(batch, own).sum() == 1:
                others = later[np.isin(later, own) & ~np.isin(later, batch)]
                batch = np.concatenate([batch, others[:1]])
    return batch


def shuffled(
    samples: np.ndarray, shards: np.ndarray | None, window: int, rng: np.random.Generator
) -> np.ndarray:
    """Samples (N,) in random order; with a window, so many shards after one another.

    The shards (N,) come in random order; the samples of `window` of them are shuffled together, so
    that a network disk reads one stretch of files at a time.
    """
    if not window or shards is None:
        return rng.permutation(samples)
    numbers = rng.permutation(np.unique(shards))
    groups = [numbers[start : start + window] for start in range(0, len(numbers), window)]
    return np.concatenate([rng.permutation(samples[np.isin(shards, group)]) for group in groups])


def classification_loss(
    network: nn.Module, features: dict[str, Any], present: dict[str, np.ndarray], labels: Tensor
) -> Tensor:
    """Binary cross entropy of labels (B, P), see `branch_loss`."""

    def parts(logits: Tensor, target: Tensor) -> tuple[Tensor, int]:
        return _bce(logits, target, "sum"), target.numel()

    return branch_loss(network, features, present, labels, parts, _bce)


def pixel_loss(
    network: nn.Module, features: dict[str, Any], present: dict[str, np.ndarray], targets: Tensor
) -> Tensor:
    """Cross entropy of the pixels (B, H, W) uint8 that have a class, see `branch_loss`."""

    def mean(logits: Tensor, target: Tensor) -> Tensor:
        total, count = cross_entropy(logits, target)
        return total / count.clamp_min(1)

    return branch_loss(network, features, present, targets, cross_entropy, mean)


def branch_loss(
    network: nn.Module,
    features: dict[str, Any],
    present: dict[str, np.ndarray],
    targets: Tensor,
    parts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | int]],
    mean: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The mean of the losses of the branches and, with several modalities, of the fusion.

    `features[q]` belong to the rows `present[q]` of `targets` (B, ...). `parts` gives the sum of a
    loss and how many terms it has, `mean` their quotient.
    """
    assert isinstance(network, Network)
    rows = {q: torch.from_numpy(np.flatnonzero(present[q])).to(targets.device) for q in features}
    branches = [mean(network.classify({q: z}), targets[rows[q]]) for q, z in features.items()]
    if len(features) == 1:
        return branches[0]
    total, terms = branches[0].new_zeros(()), branches[0].new_zeros(())
    for members, index in patterns({q: present[q] for q in features}):
        chosen = {q: features[q][_positions(present[q], index)] for q in members}
        target = targets[torch.from_numpy(index).to(targets.device)]
        added, count = parts(network.classify(chosen), target)
        total, terms = total + added, terms + count
    return torch.stack([*branches, total / terms.clamp_min(1)]).mean()


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log p of the true class over the pixels that have one, and their number.

    logits (B, P, H, W), targets (B, H, W) uint8. By log_softmax and gather, whose gradients are
    deterministic on CUDA, too.
    """
    known = targets != IGNORED
    index = torch.where(known, targets, 0).long()[:, None]
    picked = F.log_softmax(wide(logits), dim=1).gather(1, index)[:, 0]
    return -torch.where(known, picked, 0).sum(), known.sum()


def _positions(present: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy((np.cumsum(present) - 1)[rows])


def _bce(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction=reduction)


def shown_policy(params: Params) -> str:
    """The statistics under which the union model is tested; `local` has none, so pooled ones."""
    return "modality" if params.train.statistics == "local" else params.train.statistics
