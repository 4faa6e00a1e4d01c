"""The test bench of labels by hand: who is seen, who has diverged, which thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

from mmfl.evaluation.labels import LabelBench
from mmfl.evaluation.predict import UNSEEN, ensemble_probabilities
from mmfl.models.ensemble import Expert

NAN = np.nan
PRESENT = {"s1": [1, 1, 1, 0, 1, 0], "s2": [1, 0, 1, 1, 1, 0]}  # nothing is known of the last one
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [0, 0]], np.uint8)
# the logits that a modality gives of a location
LOGITS = {
    "s1": [[1.0, -2.0], [-0.5, 0.7], [2.0, 0.2], [9.0, 9.0], [0.3, -0.2], [9.0, 9.0]],
    "s2": [[3.0, -1.0], [9.0, 9.0], [-1.0, 2.0], [-2.0, 1.5], [0.1, 0.4], [9.0, 9.0]],
}


class Remembered(nn.Module):
    """Features are logits that were learned by heart, and several are averaged."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.batches: list[int] = []

    def features(self, q, x):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(x))
        return x[:, :, 0, 0] * self.scale

    def classify(self, features):
        return torch.stack(list(features.values())).mean(0)


def bench(thresholds="half", logits=None, batch=4):
    given = {q: torch.tensor(rows) for q, rows in (logits or LOGITS).items()}
    return LabelBench(
        Remembered().train(), np.array(list("abcdef")), LABELS,
        {q: np.array(rows, bool) for q, rows in PRESENT.items()}, ["water", "trees"],
        lambda q, locations: given[q][locations][:, :, None, None], batch, thresholds,
    )  # fmt: skip


def expert(name="all", modalities=("s1", "s2"), scale=1.0):
    return Expert(name, modalities, {"scale": torch.tensor(scale)})


def by_hand(locations, masks, members=("s1", "s2"), scale=1.0):
    rows = []
    for place, location in enumerate(locations):
        kept = [np.array(LOGITS[q][location]) * scale for q in members if masks[q][place]]
        rows.append(1 / (1 + np.exp(-np.mean(kept, axis=0))) if kept else [NAN, NAN])
    return np.array(rows)


ORDER = np.array([4, 1, 3, 0, 2])


def mask(s1, s2):
    return {"s1": np.array(s1, bool), "s2": np.array(s2, bool)}


def test_answers_are_the_mean_over_the_experts_that_see_something():
    """In any order of the locations, in batches, with two experts of which one sees s1 alone."""
    own = bench(batch=2)
    masks = [mask([0, 0, 0, 1, 0], [1, 0, 0, 1, 1]), mask([1, 1, 0, 1, 1], [1, 0, 1, 1, 1])]
    ensemble = (expert("both"), expert("lone", ("s1",), 2.0))
    found = own.ask(ensemble, ORDER, masks)
    assert max(own.network.batches) <= 3  # 2, and a last one that joins
    for answer, given in zip(found, masks, strict=True):
        each = np.stack([by_hand(ORDER, given), by_hand(ORDER, given, ("s1",), 2.0)])
        known = ~np.isnan(each)
        unseen = ~known.any(axis=(0, 2))
        expected = np.where(known, each, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        np.testing.assert_allclose(answer[~unseen], expected[~unseen], atol=1e-6)
        assert (answer[unseen] == UNSEEN).all()
        assert own.seen(answer).tolist() == (~unseen).tolist()
    assert not own.seen(found[0]).all() and own.seen(found[1]).all()


def test_a_constant_expert_answers_without_a_network():
    share = torch.tensor([0.25, 0.125])
    lone = (Expert("prior", ("s1", "s2"), {}, share),)
    masks = [mask([1, 0], [0, 0]), mask([1, 1], [1, 1])]
    for answer in ensemble_probabilities(None, lone, ORDER[:2], masks, None, 2, 4):
        assert answer.tolist() == [[0.25, 0.125]] * 2


def test_what_has_diverged_is_seen_and_not_finite():
    """NaN in one class of one location, infinity in another: neither is called certain."""
    logits = {q: [list(row) for row in rows] for q, rows in LOGITS.items()}
    logits["s1"][1][1], logits["s1"][2][0] = NAN, np.inf
    own = bench(logits=logits)
    (answer,) = own.ask(
        (expert(modalities=("s1",)),), np.array([0, 1, 2, 4]), [mask([1] * 4, [0] * 4)]
    )
    assert own.finite(answer).tolist() == [True, False, False, True]
    assert own.seen(answer).all()
    unseen = np.full((1, 2), UNSEEN)
    assert own.finite(unseen).all() and not own.seen(unseen).any()
    assert own.seen(np.array([[0.0, 0.0]])).all()  # a probability of 0 is an answer


def best_cuts(labels, given):
    """The threshold of the best F1 of each class, the highest of equals, by trying all."""
    found = []
    for truth, values in zip(labels.T, given.T, strict=True):
        scored = [(f1_score(truth, values >= cut, zero_division=0), cut) for cut in values]
        found.append(max(scored)[1])
    return found


def test_thresholds():
    validation = np.array([4, 1, 2, 3])
    given = by_hand(validation, {q: np.array(PRESENT[q])[validation] for q in PRESENT})
    found = bench("validation").cut((expert(),), validation)
    assert found == pytest.approx(best_cuts(LABELS[validation], given), abs=1e-6)
    assert bench("half").cut((expert(),), validation) == 0.5
    assert bench("validation").cut((expert(),), validation[:0]) == 0.5


def test_thresholds_of_an_expert_come_from_what_it_sees():
    """Of the last location nothing is held, and s1 lacks number 3: both are left out."""
    validation = np.array([5, 4, 1, 2, 3])
    kept = np.array([4, 1, 2])
    given = by_hand(kept, mask([1] * 3, [0] * 3), ("s1",))
    found = bench("validation").cut((expert(modalities=("s1",)),), validation)
    assert found == pytest.approx(best_cuts(LABELS[kept], given), abs=1e-6)


def test_a_model_that_diverged_on_one_validation_location_has_no_thresholds():
    logits = {q: [list(row) for row in rows] for q, rows in LOGITS.items()}
    logits["s1"][1][1] = NAN
    own = bench("validation", logits)
    assert own.cut((expert(),), np.array([0, 1, 2])) is None
    assert own.cut((expert(),), np.array([0, 2])) is not None


def test_scores_are_those_of_the_asked_locations_at_the_given_cut():
    locations = np.array([4, 0, 2, 1])
    answer = by_hand(locations, {q: np.array(PRESENT[q])[locations] for q in PRESENT})
    for cut in (0.5, np.array([0.7, 0.45])):
        found = bench().score(locations, answer, cut)
        truth = LABELS[locations]
        assert found["f1_macro"] == pytest.approx(
            f1_score(truth, answer >= cut, average="macro", zero_division=0)
        )
        assert found["ap_macro"] == pytest.approx(average_precision_score(truth, answer))
    assert bench().score(locations, answer, 0.5)["f1_macro"] != found["f1_macro"]
