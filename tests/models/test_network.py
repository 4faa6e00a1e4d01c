"""Networks against published parameter counts; fusion and key descriptions; NT-Xent by loops."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmfl.models import backbones
from mmfl.models import fusion as fuse
from mmfl.models.flops import Counter
from mmfl.models.losses import ntxent
from mmfl.models.network import Network, initialise
from mmfl.models.whitening import BatchWhitening2d
from mmfl.params import BACKBONES as KNOWN

BANDS = {"s1": 2, "s2": 10}


def test_what_parameters_know_of_backbones_is_so():
    """A name that is not registered, another number of stages, other channels to whiten."""
    folder = Path(backbones.__file__).parent
    assert sorted(KNOWN) == sorted(f.stem for f in folder.glob("[a-z]*.py"))
    for name, known in KNOWN.items():
        net = Network(BANDS, 3, backbone=name, width=12).backbone("s2")
        assert len(net.stages) == known.stages
        assert net.stem[0].out_channels == (known.channels or 12)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_parameter_counts_are_the_published_ones(name, count):
    net = Network({"s2": 3}, 1000, backbone=name, projection=1)
    heads = sum(p.numel() for p in net.heads.parameters())
    assert sum(p.numel() for p in net.parameters()) - heads == count


@pytest.mark.parametrize("backbone", KNOWN)
@pytest.mark.parametrize("where", ["none", "stem", "stem+layer1", "all"])
def test_every_backbone_takes_any_bands(backbone, where):
    net = Network(BANDS, 19, backbone=backbone, whitening={"where": where})
    out = net({"s1": torch.randn(2, 2, 48, 48), "s2": torch.randn(2, 10, 48, 48)})
    assert out.shape == (2, 19) and torch.isfinite(out).all()


@pytest.mark.parametrize("fusion", ["mean", "concat", "logit", "probability"])
def test_fusion_of_one_and_two_modalities(fusion):
    net = Network(BANDS, 3, fusion=fusion)
    width = net.backbones["s1"].width
    a, b = torch.randn(4, width), torch.randn(4, width)
    both, alone = net.classify({"s1": a, "s2": b}), net.classify({"s1": a})
    if fusion == "concat":
        expected = net.classifier(torch.cat([a, b], 1))
        single = net.classifier(torch.cat([a, torch.zeros_like(b)], 1))
    else:
        single = net.classifier(a)
        expected = (net.classifier(a) + net.classifier(b)) / 2  # linear classifier: mean = logit
        if fusion == "probability":
            mean = (net.classifier(a).sigmoid() + net.classifier(b).sigmoid()) / 2
            expected = torch.logit(mean)
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, single, rtol=1e-5, atol=1e-5)


def test_probability_fusion_is_stable():
    from mmfl.models.fusion import probability

    out = probability({"a": torch.tensor([[200.0, -200.0]]), "b": torch.tensor([[-200.0, -200.0]])})
    torch.testing.assert_close(out, torch.tensor([[0.0, -200.0]]), rtol=0, atol=1e-3)


def test_keys_are_described_by_type_not_by_name():
    net = Network(BANDS, 19, whitening={"where": "stem"}, share_from_stage=2)
    described = net.describe_keys()
    assert set(described) == set(net.state_dict())
    shortcut = described["backbones.s1.stages.1.0.shortcut.1.weight"]
    assert shortcut.is_norm and shortcut.shared and shortcut.modality == "s1"
    assert described["backbones.s1.stem.1.running_cov"].kind == "statistic"
    assert described["backbones.s1.stages.0.0.norm1.num_batches_tracked"].kind == "counter"
    assert not described["backbones.s1.stages.0.0.conv1.weight"].shared


def test_shared_stages_are_the_same_parameters_with_own_statistics():
    net = Network(BANDS, 19, share_from_stage=2)
    one, two = net.backbones["s1"].stages[1][0], net.backbones["s2"].stages[1][0]
    assert one.conv1.weight is two.conv1.weight
    assert one.norm1.running_mean is not two.norm1.running_mean
    assert (
        net.backbones["s1"].stages[0][0].conv1.weight
        is not net.backbones["s2"].stages[0][0].conv1.weight
    )


def test_initialisation_depends_on_seed_and_name_only():
    one, two = Network(BANDS, 19), Network({"s2": 10}, 19)
    torch.manual_seed(5)
    initialise(one, 3)
    torch.manual_seed(6)
    initialise(two, 3)
    for key, value in two.state_dict().items():
        assert torch.equal(value, one.state_dict()[key]), key
    initialise(two, 4)
    assert not torch.equal(two.classifier.weight, one.classifier.weight)


def loops(u, v, temperature, negatives):
    """NT-Xent term by term in NumPy."""
    total, count = 0.0, len(u)
    for a, b in ((u, v), (v, u)):
        for i in range(count):
            bottom = sum(np.exp(a[i] @ b[k] / temperature) for k in range(count))
            if negatives == "all":
                bottom += sum(np.exp(a[i] @ a[k] / temperature) for k in range(count) if k != i)
            total -= np.log(np.exp(a[i] @ b[i] / temperature) / bottom)
    return total / (2 * count)


@pytest.mark.parametrize("negatives", ["all", "cross"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_ntxent_by_loops(negatives, count):
    rng = torch.Generator().manual_seed(0)
    u, v = (F.normalize(torch.randn(count, 5, generator=rng, dtype=torch.float64)) for _ in "uv")
    found = ntxent(u, v, 0.5, negatives).item()
    assert found == pytest.approx(loops(u.numpy(), v.numpy(), 0.5, negatives), abs=1e-12)


def test_ntxent_at_the_edges():
    u = F.normalize(torch.randn(1, 4))
    assert ntxent(u, u, 0.1, "cross").item() == 0
    assert ntxent(torch.empty(0, 4), torch.empty(0, 4), 0.1).item() == 0


def test_ntxent_under_autocast_is_that_of_float32():
    u, v = (F.normalize(torch.randn(16, 8)) for _ in "uv")
    with torch.autocast("cpu", torch.bfloat16):
        found = ntxent(u, v, 0.1)
    assert torch.equal(found, ntxent(u, v, 0.1))
    exact = loops(u.double().numpy(), v.double().numpy(), 0.1, "all")
    assert found.item() == pytest.approx(exact, rel=1e-5)  # and float32's own value


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_ntxent_gradients(negatives):
    u, v = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in "uv")
    assert torch.autograd.gradcheck(lambda a, b: ntxent(a, b, 0.5, negatives), (u, v))


def test_flops_of_factorisation_and_solve_are_counted():
    """n^3/3 of a Cholesky factor, n^2 per right-hand side (Golub and Van Loan)."""
    matrix = torch.eye(6).repeat(5, 1, 1)
    with Counter() as counter:
        factor, _ = torch.linalg.cholesky_ex(matrix)
    assert counter.get_total_flops() == 5 * 6**3 // 3
    with Counter() as counter:
        torch.linalg.solve_triangular(factor, matrix, upper=False)
    assert counter.get_total_flops() == 5 * 6**2 * 6
    with Counter() as counter:
        torch.linalg.eigh(matrix)
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize("fusion", ["mean", "concat"])
@pytest.mark.parametrize("share", [None, 1])
@pytest.mark.parametrize("where", ["none", "all"])
def test_every_key_is_described(fusion, share, where):
    net = Network(BANDS, 19, fusion=fusion, share_from_stage=share, whitening={"where": where})
    described = net.describe_keys()
    assert list(described) == list(net.state_dict())
    parameters = dict(net.named_parameters(remove_duplicate=False))
    buffers = dict(net.named_buffers())
    for key, info in described.items():
        assert (info.kind == "parameter") == (key in parameters) == (key not in buffers)
        assert (info.kind == "counter") == (not net.state_dict()[key].is_floating_point())
        assert (info.modality is None) == key.startswith("classifier")
        if info.modality:
            assert info.canonical == key.replace(f".{info.modality}.", ".", 1)
    norms = {
        type(net.get_submodule(k.rpartition(".")[0])) for k, i in described.items() if i.is_norm
    }
    assert norms == {torch.nn.BatchNorm2d if where == "none" else BatchWhitening2d}
    for one, other in {(k, k.replace(".s1.", ".s2.")) for k in described if ".s1." in k}:
        if described[one].kind == "parameter":
            assert described[one].shared == (parameters[one] is parameters[other])
        else:
            assert buffers[one] is not buffers[other]


def test_the_order_in_which_modalities_come_changes_no_bit():
    """1e8 + 1 - 1e8 is 0 in float32, and 1e8 - 1e8 + 1 is 1."""
    values = {"a": 1e8, "b": 1.0, "c": -1e8}
    draw = torch.Generator().manual_seed(0)
    logits = {q: torch.randn(50, 3, generator=draw) for q in values}
    for names in permutations(values):
        assert fuse.mean({q: torch.tensor([values[q]]) for q in names}).item() == 0
        for function in (fuse.mean, fuse.probability, fuse.pixel_probability):
            assert torch.equal(function({q: logits[q] for q in names}), function(logits))
    mean = torch.stack([logits[q].softmax(1) for q in values]).mean(0)
    torch.testing.assert_close(fuse.pixel_probability(logits).exp(), mean)
