"""Which locations lose a modality: nested, of each modality by itself, by the id alone."""

import hashlib

import numpy as np
import pytest

from mmfl.evaluation.protocol import loses, subsets

PAIRS = np.array([f"pair-{i}" for i in range(2000)])
RATES = (0, 10, 25, 50, 75, 100)


def test_masks_are_nested_and_take_their_share():
    for modality in ("s1", "s2"):
        masks = [loses(PAIRS, modality, rate) for rate in RATES]
        for rate, fewer, more in zip(RATES[1:], masks, masks[1:], strict=False):
            assert (fewer <= more).all() and (fewer < more).any()
            assert more.mean() == pytest.approx(rate / 100, abs=0.03)
        assert not masks[0].any() and masks[-1].all()


def test_each_modality_has_its_own_mask():
    """Independent ones: half of those that lose s1 lose s2, too."""
    one, two = loses(PAIRS, "s1", 50), loses(PAIRS, "s2", 50)
    assert (one & two).sum() / one.sum() == pytest.approx(0.5, abs=0.05)


def test_a_mask_follows_from_the_id_alone():
    order = np.random.default_rng(0).permutation(len(PAIRS))[:500]
    whole = loses(PAIRS, "s1", 30)
    np.testing.assert_array_equal(loses(PAIRS[order], "s1", 30), whole[order])
    for pair, gone in zip(PAIRS[:50], whole, strict=False):
        digest = hashlib.sha256(b"s1/" + pair.encode()).hexdigest()
        assert gone == (int(digest[:16], 16) / 16**16 < 0.3)


def test_every_subset_once_the_full_one_first():
    assert subsets(["s2", "s1", "dem"]) == [
        ("dem", "s1", "s2"), ("dem", "s1"), ("dem", "s2"), ("s1", "s2"), ("dem",), ("s1",), ("s2",),
    ]  # fmt: skip
