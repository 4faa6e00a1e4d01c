"""ResNet-18 (He et al., 1512.03385)."""

from mmfl.models.resnet import Backbone, Basic, Norm, large_stem, stages


def build(bands: int, width: int, norm: Norm) -> Backbone:
    """ResNet-18; `width` is not used."""
    found, features = stages(Basic, 64, [64, 128, 256, 512], [2, 2, 2, 2], norm)
    return Backbone(large_stem(bands, norm), found, features)
