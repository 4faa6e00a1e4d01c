"""What a client's step is made of: batches, labels, turns, orders and losses, by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import small_federation, small_tile_federation
from mmfl.errors import UserError
from mmfl.facts.tasks import IGNORED
from mmfl.federation.task import (
    accompanied,
    classification_loss,
    pixel_loss,
    schedule,
    shown_policy,
    shuffled,
)
from mmfl.models.network import Network
from mmfl.patches.augment import Turned
from mmfl.strategies.base import Client


def federation(store, tmp_path, **changes):
    return small_federation.federation(store, tmp_path / "work", **changes)[0]


def raw(fed, client, q, samples, turned):
    """Standardised by NumPy with the client's own entry, or that of all."""
    x = fed.task.data.batch(q, samples, turned).numpy().astype(np.float64)
    entries = fed.task.data.statistics(fed.params.train.normalisation)[q]
    mean, std = entries.get(client.id, entries["all"])
    return (x - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize(("augment", "normalisation"), [(True, "global"), (False, "client")])
def test_a_batch_is_what_the_client_holds_turned_and_standardised(
    store, tmp_path, augment, normalisation
):
    """Over two epochs, each with turns of its own; the labels are those of the same samples."""
    store[1]["country"] = np.resize(list("AAAABBBB"), len(store[1]))
    changes = {"train.augment": augment, "train.normalisation": normalisation, "train.epochs": 2}
    fed = federation(store, tmp_path, assignment="both", **changes)
    client = fed.strategy.clients[1]
    plan = fed.task.plan(client, 0, None)
    assert {epoch for epoch, *_ in plan} == {0, 1}
    table = fed.task.data.table
    for (epoch, _, samples), read in zip(plan, fed.task.read(client, plan), strict=True):
        turned = Turned(1, epoch) if augment else None
        batch = fed.task.batch(client, epoch, samples, read)
        for q in ("s1", "s2"):
            assert batch.present[q].tolist() == np.isin(samples, client.train[q]).tolist()
            expected = raw(fed, client, q, samples[batch.present[q]], turned)
            np.testing.assert_allclose(batch.inputs[q].numpy(), expected, atol=1e-4)
        truth = [[c in set(table["labels"][i]) for c in range(19)] for i in samples]
        assert batch.labels.tolist() == np.array(truth, float).tolist()
        if augment:
            names = table["pair"].to_numpy()[samples]
            assert batch.turns.tolist() == Turned(1, epoch).codes(names).tolist()
        else:
            assert batch.turns is None


def test_pairs_are_all_that_a_client_holds_in_a_modality(store, tmp_path):
    """As they are, by the client's own statistics, in the order of their numbers."""
    fed = federation(store, tmp_path, assignment="both", **{"train.normalisation": "client"})
    for client in fed.strategy.clients:
        for q in ("s1", "s2"):
            found = list(fed.task.pairs(client, q))
            assert np.concatenate([rows for rows, _ in found]).tolist() == client.train[q].tolist()
            images = torch.cat([x for _, x in found]).numpy()
            expected = raw(fed, client, q, client.train[q], None)
            np.testing.assert_allclose(images, expected, atol=1e-4)
        assert client.train["s1"].tolist() != client.train["s2"].tolist()


def test_labels_of_windows_are_the_classes_that_they_show(tiles, tmp_path):
    """After turning; a class's number is its place, and a pixel without one shows nothing."""
    fed, _ = small_tile_federation.federation(tiles, tmp_path)
    client = fed.strategy.clients[0]
    samples = client.locations[:6]
    turned = Turned(1, 3)
    batch = fed.task.batch(client, 3, samples)
    targets = fed.task.data.targets(samples, turned).numpy()
    shown = [[float((one == c).any()) for c in range(3)] for one in targets]
    assert batch.labels.tolist() == shown and 0 < np.mean(shown) < 1
    assert batch.turns.tolist() == turned.codes(fed.task.data.names(samples)).tolist()
    (q,) = client.modalities
    logits = fed.task.network.classify({q: batch.features[q]})
    expected = F.cross_entropy(logits, torch.from_numpy(targets).long(), ignore_index=IGNORED)
    torch.testing.assert_close(batch.loss, expected)


@pytest.mark.parametrize(("size", "pairs"), [(8, True), (16, False)])
def test_lone_images_get_company_only_where_a_network_ends_in_one_pixel(
    store, tmp_path, size, pairs
):
    fed = federation(store, tmp_path, assignment="both", **{"train.size": size, "train.batch": 2})
    client, params = fed.strategy.clients[0], fed.params
    orders = [
        [rows.tolist() for *_, rows in schedule(client, params, 1, 0, None, pairs=p)]
        for p in (True, False)
    ]
    found = [rows.tolist() for *_, rows in fed.task.plan(client, 0, None)]
    assert orders[0] != orders[1] and found == orders[not pairs]


def test_networks_are_compiled_where_it_is_asked_for(store, tmp_path, monkeypatch):
    """Without a compiler that is refused, and nothing else is."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("mmfl.models.compiled.shutil.which", lambda name: None)
    federation(store, tmp_path)
    with pytest.raises(UserError, match=r"train\.compile: found no C\+\+ compiler"):
        federation(store, tmp_path, **{"train.compile": True})


def test_company_may_need_company():
    """7 is alone in s2; 5 comes along and is alone in s1; 1 comes along."""
    train = {"s1": np.array([1, 5]), "s2": np.array([5, 7])}
    order = np.array([7, 3, 5, 1])
    assert accompanied(order, slice(0, 1), train).tolist() == [7, 5, 1]


def test_a_last_window_may_have_fewer_shards():
    """10 shards by threes: 3, 3, 3 and 1; the shards, too, come in random order."""
    samples, shards = np.arange(40), np.repeat(np.arange(10), 4)
    firsts = set()
    for seed in range(5):
        order = shuffled(samples, shards, 3, np.random.default_rng(seed))
        assert sorted(order) == samples.tolist()
        groups = [set(shards[part]) for part in np.split(order, [12, 24, 36])]
        assert [len(group) for group in groups] == [3, 3, 3, 1]
        firsts.add(frozenset(groups[0]))
    assert len(firsts) > 1


def test_an_order_follows_from_its_key_alone():
    """NumPy's generator, seeded with the SHA-256 of "seed/order/epoch/client"; so does a resume."""
    client = Client("b-s1", "b", ("s1",), {"s1": np.arange(30, 50)})
    params = small_federation.parameters(**{"train.batch": 20})
    for seed, epoch in ((1, 0), (1, 3), (7, 3)):
        ((found, _, rows),) = schedule(client, params, seed, epoch, None)
        digest = hashlib.sha256(f"{seed}/order/{epoch}/b-s1".encode()).digest()[:16]
        source = np.random.default_rng(int.from_bytes(digest, "big"))
        assert found == epoch and rows.tolist() == source.permutation(np.arange(30, 50)).tolist()


def test_steps_go_on_where_the_round_before_stopped():
    """Epochs of 3 batches, 4 steps a round: round 2 begins in the middle of the third epoch."""
    client = Client("a", "a", ("s1",), {"s1": np.arange(12)})
    params = small_federation.parameters(**{"train.batch": 4})
    rounds = [schedule(client, params, 1, index, 4) for index in range(3)]
    assert [[epoch for epoch, *_ in plan] for plan in rounds] == [
        [0, 0, 0, 1], [1, 1, 2, 2], [2, 3, 3, 3]
    ]  # fmt: skip
    assert [[last for _, last, _ in plan] for plan in rounds] == [
        [False, False, False, True], [False, False, True, True], [False, True, True, True]
    ]  # fmt: skip
    for epoch in range(4):
        rows = [rows for plan in rounds for e, _, rows in plan if e == epoch]
        assert sorted(np.concatenate(rows).tolist()) == list(range(12))


@pytest.mark.parametrize("task", ["multilabel", "pixel"])
def test_narrow_logits_have_the_loss_of_the_same_numbers_in_float32(task):
    net = Network({"s1": 2, "s2": 3}, 4, task=task, width=4)
    present = {q: np.array([True, True, True]) for q in ("s1", "s2")}
    draw = torch.Generator().manual_seed(0)
    shape = (3, 4) if task == "multilabel" else (3, 4, 8, 8)
    logits = (torch.randn(shape, generator=draw) * 5).to(torch.bfloat16)
    net.classify = lambda features: logits
    if task == "multilabel":
        labels = (torch.rand(shape, generator=draw) < 0.5).float()
        found = classification_loss(net, present, present, labels)
        expected = F.binary_cross_entropy_with_logits(logits.float(), labels)
    else:
        targets = torch.randint(0, 4, (3, 8, 8), generator=draw).to(torch.uint8)
        found = pixel_loss(net, present, present, targets)
        expected = F.cross_entropy(logits.float(), targets.long())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_policy_that_is_shown():
    for policy, shown in {
        "modality": "modality",
        "average": "average",
        "local": "modality",
    }.items():
        params = small_federation.parameters(**{"train.statistics": policy})
        assert shown_policy(params) == shown
