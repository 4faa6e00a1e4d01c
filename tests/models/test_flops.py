"""Operations by hand: closed forms and published counts, never the counter against itself."""

import logging

import pytest
import torch
from torch import nn

from mmfl.models.flops import Counter, counting, forward_flops, training_flops
from mmfl.models.network import Network
from mmfl.models.whitening import BatchWhitening2d, group_by_group

BANDS = {"s1": 2, "s2": 10}


def counted(layer, x):
    """Operations of a forward and of a backward pass."""
    with group_by_group(), Counter() as forward:
        out = layer(x)
    with group_by_group(), Counter() as backward:
        out.sum().backward()
    assert not forward.unknown | backward.unknown
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inputs_too", [False, True])
def test_a_convolution(stride, inputs_too):
    """2 N h w D C k^2; backward once for the weights, once more for the inputs."""
    x = torch.randn(3, 5, 8, 6, requires_grad=inputs_too)
    side = (8 // stride) * (6 // stride)
    forward = 2 * 3 * side * 7 * 5 * 9
    layer = nn.Conv2d(5, 7, 3, stride, 1, bias=False)
    assert counted(layer, x) == (forward, forward * (1 + inputs_too))


def test_a_linear_layer():
    x = torch.randn(3, 5, requires_grad=True)
    assert counted(nn.Linear(5, 7), x) == (2 * 3 * 5 * 7, 2 * 2 * 3 * 5 * 7)


def small(channels, group):
    """Of a layer and a batch, in one pass each: what does not grow with the pixels.

    Forward: a Cholesky factor g^3/3, its inverse g right-hand sides of g^2, W mu. Backward: three
    products of g x g matrices, and two of a matrix and a vector.
    """
    groups = channels // group
    forward = groups * group**3 // 3 + groups * (group**3 + 2 * group**2)
    return forward, groups * (3 * 2 * group**3 + 2 * 2 * group**2)


@pytest.mark.parametrize(("channels", "group"), [(16, 4), (24, 4), (16, 1), (16, 16), (12, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_whitening(channels, group, stride):
    """M pixels, m of them seen by the statistics, each with C channels in groups of g.

    Forward: covariance 2 m C g, application 2 M C g. Backward: dL/dK 2 M C g, dK 2 M C g, and
    (x - mu)(S + S^T) 2 m C g.
    """
    x = torch.randn(3, channels, 8, 6, requires_grad=True)
    every, seen = 3 * 8 * 6, 3 * (8 // stride) * (6 // stride)
    one = 2 * channels * group
    forward, backward = small(channels, group)
    found = counted(BatchWhitening2d(channels, group=group, stride=stride), x)
    assert found == (one * (every + seen) + forward, one * (2 * every + seen) + backward)


def test_blocks_compute_more_than_is_counted():
    """Dense blocks of 16 channels: four times the products of groups of 4."""
    x = torch.randn(3, 32, 8, 6)
    with Counter() as computed:
        BatchWhitening2d(32)(x)
    pixels = 3 * 8 * 6
    assert computed.get_total_flops() == 2 * 2 * pixels * 32 * 16 + small(32, 4)[0]


def test_whitening_of_the_compact_network():
    """Stem and both layers of the first block: 16 channels of 16 x 16 pixels, groups of 4."""
    plain = training_flops(Network(BANDS, 19), ("s2",), 32)
    white = Network(BANDS, 19, whitening={"where": "stem+layer1"})
    found = training_flops(white, ("s2",), 32) - plain
    assert found == 3 * 10 * 16**2 * 16 * 4 + 3 * sum(small(16, 4)) / 8  # 491,520; 8 in a batch


def resnet50(bands, classes, side):
    """Multiply-adds of He et al.'s table 1 (stride on the 3x3), the first convolution's apart."""
    half = side // 2
    first = half**2 * 64 * bands * 49
    total, inputs, place = 0, 64, -(-half // 2)
    for planes, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(depth):
            before = place
            if planes > 64 and not block:
                place = -(-place // 2)
            total += before**2 * inputs * planes  # 1x1
            total += place**2 * planes * planes * 9  # 3x3
            total += place**2 * planes * 4 * planes  # 1x1
            if not block:
                total += place**2 * inputs * 4 * planes
            inputs = 4 * planes
    return first, total, inputs * classes


def test_resnet50_is_the_published_one():
    """4.09 G multiply-adds at 224 px (torchvision's table of its weights); twice in operations."""
    first, stages, last = resnet50(3, 1000, 224)
    assert first + stages + last == pytest.approx(4.09e9, rel=0.001)
    net = Network({"s2": 3}, 1000, backbone="resnet50", projection=8)
    found = forward_flops(net, "s2", 224, batch=1) - 2 * 2048 * 8
    assert found == 2 * (first + stages)


def test_a_step_of_resnet50_at_120_px():
    """Three times the forward pass, less the gradient of the images; then with whitening."""
    first, stages, last = resnet50(10, 19, 120)
    net = Network({"s2": 10}, 19, backbone="resnet50")
    plain = training_flops(net, ("s2",), 120, batch=2)
    assert plain == 2 * (3 * (stages + last) + 2 * first)
    net = Network({"s2": 10}, 19, backbone="resnet50", whitening={"where": "stem+layer1"})
    white = training_flops(net, ("s2",), 120, batch=2) - plain
    layers = [(60, 64), *[(30, 64), (30, 64), (30, 256)] * 3, (30, 256)]
    expected = sum(10 * side**2 * channels * 4 for side, channels in layers)
    assert expected == 59_904_000
    assert white == expected + sum(sum(small(channels, 4)) for _, channels in layers) / 2


@pytest.mark.parametrize("negatives", ["all", "cross"])
@pytest.mark.parametrize("own", [("s2",), ("s1", "s2")])
def test_mim_between_whole_samples(negatives, own):
    """A head (64 -> 128) per modality, three products B^2 d (cross: one) with their gradients.

    A product with a constant has one gradient, one of two own modalities two; so has u u^T.
    """
    net, batch = Network(BANDS, 19), 6
    plain = training_flops(net, own, 32, batch=batch)
    found = training_flops(net, own, 32, negatives=negatives, batch=batch) - plain
    heads = len(own) * 3 * 2 * 64 * 128
    across = 2 if len(own) == 1 else 3
    within = 0 if negatives == "cross" else 3 + (1 if len(own) == 1 else 3)
    assert found == heads + (across + within) * 2 * batch * 128


NETWORKS = [
    {"task": task, "fusion": fusion, "whitening": {"where": "all", "method": method}}
    for task in ("multilabel", "pixel")
    for fusion, method in zip(
        ("mean", "concat", "logit", "probability"), ("cholesky", "zca") * 2, strict=True
    )
] + [{"task": "pixel", "backbone": "resnet18"}, {"task": "pixel", "backbone": "resnet50"}]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_no_operation_of_a_network_is_unknown(options, caplog):
    net = Network(BANDS, 5, width=8, **options)
    cells = 2 if options["task"] == "pixel" else None
    with caplog.at_level(logging.WARNING):
        training_flops(net, ("s1", "s2"), 16, projections=1, extra_forwards=1, negatives="all",
                       cells=cells, batch=2)  # fmt: skip
    assert not caplog.records


def test_an_operation_without_a_formula_is_told(caplog):
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.rfft2(x).abs()

    net = Network({"s2": 3}, 5, width=8)
    net.backbones["s2"].stem.append(Fourier())
    with caplog.at_level(logging.WARNING):
        forward_flops(net, "s2", 16, batch=2)
    assert "no formula for aten._fft_r2c, counted as 0" in caplog.text
    caplog.clear()
    with counting(Network({"s2": 3}, 5, width=8)):
        torch.linalg.svd(torch.eye(3))
    assert "aten._linalg_svd" in caplog.text


def test_the_network_is_left_as_it_was():
    net = Network(BANDS, 19, whitening={"where": "all"})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert training_flops(net, ("s2",), 32) > forward_flops(net, "s2", 32) > 0
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in net.parameters())
