import numpy as np
import pytest
from scipy import stats

from mmfl.evaluation.statistics import holm, interval, paired


def test_interval_by_hand():
    """1, 2, 3: sd 1, t(0.975, 2) = 4.302653, half = 4.302653 / sqrt(3) = 2.484138."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n, found.p) == (2, 1, 3, None)
    assert found.half == pytest.approx(2.484138, abs=1e-6)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)


def test_one_seed_has_no_interval():
    found = interval([0.4])
    assert (found.mean, found.sd, found.low, found.high, found.half) == (
        0.4,
        None,
        None,
        None,
        None,
    )
    assert paired([0.4], [0.3]).p is None


def test_paired_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), rng.normal(size=5)
    found, expected = paired(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_paired_without_spread():
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired([2.0, 3.0], [1.0, 2.0]).p == 0


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1, made monotone: 0.03, 0.04, 0.04."""
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([None]) == [None] and holm([]) == []


def test_faults():
    with pytest.raises(ValueError, match="as many"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        interval([])
