"""scores.csv of an untrained federation against a slow way: plain torch, scikit-learn.

Networks and running statistics are drawn, other ones for every scope and policy, so that a score
from the wrong model, policy, split or modality is another number.
"""

from __future__ import annotations

import copy
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from helpers.small_federation import federation
from mmfl.evaluation.protocol import loses
from mmfl.federation import checkpoint
from mmfl.files import write_json
from mmfl.intact import digests
from mmfl.params import Params, RunSpec
from mmfl.sealed import trained
from mmfl.steps import evaluate

SPEC = RunSpec("bigearthnet-v2", "c", "mf", "default", 1, "mf")
NAN = float("nan")


class Slow:
    """A federation whose tensors are drawn, scored by `evaluate` and answered for by hand."""

    def __init__(self, store, work, method="mf", spoil=(), **changes):
        evaluated = {k: changes.pop(k) for k in ("threshold", "rates") if k in changes}
        self.fed, initial = federation(store, work, method, **changes)
        self.method = method
        dump = self.fed.params.model_dump()
        dump["evaluate"] |= {"rates": [0, 30, 60, 100]} | evaluated
        self.params = Params.model_validate(dump)
        self.data, self.server = self.fed.task.data, self.fed.strategy.start(initial)
        source = torch.Generator().manual_seed(0)
        for tensors in self.server.statistics.values():
            for place, value in tensors.items():
                drawn = torch.rand(value.shape, generator=source) + 0.5
                tensors[place] = drawn if place[1].endswith("var") else drawn - 1
        for place, value in self.server.parameters.items():
            self.server.parameters[place] = value + 0.3 * torch.randn(value.shape, generator=source)
            if spoil and place[0] in spoil:
                self.server.parameters[place] = value * NAN
        spec = RunSpec(*(*SPEC.path.parts[:2], method, "default", 1, method))
        checkpoint.save(work / "runs" / spec.path / "model.safetensors", self.server, {})
        statistics = self.data.statistics(self.params.train.normalisation)
        described: dict = {
            "statistics": {
                q: {k: [m.tolist(), s.tolist()] for k, (m, s) in entries.items()}
                for q, entries in statistics.items()
            }
        }
        folder = work / "runs" / spec.path
        described |= asdict(spec) | {"files": digests(folder, ["model.safetensors"])}
        write_json(folder / "run.json", described)
        run, out = trained(folder, asdict(spec)), work / "scores"
        evaluate.evaluate_one(spec, self.params, self.data, run, out, torch.device("cpu"))
        folder = out / spec.path
        self.table = pd.read_csv(folder / "scores.csv")
        self.predictions = pd.read_parquet(folder / "predictions.parquet")
        self.frame = store[1].sort_values("pair").reset_index(drop=True)
        self.complete = (self.frame["s1"].notna() & self.frame["s2"].notna()).to_numpy()

    def split(self, name):
        return np.flatnonzero(self.frame["split"] == name)

    def network(self, policy="modality", owner=None):
        """The network of everybody, or with a client's own running statistics."""
        net = copy.deepcopy(self.fed.task.network)
        state = net.state_dict()
        for (_, name), value in self.server.parameters.items():
            state[name].copy_(value)
        for (scope, name), value in self.server.statistics[policy].items():
            if policy != "local" or scope == owner:
                state[name].copy_(value)
        return net.eval()

    @torch.no_grad()
    def answers(self, locations, kept=None, **which):
        """(N, P): the classifier of the mean of the features of what is held and kept."""
        net, found = self.network(**which), []
        for row, location in enumerate(locations):
            one, features = np.array([location]), []
            for q in ("s1", "s2"):
                held = self.frame[q].notna()[location]
                if held and (kept is None or q in kept[row]):
                    x = self.fed.task.normaliser.locations(q, self.data.batch(q, one), one)
                    features.append(net.backbones[q](x)[0])
            found.append(torch.sigmoid(net.classifier(torch.stack(features).mean(0))).numpy())
        return np.stack(found)

    def truth(self, locations):
        return np.array(
            [[c in set(labels) for c in range(19)] for labels in self.frame["labels"][locations]]
        )

    def ap(self, locations, *args, **which):
        truth, given = self.truth(locations), self.answers(locations, *args, **which)
        some = truth.any(axis=0)
        return average_precision_score(truth[:, some], given[:, some])

    def value(self, metric="ap_macro", **wanted):
        table = self.table[self.table["metric"] == metric]
        for column, value in wanted.items():
            table = table[table[column] == value]
        return table["value"].item()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from helpers.patch_store import make_store

    folder = tmp_path_factory.mktemp("scores")
    return folder / "patches", make_store(folder / "patches", pairs=96, lonely=8)


@pytest.fixture(scope="module")
def slow(made, tmp_path_factory):
    return Slow(made, tmp_path_factory.mktemp("slow"))


@pytest.mark.parametrize("policy", ["modality", "average"])
@pytest.mark.parametrize("kept", ["s1+s2", "s1", "s2"])
def test_a_subset_is_scored_on_the_test_locations_with_every_modality(slow, kept, policy):
    test = slow.split("test")
    whole = test[slow.complete[test]]
    assert 0 < len(whole) < len(test) < 0.3 * len(slow.frame)
    names = [kept.split("+")] * len(whole)
    found = slow.value(kind="subset", modalities=kept, policy=policy)
    assert found == pytest.approx(slow.ap(whole, names, policy=policy), abs=1e-6)
    rows = slow.table[slow.table["kind"] == "subset"]
    assert (rows["patches"] == len(whole)).all()


def test_the_other_test_locations_and_validation_are_scored_apart(slow):
    test, validation = slow.split("test"), slow.split("validation")
    rest = test[~slow.complete[test]]
    found = slow.value(kind="incomplete", policy="modality")
    assert found == pytest.approx(slow.ap(rest), abs=1e-6)
    found = slow.value(kind="validation")
    assert found == pytest.approx(slow.ap(validation), abs=1e-6)
    assert len({slow.ap(part) for part in (test, rest, validation, slow.split("train"))}) == 4


def test_predictions_are_of_the_union_test_set_and_no_other(slow):
    test = slow.split("test")
    assert slow.predictions["pair"].tolist() == slow.frame["pair"][test].tolist()
    found = np.stack(slow.predictions["probabilities"])
    np.testing.assert_allclose(found, slow.answers(test), atol=1e-6)
    groups = slow.frame["country"][test].unique()
    assert len(groups) == 2  # the union of all clients


@pytest.mark.parametrize("lost", ["s1", "s2"])
@pytest.mark.parametrize("rate", [0, 30, 60, 100])
def test_missing_rates(slow, lost, rate):
    test = slow.split("test")
    whole = test[slow.complete[test]]
    gone = loses(slow.frame["pair"][whole].to_numpy(), lost, rate)
    other = {"s1": "s2", "s2": "s1"}[lost]
    kept = [[other] if one else ["s1", "s2"] for one in gone]
    found = slow.value(kind="missing", removed=lost, rate=rate)
    assert found == pytest.approx(slow.ap(whole, kept), abs=1e-6)
    subset = {0: "s1+s2", 100: other}.get(rate)
    if subset:
        for metric in ("ap_macro", "ap_micro", "f1_micro", "f1_macro", "f1_weighted"):
            alone = slow.value(metric, kind="subset", modalities=subset, policy="modality")
            assert slow.value(metric, kind="missing", removed=lost, rate=rate) == alone


@pytest.mark.parametrize("policy", ["modality", "average", "local"])
def test_own_rows_are_under_their_policy_and_on_own_test_locations(slow, policy):
    found = {}
    for client in ("a-s1", "a-s2", "b-s1", "b-s2"):
        group, q = client.upper().split("-")
        own = slow.frame[(slow.frame["country"] == group) & slow.frame[q.lower()].notna()]
        test = own.index[own["split"] == "test"].to_numpy()
        assert 0 < len(test) < len(own) / 2
        expected = slow.ap(test, [[q.lower()]] * len(test), policy=policy, owner=client)
        found[client] = slow.value(kind="own", client=client, policy=policy)
        assert found[client] == pytest.approx(expected, abs=1e-6)
        row = slow.table.query("kind == 'own' and client == @client and policy == @policy")
        assert (row["patches"] == len(test)).all()
    assert len(set(found.values())) == 4


def best_f1(truth, given):
    """The threshold of the best F1 of each class by scikit-learn, the highest of equal ones."""
    found = np.full(truth.shape[1], 0.5)
    for place in np.flatnonzero(truth.any(axis=0)):
        precision, recall, cuts = precision_recall_curve(truth[:, place], given[:, place])
        f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
        found[place] = cuts[np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))[-1]]
    return found


@pytest.mark.parametrize("threshold", ["half", "validation"])
def test_thresholds_are_half_or_from_validation(made, tmp_path, threshold):
    slow = Slow(made, tmp_path, threshold=threshold)
    test, validation = slow.split("test"), slow.split("validation")
    whole = test[slow.complete[test]]
    chosen = best_f1(slow.truth(validation), slow.answers(validation))
    cut = chosen if threshold == "validation" else 0.5
    for kept in ("s1+s2", "s1"):
        truth, given = slow.truth(whole), slow.answers(whole, [kept.split("+")] * len(whole))
        expected = f1_score(truth, given >= cut, average="micro", zero_division=0)
        found = slow.value("f1_micro", kind="subset", modalities=kept, policy="modality")
        assert found == pytest.approx(expected, abs=1e-9)
    wrong = best_f1(slow.truth(whole), slow.answers(whole))
    others = [
        f1_score(slow.truth(whole), slow.answers(whole) >= other, average="micro")
        for other in (0.5, chosen, wrong)
    ]
    assert len(set(others)) == 3  # half, validation and test are told apart here
    own = slow.frame[(slow.frame["country"] == "A") & slow.frame["s1"].notna()]
    mine = own.index[own["split"] == "test"].to_numpy()
    lone = [v for v in validation if slow.frame["s1"].notna()[v]]
    cut = best_f1(slow.truth(lone), slow.answers(lone, [["s1"]] * len(lone)))
    given = slow.answers(mine, [["s1"]] * len(mine)) >= (cut if threshold != "half" else 0.5)
    expected = f1_score(slow.truth(mine), given, average="micro", zero_division=0)
    found = slow.value("f1_micro", kind="own", client="a-s1", policy="modality")
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_model_that_diverged_has_no_score(made, tmp_path):
    """NaN in all that s1 holds, as the classifier is everybody's: nothing is left."""
    slow = Slow(made, tmp_path, spoil=("s1", "all"))
    scored = slow.table[slow.table["metric"].notna()]
    assert (scored["state"] == "diverged").all() and scored["value"].isna().all()
    assert set(scored["kind"]) == {"subset", "missing", "incomplete", "validation", "own"}
    assert (slow.predictions["state"] == "diverged").all()
    assert np.isnan(np.stack(slow.predictions["probabilities"])).all()


@pytest.mark.parametrize("threshold", ["half", "validation"])
def test_late_fusion_of_which_one_modality_diverged(made, tmp_path, threshold):
    """It does not become the other modality's model: only what asks for that one alone is left."""
    slow = Slow(made, tmp_path, "late-fusion", spoil=("s1",), threshold=threshold)
    scored = slow.table[slow.table["metric"].notna() & (slow.table["policy"] == "modality")]
    finite = scored[scored["state"].isna()]
    assert (scored["value"].isna() == (scored["state"] == "diverged")).all()
    asked = set(map(tuple, finite[["kind", "modalities", "rate"]].fillna("").values))
    alone = {("own", "s2", "")}
    if threshold == "half":  # with thresholds of validation locations that have s1 nothing is
        alone |= {("subset", "s2", ""), ("missing", "mixed", 100.0)}
    assert asked == alone
    assert set(finite["removed"].dropna()) <= {"s1"}
    test = slow.split("test")
    lonely = slow.frame["s1"].isna()[test].to_numpy()
    assert ((slow.predictions["state"] == "") == lonely).all() and lonely.any()


def test_local_of_which_one_client_diverged(made, tmp_path):
    """The mean over groups is not one over the groups that are left."""
    slow = Slow(made, tmp_path, "local", spoil=("a-s1",))
    whole = slow.table.query("kind == 'subset' and modalities == 's1+s2'")
    assert (whole["state"] == "diverged").all() and (whole["models"] == 2).all()
    assert slow.table.query("kind == 'subset' and modalities == 's2'")["value"].notna().all()
    clients = slow.table[slow.table["kind"] == "client"].groupby("client")["value"].count()
    assert (clients > 0).to_dict() == {"a-s1": False, "a-s2": True, "b-s1": True, "b-s2": True}
    states = slow.predictions.groupby("model")["state"].unique().map(set).to_dict()
    assert states["b"] == {""} and "diverged" in states["a"]
