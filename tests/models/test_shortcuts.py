"""The shortcuts' 1x1 convolutions against float64, in a process of its own.

A strided 1x1 convolution of fewer than 16 channels in channels_last writes past its memory on some
processors: that ends a process, at once or later, or changes what another tensor holds.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmfl.models.network import Network
from mmfl.models.resnet import Pointwise
from mmfl.params import BACKBONES

CHECK = """
import sys, torch
from torch import nn
from torch.nn import functional as F
from mmfl.models.resnet import _shortcut

torch.set_num_threads(1)
sizes, dtypes = (8, 15, 30, 48, 56, 57, 64, 112, 128), (torch.float32, torch.bfloat16)
checked = 0
for width in range(4, 65):
    for number in range(3):
        size, dtype = sizes[(3 * width + 2 * number) % len(sizes)], dtypes[number % 2]
        source = torch.Generator().manual_seed(width)
        layer = _shortcut(width, 2 * width, 2, lambda c, p: nn.Identity(), "layer1")[0]
        weight = torch.randn(layer.weight.shape, generator=source).to(dtype)
        layer.to(dtype).weight.data.copy_(weight)
        layer.to(memory_format=torch.channels_last)
        x = torch.randn(1, width, size, size, generator=source).to(dtype)
        one = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        two, kernel = x.double().requires_grad_(), weight.double().requires_grad_()
        out, expected = layer(one), F.conv2d(two, kernel, None, 2)
        towards = torch.randn(out.shape, generator=source).to(dtype)
        found = torch.autograd.grad(out, (one, layer.weight), towards)
        right = torch.autograd.grad(expected, (two, kernel), towards.double())
        exact = 1e-5 if dtype == torch.float32 else 2e-2
        for a, b in zip((out, *found), (expected, *right)):
            assert (a - b).abs().max() <= exact * b.abs().max(), (width, size, dtype)
        checked += 1
print(checked)
"""


def test_gradients_of_all_widths_are_those_of_float64():
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.split() == ["183"]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_the_pixels_are_those_of_a_strided_convolution(stride, size):
    layer = Pointwise(5, 6, stride).double()
    x = torch.randn(2, 5, size, size + 1, dtype=torch.float64)
    expected = nn.functional.conv2d(x, layer.weight, None, stride)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_network_has_a_strided_1x1_convolution(backbone):
    net = Network({"s1": 2, "s2": 3}, 4, task="pixel", backbone=backbone, width=4)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert any(isinstance(layer, Pointwise) and layer.every == 2 for layer in layers)
    assert all(layer.kernel_size != (1, 1) or layer.stride == (1, 1) for layer in layers)
