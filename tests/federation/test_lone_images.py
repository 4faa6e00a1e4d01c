"""A single image of a modality where a network ends in one pixel: a norm layer has no variance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.small_federation import federation, parameters
from mmfl.errors import UserError
from mmfl.federation.loop import federate
from mmfl.federation.setup import build_network, build_strategy, require_two_images
from mmfl.federation.task import accompanied, schedule
from mmfl.models.network import Network, fewest_values
from mmfl.strategies.base import Client


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    [("compact", 8, 1), ("compact", 9, 4), ("compact", 32, 16), ("resnet18", 32, 1),
     ("resnet18", 33, 4)],
)  # fmt: skip
def test_pixels_of_the_last_map(backbone, size, expected):
    """Halved 3 times and 5 times, rounded up."""
    for task in ("multilabel", "pixel"):
        net = Network({"s1": 2, "s2": 3}, 4, task=task, backbone=backbone).train()
        assert fewest_values(net, size) == expected
        assert net.training and not net.backbone("s1").stem[1].num_batches_tracked


def test_a_stride_of_statistics_leaves_fewer_and_has_to_fit():
    """16 px: a stem of 8 x 8, of which a stride of 4 sees 4 pixels, one of 8 one pixel."""
    for stride, expected in ((1, 4), (4, 4), (8, 1)):
        net = Network({"s2": 3}, 4, whitening={"where": "stem", "stride": stride})
        assert fewest_values(net, 16) == expected
    net = Network({"s2": 3}, 4, whitening={"where": "stem", "stride": 9})
    with pytest.raises(UserError, match=r"whitening\.stride: found 9, expected at most 8"):
        fewest_values(net, 16)


def drawn(batch, rare, common, seed=0):
    """A client with some locations in one modality only, in the other only, and in both."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(rare + common)
    return Client("a", "a", ("s1", "s2"), {"s1": np.sort(numbers[: rare + 2]),
                                           "s2": np.sort(numbers[rare:])})  # fmt: skip


@pytest.mark.parametrize("batch", [2, 3, 5, 16])
@pytest.mark.parametrize(("rare", "common"), [(2, 30), (3, 3), (1, 7), (9, 40)])
def test_no_batch_has_a_single_image_of_a_modality(batch, rare, common):
    client = drawn(batch, rare, common)
    params = parameters(**{"train.batch": batch, "train.epochs": 3})
    plain = schedule(client, params, 1, 0, None)
    found = schedule(client, params, 1, 0, None, pairs=True)
    assert len(found) == len(plain)
    for (epoch, last, before), (*same, after) in zip(plain, found, strict=True):
        assert same == [epoch, last]
        assert np.array_equal(after[: len(before)], before)  # nobody waits or is left out
        assert len(np.unique(after)) == len(after) <= len(before) + 2
        for own in client.train.values():
            assert np.isin(after, own).sum() != 1


def test_who_accompanies_is_the_next_in_the_order_and_batches_that_need_nobody_stay():
    train = {"s1": np.array([1, 5, 8]), "s2": np.arange(9)}
    order = np.array([0, 5, 2, 3, 8, 4, 6, 1, 7])
    assert accompanied(order, slice(0, 3), train).tolist() == [0, 5, 2, 8]
    assert accompanied(order, slice(6, 9), train).tolist() == [6, 1, 7, 5]
    assert accompanied(order, slice(3, 6), train).tolist() == [3, 8, 4, 1]
    assert accompanied(order, slice(2, 4), train).tolist() == [2, 3]


@pytest.mark.parametrize("method", ["mf", "mf+fw+mim", "moon"])
def test_a_federation_whose_network_ends_in_one_pixel(store, tmp_path, method):
    """Batches of two, of locations some of which have one modality only."""
    fed, initial = federation(
        store, tmp_path, method, assignment="both",
        **{"train.size": 8, "train.batch": 2, "train.rounds": 2, "whitening.where": "all"},
    )  # fmt: skip
    server, rows = federate(fed, initial)
    assert all(torch.isfinite(value).all() for value in server.parameters.values())
    assert all(np.isfinite(row["loss"]) for row in rows if row["client"] != "server")


def test_a_client_with_one_image_is_refused_before_training():
    clients = [Client("a-s1", "a", ("s1",), {"s1": np.array([3])}),
               Client("b-s1", "b", ("s1",), {"s1": np.array([4])}),
               Client("c-s2", "c", ("s2",), {"s2": np.array([5, 6])})]  # fmt: skip
    net = build_network("mf", parameters(), 4)
    with pytest.raises(UserError) as caught:
        require_two_images("mf", clients, net, 8)
    assert str(caught.value).startswith("mf: a-s1: found 1 training image in s1, expected 2 or")
    assert "(2 such clients)" in str(caught.value) and "\n" not in str(caught.value)
    require_two_images("mf", clients, net, 16)  # four pixels have a variance
    require_two_images("mf", clients[2:], net, 8)


def test_no_strategy_is_built_for_such_a_client():
    clients = [Client("a-s1", "a", ("s1",), {"s1": np.array([3])})]
    params = parameters("mf", **{"train.size": 8})
    with pytest.raises(UserError, match="a-s1: found 1 training image in s1"):
        build_strategy(
            "mf", params, build_network("mf", params, 4), SimpleNamespace(clients=clients)
        )
