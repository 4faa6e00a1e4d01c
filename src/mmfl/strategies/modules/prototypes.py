"""Prototypes: features are drawn to the other modalities' class means; no pair is needed.

Missing-modality learning by cross-modal prototypes (MFCPL, 2401.13898), for multi-label data as
docs/method.md, section 4, writes it; for pixels a sample's classes are those that it shows. Class
means leave a client: this is no privacy guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfl.models.losses import wide
from mmfl.params import Params
from mmfl.strategies import aggregation
from mmfl.strategies.base import Client, Context, Module, Server, Tensors


def build(params: Params) -> Module:
    """The module as `algorithms.prototypes` wants it."""
    own = params.algorithms.prototypes
    return Prototypes("prototypes", weight=own.weight, temperature=own.temperature)


class Prototypes(Module):
    """lambda * the pull to the prototypes of the patch's classes in the other modalities.

    A client returns, per modality, the mean projection of its patches of each class in the last
    local epoch, `values` (P, d), and how many they were, `counts` (P,). The server averages them
    by counts; a class that nobody saw has count 0 and no part in the loss. Absent in round 1.
    """

    def __init__(self, name: str, *, weight: float, temperature: float) -> None:
        self.name = name
        self.weight = weight
        self.temperature = temperature

    def broadcast(self, server: Server, client: Client) -> Tensors:
        """The prototypes of the modalities other than the client's only one."""
        held = server.state.get(self.name, {})
        return {(q, n): t for (q, n), t in held.items() if client.modalities != (q,)}

    def loss(self, context: Context) -> Tensor | None:
        batch = context.batch
        assert batch is not None
        known = context.broadcast.extras.get(self.name, {})
        terms = []
        for q, features in batch.features.items():
            z = context.network.project(q, features)
            labels = batch.labels[torch.from_numpy(batch.present[q]).to(z.device)]
            if context.last_epoch:
                _add(context.memory, f"{self.name}.{q}", z.detach(), labels)
            for other in sorted({name for name, _ in known} - {q}):
                seen = known[other, "counts"].to(z.device) > 0
                means = known[other, "values"].to(z.device)
                terms.append(pull(z, means, seen, labels > 0, self.temperature))
        if not terms:
            return None
        return self.weight * torch.stack(terms).mean()

    def finish(self, client: Client, memory: dict[str, Any]) -> Tensors:
        sent: Tensors = {}
        for q in client.modalities:
            if f"{self.name}.{q}" in memory:
                total, count = memory[f"{self.name}.{q}"]
                sent[q, "values"] = total / count.clamp_min(1)[:, None]
                sent[q, "counts"] = count
        return sent

    def receive(self, server: Server, uploads: dict[str, Tensors]) -> None:
        """Means weighted by counts; a class without any keeps the prototype that it had."""
        after = dict(server.state.get(self.name, {}))
        for q in sorted({q for tensors in uploads.values() for q, _ in tensors}):
            means, counts = average([uploads[c] for c in sorted(uploads)], q)
            if (q, "values") in after:
                old = counts == 0
                means = torch.where(old[:, None], after[q, "values"], means)
                counts = torch.where(old, after[q, "counts"], counts)
            after[q, "values"], after[q, "counts"] = means, counts
        if after:
            server.state[self.name] = after


def pull(z: Tensor, means: Tensor, seen: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss of projections z (B, d), normalised, given prototypes (P, d) of one modality.

    For a patch with classes C+ and without C- (both among those `seen` (P,) has):

        1/|C+| sum_{c in C+} -log e^{z.p_c/tau} / (e^{z.p_c/tau} + sum_{k in C-} e^{z.p_k/tau})

    with normalised p, averaged over the patches whose C+ is not empty; 0 where there is none.
    `labels` is (B, P) bool.
    """
    similar = wide(z) @ F.normalize(wide(means), dim=1).T / temperature
    positive, negative = labels & seen, ~labels & seen
    against = similar.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    each = F.softplus(against - similar)  # -log e^s / (e^s + e^against)
    count = positive.sum(1)
    rows = torch.where(positive, each, 0.0).sum(1) / count.clamp_min(1)
    return rows.sum() / (count > 0).sum().clamp_min(1)


def average(uploads: Sequence[Tensors], modality: str) -> tuple[Tensor, Tensor]:
    """(P, d) means weighted by counts and (P,) total counts, of those that have the modality."""
    own = [tensors for tensors in uploads if (modality, "values") in tensors]
    counts = [tensors[modality, "counts"] for tensors in own]
    total = aggregation.sums({"n": n.double()} for n in counts)["n"]
    weighted = aggregation.sums(
        {"v": n.double()[:, None] * tensors[modality, "values"].double()}
        for n, tensors in zip(counts, own, strict=True)
    )["v"]
    values = own[0][modality, "values"]
    return (weighted / total.clamp_min(1)[:, None]).to(values.dtype), total.to(counts[0].dtype)


def _add(memory: dict[str, Any], name: str, z: Tensor, labels: Tensor) -> None:
    """Sums (P, d) and counts (P,) of projections z (B, d) by class, labels (B, P)."""
    z = wide(z)
    total, count = (labels.to(z.dtype).T @ z).cpu(), labels.sum(0).cpu()
    if name in memory:
        total, count = memory[name][0] + total, memory[name][1] + count
    memory[name] = (total, count)
