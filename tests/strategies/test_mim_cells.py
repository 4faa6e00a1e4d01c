"""MIM between cells: the same pixels, whatever the augmentation; all on the pixel network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn
from torch.nn import functional as F

from mmfl.federation.local_update import fresh_features, local_update
from mmfl.federation.setup import assemble, tensor_infos
from mmfl.models.dense import Dense
from mmfl.models.flops import Counter, forward_flops, training_flops
from mmfl.models.network import Network, initialise
from mmfl.models.whitening import group_by_group
from mmfl.params import Params, parts
from mmfl.patches.augment import Turned, symmetry
from mmfl.strategies.base import Batch, Broadcast, Client, Context
from mmfl.strategies.modules.mim import Mim
from mmfl.strategies.modules.mim import turned as turned_cells

torch.set_num_threads(1)
SIDE = 3


@pytest.mark.parametrize("code", range(8))
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_where_a_cell_goes_is_what_augmentation_does(code, side):
    """An image of cells' numbers, enlarged, turned: every block shows the number that is told."""
    numbers = np.arange(side**2).reshape(side, side)
    image = np.kron(numbers, np.ones((5, 5), np.int64))
    seen = symmetry(image[None], code)[0][2::5, 2::5]
    assert np.array_equal(seen.reshape(-1), turned_cells(side, code))


# ---- hand-made maps ---------------------------------------------------------------------------


class Maps(nn.Module):
    """Maps as they are: the projection of a cell is the cell, normalised."""

    def project(self, modality, features):
        return F.normalize(features.deep.mean((2, 3)), dim=1)

    def project_cells(self, modality, features, cells):
        assert cells >= features.deep.shape[-1]  # nothing to pool
        return F.normalize(features.deep.flatten(2).transpose(1, 2), dim=2)


def maps(seed, count):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(count, 5, SIDE, SIDE)))


def turn(x, codes):
    return torch.stack(
        [torch.from_numpy(symmetry(m.numpy(), c).copy()) for m, c in zip(x, codes, strict=True)]
    )


def module(negatives="all", bank="harvest", cells=SIDE, members=()):
    found = Mim(weight=0.7, temperature=0.4, negatives=negatives, bank=bank,
                features="cells", cells=cells)  # fmt: skip
    found.bind(members)
    return found


def context(client, present, features, locations, codes=None, bank=None, last=False):
    batch = Batch(
        np.asarray(locations), present, {},
        {q: Dense(x, x, (8, 8)) for q, x in features.items()},
        torch.zeros(len(locations), 1), torch.zeros(()), codes,
    )  # fmt: skip
    broadcast = Broadcast(1, {}, {"mim": bank} if bank else {})
    return Context(Maps(), client, broadcast, {}, {}, {}, 0.1, 0.0, last_epoch=last, batch=batch)


def closed_form(a, b, negatives, temperature=0.4):
    """NT-Xent by NumPy over the cells of maps a and b (N, E, k, k) of the same places."""
    u, v = (x.numpy().transpose(0, 2, 3, 1).reshape(-1, 5) for x in (a, b))
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    total = 0.0
    for one, other in ((u, v), (v, u)):
        for i in range(len(u)):
            across = one[i] @ other.T / temperature
            within = np.delete(one[i] @ one.T / temperature, i)
            bottom = np.concatenate([across, within]) if negatives == "all" else across
            total += logsumexp(bottom) - across[i]
    return total / 2 / len(u)


ONE = Client("a", "a", ("s1",), {"s1": np.arange(20)})
TWO = Client("b", "a", ("s2",), {"s2": np.arange(20)})
BOTH = Client("c", "c", ("s1", "s2"), {"s1": np.arange(20), "s2": np.arange(20)})


@pytest.mark.parametrize("negatives", ["all", "cross"])
@pytest.mark.parametrize("codes", [None, [0, 1, 2, 3, 4, 5, 6, 7], [5, 6, 5, 6, 1, 2, 4, 3]])
def test_loss_of_maps_with_a_bank(negatives, codes):
    """Both sides see the places turned in their own way; the loss is that of the upright maps."""
    places = np.array([11, 3, 8, 1, 17, 5, 2, 9])
    own, other = maps(0, 8), maps(1, 8)
    codes = None if codes is None else np.array(codes)
    seen = own if codes is None else turn(own, codes)
    theirs = np.array([7, 2, 5, 1, 0, 3, 6, 4])
    sender = module(negatives, members=[ONE, TWO])
    there = context(TWO, {"s2": np.ones(8, bool)}, {"s2": turn(other, theirs)}, places, theirs,
                    last=True)  # fmt: skip
    assert sender.loss(there) is None  # no bank yet
    upload = sender.finish(TWO, there.memory)
    assert np.array_equal(np.unique(upload["s2", "ids"] // SIDE**2), np.sort(places))
    here = context(ONE, {"s1": np.ones(8, bool)}, {"s1": seen}, places, codes, upload)
    found = module(negatives).loss(here)
    expected = 0.7 * closed_form(own, other, negatives)
    assert found.item() == pytest.approx(expected, rel=1e-6)  # the bank is in float32


def test_loss_of_maps_that_a_client_holds_in_both_modalities():
    """Of six places s1 has five and s2 four, three in common; each turned alike in both."""
    present = {"s1": np.array([1, 1, 1, 0, 1, 1], bool), "s2": np.array([1, 0, 1, 1, 0, 1], bool)}
    codes = np.array([4, 1, 6, 2, 7, 5])
    upright = {"s1": maps(0, 6), "s2": maps(1, 6)}
    seen = {q: turn(x, codes)[torch.from_numpy(present[q])] for q, x in upright.items()}
    both = torch.from_numpy(present["s1"] & present["s2"])
    found = module().loss(context(BOTH, present, seen, [4, 9, 0, 7, 3, 1], codes))
    expected = 0.7 * closed_form(upright["s1"][both], upright["s2"][both], "all")
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_maps_smaller_than_the_grid_asked_for():
    """Ids of a location stay its own: 4 x 4 asked for, 3 x 3 there."""
    own = module(cells=4)
    x = maps(0, 2)
    ids, u = own.projected(Maps(), "s1", Dense(x, x, (8, 8)), np.array([5, 6]), np.array([0, 1]))
    assert ids.tolist() == [*range(80, 89), *(96 + i for i in (6, 7, 8, 3, 4, 5, 0, 1, 2))]
    assert len(u) == 18


def test_only_cells_of_pairs_travel():
    """Up: places that another client holds; down: places that the client holds."""
    far = Client("d", "d", ("s2",), {"s2": np.arange(4, 12)})
    own = module(bank="fresh", members=[Client("a", "a", ("s1",), {"s1": np.arange(8)}), far])
    memory, x = {}, maps(0, 8)
    own.extra(memory, Maps(), "s2", Dense(x, x, (8, 8)), np.arange(4, 12))
    upload = own.finish(far, memory)
    assert upload["s2", "ids"].tolist() == list(range(4 * 9, 8 * 9))
    cells = F.normalize(x[:4].flatten(2), dim=1).transpose(1, 2).reshape(-1, 5)
    torch.testing.assert_close(upload["s2", "values"], cells.float(), check_dtype=False)
    assert own.fresh(far)
    from mmfl.strategies.base import Server

    server = Server({}, {})
    own.receive(server, {"d": upload})
    few = Client("e", "e", ("s1",), {"s1": np.array([2, 5])})
    assert own.broadcast(server, few)["s2", "ids"].tolist() == list(range(45, 54))


# ---- the real network in the real local update -------------------------------------------------


class Pixels:
    """Six windows of 24 px in two modalities, turned anew each epoch; cross entropy of pixels."""

    device = torch.device("cpu")
    count, size = 6, 24

    def __init__(self, method):
        bands = {"s1": 2, "s2": 3}
        where = "stem" if "+fw" in method else "none"
        self.network = Network(bands, 3, task="pixel", width=8, whitening={"where": where})
        initialise(self.network, 1)
        rng = torch.Generator().manual_seed(0)
        shape = (self.count, self.size, self.size)
        self.mask = torch.randint(0, 2, shape, generator=rng)
        self.mask[3:] += 1  # each window lacks one of the three classes
        self.x = {
            q: torch.randn(self.count, c, self.size, self.size, generator=rng)
            for q, c in bands.items()
        }

    def plan(self, client, round_index, steps):
        return [(2 * round_index + k, k == 1, client.locations) for k in range(2)]

    def read(self, client, plan):
        return [None] * len(plan)

    def batch(self, client, epoch, locations, read=None):
        turned = Turned(1, epoch)
        x = {q: turned.apply(self.x[q][locations], locations) for q in client.modalities}
        y = turned.apply(self.mask[locations][:, None], locations)
        features = {q: self.network.features(q, v) for q, v in x.items()}
        views = [features] if len(features) == 1 else [features, *({q: z} for q, z in
                                                                  features.items())]  # fmt: skip
        loss = torch.stack(
            [-self.network.classify(v).float().log_softmax(1).gather(1, y).mean() for v in views]
        ).mean()
        labels = torch.stack([(y == k).flatten(1).any(1) for k in range(3)], 1).float()
        everywhere = {q: np.ones(len(locations), bool) for q in client.modalities}
        return Batch(locations, everywhere, x, features, labels, loss, turned.codes(locations))

    def pairs(self, client, modality):
        return [(client.locations, self.x[modality])]

    def validate(self, ensembles):
        return None


EVERYWHERE = np.arange(Pixels.count)
MEMBERS = {
    "apart": [Client("a", "a", ("s1",), {"s1": EVERYWHERE}),
              Client("b", "a", ("s2",), {"s2": EVERYWHERE})],
    "together": [Client("c", "c", ("s1", "s2"), {"s1": EVERYWHERE, "s2": EVERYWHERE})],
}  # fmt: skip


def built(method, members, **mim):
    task = Pixels(method)
    params = Params.model_validate({
        "archives": {"simulated-tiles": {}}, "partition": {"scenario": "random"},
        "train": {"methods": ["mf"]}, "mim": {"features": "cells"} | mim,
    })  # fmt: skip
    base, names = parts(method)
    strategy = assemble(base, names, params, tensor_infos(task.network), MEMBERS[members])
    initial = {k: v.detach().clone() for k, v in task.network.state_dict().items()}
    return task, strategy, params, strategy.start(initial)


def one_round(task, strategy, params, server, counted=None):
    """The next server and the first client's update."""
    updates = []
    for client in strategy.clients:
        broadcast = strategy.broadcast(server, client)
        kept = server.clients.get(client.id, {})
        with group_by_group(), Counter() as counter:
            update = local_update(task, strategy, broadcast, client, kept, params.train)
        updates.append(update)
        if counted is not None:
            counted.append((client, counter.get_total_flops()))
    return strategy.server_step(server, updates), updates


METHODS = ["mf", "mf+fw+mim", "moon", "prototypes", "fedbn", "scaffold+mim"]


@pytest.mark.parametrize(
    ("method", "members"),
    [*((method, members) for method in METHODS for members in MEMBERS), ("late-fusion", "apart")],
)
def test_methods_train_the_pixel_network_and_their_flops_are_told(method, members):
    """In the second round, where bank and prototypes are there."""
    task, strategy, params, server = built(method, members)
    server, _ = one_round(task, strategy, params, server)
    counted = []
    after, updates = one_round(task, strategy, params, server, counted)
    if strategy.modules:
        terms = [update.metrics["loss_terms"] for update in updates]
        assert all(np.isfinite(terms)) and min(terms) > 0
    for address, value in after.parameters.items():
        assert torch.isfinite(value).all()
        still = torch.equal(value, server.parameters[address])
        assert not still or address[1].startswith("heads"), address
    for client, flops in counted:
        reported = training_flops(
            task.network, client.modalities, Pixels.size,
            projections=int(method in ("moon", "prototypes")),
            extra_forwards=strategy.extra_forwards, cells=4,
            negatives="all" if "mim" in method else None, batch=Pixels.count,
        )  # fmt: skip
        assert reported * 2 * Pixels.count == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize("bank", ["harvest", "fresh"])
def test_the_bank_holds_cells_of_upright_windows(bank):
    task, strategy, params, server = built("mf+mim", "apart", bank=bank, cells=2)
    if bank == "harvest":
        server, updates = one_round(task, strategy, params, server)
        uploads = {update.client: update.extras for update in updates}
    else:
        uploads = {}
        for client in strategy.clients:
            broadcast = strategy.broadcast(server, client)
            with group_by_group(), Counter() as counter:
                uploads[client.id] = fresh_features(task, strategy, broadcast, client)
            (q,) = client.modalities
            one = forward_flops(task.network, q, Pixels.size, cells=2)
            assert one * client.size == pytest.approx(counter.get_total_flops(), rel=1e-9)
        strategy.receive(server, uploads)
    for q in ("s1", "s2"):
        ids, values = server.state["mim"][q, "ids"], server.state["mim"][q, "values"]
        assert ids.tolist() == list(range(4 * Pixels.count))
        torch.testing.assert_close(values.norm(dim=1), torch.ones(len(ids)))
        if bank == "fresh":
            z = task.network.features(q, task.x[q])
            expected = task.network.project_cells(q, z, 2).flatten(0, 1)
            torch.testing.assert_close(values, expected.detach(), rtol=1e-4, atol=1e-5)
