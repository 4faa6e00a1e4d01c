"""What is asked of a model and what becomes a row, on a bench whose answers are known by heart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from mmfl.evaluation.protocol import (
    available,
    client_rows,
    loses,
    own_rows,
    union_rows,
    validation_score,
)
from mmfl.facts.tasks import TASKS, Task
from mmfl.models.ensemble import Expert

NAN = float("nan")
WORTH = {"s1": 100.0, "s2": 1.0}
PRESENT = {"s1": [1, 1, 1, 0, 1, 1, 1, 0, 1, 1], "s2": [1, 1, 0, 1, 1, 1, 1, 1, 0, 1]}
TEST, VALIDATION = np.array([9, 2, 4, 3, 0]), np.array([7, 6, 1])  # 9, 4 and 0 have both
UNSEEN = -1.0


@dataclass
class Known:
    """An answer is what a model is worth of each location: its own, times what it sees of it.

    The scores of some locations are their mean worth, plus the cut; those of classes that and 10.
    """

    pairs: np.ndarray = field(default_factory=lambda: np.array([f"pair-{i}" for i in range(10)]))
    present: dict = field(
        default_factory=lambda: {q: np.array(rows, bool) for q, rows in PRESENT.items()}
    )
    class_names = ("water", "trees", "built")
    task: Task = TASKS["multilabel"]

    def ask(self, ensemble, locations, masks):
        found = []
        for mask in masks:
            total = np.zeros(len(locations))
            for expert in ensemble:
                for q in expert.modalities:
                    if q in mask:
                        total += np.where(mask[q], expert.tensors["worth"] * WORTH[q], 0)
            found.append(np.where(total == 0, UNSEEN, total + locations)[:, None])
        return found

    def seen(self, answer):
        return answer[:, 0] != UNSEEN

    def finite(self, answer):
        return ~np.isnan(answer[:, 0])

    def cut(self, ensemble, validation):
        worth = ensemble[0].tensors["worth"]
        return None if np.isnan(worth) else 1e4 * (1 + worth) + 1e6 * sum(validation)

    def score(self, locations, answer, cut):
        mean = answer.mean()
        scores = {name: mean + cut + k for k, name in enumerate(sorted(self.task.metrics))}
        per_class = np.array([mean, mean + 10, NAN])
        return scores | {"ap": per_class, "f1": per_class + 1, "classes": len(locations)}


def expert(worth=2.0, modalities=("s1", "s2"), name="all"):
    return Expert(name, modalities, {"worth": worth})


def cut(worth, validation=VALIDATION):
    return 1e4 * (1 + worth) + 1e6 * validation.sum()


def value(rows, metric="ap_macro", **wanted):
    (row,) = [
        r for r in rows if r["metric"] == metric and all(r.get(k) == v for k, v in wanted.items())
    ]
    return row["value"]


LOCAL = [(expert(2.0, name="a"),), (expert(6.0, ("s1",), "b"),)]
WHOLE = np.array([9, 4, 0])
FULL = WHOLE.mean() + 2 * 101


@pytest.mark.parametrize("policy", ["modality", "average", "local"])
def test_rows_of_one_model(policy):
    rows, (answer,) = union_rows(
        Known(), [(expert(),)], policy, TEST, VALIDATION, [0, 40, 100], detailed=True
    )
    assert {row["policy"] for row in rows} == {policy}
    for modalities, worth in (("s1+s2", 101), ("s1", 100), ("s2", 1)):
        found = value(rows, kind="subset", modalities=modalities)
        assert found == pytest.approx(WHOLE.mean() + 2 * worth + cut(2))
    assert value(rows, kind="incomplete") == pytest.approx(np.mean([2 + 200, 3 + 2]) + cut(2))
    assert value(rows, kind="validation", modalities="s1+s2") == pytest.approx(
        np.mean([7 + 2, 6 + 202, 1 + 202]) + cut(2)
    )
    for q, other in (("s1", "s2"), ("s2", "s1")):
        for rate in (0, 40, 100):
            gone = loses(np.array([f"pair-{i}" for i in WHOLE]), q, rate)
            expected = FULL - 2 * WORTH[q] * gone.mean() + cut(2)
            found = value(rows, kind="missing", removed=q, rate=rate)
            assert found == pytest.approx(expected)
        lost = value(rows, kind="missing", removed=q, rate=100)
        assert lost == value(rows, kind="subset", modalities=other)
    names = {(r["class"], r["metric"]): r["value"] for r in rows if r["kind"] == "class"}
    assert names == pytest.approx(
        {("water", "ap"): FULL, ("trees", "ap"): FULL + 10, ("water", "f1"): FULL + 1,
         ("trees", "f1"): FULL + 11}
    )  # fmt: skip
    counted = {(r["kind"], r["patches"], r["models"], r["models_asked"]) for r in rows}
    assert counted == {("subset", 3, 1, 1), ("missing", 3, 1, 1), ("class", 3, 1, 1),
                       ("incomplete", 2, 1, 1), ("validation", 3, 1, 1)}  # fmt: skip
    # what all of it answers stands in the order of the test locations
    assert answer[:, 0].tolist() == [9 + 202, 2 + 200, 4 + 202, 3 + 2, 0 + 202]


def test_another_policy_has_neither_curves_nor_classes_nor_validation():
    rows, _ = union_rows(Known(), [(expert(),)], "x", TEST, VALIDATION, [50], detailed=False)
    assert {row["kind"] for row in rows} == {"subset", "incomplete"}


def test_one_modality_has_no_curve():
    bench = Known(present={"s1": np.ones(10, bool)})
    rows, _ = union_rows(
        bench, [(expert(modalities=("s1",)),)], "x", TEST, VALIDATION, [0, 50], detailed=True
    )
    assert {row["kind"] for row in rows} == {"subset", "class", "validation"}


def test_without_a_complete_location_classes_are_those_of_the_others():
    test = np.array([2, 3])
    rows, (answer,) = union_rows(
        Known(), [(expert(),)], "x", test, VALIDATION[:0], [], detailed=True
    )
    assert {row["kind"] for row in rows} == {"incomplete", "class"}
    found = value(rows, "ap", kind="class", **{"class": "water"})
    assert found == pytest.approx(np.mean([2 + 200, 3 + 2]))
    assert answer[:, 0].tolist() == [202, 5]
    rows, _ = union_rows(Known(), LOCAL, "x", test, VALIDATION[:0], [], detailed=True)
    counted = {(row["models"], row["models_asked"]) for row in rows if row["kind"] == "class"}
    assert counted == {(1, 2)}  # the second sees nothing of location 3


def test_several_models_have_the_mean_of_those_that_answer_each_with_its_own_cut():
    rows, answers = union_rows(Known(), LOCAL, "x", TEST, VALIDATION, [], detailed=True)
    found = value(rows, kind="subset", modalities="s1", models=2, models_asked=2)
    each = [WHOLE.mean() + 200 + cut(2), WHOLE.mean() + 600 + cut(6)]
    assert found == pytest.approx(np.mean(each))
    found = value(rows, kind="subset", modalities="s2", models=1, models_asked=2)
    assert found == pytest.approx(WHOLE.mean() + 2 + cut(2))
    found = value(rows, "ap", kind="class", models=2, models_asked=2, **{"class": "trees"})
    assert found == pytest.approx(WHOLE.mean() + (202 + 600) / 2 + 10)
    # the second sees nothing of location 3, so it has no score of the incomplete ones
    assert value(rows, kind="incomplete", models=1) == pytest.approx(np.mean([202, 5]) + cut(2))
    assert [len(answer) for answer in answers] == [5, 5] and answers[1][3] == UNSEEN


def test_one_of_several_models_that_diverged_leaves_no_value():
    models = [(expert(2.0),), (expert(NAN, ("s1",)),)]
    rows, _ = union_rows(Known(), models, "x", TEST, VALIDATION, [100], detailed=True)
    states = {(r["kind"], r["modalities"], r.get("removed")): r.get("state") for r in rows}
    assert states["subset", "s2", None] is None and states["subset", "s1+s2", None] == "diverged"
    assert states["missing", "mixed", "s1"] is None
    assert states["missing", "mixed", "s2"] == "diverged"
    assert value(rows, kind="validation", models=1)  # of a location there it sees nothing
    assert not any(r["kind"] == "class" for r in rows)
    assert all(("value" in r) == ("state" not in r) for r in rows)


def test_thresholds_that_diverged_leave_no_value_either():
    class Bench(Known):
        def cut(self, ensemble, validation):
            return None

    rows, _ = union_rows(Bench(), [(expert(),)], "x", TEST, VALIDATION, [], detailed=False)
    assert rows and all(row["state"] == "diverged" for row in rows)


@pytest.mark.parametrize("task", list(TASKS))
def test_validation_scores(task):
    """The first score, at 0.5, over what is seen; the mean over models; all modalities held."""
    bench = Known(task=TASKS[task])
    place = sorted(bench.task.metrics).index(bench.task.first)
    expected = np.mean([7 + 2, 6 + 202, 1 + 202]) + 0.5 + place
    assert validation_score(bench, [(expert(),)], VALIDATION) == pytest.approx(expected)
    lone = np.mean([6 + 600, 1 + 600]) + 0.5 + place  # of 7 it sees nothing
    both = validation_score(bench, LOCAL, VALIDATION)
    assert both == pytest.approx((expected + lone) / 2)
    assert np.isnan(validation_score(bench, [(expert(),), (expert(NAN),)], VALIDATION))
    partly = expert(NAN, ("s1",))  # nothing of 7, NaN of the others
    assert np.isnan(validation_score(bench, [(partly,)], VALIDATION))
    assert validation_score(bench, LOCAL[1:], np.array([3, 7])) is None
    assert validation_score(bench, LOCAL, VALIDATION[:0]) is None

    class Empty(Known):
        def score(self, locations, answer, cut):
            known = len(locations) == 3
            return super().score(locations, answer, cut) if known else {self.task.first: NAN}

    assert validation_score(Empty(task=bench.task), LOCAL, VALIDATION) == pytest.approx(expected)
    assert validation_score(Empty(), LOCAL[1:], VALIDATION) is None


def test_rows_of_clients_are_on_all_test_locations_of_their_modalities():
    experts = [expert(2.0, ("s2",), "a"), expert(3.0, ("s1", "s2"), "b")]
    rows = client_rows(Known(), experts, TEST, VALIDATION, "x")
    mine = np.array([9, 4, 3, 0])
    assert value(rows, client="a", modalities="s2", policy="x", patches=4) == pytest.approx(
        mine.mean() + 2 + cut(2)
    )
    worth = [9 + 303, 2 + 300, 4 + 303, 3 + 3, 0 + 303]
    assert value(rows, client="b", modalities="s1+s2", patches=5) == pytest.approx(
        np.mean(worth) + cut(3)
    )
    assert {row["kind"] for row in rows} == {"client"}


def test_own_rows_are_on_own_locations_under_each_policy():
    """As far as the client's own modalities go, also where the archive holds more."""
    experts = {
        policy: {"a": expert(worth, ("s1",), "a"), "b": expert(worth + 1, ("s2",), "b"),
                 "c": expert(worth, ("s2",), "c")}
        for policy, worth in (("modality", 2.0), ("average", 4.0), ("local", 7.0))
    }  # fmt: skip
    own = {"b": np.array([3, 9]), "a": np.array([0, 2, 9])}
    rows = own_rows(Known(), experts, own, VALIDATION)
    for policy, worth in (("modality", 2.0), ("average", 4.0), ("local", 7.0)):
        found = value(rows, client="a", policy=policy, patches=3, modalities="s1")
        assert found == pytest.approx(11 / 3 + worth * 100 + cut(worth))
        found = value(rows, client="b", policy=policy, patches=2, modalities="s2")
        assert found == pytest.approx(6 + worth + 1 + cut(worth + 1))
    assert {row["client"] for row in rows} == {"a", "b"} and {r["kind"] for r in rows} == {"own"}


def test_what_is_available_is_what_the_archive_holds():
    found = available(Known(), np.array([3, 0, 2]))
    assert {q: rows.tolist() for q, rows in found.items()} == {
        "s1": [False, True, True], "s2": [True, True, False]
    }  # fmt: skip
