"""The interval over tiles against scikit-learn's scores and against the normal approximation."""

import hashlib

import numpy as np
import pytest

from mmfl.evaluation.bootstrap import bootstrap, mean_iou
from mmfl.evaluation.pixel_scores import pixel_scores


def tiles(count, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, 60, (count, classes, 1)) * np.eye(classes, dtype=int)
    return hits + rng.integers(0, 9, (count, classes, classes))


def test_mean_iou_is_scikit_learns():
    for seed in range(5):
        matrix = tiles(1, seed)[0]
        if seed > 2:  # a class without a true pixel, but predicted
            matrix[seed - 2] = 0
        assert mean_iou(matrix) == pytest.approx(pixel_scores(matrix)["iou_macro"], abs=1e-12)
    assert np.isnan(mean_iou(np.zeros((3, 3), int)))


def test_the_interval_is_that_of_explicit_resampling():
    """Tiles drawn by another generator and scored by scikit-learn: the same ends, but for noise."""
    confusions = tiles(40)
    rng = np.random.default_rng(5)
    drawn = [
        pixel_scores(confusions[rng.integers(40, size=40)].sum(axis=0))["iou_macro"]
        for _ in range(400)
    ]
    low, high = bootstrap(confusions[None])
    expected = np.quantile(drawn, (0.025, 0.975))
    assert [low, high] == pytest.approx(expected, abs=0.15 * (high - low))
    assert low < mean_iou(confusions.sum(axis=0)) < high


def test_more_tiles_make_it_narrower():
    few, many = (np.diff(bootstrap(tiles(n)[None], draws=300))[0] for n in (25, 400))
    assert few / many == pytest.approx(4, rel=0.35)  # 1/sqrt(T)


def test_equal_tiles_leave_no_choice():
    same = np.repeat(tiles(1), 10, axis=0)[None]
    assert bootstrap(same, draws=50) == pytest.approx((mean_iou(same[0, 0]),) * 2, abs=1e-12)


def test_seeds_are_scored_on_the_same_tiles():
    """A seed that is another's mirror image: their mean varies less than either alone."""
    one = tiles(30)[None]
    assert bootstrap(np.concatenate([one, one])) == pytest.approx(bootstrap(one), abs=1e-12)
    both = bootstrap(np.concatenate([one, tiles(30, seed=1)[None]]))
    assert np.diff(both)[0] < np.diff(bootstrap(one))[0]


def test_nothing_to_draw_from():
    assert np.isnan(bootstrap(np.zeros((2, 0, 3, 3), int))).all()
    assert np.isnan(bootstrap(np.zeros((2, 5, 3, 3), int))).all()


def test_the_ends_are_quantiles_of_drawn_tiles_counted_one_by_one():
    """By NumPy's generator, seeded as `randomness` says; a draw of empty tiles has no score."""
    confusions = np.stack([tiles(3, seed) for seed in (0, 1)])
    confusions[:, 1:] = 0  # so that a draw may hold nothing
    digest = hashlib.sha256(b"0/bootstrap/tiles").digest()[:16]
    source = np.random.default_rng(int.from_bytes(digest, "big"))
    found = []
    for _ in range(60):
        drawn = source.integers(3, size=3)
        found.append(np.mean([mean_iou(sum(seed[i] for i in drawn)) for seed in confusions]))
    known = np.array(found)[~np.isnan(found)]
    assert 0 < len(known) < 60
    expected = np.quantile(known, (0.1, 0.9))
    assert bootstrap(confusions, draws=60, level=0.8) == pytest.approx(expected, abs=1e-12)
    whole = np.stack([tiles(5, seed) for seed in (0, 1)])
    source = np.random.default_rng(int.from_bytes(digest, "big"))
    found = []
    for _ in range(60):
        drawn = source.integers(5, size=5)
        found.append(np.mean([mean_iou(sum(seed[i] for i in drawn)) for seed in whole]))
    expected = np.quantile(found, (0.025, 0.975))
    assert bootstrap(whole, draws=60) == pytest.approx(expected, abs=1e-12)
