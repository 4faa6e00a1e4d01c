"""Fusing the modalities that are there.

Pure functions over modality -> (N, D) or (N, P), for pixels (N, D, h, w) or (N, P, H, W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfl.models.losses import wide


def mean(values: dict[str, Tensor]) -> Tensor:
    """Mean over the available modalities."""
    found = [values[q] for q in sorted(values)]
    return found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)


def concat(values: dict[str, Tensor], modalities: tuple[str, ...]) -> Tensor:
    """(N, D * |Q|, ...) in the order of `modalities`; a missing one is zero."""
    blank = torch.zeros_like(next(iter(values.values())))
    return torch.cat([values.get(q, blank) for q in modalities], dim=1)


def probability(logits: dict[str, Tensor]) -> Tensor:
    """Logit of the mean of the modalities' probabilities, stable for large logits."""
    stack = torch.stack([logits[q] for q in sorted(logits)])
    return F.logsigmoid(stack).logsumexp(0) - F.logsigmoid(-stack).logsumexp(0)


def pixel_probability(logits: dict[str, Tensor]) -> Tensor:
    """Log of the mean of the modalities' probabilities (softmax over classes), (N, P, H, W)."""
    stack = torch.stack([wide(logits[q]).log_softmax(1) for q in sorted(logits)])
    return stack.logsumexp(0) - math.log(len(stack))
