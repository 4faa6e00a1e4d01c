"""Every algorithm on images: resumed, in processes, with absent clients, three modalities."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.small_federation import federation, same
from mmfl.errors import UserError
from mmfl.federation import checkpoint
from mmfl.federation.loop import federate
from mmfl.federation.workers import Job, Workers
from mmfl.params import BASES

ALL = [name for name in BASES if name != "prior"]
COMPOSED = ["mf+fw+mim", "scaffold+fw+mim", "moon+fw+mim+prototypes", "feddc+fw+mim", "fedbn+fw"]
ABSENT = {"fraction": 0.75, "fails": 0.2, "late": 0.2}


@pytest.mark.parametrize("method", [*ALL, *COMPOSED])
def test_resumed_is_uninterrupted_to_the_bit(store, tmp_path, method):
    """With absent and late clients."""
    fed, initial = federation(store, tmp_path / "whole", method, participation=ABSENT)
    whole, rows = federate(fed, initial)
    for rounds in (1, 2, 3):
        part, initial = federation(
            store, tmp_path / "parts", method, participation=ABSENT, **{"train.rounds": rounds}
        )
        resumed, rows_resumed = federate(part, initial)
    assert same(whole, resumed)
    assert rows == rows_resumed
    kept = {2, 3, fed.best["round"]}  # the last, the one before, the best
    assert list(checkpoint.numbered(tmp_path / "whole")) == sorted(kept)


@pytest.mark.parametrize("method", [*ALL, *COMPOSED])
def test_any_number_of_workers_gives_the_same_bits(store, tmp_path, method):
    """(h)"""
    found = []
    for workers in (1, 2, 4):
        fed, initial = federation(store, tmp_path / str(workers), method, workers=workers)
        found.append(federate(fed, initial))
    for server, rows in found[1:]:
        assert same(found[0][0], server)
        assert rows == found[0][1]


def test_spawned_workers_give_the_same_bits(store, tmp_path):
    """The way of CUDA, on the processor: each worker builds its own task."""
    fed, initial = federation(store, tmp_path / "one", "mf+mim", **{"train.rounds": 1})
    one, _ = federate(fed, initial)
    fed, initial = federation(store, tmp_path / "two", "mf+mim", workers=2, **{"train.rounds": 1})
    fed.build = _Rebuild(store, tmp_path / "two")
    two, _ = federate(fed, initial)
    assert same(one, two)


class _Rebuild:
    """Picklable, as what a step hands to its workers."""

    def __init__(self, store, work):
        self.store, self.work = store, work

    def __call__(self, place):
        fed, _ = federation(self.store, self.work, "mf+mim", **{"train.rounds": 1})
        return fed.task, fed.strategy


def test_a_worker_that_dies_is_named_with_its_client_and_the_run_goes_on(store, tmp_path):
    whole = federate(*federation(store, tmp_path / "whole"))
    fed, initial = federation(store, tmp_path / "work", workers=2)
    batch, parent = fed.task.batch, os.getpid()

    def deadly(client, epoch, locations, read):  # in one client's second round
        if client.id == "b-s1" and epoch == 1 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(client, epoch, locations, read)

    fed.task.batch = deadly
    with pytest.raises(UserError, match=r"SIGKILL while it trained the client b-s1, .*run train"):
        federate(fed, initial)
    assert [path.name for path in (tmp_path / "work").glob("round-*")] == [
        "round-00001.safetensors"
    ]
    resumed, rows = federate(*federation(store, tmp_path / "work", workers=2))
    assert same(whole[0], resumed) and rows == whole[1]


def test_a_fault_in_a_worker_is_the_parents_too(store, tmp_path):
    fed, initial = federation(store, tmp_path, workers=2)

    def broken(client, epoch, locations, read):
        raise UserError("shard 3: damaged, expected pixels; run split again")

    fed.task.batch = broken
    with pytest.raises(UserError, match="shard 3: damaged"):
        federate(fed, initial)


def test_workers_end_when_their_parent_is_gone(store, tmp_path):
    """They live at the other end of a pipe that only the parent holds."""
    fed, _ = federation(store, tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Workers(3, lambda place: (fed.task, fed.strategy)) as workers:
            os.write(writer, " ".join(str(p.pid) for p in workers._processes).encode())
            time.sleep(6000)
    os.close(writer)
    pids = [int(pid) for pid in os.read(reader, 100).split()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(pids) == 3
    while any(_alive(pid) for pid in pids):  # for ever, if one outlives it
        time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


# ---- who takes part --------------------------------------------------------------------------


def test_absent_clients_are_named_and_late_ones_leave_no_trace(store, tmp_path, caplog):
    schedule = [
        {"round": 2, "client": "a-s1", "what": "fails"},
        {"round": 2, "client": "b-s2", "what": "late"},
    ]
    fed, initial = federation(
        store, tmp_path, "scaffold+mim", participation={"schedule": schedule},
        **{"train.rounds": 2},
    )  # fmt: skip
    server, rows = federate(fed, initial)
    states = {(r["round"], r["client"]): r["state"] for r in rows if r["client"] != "server"}
    assert states[2, "a-s1"] == "failed" and states[2, "b-s2"] == "late"
    assert sorted(states.values()).count("trained") == 6
    cost = {(r["round"], r["client"]): r for r in rows}
    assert cost[2, "a-s1"]["steps"] == 0 and cost[2, "a-s1"]["bytes_down"] > 0
    assert cost[2, "b-s2"]["steps"] == cost[1, "b-s2"]["steps"] > 0
    assert "round 2: the client a-s1 failed" in caplog.text
    assert "round 2: the client b-s2 was late" in caplog.text
    one, initial = federation(store, tmp_path / "one", "scaffold+mim", **{"train.rounds": 1})
    before, _ = federate(one, initial)
    for client in ("a-s1", "b-s2"):  # what they keep is that of round 1
        for address, value in before.clients[client]["scaffold.c"].items():
            assert torch.equal(server.clients[client]["scaffold.c"][address], value)


def test_a_round_without_anybody_changes_nothing(store, tmp_path):
    schedule = [
        {"round": 1, "client": c, "what": "fails"} for c in ("a-s1", "a-s2", "b-s1", "b-s2")
    ]
    fed, initial = federation(
        store, tmp_path, "fedadam", participation={"schedule": schedule}, **{"train.rounds": 1}
    )
    server, _ = federate(fed, initial)
    assert server.round == 1
    for (_, name), value in server.parameters.items():
        assert torch.equal(value, initial[name])


def test_a_schedule_with_an_unknown_client_is_refused(store, tmp_path):
    schedule = [{"round": 1, "client": "c-s1"}]
    fed, initial = federation(store, tmp_path, participation={"schedule": schedule})
    with pytest.raises(UserError, match="found client c-s1, expected one of a-s1, a-s2, b-s1"):
        federate(fed, initial)


def test_a_fraction_of_the_clients_the_same_for_every_method(store, tmp_path):
    asked = {}
    for method in ("mf", "scaffold", "local"):
        fed, initial = federation(store, tmp_path / method, method, participation={"fraction": 0.5})
        _, rows = federate(fed, initial)
        asked[method] = [(r["round"], r["client"]) for r in rows if r["client"] != "server"]
    assert asked["mf"] == asked["scaffold"] == asked["local"]
    assert len(asked["mf"]) == 6 and len({client for _, client in asked["mf"]}) > 2


# ---- single algorithms on a network -------------------------------------------------------------


def test_fedbn_keeps_norm_layers_with_the_client(store, tmp_path):
    fed, initial = federation(store, tmp_path, "fedbn+fw")
    server, rows = federate(fed, initial)
    infos = {t.key: t for t in fed.strategy.tensors}
    norms = {n for n, t in infos.items() if t.is_norm and t.kind == "parameter"}
    assert any(".shortcut." in n for n in norms)  # found by type, wherever they are
    clients = {c.id for c in fed.strategy.clients}
    for scope, name in server.parameters:
        assert (scope in clients) == (name in norms)
    name = "backbones.s1.stem.1.weight"
    one, two = server.parameters["a-s1", name], server.parameters["b-s1", name]
    assert name in norms and not torch.equal(one, two)
    sizes = [c.size for c in fed.strategy.clients if c.id in ("a-s1", "b-s1")]
    (everyone,) = fed.strategy.evaluation_view(server, "modality")[0]
    expected = np.average([one.double(), two.double()], axis=0, weights=sizes)
    np.testing.assert_allclose(everyone.tensors[name], expected, rtol=1e-6)
    own = fed.strategy.expert(server, fed.strategy.clients[0], "local")
    assert torch.equal(own.tensors[name], one)
    mf, initial = federation(store, tmp_path / "mf", "mf+fw")
    _, rows_mf = federate(mf, initial)
    kept = sum(initial[n].nbytes for n in norms if n.split(".")[1] == "s1")
    statistics = sum(
        initial[n].nbytes for n, t in infos.items() if t.kind == "statistic" and t.modality == "s1"
    )
    assert rows_mf[0]["bytes_up"] - rows[0]["bytes_up"] == kept + statistics


def test_moons_extra_passes_leave_the_buffers_alone(store, tmp_path):
    """mu = 0 is MF to the bit, running statistics of every policy included."""
    fed, initial = federation(store, tmp_path / "moon", "moon", **{"algorithms.moon.mu": 0.0})
    moon, _ = federate(fed, initial)
    fed, initial = federation(store, tmp_path / "mf", "mf")
    mf, _ = federate(fed, initial)
    for policy, values in mf.statistics.items():
        assert all(torch.equal(moon.statistics[policy][a], s) for a, s in values.items())
    assert all(torch.equal(moon.parameters[a], w) for a, w in mf.parameters.items())


@pytest.mark.parametrize(
    ("method", "changes", "rounds"),
    [
        ("fedprox", {"algorithms.fedprox.mu": 0.0}, 3),
        ("fedavgm", {"algorithms.fedavgm.beta": 0.0}, 3),
        ("scaffold", {}, 1),
    ],
)
def test_reductions_to_mf_to_the_bit(store, tmp_path, method, changes, rounds):
    own, initial = federation(
        store, tmp_path / "own", method, **changes, **{"train.rounds": rounds}
    )
    one, _ = federate(own, initial)
    mf, initial = federation(store, tmp_path / "mf", "mf", **{"train.rounds": rounds})
    two, _ = federate(mf, initial)
    assert all(torch.equal(one.parameters[a], w) for a, w in two.parameters.items())
    for policy, values in two.statistics.items():
        assert all(torch.equal(one.statistics[policy][a], s) for a, s in values.items())


def test_equal_budgets_on_images(store, tmp_path):
    taken = {}
    for method in [m for m in (*ALL, *COMPOSED) if not m.startswith("centralised")]:
        fed, initial = federation(store, tmp_path / method, method, **{"train.rounds": 1})
        _, rows = federate(fed, initial)
        taken[method] = [(r["client"], r["steps"], r["samples"]) for r in rows[:-1]]
    assert all(value == taken["mf"] for value in taken.values())


# ---- clients with several modalities, and more than two of them -------------------------------


THREE = ("s1", "s2", "s2-20m")


@pytest.mark.parametrize(
    ("method", "assignment"),
    [
        ("mf+fw+mim", "duplicate"), ("scaffold+mim", "mixed"), ("feddyn+prototypes", "both"),
        ("prototypes", "disjoint"), ("late-fusion", "duplicate"), ("moon", "both"),
        ("local+mim", "both"), ("centralised-epochs+mim", "duplicate"),
    ],
)  # fmt: skip
def test_three_modalities(store, tmp_path, method, assignment):
    store[1]["country"] = np.resize(list("AAAABBBBCCCCDDDD"), len(store[1]))
    fed, initial = federation(store, tmp_path, method, THREE, assignment)
    server, rows = federate(fed, initial)
    for q in THREE:
        key = f"backbones.{q}.stem.0.weight"
        moved = [v for (_, n), v in server.parameters.items() if n == key]
        assert moved and all(not torch.equal(v, initial[key]) for v in moved)
    assert np.isfinite([r["loss"] for r in rows if r["client"] != "server"]).all()
    if "mim" in method or "prototypes" in method:
        assert any(r["loss_terms"] > 0 for r in rows if r["client"] != "server")
    bank = server.state.get("mim", {})
    if method == "mf+fw+mim":
        assert {q for q, _ in bank} == set(THREE)
    if method in ("local+mim", "centralised-epochs+mim"):
        assert not bank and not any(r["bytes_up"] for r in rows if r["client"] != "server")


def test_prototypes_need_no_pairs(store, tmp_path):
    fed, initial = federation(store, tmp_path, "prototypes", assignment="disjoint")
    server, rows = federate(fed, initial)
    terms = {(r["round"], r["client"]): r["loss_terms"] for r in rows if r["client"] != "server"}
    assert all((value > 0) == (index > 1) for (index, _), value in terms.items())
    state = server.state["prototypes"]
    for q in ("s1", "s2"):
        rows_q = np.concatenate([c.train[q] for c in fed.strategy.clients if q in c.train])
        expected = fed.task.data.labels[rows_q].sum(0)
        np.testing.assert_array_equal(state[q, "counts"].numpy(), expected)


def test_prototype_transport_of_mim(store, tmp_path):
    """mim.bank: prototype is the prototypes' term under mim's weight and temperature."""
    changes = {"mim.bank": "prototype", "mim.weight": 0.3, "mim.temperature": 0.4}
    own = {"algorithms.prototypes.weight": 0.3, "algorithms.prototypes.temperature": 0.4}
    fed, initial = federation(store, tmp_path / "one", "mf+mim", assignment="disjoint", **changes)
    one, _ = federate(fed, initial)
    fed, initial = federation(store, tmp_path / "two", "prototypes", assignment="disjoint", **own)
    two, _ = federate(fed, initial)
    assert all(torch.equal(one.parameters[a], w) for a, w in two.parameters.items())


def test_a_job_is_a_function_of_what_it_is_given(store, tmp_path):
    """local_update's ends can be serialised, and twice the same job gives twice the same bits."""
    import pickle

    fed, initial = federation(store, tmp_path, "scaffold+mim")
    server = fed.strategy.start(initial)
    client = fed.strategy.clients[0]
    job = Job(client, fed.strategy.broadcast(server, client), {}, fed.params.train)
    one = job.run(fed.task, fed.strategy)
    Job(fed.strategy.clients[1], fed.strategy.broadcast(server, fed.strategy.clients[1]), {},
        fed.params.train).run(fed.task, fed.strategy)  # fmt: skip
    two = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(job)).run(fed.task, fed.strategy)))
    assert all(torch.equal(value, two.delta[a]) for a, value in one.delta.items())
    for slot, tensors in one.extras.items():
        assert all(torch.equal(value, two.extras[slot][a]) for a, value in tensors.items())
