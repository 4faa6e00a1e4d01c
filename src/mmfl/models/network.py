"""The multi-modal network: a backbone per modality, one classifier, projection heads.

For the pixel task a modality has a decoder, too, and the classifier is the decoder's last part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl import chosen
from mmfl.errors import UserError
from mmfl.models import fusion as fuse
from mmfl.models.dense import Dense, Features, cell_means
from mmfl.models.norms import OwnNorm
from mmfl.models.resnet import Backbone, Norm
from mmfl.models.unet import Decoder, PixelClassifier, scales

NORMS = (nn.BatchNorm2d, OwnNorm)
BRANCHES = ("backbones", "decoders", "heads")
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

    Pixel task: theta_q ends at the encoder's finest map, psi goes on to the logits of every pixel.

    Args:
        bands: modality -> number of input channels.
        classes: outputs P.
        task: multilabel, or pixel: logits for every pixel.
        whitening: where (none, stem, stem+layer1, all) and the arguments of `BatchWhitening2d`.
        fusion: mean (of features), concat, logit or probability.
        share_from_stage: stages from this one on (1 is the first) have the same parameters in
            all modalities; running statistics stay apart.

    Raises:
        UserError: a modality cannot have this name, or the stage does not exist.
    """

    def __init__(
        self,
        bands: dict[str, int],
        classes: int,
        *,
        task: str = "multilabel",
        backbone: str = "compact",
        width: int = 16,
        whitening: dict[str, Any] | None = None,
        fusion: str = "mean",
        projection: int = 128,
        share_from_stage: int | None = None,
    ) -> None:
        super().__init__()
        for q in bands:
            if hasattr(nn.ModuleDict(), q):
                raise UserError(f"modality {q}: found a name that PyTorch uses, expected another")
        self.modalities = tuple(sorted(bands))
        self.bands = dict(bands)
        self.task = task
        self.fusion = fusion
        norm = norm_factory(**(whitening or {"where": "none"}))
        build = chosen.load("models.backbones", backbone).build
        self.backbones = nn.ModuleDict({q: build(bands[q], width, norm) for q in self.modalities})
        features = self.backbone(self.modalities[0]).width
        branches = len(bands) if fusion == "concat" else 1
        if task == "pixel":
            found = scales(self.backbone(self.modalities[0]), bands[self.modalities[0]])
            decoders = {q: Decoder(found, norm) for q in self.modalities}
            self.decoders = nn.ModuleDict(decoders)
            maps = decoders[self.modalities[0]].width
            self.classifier: nn.Module = PixelClassifier(maps * branches, maps, classes)
        else:
            self.classifier = nn.Linear(features * branches, classes)
        self.heads = nn.ModuleDict(
            {q: nn.Sequential(nn.Linear(features, projection), nn.ReLU()) for q in self.modalities}
        )
        self.share_from_stage = share_from_stage
        if share_from_stage is not None:
            self._tie(share_from_stage)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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

    def features(self, modality: str, x: Tensor) -> Features:
        """(N, C, H, W) -> (N, D); for pixels the maps of N images (`Dense`).

        In channels_last, in which convolutions and norm layers are fastest (docs/models.md).
        """
        x = x.contiguous(memory_format=torch.channels_last)
        if self.task == "multilabel":
            return self.backbones[modality](x)
        maps = self.backbone(modality).maps(x)
        height, width = x.shape[-2:]
        return Dense(self.decoders[modality](maps), maps[-1], (height, width))

    def project(self, modality: str, features: Features) -> Tensor:
        """(N, D), or the mean of the encoder's last maps -> (N, d), L2-normalised."""
        if isinstance(features, Dense):
            features = features.deep.mean(dim=(2, 3))
        return F.normalize(self.heads[modality](features).float(), dim=1)

    def project_cells(self, modality: str, features: Dense, cells: int) -> Tensor:
        """(N, k*k, d), L2-normalised: k x k cells of the encoder's last maps, row by row.

        k is `cells`, or the maps' smaller side if that is less.
        """
        return F.normalize(self.heads[modality](cell_means(features.deep, cells)).float(), dim=2)

    def classify(self, features: Mapping[str, Features]) -> Tensor:
        """Logits (N, P), or (N, P, H, W), from the features of the available modalities."""
        values = {q: z.map if isinstance(z, Dense) else z for q, z in features.items()}
        size = [z.size for z in features.values() if isinstance(z, Dense)][:1]
        if self.fusion == "mean":
            return self.classifier(fuse.mean(values), *size)
        if self.fusion == "concat":
            return self.classifier(fuse.concat(values, self.modalities), *size)
        logits = {q: self.classifier(z, *size) for q, z in values.items()}
        if self.fusion == "logit":
            return fuse.mean(logits)
        return fuse.pixel_probability(logits) if size else fuse.probability(logits)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """modality -> images (N, C, H, W) to logits (N, P) or (N, P, H, W)."""
        return self.classify({q: self.features(q, x) for q, x in inputs.items()})

    def describe_keys(self) -> dict[str, KeyInfo]:
        """Every state_dict key: which modality, parameter or statistic, by layer type."""
        parameters = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        described = {}
        for key in self.state_dict():
            parts = key.split(".")
            modality = parts[1] if parts[0] in BRANCHES else None
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


@torch.no_grad()
def fewest_values(network: Network, size: int) -> int:
    """The fewest pixels of an image of `size` that a norm layer takes its statistics from.

    Raises:
        UserError: a map that is whitened is smaller than the stride of its statistics.
    """
    sides: dict[int, int] = {}  # stride of statistics -> the smallest side of a map

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        every = layer.stride if isinstance(layer, OwnNorm) else 1
        sides[every] = min(sides.get(every, size), given[0].shape[2])

    layers = [layer for layer in network.modules() if isinstance(layer, NORMS)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    training = network.training
    q = network.modalities[0]
    blank = torch.zeros(1, network.bands[q], size, 1)  # sides shrink alike, so one column will do
    network.eval().features(q, blank.to(next(network.parameters())))
    network.train(training)
    for hook in hooks:
        hook.remove()
    for every, side in sides.items():
        if every > side:
            raise UserError(
                f"whitening.stride: found {every}, expected at most {side}, the side of the "
                f"smallest map that is whitened at train.size {size}"
            )
    return int(min(-(-side // every) for every, side in sides.items())) ** 2


def norm_factory(where: str, **whitening: Any) -> Norm:
    """Batch whitening at the places named by `where`, batch normalisation elsewhere."""

    def norm(channels: int, place: str) -> nn.Module:
        if where == "all" or place in WHERE[where]:
            own = chosen.load("models", "whitening").BatchWhitening2d(channels, **whitening)
            assert isinstance(own, nn.Module)
            return own
        return nn.BatchNorm2d(channels)

    return norm


@torch.no_grad()
def initialise(network: Network, seed: int) -> None:
    """Draw every parameter from a generator of its own, keyed by (seed, name).

    The name leaves out the modality for shared tensors only.
    """
    described = network.describe_keys()
    for key, parameter in network.named_parameters():
        name = described[key].canonical if described[key].shared else key
        text = hashlib.sha256(f"{seed}/initialise/{name}".encode()).digest()
        source = torch.Generator().manual_seed(int.from_bytes(text[:7], "big"))
        owner, _, leaf = key.rpartition(".")
        parameter.copy_(_drawn(network.get_submodule(owner), leaf, parameter, source))


def _drawn(layer: nn.Module, leaf: str, like: Tensor, source: torch.Generator) -> Tensor:
    """Convolutions: He normal, fan out (1502.01852), biases 0; norms: 1, 0.

    Linear layers and the 1x1 convolution that gives logits: uniform +-1/sqrt(fan in).
    """
    logits = isinstance(layer, nn.Conv2d) and layer.bias is not None and layer.kernel_size == (1, 1)
    if isinstance(layer, nn.Linear) or (logits and leaf == "weight"):
        fan_in = layer.in_features if isinstance(layer, nn.Linear) else like.shape[1]
        bound = 1 / math.sqrt(fan_in)
        return (torch.rand(like.shape, generator=source) * 2 - 1) * bound
    if isinstance(layer, nn.Conv2d) and leaf == "weight":
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        return torch.randn(like.shape, generator=source) * math.sqrt(2 / fan_out)
    return torch.ones_like(like) if leaf == "weight" else torch.zeros_like(like)
