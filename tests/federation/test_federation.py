"""The round loop: against plain FedAvg, resumed, killed; groups, statistics, the feature bank."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.small_federation import federation, parameters, same
from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.federation.local_update import fresh_features
from mmfl.federation.loop import federate
from mmfl.federation.setup import build_network, tensor_infos
from mmfl.federation.task import classification_loss, schedule
from mmfl.params import BASES
from mmfl.patches.augment import Turned
from mmfl.strategies import strategy as algorithm
from mmfl.strategies.base import Client

torch.set_num_threads(1)


def plain_fedavg(fed, initial):
    """FedAvg (1602.05629, algorithm 1) with torch's own tools, one modality, no strategy."""
    (q,) = fed.task.data.bands
    weights = {k: v.clone() for k, v in initial.items()}
    net = copy.deepcopy(fed.task.network)
    for index in range(fed.params.train.rounds):
        total = sum(len(c.train[q]) for c in fed.task.data.clients)
        sums = {}
        for client in sorted(fed.task.data.clients, key=lambda c: c.id):
            net.load_state_dict(weights)
            net.train()
            optimiser = torch.optim.SGD(net.parameters(), lr=fed.params.train.learning_rate)
            for epoch, _, chosen in schedule(client, fed.params, 1, index, None):
                x = fed.task.normaliser.client(
                    q, fed.task.data.batch(q, chosen, Turned(1, epoch)), client.id
                )
                y = torch.from_numpy(fed.task.data.labels[chosen]).float()
                optimiser.zero_grad()
                F.binary_cross_entropy_with_logits(net({q: x}), y).backward()
                optimiser.step()
            for key, value in net.named_parameters():
                change = (value.detach().double() - weights[key].double()) * (
                    len(client.train[q]) / total
                )
                sums[key] = sums[key] + change if key in sums else change
        for key, change in sums.items():
            weights[key] = (weights[key].double() + change).float()
    return weights


@pytest.mark.parametrize("q", ["s1", "s2"])
def test_one_modality_without_modules_is_plain_fedavg_to_the_bit(store, tmp_path, q):
    fed, initial = federation(store, tmp_path, modalities=(q,))
    server, _ = federate(fed, initial)
    expected = plain_fedavg(fed, initial)
    for (_, name), value in server.parameters.items():
        assert torch.equal(value, expected[name]), name


def test_running_statistics_under_each_policy(store, tmp_path):
    """One client per modality: every policy is torch's own running statistics, over all rounds."""
    folder, table = store
    table["country"] = "A"
    fed, initial = federation((folder, table), tmp_path, modalities=("s1",))
    net = copy.deepcopy(fed.task.network)
    server, _ = federate(fed, initial)
    net.load_state_dict(initial)
    net.train()
    (client,) = fed.task.data.clients
    for index in range(3):
        optimiser = torch.optim.SGD(net.parameters(), lr=fed.params.train.learning_rate)
        for epoch, _, chosen in schedule(client, fed.params, 1, index, None):
            x = fed.task.normaliser.client(
                "s1", fed.task.data.batch("s1", chosen, Turned(1, epoch)), client.id
            )
            loss = F.binary_cross_entropy_with_logits(
                net({"s1": x}), torch.from_numpy(fed.task.data.labels[chosen]).float()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for policy, values in server.statistics.items():
        for (_, name), value in values.items():
            torch.testing.assert_close(
                value, net.state_dict()[name], rtol=1e-5, atol=1e-5, msg=policy
            )


@pytest.mark.parametrize("name", [name for name in BASES if name != "prototypes"])
@pytest.mark.parametrize("share", [None, 2])
def test_every_tensor_is_claimed_by_exactly_one_group(name, share):
    network = build_network("mf+fw", parameters("mf+fw", **{"model.share_from_stage": share}), 19)
    infos = tensor_infos(network)
    strategy = algorithm(name)(infos, [Client("a-s1", "a", ("s1",), {"s1": np.arange(3)})])
    assert set(strategy._groups) == set(network.state_dict())


def test_scopes_of_mf_and_heads_only_where_a_loss_reaches_them(store, tmp_path):
    fed, initial = federation(store, tmp_path / "mf")
    server, _ = federate(fed, initial)
    assert not any(name.startswith("heads") for _, name in server.parameters)
    fed, initial = federation(store, tmp_path / "mim", "mf+mim")
    server, _ = federate(fed, initial)
    scopes = {name.split(".")[0] + ":" + scope for scope, name in server.parameters}
    assert scopes == {"backbones:s1", "backbones:s2", "heads:s1", "heads:s2", "classifier:all"}
    assert {scope for scope, _ in server.statistics["modality"]} == {"s1", "s2"}
    assert {scope for scope, _ in server.statistics["local"]} == {"a-s1", "a-s2", "b-s1", "b-s2"}


def test_statistics_that_stay_with_the_client_do_not_travel(store, tmp_path):
    sent = {}
    for policy in ("modality", "average", "local"):
        fed, initial = federation(
            store, tmp_path / policy, **{"train.statistics": policy, "train.rounds": 1}
        )
        _, rows = federate(fed, initial)
        sent[policy] = rows[0]["bytes_up"], rows[0]["bytes_down"]
    statistics = sum(v.nbytes for k, v in initial.items() if "s1" in k and "running" in k)
    assert sent["modality"] == sent["average"]
    for one, other in zip(sent["modality"], sent["local"], strict=True):
        assert one - other == statistics > 0


@pytest.mark.parametrize("bank", ["harvest", "fresh"])
def test_the_costs_of_a_row_by_hand(store, tmp_path, bank):
    """a-s2 in round 2: weights, statistics and variates both ways, the bank's pairs, samples."""
    fed, initial = federation(
        store, tmp_path, "scaffold+mim", **{"mim.bank": bank, "train.rounds": 2, "train.epochs": 2}
    )
    _, rows = federate(fed, initial)
    (row,) = [r for r in rows if (r["round"], r["client"]) == (2, "a-s2")]
    held = {k: v.nbytes for k, v in initial.items() if ".s1." not in k}
    statistics = sum(size for k, size in held.items() if "running" in k)
    weights = sum(size for k, size in held.items() if "running" not in k and "num_b" not in k)
    clients = {c.id: c for c in fed.task.data.clients}
    one, other = clients["a-s2"].train["s2"], clients["a-s1"].train["s1"]
    assert 0 < len(np.intersect1d(one, other)) < len(one)
    pairs = len(np.intersect1d(one, other)) * (8 + 4 * fed.params.model.projection)
    for way in ("bytes_up", "bytes_down"):
        assert row[way] == 2 * weights + statistics + pairs
    assert row["samples"] == 2 * len(one) and row["steps"] == 2 * -(-len(one) // 5)
    assert row["flops"] == row["samples"] + (0.25 * len(one) if bank == "fresh" else 0)
    assert (row["modality"], row["state"]) == ("s2", "trained")


def test_a_location_in_two_modalities_is_one_sample(store, tmp_path):
    fed, initial = federation(store, tmp_path, assignment="both", **{"train.rounds": 1})
    _, rows = federate(fed, initial)
    for client, row in zip(fed.task.data.clients, rows, strict=False):
        s1, s2 = client.train["s1"], client.train["s2"]
        assert row["samples"] == client.size == len(np.union1d(s1, s2)) < len(s1) + len(s2)
        assert row["flops"] == client.size


def test_order_of_updates_changes_nothing(store, tmp_path):
    from mmfl.federation.local_update import local_update

    fed, initial = federation(store, tmp_path, "mf+mim")
    server = fed.strategy.start(initial)
    updates = [
        local_update(
            fed.task, fed.strategy, fed.strategy.broadcast(server, c), c, {}, fed.params.train
        )
        for c in fed.strategy.clients
    ]
    one = fed.strategy.server_step(server, updates)
    two = fed.strategy.server_step(server, updates[::-1])
    assert same(one, two)


def test_shared_stages_train_and_stay_shared(store, tmp_path):
    fed, initial = federation(store, tmp_path, **{"model.share_from_stage": 2})
    server, _ = federate(fed, initial)
    shared = [name for scope, name in server.parameters if scope == "all" and "stages" in name]
    assert shared and all(name.startswith("backbones.stages.") for name in shared)
    assert all(not torch.equal(server.parameters["all", n], _first(initial, n)) for n in shared)


def _first(initial, name):
    return initial[name.replace("backbones.", "backbones.s1.", 1)]


@pytest.mark.parametrize("bank", ["harvest", "fresh"])
def test_feature_bank(store, tmp_path, bank):
    fed, initial = federation(store, tmp_path, "mf+mim", **{"mim.bank": bank})
    server, rows = federate(fed, initial)
    first = [r["loss_terms"] for r in rows if r["round"] == 1 and r["client"] != "server"]
    later = [r["loss_terms"] for r in rows if r["round"] == 2 and r["client"] != "server"]
    assert all(value > 0 for value in later)
    assert all(value > 0 for value in first) if bank == "fresh" else not any(first)
    for q, other in (("s1", "s2"), ("s2", "s1")):
        ids = server.state["mim"][q, "ids"].numpy()
        training = np.concatenate([c.locations for c in fed.task.data.clients])
        assert np.isin(ids, training).all()
        assert fed.task.data.present[q][ids].all() and fed.task.data.present[other][ids].all()
        norms = server.state["mim"][q, "values"].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(len(ids)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bank", ["harvest", "fresh"])
def test_features_of_a_late_client_stay_out_of_the_bank(store, tmp_path, bank):
    """Late in round 1 it has no entry; late in round 3 it has that of round 2, others new ones."""
    banks = {}
    for rounds in (1, 2, 3):
        late = [{"round": r, "client": "a-s1", "what": "late"} for r in (1, 3) if r <= rounds]
        fed, initial = federation(
            store, tmp_path / str(rounds), "mf+mim", participation={"schedule": late},
            **{"mim.bank": bank, "train.rounds": rounds},
        )  # fmt: skip
        server, _ = federate(fed, initial)
        ids, values = (server.state["mim"]["s1", name].numpy() for name in ("ids", "values"))
        banks[rounds] = dict(zip(ids.tolist(), values, strict=True))
    train = {c.id: set(c.locations.tolist()) for c in fed.task.data.clients}
    late, other = train["a-s1"] & train["a-s2"], train["b-s1"] & train["b-s2"]
    assert late and other and set(banks[1]) == other and set(banks[2]) == late | other
    assert all(np.array_equal(banks[3][i], banks[2][i]) for i in late)
    assert not any(np.array_equal(banks[3][i], banks[2][i]) for i in other)


def test_the_fresh_pass_uses_batch_statistics(store, tmp_path):
    """And the weights it is sent, also after a validation, which leaves other ones and its mode."""
    fed, initial = federation(store, tmp_path, "mf+mim", **{"mim.bank": "fresh"})
    client = fed.strategy.clients[0]
    (q,) = client.modalities
    broadcast = fed.strategy.broadcast(fed.strategy.start(initial), client)
    fed.task.network.eval()
    with torch.no_grad():  # and the weights of whoever trained last
        for parameter in fed.task.network.parameters():
            parameter.zero_()
    recorded = []
    hook = fed.task.network.backbones[q].register_forward_hook(
        lambda *_: recorded.append(torch.is_grad_enabled())
    )
    found = fresh_features(fed.task, fed.strategy, broadcast, client)["mim"]
    hook.remove()
    assert len(recorded) > 1 and not any(recorded)  # no graph is kept of any batch
    net = copy.deepcopy(fed.task.network)
    net.load_state_dict(initial)
    net.train()
    z = [net.project(q, net.features(q, x)).detach() for _, x in fed.task.pairs(client, q)]
    held = np.isin(client.train[q], found[q, "ids"].numpy())
    assert held.any()
    assert torch.equal(found[q, "values"], torch.cat(z)[torch.from_numpy(held)])


def test_mim_changes_the_backbone_and_weight_zero_does_not(store, tmp_path):
    runs = {}
    for name, method, changes in (
        ("mf", "mf", {}), ("zero", "mf+mim", {"mim.weight": 0.0}), ("mim", "mf+mim", {}),
    ):  # fmt: skip
        fed, initial = federation(store, tmp_path / name, method, **changes)
        runs[name] = federate(fed, initial)[0].parameters
    key = ("s2", "backbones.s2.stem.0.weight")
    assert torch.equal(runs["mf"][key], runs["zero"][key])
    assert not torch.equal(runs["mf"][key], runs["mim"][key])


def test_disjoint_partition_has_no_bank(store, tmp_path):
    with pytest.raises(UserError, match="no training pair held in two modalities"):
        federation(store, tmp_path, "mf+mim", held="disjoint")


@pytest.mark.parametrize("assignment", ["both", "mixed"])
@pytest.mark.parametrize("method", ["mf", "local"])
def test_clients_with_both_modalities_train(store, tmp_path, assignment, method):
    """The round's loss is that of `classification_loss`, whose closed form is tested below."""
    store[1]["country"] = np.resize(list("AAAABBBBCCCC"), len(store[1]))
    fed, initial = federation(store, tmp_path / "work", method, assignment=assignment)
    server, rows = federate(fed, initial)
    held = {"both": ["s1-s2"] * 3, "mixed": ["s1", "s2", "s1-s2"]}[assignment]
    assert [c.id for c in fed.task.data.clients] == [
        f"{g}-{q}" for g, q in zip("abc", held, strict=True)
    ]
    last = fed.task.data.clients[-1]
    assert last.modalities == ("s1", "s2") and last.size == len(last.locations)
    trained = {r["client"] for r in rows if r["round"] == 3 and r.get("samples", 0) > 0}
    assert trained == {c.id for c in fed.task.data.clients}
    for q in ("s1", "s2"):
        scope = "c-s1-s2" if method == "local" else q
        key = f"backbones.{q}.stem.0.weight"
        assert not torch.equal(server.parameters[scope, key], initial[key])


def test_mim_on_the_own_pairs_of_a_client(store, tmp_path):
    """No exchange: nothing goes into the bank, and the term is there from the first round."""
    store[1]["country"] = np.resize(list("AAAABBBBCCCC"), len(store[1]))
    fed, initial = federation(store, tmp_path / "work", "mf+mim", assignment="mixed")
    server, rows = federate(fed, initial)
    mim = {(r["client"], r["round"]): r["loss_terms"] for r in rows if r["client"] != "server"}
    assert all((value > 0) == (client == "c-s1-s2") for (client, _), value in mim.items())
    assert "mim" not in server.state


def test_alternate_partition_has_no_bank(store, tmp_path):
    with pytest.raises(UserError, match="no training pair held in two modalities"):
        federation(store, tmp_path, "mf+mim", held="alternate")


def test_a_modality_that_no_client_holds_is_refused(store, tmp_path):
    """Two groups in turn: one has s1, the other s2, nobody the third."""
    with pytest.raises(UserError, match=r"s2-20m: found no client that holds training patches"):
        federation(store, tmp_path, "mf", ("s1", "s2", "s2-20m"), "alternate")


def test_budgets():
    """Steps and epochs of the anchors; every federated method takes the same number of steps."""
    client = Client("a", "a", ("s1",), {"s1": np.arange(23)})
    params = parameters(**{"train.epochs": 2})
    plan = schedule(client, params, 1, 0, None)
    assert [len(rows) for _, _, rows in plan] == [5, 5, 5, 5, 3] * 2
    for epoch in (0, 1):
        rows = np.concatenate([rows for e, _, rows in plan if e == epoch])
        assert sorted(rows) == list(range(23))
    seen = np.concatenate([r for i in range(5) for _, _, r in schedule(client, params, 1, i, 1)])
    assert sorted(seen) == list(range(23))  # five rounds of one step are one epoch


@pytest.mark.parametrize("window", [0, 2])
def test_the_order_of_batches_is_the_clients_epochs_and_seeds_own(window):
    """24 locations in 4 shards; two orders agree in all places with a probability below 1e-6."""
    params = parameters(**{"train.epochs": 2, "train.window": window})

    def order(name, seed, index, epoch):
        client = Client(name, "a", ("s1",), {"s1": np.arange(24)})
        plan = schedule(client, params, seed, index, None, lambda c, samples: samples // 6)
        return tuple(np.concatenate([rows for e, _, rows in plan if e == epoch]).tolist())

    orders = [order("a", 1, 0, 0), order("a", 1, 0, 1), order("a", 1, 1, 2), order("a", 1, 1, 3),
              order("b", 1, 0, 0), order("a", 2, 0, 0)]  # fmt: skip
    assert len(set(orders)) == 6 and all(sorted(o) == list(range(24)) for o in orders)
    assert orders[0] == order("a", 1, 0, 0)
    if window:  # the samples of two shards come before all others
        for found in orders:
            assert len({i // 6 for i in found[:12]}) == 2
            assert sorted(found[:12]) != list(found[:12])


def test_the_last_epoch_is_that_of_the_round():
    client = Client("a", "a", ("s1",), {"s1": np.arange(23)})
    plan = schedule(client, parameters(**{"train.epochs": 2}), 1, 1, None)
    assert [(epoch, last) for epoch, last, _ in plan] == [(2, False)] * 5 + [(3, True)] * 5


def test_loss_of_a_client_with_both_modalities(store, tmp_path):
    fed, _ = federation(store, tmp_path)
    net = fed.task.network
    width = net.backbones["s1"].width
    present = {"s1": np.array([1, 1, 0], bool), "s2": np.array([1, 0, 1], bool)}
    z = {"s1": torch.randn(2, width), "s2": torch.randn(2, width)}
    y = (torch.rand(3, 19) < 0.5).float()
    bce = F.binary_cross_entropy_with_logits
    fused = torch.stack([(z["s1"][0] + z["s2"][0]) / 2, z["s1"][1], z["s2"][1]])
    expected = (
        bce(net.classifier(z["s1"]), y[[0, 1]])
        + bce(net.classifier(z["s2"]), y[[0, 2]])
        + bce(net.classifier(fused), y)
    ) / 3
    torch.testing.assert_close(classification_loss(net, z, present, y), expected)


def test_normalisation_by_client(store, tmp_path):
    fed, _ = federation(store, tmp_path, **{"train.normalisation": "client"})
    data = fed.task.data
    client = next(c for c in data.clients if c.id == "b-s2")
    x = data.batch("s2", client.train["s2"])
    own = fed.task.normaliser.client("s2", x, client.id)
    torch.testing.assert_close(own.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=2e-3)
    torch.testing.assert_close(own.std((0, 2, 3)), torch.ones(3), rtol=1e-2, atol=1e-2)
    held = data.held["s2"]
    test = held[(held["client"] == client.id) & (held["split"] == "test")]["location"].to_numpy()
    x = data.batch("s2", test)
    images = data.batch("s2", client.train["s2"]).double().numpy()
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    expected = (x.numpy() - mean[:, None, None]) / std[:, None, None]
    other = next(c for c in data.clients if c.id == "a-s2")
    found = fed.task.normaliser.locations("s2", x.clone(), test).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert abs(fed.task.normaliser.client("s2", x.clone(), other.id).numpy() - found).max() > 1e-3
    # a batch of both groups: each location by its own group's client
    both = np.concatenate([test, held[held["client"] == "a-s2"]["location"].to_numpy()[:3]])
    mixed = fed.task.normaliser.locations("s2", data.batch("s2", both), both)
    np.testing.assert_allclose(mixed[: len(test)], expected, atol=2e-5)
    alone = fed.task.normaliser.client("s2", data.batch("s2", both[-3:]), other.id)
    assert torch.equal(mixed[-3:], alone)


def test_training_and_its_statistics_are_those_of_the_training_split(store, tmp_path):
    fed, _ = federation(store, tmp_path)
    data = fed.task.data
    split = store[1].set_index("pair")["split"]
    for client in data.clients:
        assert set(split[data.pairs[client.locations]]) == {"train"}
    for q in ("s1", "s2"):
        rows = np.flatnonzero((split[data.pairs] == "train").to_numpy() & data.present[q])
        assert len(rows) > max(len(c.train[q]) for c in data.clients if q in c.train)
        x = data.batch(q, rows).double().numpy()
        mean, std = data.statistics("global")[q]["all"]
        np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(std, x.std((0, 2, 3)), rtol=1e-6)


def test_published_statistics_are_those_of_the_archive(store, tmp_path):
    fed, _ = federation(store, tmp_path, **{"train.normalisation": "archive"})
    published = {b.name: b for b in get("bigearthnet-v2").modalities["s2"].bands}
    chosen = [published[name] for name in ("B02", "B04", "B08")]
    mean, std = fed.task.data.statistics("archive")["s2"]["all"]
    assert mean.tolist() == [b.mean for b in chosen] and std.tolist() == [b.std for b in chosen]
    x = torch.stack([torch.full((16, 16), b.mean + 2 * b.std) for b in chosen])[None]
    found = fed.task.normaliser.client("s2", x, "a-s2")
    torch.testing.assert_close(found, torch.full_like(found, 2.0), rtol=1e-4, atol=1e-4)


def test_locations_of_a_group_without_a_client_fall_back_on_pooled_statistics(store, tmp_path):
    """a holds s1 alone, b s2 alone: b's locations have no statistics of their own in s1."""
    fed, _ = federation(
        store, tmp_path, assignment="alternate", **{"train.normalisation": "client"}
    )
    data, normaliser = fed.task.data, fed.task.normaliser
    a, b = (np.unique(data.held[q]["location"]) for q in ("s1", "s2"))
    assert normaliser.without_client("s1", b) == len(b)
    assert normaliser.without_client("s1", a) == 0
    assert normaliser.without_client("s1", np.concatenate([a, b[:3]])) == 3
    both = data.present["s1"][b]
    x = data.batch("s1", b[both])
    mean, std = (torch.tensor(v).float()[:, None, None]
                 for v in data.statistics("client")["s1"]["all"])  # fmt: skip
    expected = (x - mean) / std
    torch.testing.assert_close(normaliser.locations("s1", x.clone(), b[both]), expected)


def test_late_fusion_federations_do_not_touch_each_other(store, tmp_path):
    fed, initial = federation(store, tmp_path / "both", "late-fusion")
    both = federate(fed, initial)[0].parameters
    fed, initial = federation(store, tmp_path / "one", "late-fusion", modalities=("s1",))
    one = federate(fed, initial)[0].parameters
    assert all(torch.equal(both[key], value) for key, value in one.items())


def test_prior_is_the_frequency_of_the_training_labels(store, tmp_path):
    fed, initial = federation(store, tmp_path, "prior")
    server, rows = federate(fed, initial)
    training = np.unique(np.concatenate([c.locations for c in fed.task.data.clients]))
    np.testing.assert_allclose(
        server.state["prior"]["all", "frequencies"],
        fed.task.data.labels[training].mean(0),
        rtol=1e-6,
    )
    assert rows == []
