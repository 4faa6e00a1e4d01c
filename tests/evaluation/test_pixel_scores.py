"""Scores from counts against scikit-learn on the pixels themselves."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from mmfl.evaluation.pixel_scores import confusion, pixel_scores
from mmfl.facts.tasks import IGNORED, TASKS


def drawn(classes, seed=0, shape=(40, 57), true=None):
    """(truth, predicted): about half of the pixels are right, a tenth is ignored."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(true or range(classes), shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, classes, shape))
    truth[rng.random(shape) < 0.1] = IGNORED
    return truth, predicted.astype(np.uint8)


@pytest.mark.parametrize("true", [None, [0, 2, 3], [4]])
def test_equals_scikit_learn_on_the_pixels(true):
    truth, predicted = drawn(6, true=true)
    found = pixel_scores(confusion(truth, predicted, 6))
    y, p = truth[truth != IGNORED], predicted[truth != IGNORED]
    present = np.unique(y)
    assert found["classes"] == len(present)
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p), abs=1e-12)
    for mean in ("macro", "weighted"):
        expected = f1_score(y, p, labels=present, average=mean, zero_division=0)
        assert found[f"f1_{mean}"] == pytest.approx(expected, abs=1e-12)
    expected = jaccard_score(y, p, labels=present, average="macro")
    assert found["iou_macro"] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(found["iou"][present], jaccard_score(y, p, labels=present,
                                                                    average=None))  # fmt: skip
    np.testing.assert_allclose(found["f1"][present], f1_score(y, p, labels=present, average=None))
    absent = np.setdiff1d(np.arange(6), present)
    assert np.isnan(found["iou"][absent]).all() and np.isnan(found["f1"][absent]).all()


@pytest.mark.parametrize("classes", [1, 2, 5, 12])
def test_the_bits_of_scikit_learn_from_counts(classes):
    """Counts as weights of the pairs (truth, predicted); some classes without a pixel."""
    rng = np.random.default_rng(classes)
    rows, columns = (index.ravel() for index in np.indices((classes, classes)))
    for size in (10, 1000, 10**9):
        matrix = rng.integers(1, size, (classes, classes)) * (rng.random((classes, 1)) < 0.8)
        matrix[0] += 1
        found, present = pixel_scores(matrix), np.flatnonzero(matrix.sum(axis=1))
        own = {"sample_weight": matrix.ravel(), "labels": present, "zero_division": 0}
        assert (found["iou"][present] == jaccard_score(rows, columns, average=None, **own)).all()
        assert (found["f1"][present] == f1_score(rows, columns, average=None, **own)).all()
        assert found["f1_weighted"] == f1_score(rows, columns, average="weighted", **own)
        assert found["accuracy"] == accuracy_score(rows, columns, sample_weight=matrix.ravel())


def test_equals_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    truth, predicted = drawn(6)
    found = pixel_scores(confusion(truth, predicted, 6))
    y, p = torch.from_numpy(truth).long(), torch.from_numpy(predicted).long()
    own = {"num_classes": 6, "ignore_index": IGNORED}
    for name, function, average in (
        ("iou_macro", functional.multiclass_jaccard_index, "macro"),
        ("f1_macro", functional.multiclass_f1_score, "macro"),
        ("f1_weighted", functional.multiclass_f1_score, "weighted"),
        ("accuracy", functional.multiclass_accuracy, "micro"),
    ):
        expected = function(p[None], y[None], average=average, **own).item()
        assert found[name] == pytest.approx(expected, abs=1e-6)


def test_the_matrix_is_that_of_scikit_learn_and_adds_up():
    truth, predicted = drawn(6, true=[0, 1, 5])
    found = confusion(truth, predicted, 6)
    kept = truth != IGNORED
    expected = confusion_matrix(truth[kept], predicted[kept], labels=range(6))
    np.testing.assert_array_equal(found, expected)
    halves = confusion(truth[:17], predicted[:17], 6) + confusion(truth[17:], predicted[17:], 6)
    np.testing.assert_array_equal(found, halves)
    assert found.dtype == np.int64


def test_a_class_that_is_only_predicted_lowers_the_others():
    """Truth 0 0 0 1, predicted 0 2 2 1: IoU of 0 is 1/3, of 1 is 1; 2 has none."""
    found = pixel_scores(confusion(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]), 3))
    assert found["iou"][:2] == pytest.approx([1 / 3, 1]) and np.isnan(found["iou"][2])
    assert found["iou_macro"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx((0.5 + 1) / 2)
    assert found["f1_weighted"] == pytest.approx((3 * 0.5 + 1) / 4)
    assert found["accuracy"] == 0.5 and found["classes"] == 2


def test_a_class_without_any_hit_scores_0():
    found = pixel_scores(confusion(np.array([0, 1]), np.array([0, 0]), 2))
    assert found["iou"].tolist() == [0.5, 0] and found["f1"][1] == 0 and found["classes"] == 2


@pytest.mark.parametrize("truth", [np.empty(0, np.uint8), np.full((3, 3), IGNORED, np.uint8)])
def test_nothing_to_count(truth):
    matrix = confusion(truth, np.full(truth.shape, 7, np.uint8), 3)
    assert not matrix.any() and matrix.shape == (3, 3)
    found = pixel_scores(matrix)
    assert found["classes"] == 0 and np.isnan(found["iou"]).all()
    assert all(np.isnan(found[name]) for name in TASKS["pixel"].metrics)


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    truth, predicted = drawn(6)
    garbage = np.where(truth == IGNORED, 200, predicted)
    np.testing.assert_array_equal(confusion(truth, garbage, 6), confusion(truth, predicted, 6))


def test_large_counts_are_exact():
    matrix = np.array([[3 * 10**9, 10**9], [0, 10**9]])
    found = pixel_scores(matrix)
    assert found["accuracy"] == pytest.approx(0.8, abs=1e-12)
    assert found["iou"] == pytest.approx([0.75, 0.5], abs=1e-12)


def test_faults_of_class_maps():
    with pytest.raises(ValueError, match="expected equal"):
        confusion(np.zeros((2, 3)), np.zeros((3, 2)), 4)
    with pytest.raises(ValueError, match="truth: found classes 0 to 4"):
        confusion(np.array([0, 4]), np.array([0, 0]), 4)
    with pytest.raises(ValueError, match="predicted: found classes 1 to 9"):
        confusion(np.array([0, 1]), np.array([1, 9]), 4)


def test_every_score_of_the_task_is_there():
    found = pixel_scores(confusion(*drawn(3), 3))
    assert set(TASKS["pixel"].names) <= set(found)
