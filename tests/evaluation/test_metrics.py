import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from mmfl.evaluation.metrics import best_thresholds, scores


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 7)) < 0.3).astype(np.uint8)
    probabilities = np.round(np.clip(rng.normal(0.35 + 0.2 * labels, 0.2), 0, 1), 1)  # many ties
    return labels, probabilities.astype(np.float32)


def test_equals_scikit_learn_with_ties(drawn):
    labels, probabilities = drawn
    found = scores(labels, probabilities)
    predicted = probabilities >= 0.5
    for mean in ("macro", "micro", "weighted"):
        expected = f1_score(labels, predicted, average=mean)
        assert found[f"f1_{mean}"] == pytest.approx(expected, abs=1e-12)
    for mean in ("macro", "micro"):
        expected = average_precision_score(labels, probabilities, average=mean)
        assert found[f"ap_{mean}"] == pytest.approx(expected, abs=1e-12)
    assert found["classes"] == 7 and found["ap"].shape == found["f1"].shape == (7,)


@pytest.mark.parametrize("digits", [1, 2, 7])
@pytest.mark.parametrize("count", [3, 40, 3000])
def test_the_bits_of_scikit_learn(count, digits):
    """Many ties or none, single and double precision; every sum in its order."""
    rng = np.random.default_rng(count)
    for kind in (np.float32, np.float64):
        labels = rng.random((count, 9)) < rng.random(9)
        labels[0] = True
        values = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.3), 0, 1), digits).astype(kind)
        predicted, found = values >= 0.5, scores(labels, values)
        assert (found["ap"] == average_precision_score(labels, values, average=None)).all()
        assert found["ap_micro"] == average_precision_score(labels, values, average="micro")
        assert (found["f1"] == f1_score(labels, predicted, average=None, zero_division=0)).all()
        for mean in ("micro", "weighted"):
            expected = f1_score(labels, predicted, average=mean, zero_division=0)
            assert found[f"f1_{mean}"] == expected
        for own, column, value in zip(
            best_thresholds(labels, values), labels.T, values.T, strict=True
        ):
            precision, recall, cuts = precision_recall_curve(column, value)
            total = precision + recall
            f1 = (2 * precision * recall / np.where(total, total, 1))[:-1]
            assert own == cuts[np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))[-1]]


def test_by_hand():
    """Ranks of class 0: 1, 0, 1 -> AP = (1/1 + 2/3) / 2; at 0.5: tp 1, fp 1, fn 1 -> F1 = 0.5."""
    found = scores(np.array([[1], [0], [1]]), np.array([[0.9], [0.6], [0.2]]))
    assert found["ap_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["f1_micro"] == pytest.approx(0.5)
    assert found["f1"] == pytest.approx([0.5])


def test_classes_without_positives_are_left_out_and_counted(drawn):
    labels, probabilities = drawn
    labels = labels.copy()
    labels[:, [0, 3]] = 0
    keep = [1, 2, 4, 5, 6]
    found, rest = scores(labels, probabilities), scores(labels[:, keep], probabilities[:, keep])
    assert found["classes"] == 5
    assert np.isnan(found["ap"][[0, 3]]).all() and np.isnan(found["f1"][[0, 3]]).all()
    for key in ("ap_macro", "f1_macro", "f1_weighted"):
        assert found[key] == pytest.approx(rest[key])
    assert found["f1_micro"] < rest["f1_micro"]  # its false alarms still count in the micro mean
    expected = average_precision_score(labels, probabilities, average="micro")
    assert found["ap_micro"] == pytest.approx(expected) != pytest.approx(rest["ap_micro"])


def test_one_class_alone_and_none():
    labels = np.array([[1, 0], [0, 0]])
    found = scores(labels, np.array([[0.8, 0.1], [0.3, 0.2]]))
    assert found["classes"] == 1 and found["f1_macro"] == 1 and found["ap_macro"] == 1
    nothing = scores(np.zeros((3, 2)), np.full((3, 2), 0.4))
    assert nothing["classes"] == 0 and np.isnan(nothing["ap_macro"])


def test_thresholds_per_class():
    labels = np.array([[1, 0], [0, 1]])
    found = scores(labels, np.array([[0.3, 0.6], [0.2, 0.7]]), np.array([0.25, 0.65]))
    assert found["f1_macro"] == 1


def test_best_thresholds_reach_the_best_f1(drawn):
    labels, probabilities = drawn
    best = best_thresholds(labels, probabilities)
    found = scores(labels, probabilities, best)["f1"]
    for cut in np.arange(0, 1.05, 0.05):
        assert (found >= scores(labels, probabilities, cut)["f1"] - 1e-12).all()
    labels = labels.copy()
    labels[:, 2] = 0
    assert best_thresholds(labels, probabilities)[2] == 0.5


def test_faults():
    with pytest.raises(ValueError, match="equal"):
        scores(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="not finite"):
        scores(np.zeros((1, 1)), np.array([[np.nan]]))
