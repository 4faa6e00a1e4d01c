"""A compact residual network for small images."""

from torch import nn

from mmfl.models.resnet import Backbone, Basic, Norm, stages


def build(bands: int, width: int, norm: Norm) -> Backbone:
    """Stem of 3x3 with stride 2, three stages of one basic block, widths w, 2w, 4w."""
    stem = nn.Sequential(
        nn.Conv2d(bands, width, 3, 2, 1, bias=False), norm(width, "stem"), nn.ReLU()
    )
    found, features = stages(Basic, width, [width, 2 * width, 4 * width], [1, 1, 1], norm)
    return Backbone(stem, found, features)
