"""ResNet-50 (He et al., 1512.03385)."""

from mmfl.models.resnet import Backbone, Bottleneck, Norm, large_stem, stages


def build(bands: int, width: int, norm: Norm) -> Backbone:
    """ResNet-50 (stride on the 3x3 convolution); `width` is not used."""
    found, features = stages(Bottleneck, 64, [64, 128, 256, 512], [3, 4, 6, 3], norm)
    return Backbone(large_stem(bands, norm), found, features)
