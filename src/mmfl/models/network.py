"""The multi-modal network: a backbone per modality, one classifier, projection heads."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl.errors import UserError
from mmfl.models import fusion as fuse
from mmfl.models.resnet import BACKBONES, Backbone, Norm
from mmfl.models.whitening import BatchWhitening2d

NORMS = (nn.BatchNorm2d, BatchWhitening2d)
WHERE = {"none": (), "stem": ("stem",), "stem+layer1": ("stem", "layer1")}


@dataclass(frozen=True)
class KeyInfo:
    """A state_dict entry: its name without the modality, and what it is."""

    canonical: str
    modality: str | None
    kind: Literal["parameter", "statistic", "counter"]
    is_norm: bool
    shared: bool
    projection: bool


class Network(nn.Module):
    """theta_q per modality, psi shared, omega_q per modality.

    Args:
        bands: modality -> number of input channels.
        classes: outputs P.
        whitening: where (none, stem, stem+layer1, all) and the arguments of `BatchWhitening2d`.
        fusion: mean (of features), concat, logit or probability.
        share_from_stage: stages from this one on (1 is the first) have the same parameters in
            all modalities; running statistics stay apart.
    """

    def __init__(
        self,
        bands: dict[str, int],
        classes: int,
        *,
        backbone: str = "compact",
        width: int = 16,
        whitening: dict[str, Any] | None = None,
        fusion: str = "mean",
        projection: int = 128,
        share_from_stage: int | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(sorted(bands))
        self.fusion = fusion
        norm = norm_factory(**(whitening or {"where": "none"}))
        build = BACKBONES[backbone]
        self.backbones = nn.ModuleDict({q: build(bands[q], width, norm) for q in self.modalities})
        features = self.backbone(self.modalities[0]).width
        inputs = features * len(bands) if fusion == "concat" else features
        self.classifier = nn.Linear(inputs, classes)
        self.heads = nn.ModuleDict(
            {q: nn.Sequential(nn.Linear(features, projection), nn.ReLU()) for q in self.modalities}
        )
        self.share_from_stage = share_from_stage
        if share_from_stage is not None:
            self._tie(share_from_stage)

    def _tie(self, first: int) -> None:
        reference = self.backbone(self.modalities[0])
        if not 1 <= first <= len(reference.stages):
            raise UserError(
                f"model.share_from_stage: found {first}, expected 1 to {len(reference.stages)}"
            )
        for stage in range(first - 1, len(reference.stages)):
            for name, parameter in reference.stages[stage].named_parameters():
                owner, _, leaf = name.rpartition(".")
                for q in self.modalities[1:]:
                    target = self.backbone(q).stages[stage].get_submodule(owner)
                    setattr(target, leaf, parameter)

    def backbone(self, modality: str) -> Backbone:
        """theta_q."""
        found = self.backbones[modality]
        assert isinstance(found, Backbone)
        return found

    def features(self, modality: str, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D)."""
        return self.backbones[modality](x)

    def project(self, modality: str, features: Tensor) -> Tensor:
        """(N, D) -> (N, d), L2-normalised."""
        return F.normalize(self.heads[modality](features).float(), dim=1)

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (N, P) from the features (N, D) of the available modalities."""
        if self.fusion == "mean":
            return self.classifier(fuse.mean(features))
        if self.fusion == "concat":
            return self.classifier(fuse.concat(features, self.modalities))
        logits = {q: self.classifier(z) for q, z in features.items()}
        return fuse.mean(logits) if self.fusion == "logit" else fuse.probability(logits)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """modality -> images (N, C, H, W) to logits (N, P)."""
        return self.classify({q: self.features(q, x) for q, x in inputs.items()})

    def describe_keys(self) -> dict[str, KeyInfo]:
        """Every state_dict key: which modality, parameter or statistic, by layer type."""
        parameters = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        described = {}
        for key in self.state_dict():
            parts = key.split(".")
            modality = parts[1] if parts[0] in ("backbones", "heads") else None
            canonical = ".".join([parts[0], *parts[2:]]) if modality else key
            owner = self.get_submodule(key.rpartition(".")[0])
            kind: Literal["parameter", "statistic", "counter"] = "parameter"
            if key not in parameters:
                kind = "counter" if parts[-1] == "num_batches_tracked" else "statistic"
            shared = modality is None or (
                self.share_from_stage is not None
                and parts[2] == "stages"
                and int(parts[3]) >= self.share_from_stage - 1
            )
            described[key] = KeyInfo(
                canonical, modality, kind, isinstance(owner, NORMS), shared, parts[0] == "heads"
            )
        return described


def norm_factory(where: str, **whitening: Any) -> Norm:
    """Batch whitening at the places named by `where`, batch normalisation elsewhere."""

    def norm(channels: int, place: str) -> nn.Module:
        if where == "all" or place in WHERE[where]:
            return BatchWhitening2d(channels, **whitening)
        return nn.BatchNorm2d(channels)

    return norm


@torch.no_grad()
def initialise(network: Network, seed: int) -> None:
    """Draw every parameter from a generator of its own, keyed by (seed, name).

    Convolutions: He normal, fan out (1502.01852); linear: uniform +-1/sqrt(fan in); norms: 1, 0.
    The name leaves out the modality for shared tensors only.
    """
    described = network.describe_keys()
    for key, parameter in network.named_parameters():
        name = described[key].canonical if described[key].shared else key
        text = hashlib.sha256(f"{seed}/initialise/{name}".encode()).digest()
        source = torch.Generator().manual_seed(int.from_bytes(text[:7], "big"))
        layer = network.get_submodule(key.rpartition(".")[0])
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * math.prod(layer.kernel_size)
            value = torch.randn(parameter.shape, generator=source) * math.sqrt(2 / fan_out)
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            value = (torch.rand(parameter.shape, generator=source) * 2 - 1) * bound
        else:
            value = (
                torch.ones_like(parameter)
                if key.endswith("weight")
                else torch.zeros_like(parameter)
            )
        parameter.copy_(value)
