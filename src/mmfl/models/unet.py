"""A U-Net's decoder (Ronneberger et al., 1505.04597) over any backbone, in two parts.

The first part belongs to a modality: from the encoder's deepest map up to its finest one. The
last part is shared by all: from there to the logits of every pixel. One 3x3 convolution per scale.
Maps are enlarged by repeating pixels and cropped, so any size fits and every gradient is
deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfl.models.resnet import Backbone, Norm

WIDEST = 256
"""Most channels of the decoder's first map; half as many of every next one."""


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W): every pixel repeated, the excess cropped.

    Nearest neighbours, whose gradient is deterministic on CUDA (that of bilinear ones is not).
    """
    height, width = x.shape[-2:]
    whole = (-(-size[0] // height) * height, -(-size[1] // width) * width)
    return F.interpolate(x, size=whole, mode="nearest-exact")[..., : size[0], : size[1]]


def scales(backbone: Backbone, bands: int) -> dict[int, int]:
    """Position in `Backbone.maps` -> channels, of the last map of each resolution; finest first."""
    training = backbone.training
    with torch.no_grad():
        maps = backbone.eval().maps(torch.zeros(1, bands, 128, 128))
    backbone.train(training)
    last = {x.shape[-1]: position for position, x in enumerate(maps)}
    return {position: maps[position].shape[1] for position in sorted(last.values())}


class Decoder(nn.Module):
    """Maps of an encoder -> (N, D, h, w) at the size of the finest; `.width` is D."""

    def __init__(self, scales: dict[int, int], norm: Norm) -> None:
        super().__init__()
        *skips, inputs = scales.values()
        self.positions = tuple(scales)
        blocks = []
        for number, skip in enumerate(reversed(skips)):
            outputs = min(skip, WIDEST >> number)
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs + skip, outputs, 3, 1, 1, bias=False),
                    norm(outputs, "decoder"),
                    nn.ReLU(),
                )
            )
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.width = inputs

    def forward(self, maps: list[Tensor]) -> Tensor:
        *skips, x = [maps[position] for position in self.positions]
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            height, width = skip.shape[-2:]
            x = block(torch.cat([enlarge(x, (height, width)), skip], dim=1))
        return x


class PixelClassifier(nn.Module):
    """psi: (N, C, h, w) -> logits (N, P, H, W). No norm layer, whose statistics would be shared."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, hidden, 3, 1, 1)
        self.logits = nn.Conv2d(hidden, classes, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.logits(F.relu(self.conv(enlarge(x, size))))
