"""Every parameter of the model, of whitening and of MIM reaches the part that it belongs to."""

import numpy as np
import pytest

from helpers.small_federation import federation, parameters
from mmfl.errors import UserError
from mmfl.federation.setup import assemble, build_network, tensor_infos
from mmfl.models.whitening import BatchWhitening2d
from mmfl.params import parts
from mmfl.strategies.base import Client
from mmfl.strategies.modules.prototypes import Prototypes


def built(method, **changes):
    """Network and strategy of a method."""
    params = parameters(method, **changes)
    network = build_network(method, params, 19)
    clients = [Client(f"a-{q}", "a", (q,), {q: np.arange(n)}) for q, n in (("s1", 3), ("s2", 5))]
    base, modules = parts(method)
    return network, assemble(base, modules, params, tensor_infos(network), clients)


@pytest.mark.parametrize(
    ("key", "value"),
    [("group", 2), ("epsilon", 0.25), ("shrinkage", "absolute"), ("momentum", 0.5), ("stride", 3),
     ("method", "zca")],
)  # fmt: skip
def test_whitening(key, value):
    def layers(**changes):
        network, _ = built("mf+fw", **changes)
        return [m for m in network.modules() if isinstance(m, BatchWhitening2d)]

    own = layers(**{f"whitening.{key}": value})
    assert own and {getattr(layer, key) for layer in own} == {value}
    assert {getattr(layer, key) for layer in layers()} != {value}


def test_where_whitening_stands():
    counts = {}
    for where in ("stem", "stem+layer1", "all"):
        network, _ = built("mf+fw", **{"whitening.where": where})
        counts[where] = sum(isinstance(m, BatchWhitening2d) for m in network.modules())
    assert 0 < counts["stem"] < counts["stem+layer1"] < counts["all"]
    network, _ = built("mf")
    assert not any(isinstance(m, BatchWhitening2d) for m in network.modules())


def test_model():
    network, _ = built("mf", **{"model.fusion": "probability", "model.projection": 5})
    assert network.fusion == "probability"
    assert {w.shape[0] for n, w in network.heads.named_parameters() if w.dim() == 2} >= {5}
    wide, _ = built("mf", **{"model.width": 8})
    assert wide.backbones["s1"].width == 2 * network.backbones["s1"].width
    shared, _ = built("mf", **{"model.share_from_stage": 2})
    both, none = (
        {i.name for i in tensor_infos(net) if i.shared and i.modality} for net in (shared, network)
    )
    assert both and not none and all(name.startswith("backbones.stages.") for name in both)


@pytest.mark.parametrize(
    ("key", "value"), [("weight", 0.75), ("temperature", 0.25), ("negatives", "cross")]
)
def test_mim(key, value):
    (own,), (plain,) = (
        built("mf+mim", **changes)[1].modules for changes in ({f"mim.{key}": value}, {})
    )
    assert getattr(own, key) == value != getattr(plain, key)


def test_prototypes_of_their_own_section():
    changes = {"algorithms.prototypes.weight": 0.75, "algorithms.prototypes.temperature": 0.25}
    (module,) = built("prototypes", **changes)[1].modules
    assert (module.name, module.weight, module.temperature) == ("prototypes", 0.75, 0.25)


@pytest.mark.parametrize("bank", ["harvest", "fresh", "prototype"])
def test_only_a_bank_of_features_needs_pairs(store, tmp_path, bank):
    """With `disjoint` no training location is held in two modalities."""
    choice = {"method": "mf+mim", "held": "disjoint", "mim.bank": bank}
    if bank == "prototype":
        fed, _ = federation(store, tmp_path, **choice)
        assert isinstance(fed.strategy.modules[0], Prototypes)
        assert fed.strategy.modules[0].name == "mim"
        return
    with pytest.raises(UserError, match="found no training pair held in two modalities"):
        federation(store, tmp_path, **choice)


def test_the_prior_counts_the_labels_of_what_the_clients_train_on(store, tmp_path):
    """Of some of the locations, each once, though two clients hold it."""
    fed, _ = federation(store, tmp_path, "prior", participation={})
    table = store[1]
    held = {int(i) for client in fed.strategy.population for i in client.locations}
    labels = table.set_index("pair")["labels"]
    names = fed.task.data.pairs
    expected = np.zeros(19)
    for place in held:
        expected[list(labels[names[place]])] += 1
    assert 0 < len(held) < len(table)
    np.testing.assert_allclose(fed.strategy.frequencies.numpy(), expected / len(held), rtol=1e-6)


def test_running_statistics_are_shared_by_no_two_modalities():
    network, _ = built("mf", **{"model.share_from_stage": 1})
    infos = tensor_infos(network)
    kinds = {info.kind for info in infos if info.shared and info.modality}
    assert kinds == {"parameter"}
    assert {i.kind for i in infos if i.modality and "stages" in i.key} >= {"statistic", "counter"}
    assert all(info.name == info.key for info in infos if info.kind != "parameter")


def test_weights_and_policy():
    for weights, shares in (("size", [3 / 8, 5 / 8]), ("uniform", [0.5, 0.5])):
        for policy in ("modality", "average", "local"):
            changes = {"train.weights": weights, "train.statistics": policy}
            _, strategy = built("scaffold", **changes)
            assert strategy.policy == policy
            found = [strategy.share(("all", "x"), client) for client in ("a-s1", "a-s2")]
            assert found == shares
    _, strategy = built("fedprox", **{"algorithms.fedprox.mu": 0.375})
    assert strategy.hyper.mu == 0.375
