"""Which round is the best, and in which round a run has diverged."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from helpers.small_federation import federation, same
from mmfl.federation import checkpoint
from mmfl.federation.loop import federate
from mmfl.federation.outcome import diverged, is_best, server_row
from mmfl.steps.train import rounds_csv

NAN = math.nan


def best_of(outcomes):
    """The number of the round that is kept; an outcome is a score, None, or `diverged`."""
    rows, kept = [], None
    for number, outcome in enumerate(outcomes, 1):
        state = {"state": "diverged"} if outcome == "diverged" else {}
        row = {"round": number, "val_score": None if state else outcome} | state
        kept = number if is_best(row, rows) else kept
        rows.append(row)
    return kept


@pytest.mark.parametrize(
    ("outcomes", "round_kept"),
    [
        ([0.2, 0.5, 0.4], 2),
        ([0.5, 0.2, 0.5], 1),  # of equal ones the first
        ([0.0, 0.0], 1),
        ([None, None, None], 3),  # nothing to choose by: the last
        ([0.2, None, 0.1], 1),
        ([None, 0.0, None], 2),
        ([0.3, "diverged", "diverged"], 1),
        ([None, None, "diverged"], 2),
        (["diverged", None, None], 3),
        (["diverged", 0.0], 2),
        (["diverged", "diverged"], 2),
    ],
)
def test_the_best_round_has_the_highest_score(outcomes, round_kept):
    assert best_of(outcomes) == round_kept


@pytest.mark.parametrize(
    ("scores", "round_kept"),
    [((0.1, 0.9, 0.5), 2), ((0.9, 0.5, 0.1), 1), ((None, None, None), 3), ((0.2, NAN, 0.1), 1)],
)
def test_the_loop_keeps_the_model_of_the_best_round(store, tmp_path, scores, round_kept):
    fed, initial = federation(store, tmp_path / "whole")
    given, models = iter(scores), []

    def validate(ensembles):
        models.append({k: v.clone() for k, v in ensembles[0][0].tensors.items()})
        return next(given)

    fed.task.validate = validate
    federate(fed, initial)
    server, _ = checkpoint.read(checkpoint.place(tmp_path / "whole", round_kept))
    assert server.round == round_kept == fed.best["round"]
    kept = fed.strategy.evaluation_view(server, "modality")[0][0].tensors
    assert all(torch.equal(kept[k], v) for k, v in models[round_kept - 1].items())
    stopped, _ = federation(store, tmp_path / "parts", **{"train.rounds": 2})
    given = iter(scores)
    stopped.task.validate = validate
    federate(stopped, initial)
    stopped.params = fed.params
    federate(stopped, initial)  # what was best before is known after a resume, too
    assert stopped.best == fed.best
    assert same(checkpoint.read(checkpoint.place(tmp_path / "parts", round_kept))[0], server)


def test_the_score_of_a_round_is_that_of_the_validation_locations(store, tmp_path):
    """Average precision by scikit-learn, of a plain forward pass with the server's tensors."""
    fed, initial = federation(store, tmp_path)
    server, rows = federate(fed, initial)
    data = fed.task.data
    validation = np.flatnonzero(store[1].sort_values("pair")["split"] == "validation")
    assert set(data.splits["validation"]) == set(validation)
    net = fed.task.network
    for (_, name), value in [*server.parameters.items(), *server.statistics["modality"].items()]:
        net.state_dict()[name].copy_(value)
    net.eval()
    features = {}
    with torch.no_grad():
        for location in validation:
            for q in ("s1", "s2"):
                if data.present[q][location]:
                    one = np.array([location])
                    x = fed.task.normaliser.locations(q, data.batch(q, one), one)
                    features.setdefault(location, []).append(net.features(q, x)[0])
        fused = torch.stack([torch.stack(z).mean(0) for z in features.values()])
        probabilities = torch.sigmoid(net.classifier(fused)).numpy()
    truth = data.labels[list(features)]
    some = truth.any(axis=0)
    expected = average_precision_score(truth[:, some], probabilities[:, some])
    assert rows[-1]["val_score"] == pytest.approx(expected, abs=1e-6)


class Update:
    def __init__(self, loss=0.5, terms=0.0):
        self.metrics = {"loss": loss, "loss_terms": terms}


def test_what_counts_as_diverged(store, tmp_path):
    fed, initial = federation(store, tmp_path)
    server = fed.strategy.start(initial)
    assert server_row(server, [Update()], 0.3) == {
        "round": 0, "client": "server", "val_score": 0.3
    }  # fmt: skip
    for updates, score in (
        ([Update(), Update(loss=NAN)], 0.3),
        ([Update(terms=math.inf)], 0.3),
        ([Update()], NAN),
    ):
        row = server_row(server, updates, score)
        assert row["state"] == "diverged" and row["val_score"] is None
    for tensors in (server.parameters, server.statistics["average"], server.statistics["local"]):
        value = next(t for t in tensors.values() if t.is_floating_point())
        before = value.clone()
        value[(-1,) * value.dim()] = math.inf
        assert server_row(server, [Update()], None)["state"] == "diverged"
        value.copy_(before)
    assert "state" not in server_row(server, [], None)


def test_a_run_that_diverges_goes_on_and_says_when(store, tmp_path):
    """A rate that is too high from the second round on: the first round is the best."""
    fed, initial = federation(store, tmp_path)

    def validate(ensembles, asked=fed.task.validate):
        train = fed.params.train.model_copy(update={"learning_rate": 1e30})
        fed.params = fed.params.model_copy(update={"train": train})
        return asked(ensembles)

    fed.task.validate = validate
    server, rows = federate(fed, initial)
    states = [row.get("state") for row in rows if row["client"] == "server"]
    assert states == [None, "diverged", "diverged"] and diverged(rows) == 2
    assert not all(torch.isfinite(t).all() for t in server.parameters.values())
    best, _ = checkpoint.read(checkpoint.place(tmp_path, fed.best["round"]))
    assert best.round == 1 and all(torch.isfinite(t).all() for t in best.parameters.values())
    table = pd.read_csv(io.StringIO(rounds_csv(rows))).query("client == 'server'")
    assert table["state"].tolist()[1:] == ["diverged"] * 2 and table["val_score"].notna().sum() == 1


@pytest.mark.parametrize(("schedule", "found"), [([], 2), ([2], None)])
def test_a_client_that_diverges_counts_if_its_update_does(store, tmp_path, schedule, found):
    """Its gradients are NaN in round 2; where it is late, nothing of that reaches the server."""
    late = [{"round": number, "client": "a-s1", "what": "late"} for number in schedule]
    fed, initial = federation(store, tmp_path, participation={"schedule": late})

    def edit_gradient(context):
        if context.client.id == "a-s1" and context.broadcast.round == 1:
            for parameter in context.parameters.values():
                parameter.grad.fill_(NAN)

    fed.strategy.edit_gradient = edit_gradient
    _, rows = federate(fed, initial)
    losses = {r["client"]: r["loss"] for r in rows if r["round"] == 2 and "loss" in r}
    assert math.isnan(losses["a-s1"]) and math.isfinite(losses["a-s2"])
    assert diverged(rows) == found
