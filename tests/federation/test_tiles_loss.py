"""The loss of pixels: torch's own cross entropy, a slow formula, and what ignored pixels do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.small_tile_federation import federation, tile_data
from mmfl.facts.tasks import IGNORED
from mmfl.federation.task import cross_entropy, pixel_loss
from mmfl.models.dense import Dense
from mmfl.models.network import Network, initialise
from mmfl.patches.augment import Turned

torch.set_num_threads(1)


def drawn(seed, shape, classes=5, dtype=torch.float32, scale=3.0):
    """Logits (B, P, H, W) and targets (B, H, W) uint8, a third of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=dtype) * scale
    targets = torch.randint(0, classes, shape, generator=generator).to(torch.uint8)
    targets[torch.rand(shape, generator=generator) < 0.3] = IGNORED
    return logits.requires_grad_(), targets


def torchs(logits, targets, reduction="mean"):
    return F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction=reduction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_cross_entropy_is_torchs(dtype, scale):
    logits, targets = drawn(1, (3, 7, 9), dtype=dtype, scale=scale)
    total, count = cross_entropy(logits, targets)
    assert total.dtype == dtype and count == (targets != IGNORED).sum()
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(
        total, torchs(logits, targets, "sum"), rtol=tolerance, atol=tolerance
    )
    (found,) = torch.autograd.grad(total / count, logits)
    (expected,) = torch.autograd.grad(torchs(logits, targets), logits)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance / 10)


def test_gradient_by_differences():
    logits, targets = drawn(2, (2, 3, 2), classes=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets)[0], logits)


@pytest.mark.parametrize("precise", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_summed_wide(precise):
    logits, targets = drawn(3, (2, 40, 40))
    logits = logits.detach().to(precise)
    total, _ = cross_entropy(logits, targets)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, torchs(logits.float(), targets, "sum"), rtol=1e-5, atol=0)


def test_what_lies_under_ignored_pixels_changes_no_bit():
    logits, targets = drawn(4, (3, 8, 8))
    ignored = targets == IGNORED
    total, count = cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(total / count, logits)
    assert (gradient.movedim(1, -1)[ignored] == 0).all()
    other = logits.detach().clone()
    other.movedim(1, -1)[ignored] = torch.randn(int(ignored.sum()), 5) * 1e4
    other.requires_grad_()
    total_other, _ = cross_entropy(other, targets)
    (gradient_other,) = torch.autograd.grad(total_other / count, other)
    assert torch.equal(total, total_other) and torch.equal(gradient, gradient_other)


# ---- several modalities ------------------------------------------------------------------------

MODALITIES = ("dem", "s1", "s2")


def network(fusion, dtype):
    net = Network({q: 1 for q in MODALITIES}, 4, task="pixel", width=4, fusion=fusion)
    initialise(net, 1)
    return net.to(dtype)


def features(net, present, dtype, size=(6, 5)):
    """Random maps of the samples that are present, in half the resolution."""
    width = net.decoders["s1"].width
    generator = torch.Generator().manual_seed(8)
    found = {}
    for q, rows in present.items():
        maps = torch.randn(int(rows.sum()), width, 3, 3, generator=generator, dtype=dtype)
        found[q] = Dense(maps.requires_grad_(), maps[:, :, :1, :1], size)
    return found


def slow(net, values, present, targets):
    """Sample by sample and pixel by pixel: -log p of the class, by float64 and NumPy.

    The mean over the branches and the fusion; each a mean over the pixels that have a class.
    """

    def surprise(logits, target):  # (P, H, W) -> every counted pixel's
        logits = logits.detach().double().numpy()
        found = []
        for i, j in zip(*np.nonzero(target != IGNORED), strict=True):
            x = logits[:, i, j]
            found.append(np.log(np.exp(x - x.max()).sum()) + x.max() - x[target[i, j]])
        return found

    def probability(logits):
        e = np.exp(logits.detach().double().numpy())
        return e / e.sum(axis=0)

    def fused(maps):
        width = net.decoders["s1"].width
        if net.fusion == "mean":
            return net.classifier(torch.stack(list(maps.values())).mean(0)[None], (6, 5))[0]
        if net.fusion == "concat":
            blank = torch.zeros(width, 3, 3, dtype=targets_dtype)
            joined = torch.cat([maps.get(q, blank) for q in MODALITIES])
            return net.classifier(joined[None], (6, 5))[0]
        each = [net.classifier(x[None], (6, 5))[0] for x in maps.values()]
        if net.fusion == "logit":
            return torch.stack(each).mean(0)
        return torch.from_numpy(np.log(np.mean([probability(x) for x in each], axis=0)))

    targets_dtype = next(iter(values.values())).map.dtype
    truth = targets.numpy()
    parts = {q: [] for q in values}
    together = []
    for sample in range(len(truth)):
        maps = {}
        for q in values:
            if present[q][sample]:
                place = int(present[q][:sample].sum())
                maps[q] = values[q].map[place]
                parts[q] += surprise(fused({q: maps[q]}), truth[sample])
        if maps:
            together += surprise(fused(maps), truth[sample])
    means = [np.mean(found) if found else 0.0 for found in (*parts.values(), together)]
    return np.mean(means if len(values) > 1 else means[:1])


PRESENT = {
    "two, some missing": {"s1": [1, 1, 0, 1], "s2": [1, 0, 1, 1]},
    "three": {"dem": [1, 1, 0, 0], "s1": [0, 1, 1, 1], "s2": [1, 1, 0, 1]},
    "apart": {"s1": [1, 1, 0, 0], "s2": [0, 0, 1, 1]},
    "one": {"s2": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("fusion", ["mean", "concat", "logit", "probability"])
@pytest.mark.parametrize("which", list(PRESENT))
def test_several_modalities_against_a_slow_formula(fusion, which):
    present = {q: np.array(rows, bool) for q, rows in PRESENT[which].items()}
    _, targets = drawn(6, (4, 6, 5), classes=4)
    targets[1] = IGNORED  # a sample without a class
    targets[3, :5] = IGNORED
    net = network(fusion, torch.float64)
    values = features(net, present, torch.float64)
    found = pixel_loss(net, values, present, targets)
    expected = slow(net, values, present, targets)
    np.testing.assert_allclose(float(found.detach()), expected, rtol=1e-12)
    found.backward()
    assert all(z.map.grad.isfinite().all() for z in values.values())
    for q, z in values.items():  # nothing comes from the sample without a class
        if present[q][1]:
            assert (z.map.grad[int(present[q][:1].sum())] == 0).all()


@pytest.mark.parametrize("which", list(PRESENT))
@pytest.mark.parametrize("fusion", ["mean", "concat", "logit", "probability"])
def test_without_a_labelled_pixel_nothing_is_learned(which, fusion):
    present = {q: np.array(rows, bool) for q, rows in PRESENT[which].items()}
    net = network(fusion, torch.float32)
    values = features(net, present, torch.float32)
    loss = pixel_loss(net, values, present, torch.full((4, 6, 5), IGNORED, dtype=torch.uint8))
    assert loss == 0
    loss.backward()
    for tensor in (*net.classifier.parameters(), *(z.map for z in values.values())):
        assert (tensor.grad == 0).all()


# ---- through the network, from the store -------------------------------------------------------


def test_a_clients_loss_is_torchs_on_its_windows(tiles, tmp_path):
    """The value and every parameter's gradient of a training batch of the real task."""
    fed, initial = federation(tiles, tmp_path)
    client = fed.task.data.clients[0]
    (q,) = client.modalities
    chosen = client.train[q][:6]
    fed.task.network.train()
    batch = fed.task.batch(client, 3, chosen)
    batch.loss.backward()
    found = {k: p.grad for k, p in fed.task.network.named_parameters() if p.grad is not None}
    net = Network({"s1": 2, "s2": 2}, 3, task="pixel", width=4, projection=8)
    net.load_state_dict(initial)
    turned = Turned(1, 3)
    x = fed.task.normaliser.client(q, fed.task.data.batch(q, chosen, turned), client.id)
    loss = torchs(net({q: x}), fed.task.data.targets(chosen, turned))
    loss.backward()
    torch.testing.assert_close(batch.loss, loss, rtol=1e-6, atol=1e-6)
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == (name not in found), name
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    classes = fed.task.data.targets(chosen)
    expected = [[float((y == c).any()) for c in range(3)] for y in classes]
    assert batch.labels.tolist() == expected
    assert np.array_equal(batch.turns, turned.codes(fed.task.data.names(chosen)))


def test_a_batch_of_windows_without_a_class(tiles, tmp_path):
    """The first window of tile 4 has none: nobody trains on it, and it would move no weight."""
    fed, _ = federation(tiles, tmp_path)
    data = fed.task.data
    client = next(c for c in data.clients if c.id == "b-s1")
    window = data.samples(np.flatnonzero(data.pairs == "tile-04"))[:1] - 1
    assert window[0] not in client.train["s1"] and (data.targets(window) == IGNORED).all()
    client = replace(client, train={"s1": np.union1d(client.train["s1"], window)})
    fed.task.network.train()
    batch = fed.task.batch(client, 0, np.repeat(window, 2))
    assert batch.loss == 0 and not batch.labels.any()
    batch.loss.backward()
    gradients = [p.grad for p in fed.task.network.parameters() if p.grad is not None]
    assert len(gradients) > 10 and all((g == 0).all() for g in gradients)


def test_mirrored_pixels_are_in_no_loss(tiles):
    """A window of a tile that is smaller has as many counted pixels as the tile."""
    data = tile_data(tiles)
    small = np.flatnonzero(np.array([min(data.shape(i)) < 16 for i in range(len(data.pairs))]))
    assert len(small) == 4
    for location in small:
        counted = int((data.mask(location) != IGNORED).sum())
        assert int((data.targets(data.samples([location])) != IGNORED).sum()) == counted > 50
