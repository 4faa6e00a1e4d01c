"""Federations on tiles: plain FedAvg, resumed, in processes, several modalities, every method."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from helpers.small_federation import same
from helpers.small_tile_federation import BANDS, federation, parameters
from mmfl.clients.manifest import build, write_manifest
from mmfl.errors import UserError
from mmfl.facts.tasks import IGNORED
from mmfl.federation.loop import federate
from mmfl.federation.task import schedule
from mmfl.params import BASES, Params
from mmfl.patches.augment import Turned
from mmfl.steps import evaluate, train

torch.set_num_threads(1)


def plain_fedavg(fed, initial):
    """FedAvg (1602.05629, algorithm 1) with torch's own tools, one modality, no strategy."""
    (q,) = fed.task.data.bands
    data = fed.task.data
    weights = {k: v.clone() for k, v in initial.items()}
    net = copy.deepcopy(fed.task.network)
    for index in range(fed.params.train.rounds):
        total = sum(len(c.train[q]) for c in data.clients)
        sums = {}
        for client in sorted(data.clients, key=lambda c: c.id):
            net.load_state_dict(weights)
            net.train()
            optimiser = torch.optim.SGD(net.parameters(), lr=fed.params.train.learning_rate)
            for epoch, _, chosen in schedule(client, fed.params, 1, index, None):
                turned = Turned(1, epoch)
                x = fed.task.normaliser.client(q, data.batch(q, chosen, turned), client.id)
                y = data.targets(chosen, turned).long()
                known = y != IGNORED
                # not F.cross_entropy, whose sum has another order
                logp = F.log_softmax(net({q: x}), dim=1)
                picked = logp.gather(1, torch.where(known, y, 0)[:, None])[:, 0]
                optimiser.zero_grad()
                (-(picked * known).sum() / known.sum()).backward()
                optimiser.step()
            for key, value in net.named_parameters():
                change = (value.detach().double() - weights[key].double()) * (
                    len(client.train[q]) / total
                )
                sums[key] = sums[key] + change if key in sums else change
        for key, change in sums.items():
            weights[key] = (weights[key].double() + change).float()
    return weights


@pytest.mark.parametrize("q", ["s1", "s2", "dem"])
def test_one_modality_without_modules_is_plain_fedavg_to_the_bit(tiles, tmp_path, q):
    fed, initial = federation(tiles, tmp_path, modalities=(q,))
    server, _ = federate(fed, initial)
    expected = plain_fedavg(fed, initial)
    for (_, name), value in server.parameters.items():
        assert torch.equal(value, expected[name]), name
    moved = [n for (_, n), v in server.parameters.items() if not torch.equal(v, initial[n])]
    assert any(n.startswith("decoders") for n in moved) and "classifier.logits.bias" in moved


def test_scopes(tiles, tmp_path):
    """Encoder and decoder within a modality; the decoder's last part and the classes for all."""
    fed, initial = federation(tiles, tmp_path, "mf+mim", **{"train.rounds": 1})
    server, _ = federate(fed, initial)
    scopes = {name.split(".")[0] + ":" + scope for scope, name in server.parameters}
    parts = ("backbones", "decoders", "heads")
    assert scopes == {f"{part}:{q}" for part in parts for q in ("s1", "s2")} | {"classifier:all"}
    assert not any(name.startswith("classifier") for _, name in server.statistics["modality"])


CELLS = {"mim.features": "cells", "mim.cells": 2}
COMPOSED = [
    ("mf+fw+mim", CELLS),
    ("scaffold+fw+mim", CELLS | {"mim.bank": "fresh"}),
    ("moon+fw+mim+prototypes", {}),
    ("feddc", {}),
]


@pytest.mark.parametrize(("method", "changes"), COMPOSED)
def test_two_workers_give_the_bits_of_one(tiles, tmp_path, method, changes):
    found = []
    for workers in (1, 2):
        work = tmp_path / str(workers)
        fed, initial = federation(tiles, work, method, workers=workers, **changes)
        found.append(federate(fed, initial))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.parametrize(("method", "changes"), COMPOSED)
def test_resumed_is_uninterrupted_to_the_bit(tiles, tmp_path, method, changes):
    absent = {"fraction": 0.75, "late": 0.2}

    def run(work, rounds):
        fed, initial = federation(
            tiles, tmp_path / work, method, **changes, **{"train.rounds": rounds}
        )
        fed.params = fed.params.model_copy(
            update={"participation": fed.params.participation.model_validate(absent)}
        )
        return federate(fed, initial)

    whole, rows = run("whole", 3)
    for rounds in (1, 3):
        resumed, rows_resumed = run("parts", rounds)
    assert same(whole, resumed) and rows == rows_resumed


@pytest.mark.parametrize("assignment", ["both", "mixed"])
@pytest.mark.parametrize("method", ["mf", "local", "mf+mim", "mf+prototypes"])
def test_clients_with_both_modalities_train(tiles, tmp_path, assignment, method):
    """Their loss is `pixel_loss`, whose slow form is tested; MIM on their own pairs at once."""
    fed, initial = federation(tiles, tmp_path, method, assignment=assignment, groups="ABC")
    server, rows = federate(fed, initial)
    held = {"both": ["s1-s2"] * 3, "mixed": ["s1", "s2", "s1-s2"]}[assignment]
    assert [c.id for c in fed.task.data.clients] == [
        f"{g}-{q}" for g, q in zip("abc", held, strict=True)
    ]
    own = [r for r in rows if r["client"] != "server"]
    assert np.isfinite([r["loss"] for r in own]).all()
    if method == "mf+mim":
        assert all((r["loss_terms"] > 0) == (r["modality"] == "s1+s2") for r in own)
    for q in ("s1", "s2"):
        scope = "c-s1-s2" if method == "local" else q
        for part in ("backbones", "decoders"):
            key = next(k for k in initial if k.startswith(f"{part}.{q}"))
            assert not torch.equal(server.parameters[scope, key], initial[key])


THREE = ("dem", "s1", "s2")


@pytest.mark.parametrize(
    ("method", "assignment", "changes"),
    [
        ("mf+fw+mim", "duplicate", {}), ("mf+fw+mim", "duplicate", CELLS),
        ("scaffold+mim", "mixed", CELLS), ("feddyn+prototypes", "both", {}),
        ("prototypes", "disjoint", {}), ("late-fusion", "duplicate", {}),
        ("local+mim", "both", CELLS), ("centralised-epochs+mim", "duplicate", {}),
    ],
)  # fmt: skip
def test_three_modalities(tiles, tmp_path, method, assignment, changes):
    fed, initial = federation(
        tiles, tmp_path, method, THREE, assignment, 
        groups="ABCD" if assignment == "mixed" else "AB",
        **changes,
    )  # fmt: skip
    server, rows = federate(fed, initial)
    for q in THREE:
        key = f"backbones.{q}.stem.0.weight"
        moved = [v for (_, n), v in server.parameters.items() if n == key]
        assert moved and all(not torch.equal(v, initial[key]) for v in moved)
    own = [r for r in rows if r["client"] != "server"]
    assert np.isfinite([r["loss"] for r in own]).all()
    if "mim" in method or "prototypes" in method:
        assert any(r["loss_terms"] > 0 for r in own)
    assert rows[-1]["client"] == "server" and 0 <= rows[-1]["val_score"] <= 1


@pytest.mark.parametrize("bank", ["harvest", "fresh"])
@pytest.mark.parametrize("changes", [{}, CELLS], ids=["pooled", "cells"])
def test_the_bank_holds_the_windows_that_two_clients_have(tiles, tmp_path, bank, changes):
    fed, initial = federation(
        tiles, tmp_path, "mf+mim", **changes, **{"mim.bank": bank, "train.rounds": 1}
    )
    server, rows = federate(fed, initial)
    data, each = fed.task.data, 4 if changes else 1
    terms = [r["loss_terms"] for r in rows if r["client"] != "server"]
    assert all(x > 0 for x in terms) if bank == "fresh" else not any(terms)
    held = {q: np.concatenate([c.train[q] for c in data.clients if q in c.train]) for q in BANDS
            if q in data.bands}  # fmt: skip
    shared = np.intersect1d(held["s1"], held["s2"])
    expected = (shared[:, None] * each + np.arange(each)).ravel()
    for q in ("s1", "s2"):
        assert np.array_equal(server.state["mim"][q, "ids"].numpy(), expected)
        norms = server.state["mim"][q, "values"].norm(dim=1)
        assert bool(((norms - 1).abs() < 1e-5).logical_or(norms == 0).all())  # 0: a dead ReLU
        assert norms.mean() > 0.9


def test_prototypes_count_the_windows_that_show_a_class(tiles, tmp_path):
    fed, initial = federation(tiles, tmp_path, "prototypes", **{"train.rounds": 1})
    server, _ = federate(fed, initial)
    data = fed.task.data
    for q in ("s1", "s2"):
        windows = np.concatenate([c.train[q] for c in data.clients if q in c.train])
        shown = [[bool((y == c).any()) for c in range(3)] for y in data.targets(windows)]
        counts = server.state["prototypes"][q, "counts"].numpy()
        np.testing.assert_array_equal(counts, np.sum(shown, axis=0))


def test_a_modality_without_pixels_is_refused(tiles, tmp_path):
    """All of VH is a gap in the only tile of the group's."""
    folder, table = tiles
    with pytest.raises(UserError, match=r"train\.bands\.s1: VH: found nothing but gaps"):
        federation((folder, table[table["pair"] == "tile-05"]), tmp_path)


# ---- every method, through the steps -----------------------------------------------------------

METHODS = [
    *BASES,
    *(f"{base}+fw" for base in ("mf", "late-fusion", "fedbn", "local")),
    *(f"{base}+mim" for base in ("mf", "centralised-steps", "scaffold", "moon", "feddc")),
    "mf+fw+mim+prototypes",
]
MIM = {
    "pooled, fresh": {"mim.bank": "fresh"},
    "cells": CELLS,
    "cells, fresh": CELLS | {"mim.bank": "fresh"},
    "cells, cross": CELLS | {"mim.negatives": "cross"},
    "prototype": {"mim.bank": "prototype"},
    "client": {"train.normalisation": "client"},
    "late statistics": {"train.statistics": "local"},
}
ENTRIES = [
    *METHODS,
    *({"method": "mf+mim", "label": label, "set": own} for label, own in MIM.items()),
]


@pytest.fixture(scope="module")
def everything(tiles, tmp_path_factory):
    """Parameters of all methods, and where patches and partition are."""
    folder, table = tiles
    work = tmp_path_factory.mktemp("methods")
    frame = build(table, scenario="country", assignment="duplicate").frame
    write_manifest(work / "clients.parquet", frame)
    params = parameters().model_dump()
    params["train"] |= {"methods": ENTRIES, "rounds": 2, "seeds": [1], "batch": 8}
    params["train"]["bands"] = {"s1": ["VV", "VH"], "s2": ["B02", "B08"]}
    params["evaluate"] |= {"rates": [50], "overlap": 0.25}
    return Params.model_validate(params), work, folder


@pytest.mark.parametrize("number", range(len(ENTRIES)), ids=[
    e if isinstance(e, str) else e["label"] for e in ENTRIES
])  # fmt: skip
def test_every_method_trains_and_is_scored(everything, monkeypatch, number):
    params, work, folder = everything
    monkeypatch.setenv("MMFL_CACHE", str(work / "cache"))
    from mmfl.params import entries, variant

    item = entries(params)[number]
    chosen = ("simulated-tiles", item.method, variant(item))
    places = {"patches": folder, "manifest": work / "clients.parquet", "device": "cpu"}
    train.run(params, *chosen, **places, out=work / "runs", measured=work / "measured")
    evaluate.run(params, *chosen, **places, trained=work / "runs", out=work / "scores")
    name = f"{item.method}/{variant(item)}/seed-1"
    run, scores = (next((work / part).rglob(name)) for part in ("runs", "scores"))
    described = json.loads((run / "run.json").read_text())
    assert described["task"] == "pixel" and described["classes"] == ["water", "trees", "built"]
    rounds = pd.read_csv(run / "rounds.csv")
    if item.method != "prior":
        clients = rounds[rounds["client"] != "server"]
        assert len(clients) >= 2 and np.isfinite(clients[["loss", "loss_terms"]]).all(axis=None)
        assert (clients["flops"] > 0).all() and (clients["samples"] > 0).all()
        assert rounds["val_score"].dropna().between(0, 1).all()
    table = pd.read_csv(scores / "scores.csv")
    assert table["value"][table["kind"] != "pooled_statistics"].between(0, 1).all()
    whole = table[(table["kind"] == "subset") & (table["modalities"] == "s1+s2")]
    assert set(whole["metric"]) == {"iou_macro", "f1_macro", "accuracy", "f1_weighted"}
    assert (whole["patches"] == 5).all()
    predictions = pd.read_parquet(scores / "predictions.parquet")
    models = 2 if item.method.startswith("local") else 1  # a group's each
    assert len(predictions) == 6 * models and not predictions["complete"].all()
    assert len(list((scores / "predictions").rglob("*.tif"))) == 6 * models
