"""Residual networks for any number of bands (He et al., 1512.03385), and a compact one.

A backbone has `.stem`, `.stages` (a list), `.width` (features D); forward: (N, C, H, W) -> (N, D).
Norm layers come from a factory `norm(channels, place)`, place in stem, layer1, layer2, ...
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int, str], nn.Module]
BACKBONES: dict[str, Callable[..., Backbone]] = {}


def backbone(name: str) -> Callable[[Callable[..., Backbone]], Callable[..., Backbone]]:
    """Register a backbone: a function (bands, width, norm) -> Backbone."""

    def register(build: Callable[..., Backbone]) -> Callable[..., Backbone]:
        BACKBONES[name] = build
        return build

    return register


class Pointwise(nn.Conv2d):
    """1x1 convolution at every stride-th pixel: (N, C, H, W) -> (N, D, ceil(H/s), ceil(W/s)).

    The pixels are taken first, and convolved with stride 1: for fewer than 16 channels in
    channels_last the backward pass of oneDNN's strided 1x1 convolution (AVX-512, version 3.12)
    writes past the end of its memory. Pooling over one pixel takes them as they are, and together
    they cost about what the strided convolution does; a slice costs more.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.every == 1 else F.avg_pool2d(x, 1, self.every))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, norm: Norm, place: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.norm1 = norm(planes, place)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.norm2 = norm(planes, place)
        self.shortcut = _shortcut(inputs, planes, stride, norm, place)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the stride is on the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, norm: Norm, place: str) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.norm1 = norm(planes, place)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.norm2 = norm(planes, place)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.norm3 = norm(outputs, place)
        self.shortcut = _shortcut(inputs, outputs, stride, norm, place)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        return F.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm, place: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(Pointwise(inputs, outputs, stride), norm(outputs, place))


class Backbone(nn.Module):
    """Stem, stages, mean over pixels."""

    def __init__(self, stem: nn.Sequential, stages: list[nn.Module], width: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean(dim=(2, 3))

    def maps(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> maps before the stem's max pooling, after it, and after every stage."""
        found = []
        for layer in self.stem:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        found.append(x)
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found


def _stages(
    block: type[Basic] | type[Bottleneck],
    inputs: int,
    planes: list[int],
    depths: list[int],
    norm: Norm,
) -> tuple[list[nn.Module], int]:
    stages: list[nn.Module] = []
    for index, (size, depth) in enumerate(zip(planes, depths, strict=True)):
        place, blocks = f"layer{index + 1}", []
        for position in range(depth):
            stride = 2 if index and not position else 1
            blocks.append(block(inputs, size, stride, norm, place))
            inputs = size * block.expansion
        stages.append(nn.Sequential(*blocks))
    return stages, inputs


@backbone("compact")
def compact(bands: int, width: int, norm: Norm) -> Backbone:
    """Stem of 3x3 with stride 2, three stages of one basic block, widths w, 2w, 4w."""
    stem = nn.Sequential(
        nn.Conv2d(bands, width, 3, 2, 1, bias=False), norm(width, "stem"), nn.ReLU()
    )
    stages, features = _stages(Basic, width, [width, 2 * width, 4 * width], [1, 1, 1], norm)
    return Backbone(stem, stages, features)


def _large_stem(bands: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(bands, 64, 7, 2, 3, bias=False),
        norm(64, "stem"),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )


@backbone("resnet18")
def resnet18(bands: int, width: int, norm: Norm) -> Backbone:
    """ResNet-18; `width` is not used."""
    stages, features = _stages(Basic, 64, [64, 128, 256, 512], [2, 2, 2, 2], norm)
    return Backbone(_large_stem(bands, norm), stages, features)


@backbone("resnet50")
def resnet50(bands: int, width: int, norm: Norm) -> Backbone:
    """ResNet-50 (stride on the 3x3 convolution); `width` is not used."""
    stages, features = _stages(Bottleneck, 64, [64, 128, 256, 512], [3, 4, 6, 3], norm)
    return Backbone(_large_stem(bands, norm), stages, features)
