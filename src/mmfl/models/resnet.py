"""Parts of residual networks for any number of bands (He et al., 1512.03385).

A backbone has `.stem`, `.stages` (a list), `.width` (features D); forward: (N, C, H, W) -> (N, D).
Norm layers come from a factory `norm(channels, place)`, place in stem, layer1, layer2, ...
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int, str], nn.Module]


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


def stages(
    block: type[Basic] | type[Bottleneck],
    inputs: int,
    planes: list[int],
    depths: list[int],
    norm: Norm,
) -> tuple[list[nn.Module], int]:
    """Stages of `depths` blocks with `planes` channels, and the channels of the last one."""
    found: list[nn.Module] = []
    for index, (size, depth) in enumerate(zip(planes, depths, strict=True)):
        place, blocks = f"layer{index + 1}", []
        for position in range(depth):
            stride = 2 if index and not position else 1
            blocks.append(block(inputs, size, stride, norm, place))
            inputs = size * block.expansion
        found.append(nn.Sequential(*blocks))
    return found, inputs


def large_stem(bands: int, norm: Norm) -> nn.Sequential:
    """7x7 with stride 2 to 64 channels, then max pooling: that of a ResNet for large images."""
    return nn.Sequential(
        nn.Conv2d(bands, 64, 7, 2, 3, bias=False),
        norm(64, "stem"),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
