"""The pixel network against plain calls of torch's functions on the same weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfl.errors import UserError
from mmfl.models.dense import Dense, cell_means
from mmfl.models.flops import Counter, forward_flops, training_flops
from mmfl.models.fusion import pixel_probability
from mmfl.models.network import Network, initialise
from mmfl.models.unet import enlarge
from mmfl.models.whitening import BatchWhitening2d

BANDS = {"dem": 1, "s1": 2, "s2": 10}
BACKBONES = ["compact", "resnet18", "resnet50"]


def build(bands=BANDS, classes=5, seed=1, **options):
    net = Network(bands, classes, task="pixel", **options)
    initialise(net, seed)
    return net


def images(net, size, count=2, seed=0):
    source = torch.Generator().manual_seed(seed)
    return {
        q: torch.randn(count, net.backbone(q).stem[0].in_channels, *size, generator=source)
        for q in net.modalities
    }


def half(size):
    return tuple(-(-n // 2) for n in size)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (33, 47), (64, 24)])
def test_any_size(backbone, size):
    net = build({"s1": 2, "s2": 10}, backbone=backbone)
    found = {q: net.features(q, x) for q, x in images(net, size).items()}
    logits = net.classify(found)
    assert logits.shape == (2, 5, *size) and torch.isfinite(logits).all()
    assert found["s1"].map.shape[2:] == half(size)
    assert found["s1"].deep.shape[1] == net.backbone("s1").width
    logits.square().mean().backward()
    used = [k for k, p in net.named_parameters() if p.grad is not None and p.grad.any()]
    assert {k.split(".")[0] for k in used} == {"backbones", "decoders", "classifier"}


# ---- the same network, written down again --------------------------------------------------------


def norm(w, name, x):
    return F.batch_norm(
        x, None, None, w[f"{name}.weight"], w[f"{name}.bias"], training=True, eps=1e-5
    )


def block(w, name, x, stride):
    """He et al.: the stride is on the first of two 3x3 convolutions, or on the 3x3 of three."""
    convs = sorted(k for k in w if k.startswith(f"{name}.conv"))
    out = x
    for number, key in enumerate(convs, 1):
        kernel = w[key].shape[-1]
        steps = stride if number == (1 if len(convs) == 2 else 2) else 1
        out = norm(w, f"{name}.norm{number}", F.conv2d(out, w[key], None, steps, kernel // 2))
        out = F.relu(out) if number < len(convs) else out
    if f"{name}.shortcut.0.weight" in w:
        x = norm(w, f"{name}.shortcut.1", F.conv2d(x, w[f"{name}.shortcut.0.weight"], None, stride))
    return F.relu(out + x)


def plain(w, backbone, depths, x, q):
    """U-Net over a residual network: skips at every scale, one convolution on the way up each."""
    stem = f"backbones.{q}.stem"
    large = backbone != "compact"
    kernel = w[f"{stem}.0.weight"]
    top = F.relu(norm(w, f"{stem}.1", F.conv2d(x, kernel, None, 2, 3 if large else 1)))
    skips, deep = ([top], F.max_pool2d(top, 3, 2, 1)) if large else ([], top)
    for stage, depth in enumerate(depths):
        for position in range(depth):
            stride = 2 if stage and not position else 1
            deep = block(w, f"backbones.{q}.stages.{stage}.{position}", deep, stride)
        skips.append(deep)
    up = skips.pop()
    for number, skip in enumerate(reversed(skips)):
        up = F.interpolate(up, scale_factor=2)[..., : skip.shape[2], : skip.shape[3]]
        name = f"decoders.{q}.blocks.{number}"
        up = F.conv2d(torch.cat([up, skip], 1), w[f"{name}.0.weight"], None, 1, 1)
        up = F.relu(norm(w, f"{name}.1", up))
    up = F.interpolate(up, scale_factor=2)[..., : x.shape[2], : x.shape[3]]
    up = F.relu(F.conv2d(up, w["classifier.conv.weight"], w["classifier.conv.bias"], 1, 1))
    return F.conv2d(up, w["classifier.logits.weight"], w["classifier.logits.bias"]), deep


@pytest.mark.parametrize(
    ("backbone", "depths"),
    [("compact", (1, 1, 1)), ("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3))],
)
def test_the_forward_pass_is_a_u_nets(backbone, depths):
    net = build({"s2": 3}, backbone=backbone).double()
    with torch.no_grad():  # biases that are not 0
        for key, p in net.named_parameters():
            if p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(key))) / 4)
    x = images(net, (71, 66))["s2"].double().contiguous(memory_format=torch.channels_last)
    w = net.state_dict()
    logits, deep = plain(w, backbone, depths, x, "s2")
    found = net.features("s2", x)
    torch.testing.assert_close(net.classify({"s2": found}), logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.deep, deep, rtol=1e-9, atol=1e-9)
    z = F.relu(F.linear(deep.mean((2, 3)), w["heads.s2.0.weight"], w["heads.s2.0.bias"]))
    torch.testing.assert_close(net.project("s2", found), F.normalize(z.float()))
    k = min(4, *deep.shape[2:])
    z = F.adaptive_avg_pool2d(deep, k).permute(0, 2, 3, 1).reshape(len(deep), k * k, -1)
    z = F.relu(F.linear(z, w["heads.s2.0.weight"], w["heads.s2.0.bias"]))
    expected = F.normalize(z.float(), dim=2)
    torch.testing.assert_close(net.project_cells("s2", found, 4), expected)


def test_the_encoder_is_that_of_the_multilabel_network():
    """The same names, the same first weights, the same last map."""
    for backbone in ("compact", "resnet18"):
        one, two = build(backbone=backbone), Network(BANDS, 5, backbone=backbone)
        initialise(two, 1)
        w = one.state_dict()
        for key, value in two.state_dict().items():
            assert key.startswith("classifier") or torch.equal(w[key], value), key
        x = images(one, (40, 40))["s1"]
        assert torch.equal(one.features("s1", x).deep.mean((2, 3)), two.features("s1", x))


# ---- its parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 5), (8, 8), (11, 16), (4, 4), (3, 9)])
@pytest.mark.parametrize("cells", [1, 3, 4])
def test_cells_are_those_of_adaptive_pooling(size, cells):
    deep = torch.randn(2, 6, *size, dtype=torch.float64)
    k = min(cells, *size)
    expected = F.adaptive_avg_pool2d(deep, k).flatten(2).transpose(1, 2)
    torch.testing.assert_close(cell_means(deep, cells), expected)


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 2), ((7, 6), 2), ((15, 13), 4), ((4, 4), 1)])
def test_enlarging_is_nearest_neighbour_and_cropped(size, factor):
    x = torch.randn(2, 3, *(-(-n // factor) for n in size))
    expected = F.interpolate(x, scale_factor=factor)[..., : size[0], : size[1]]
    assert torch.equal(enlarge(x, size), expected)


def test_dense_features_are_a_sequence_of_samples():
    d = Dense(torch.randn(5, 2, 4, 4), torch.randn(5, 8, 1, 1), (8, 8))
    mask = torch.tensor([True, False, False, True, True])
    for index in (torch.tensor([0, 3, 4]), mask):
        assert torch.equal(d[index].map, d.map[[0, 3, 4]])
        assert torch.equal(d[index].deep, d.deep[[0, 3, 4]])
    again = Dense.join([d[:2], d[2:]])
    assert len(d) == len(again) == 5 and again.size == d.size
    assert torch.equal(again.map, d.map) and torch.equal(again.deep, d.deep)


def test_whitening_is_where_it_was_asked_for():
    """Per modality: one norm in the stem, two in compact's first stage, two in the decoder."""
    stages = {"stem": 1, "stem+layer1": 3, "none": 0}
    for where, count in stages.items():
        net = build(whitening={"where": where})
        for q in BANDS:
            early = [*net.backbone(q).stem.modules(), *net.backbone(q).stages[0].modules()]
            assert sum(isinstance(m, BatchWhitening2d) for m in early) == count
            parts = [*net.backbone(q).modules(), *net.decoders[q].modules()]
            assert sum(isinstance(m, BatchWhitening2d) for m in parts) == count
            assert sum(isinstance(m, nn.BatchNorm2d) for m in net.decoders[q].modules()) == 2
    net = build(whitening={"where": "all"})
    assert sum(isinstance(m, BatchWhitening2d) for m in net.decoders["s1"].modules()) == 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert not list(net.classifier.buffers())  # psi has no statistics


def test_keys_of_decoder_and_classifier():
    net = build(share_from_stage=2)
    described = net.describe_keys()
    assert list(described) == list(net.state_dict())
    for key, info in described.items():
        part, _, rest = key.partition(".")
        assert (info.modality is None) == (part == "classifier")
        assert info.shared == (part == "classifier" or ".stages.1." in key or ".stages.2." in key)
        assert info.projection == (part == "heads")
        if part == "decoders":
            q, _, name = rest.partition(".")
            assert (info.modality, info.canonical) == (q, f"decoders.{name}")
    assert described["decoders.s1.blocks.0.1.weight"].is_norm
    assert described["decoders.s1.blocks.0.1.running_mean"].kind == "statistic"
    assert described["decoders.s1.blocks.0.1.num_batches_tracked"].kind == "counter"
    assert described["decoders.s1.blocks.0.0.weight"].kind == "parameter"
    one, two = net.backbone("s1"), net.backbone("s2")
    assert one.stages[1][0].conv1.weight is two.stages[1][0].conv1.weight
    assert one.stages[0][0].conv1.weight is not two.stages[0][0].conv1.weight


def test_initialisation():
    """By seed and name; a modality more changes nothing; variances as stated, biases 0."""
    one, two = build(width=32), build({"s2": 10}, width=32)
    for key, value in two.state_dict().items():
        assert torch.equal(value, one.state_dict()[key]), key
    convs = {k: m for k, m in one.named_modules() if isinstance(m, nn.Conv2d)}
    for name, layer in convs.items():
        he = (2 / layer.out_channels / layer.kernel_size[0] ** 2) ** 0.5
        if name == "classifier.logits":
            he = (1 / 3 / layer.in_channels) ** 0.5  # uniform on +-1/sqrt(fan in)
        assert layer.weight.std().item() == pytest.approx(he, rel=0.2), name
        assert layer.bias is None or not layer.bias.any()
    assert sum(layer.bias is not None for layer in convs.values()) == 2
    other = build({"s2": 10}, width=32, seed=2).state_dict()
    for key, value in two.state_dict().items():
        drawn = value.ndim > 1 or key.startswith("heads")
        assert torch.equal(value, other[key]) != drawn, key


def test_a_name_that_torch_uses_is_refused():
    with pytest.raises(UserError, match="modality train"):
        Network({"train": 2}, 5)


# ---- fusion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["mean", "concat", "logit", "probability"])
def test_fusion(fusion):
    net = build(fusion=fusion).eval()
    found = {q: net.features(q, x) for q, x in images(net, (17, 12)).items()}
    psi = net.classifier
    two = {q: found[q] for q in ("s1", "s2")}
    maps = {q: z.map for q, z in found.items()}
    alone, both = net.classify({"s1": found["s1"]}), net.classify(two)
    if fusion == "concat":  # by name: dem, s1, s2
        none = torch.zeros_like(maps["s1"])
        assert torch.equal(alone, psi(torch.cat([none, maps["s1"], none], 1), (17, 12)))
        assert torch.equal(both, psi(torch.cat([none, maps["s1"], maps["s2"]], 1), (17, 12)))
        everything = psi(torch.cat([maps["dem"], maps["s1"], maps["s2"]], 1), (17, 12))
        assert torch.equal(net.classify(found), everything)
        return
    logits = {q: psi(z, (17, 12)) for q, z in maps.items()}
    if fusion == "probability":
        torch.testing.assert_close(alone.softmax(1), logits["s1"].softmax(1))
        expected = (logits["s1"].softmax(1) + logits["s2"].softmax(1)) / 2
        torch.testing.assert_close(both.exp(), expected)
        return
    assert torch.equal(alone, logits["s1"])
    mean = psi((maps["s1"] + maps["s2"]) / 2, (17, 12))
    expected = mean if fusion == "mean" else (logits["s1"] + logits["s2"]) / 2
    torch.testing.assert_close(both, expected)


def test_pixel_probability_is_stable():
    logits = {"a": torch.tensor([[300.0, 0.0]]), "b": torch.tensor([[-300.0, 0.0]])}
    found = pixel_probability({q: z.reshape(1, 2, 1, 1) for q, z in logits.items()})
    torch.testing.assert_close(found.exp().flatten(), torch.tensor([0.5, 0.5]))


def test_psi_is_shared_and_theta_is_not():
    net = build()
    x = images(net, (16, 16))
    net.classify({"s1": net.features("s1", x["s1"])}).square().mean().backward()
    for key, p in net.named_parameters():
        reached = p.grad is not None and bool(p.grad.any())
        part, q = key.split(".")[:2]
        own = part == "classifier" or (part != "heads" and q == "s1")
        assert reached == own, key


def test_projection_reaches_the_encoder_only():
    net = build()
    found = net.features("s1", images(net, (16, 16))["s1"])
    (net.project("s1", found)[:, 0].sum() + net.project_cells("s1", found, 2).sum()).backward()
    reached = {k.split(".")[0] for k, p in net.named_parameters() if p.grad is not None}
    assert reached == {"backbones", "heads"}


# ---- arithmetic ---------------------------------------------------------------------------------


def step(net, x, y):
    """Gradients of a step with every kind of term: pixels, projection, cells, some samples."""
    net.zero_grad(set_to_none=True)
    found = {q: net.features(q, value) for q, value in x.items()}
    some = torch.tensor([2, 0])
    logits = net.classify({q: z[some] for q, z in found.items()}).float()
    loss = -logits.log_softmax(1).gather(1, y[some][:, None]).mean()
    for q, z in found.items():
        loss = loss + net.project(q, z)[:, 0].mean() + net.project_cells(q, z, 2)[..., 0].mean()
    loss.backward()
    return [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("backbone", ["compact", "resnet18"])
def test_two_backward_passes_give_the_same_bits(backbone):
    net = build({"s1": 2, "s2": 10}, backbone=backbone)
    x = images(net, (21, 18), 3)
    y = torch.randint(0, 5, (3, 21, 18), generator=torch.Generator().manual_seed(0))
    torch.set_deterministic_debug_mode("error")
    try:
        one, two = step(net, x, y), step(net, x, y)
    finally:
        torch.set_deterministic_debug_mode("default")
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("fusion", ["mean", "probability"])
def test_bfloat16(fusion):
    net = build(fusion=fusion, whitening={"where": "stem"})
    x = images(net, (32, 32), 4)
    wide = {q: net.features(q, value) for q, value in x.items()}
    with torch.autocast("cpu", torch.bfloat16):
        narrow = {q: net.features(q, value) for q, value in x.items()}
        logits = net.classify(narrow)
        u, cells = net.project("s1", narrow["s1"]), net.project_cells("s1", narrow["s1"], 2)
    assert narrow["s1"].map.dtype == torch.bfloat16
    assert u.dtype == cells.dtype == torch.float32
    assert fusion == "mean" or logits.dtype == torch.float32
    torch.testing.assert_close(logits.float(), net.classify(wide), rtol=0.1, atol=0.1)
    torch.testing.assert_close(u, net.project("s1", wide["s1"]), rtol=0.1, atol=0.05)
    torch.testing.assert_close(cells.norm(dim=2), torch.ones(4, 4))


# ---- operations counted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "modalities"),
    [("compact", ("s1",)), ("compact", ("s1", "s2")), ("resnet18", ("s1",))],
)
def test_flops_are_those_of_a_step(backbone, modalities):
    net = build({"s1": 2, "s2": 10}, backbone=backbone)
    x = {q: v for q, v in images(net, (32, 32), 3).items() if q in modalities}
    y = torch.zeros(3, 1, 32, 32, dtype=torch.long)
    with Counter() as counter:
        found = {q: net.features(q, v) for q, v in x.items()}
        views = [found] if len(found) == 1 else [found, *({q: z} for q, z in found.items())]
        loss = sum(-net.classify(v).log_softmax(1).gather(1, y).mean() for v in views)
        loss.backward()
    real = counter.get_total_flops()
    assert 3 * training_flops(net, modalities, 32, batch=3) == pytest.approx(real, rel=0.001)


def test_flops_of_a_forward_pass_by_hand():
    """2 (multiply, add) x outputs x kernel of every convolution of compact at 32 px, one band."""
    net = build({"dem": 1}, width=4, projection=6)
    stem = 16**2 * 4 * 1 * 9
    stages = 2 * 16**2 * 4 * 4 * 9
    for side, inputs, outputs in ((8, 4, 8), (4, 8, 16)):
        stages += side**2 * outputs * (inputs * 9 + outputs * 9 + inputs)
    decoder = 8**2 * 8 * (16 + 8) * 9 + 16**2 * 4 * (8 + 4) * 9
    total = 2 * (stem + stages + decoder)
    assert forward_flops(net, "dem", 32) == total + 2 * 16 * 6
    assert forward_flops(net, "dem", 32, cells=4) == total + 2 * 16 * 16 * 6
    psi = 32**2 * 4 * (4 * 9 + 5)
    backward = 2 * (total + 2 * psi) - 2 * stem  # no gradient of the images
    assert training_flops(net, ("dem",), 32) == total + 2 * psi + backward


def test_flops_of_cells_grow_with_the_batch():
    """Three forward products of all cells with all, one of them with one gradient, one with two."""
    net = build({"s1": 2, "s2": 10})
    first = training_flops(net, ("s1",), 32, negatives="all", cells=4, batch=4)
    second = training_flops(net, ("s1",), 32, negatives="all", cells=4, batch=8)
    assert second - first == pytest.approx(6 * 2 * 16 * 64 * 128, rel=1e-6)
    cross = training_flops(net, ("s1",), 32, negatives="cross", cells=4, batch=8)
    assert second - cross == pytest.approx(4 * 2 * 8 * 16**2 * 128, rel=1e-6)
