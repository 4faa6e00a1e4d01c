"""The scenario `dirichlet` against its definition: the draws, the counts, the limits."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmfl.archives import get
from mmfl.clients.manifest import build
from mmfl.clients.scenarios.dirichlet import deciding_labels
from mmfl.clients.scenarios.dirichlet import groups as dirichlet
from mmfl.clients.table import client_table
from mmfl.randomness import generator


def locations(count: int, seed: int = 0, classes: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    chance = np.linspace(0.05, 0.5, classes)
    return pd.DataFrame(
        {
            "pair": [f"p{i:06d}" for i in range(count)],
            "split": rng.choice(["train", "validation", "test"], count, p=[0.6, 0.2, 0.2]),
            "country": "Austria", "month": 6, "season": "JJA", "tile": "T33UUP",
            "labels": [np.flatnonzero(rng.random(classes) < chance) for _ in range(count)],
            "s1": True, "s2": True,
        }
    )  # fmt: skip


def groups(table: pd.DataFrame, **choice) -> np.ndarray:
    return dirichlet(table, **choice).codes


def test_the_rarest_label_of_the_training_split_decides():
    table = pd.DataFrame(
        {
            "split": ["train", "train", "train", "test", "test", "train"],
            "labels": [[0, 1], [0, 2], [0, 1], [1, 2], [5], []],
        }
    )  # training counts: 0: 3, 1: 2, 2: 1, 5: 0
    assert deciding_labels(table).tolist() == [1, 2, 1, 2, 5, -1]
    equal = pd.DataFrame({"split": ["train"] * 2, "labels": [[3, 7], [3, 7]]})
    assert deciding_labels(equal).tolist() == [3, 3]


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("clients", [2, 7])
def test_counts_follow_the_draws(alpha, clients):
    """Per class and split: n p_ck up to one location, with NumPy's p_c, the same in all splits.

    The expected p_c comes from the stated key: generator(seed, "dirichlet", class).
    """
    table = locations(3000)
    found = groups(table, clients=clients, seed=3, alpha=alpha)
    decides = deciding_labels(table)
    assert set(decides) == {-1, 0, 1, 2, 3, 4, 5}
    for label in set(decides.tolist()):
        shares = generator(3, "dirichlet", label).dirichlet([alpha] * clients)
        for split in ("train", "validation", "test"):
            rows = (decides == label) & (table["split"] == split).to_numpy()
            counts = np.bincount(found[rows], minlength=clients)
            assert np.abs(counts - rows.sum() * shares).max() <= 1


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_are_dirichlet_over_seeds(alpha):
    """A group's share of a class is Beta(alpha, (K-1) alpha): chi-square over 300 seeds.

    In bins, as a share is a whole number of locations.
    """
    clients, table = 4, locations(800, classes=1).assign(split="train")
    table["labels"] = [[0]] * len(table)
    shares = np.array(
        [(groups(table, clients=clients, seed=s, alpha=alpha) == 2).mean() for s in range(300)]
    )
    expected = stats.beta(alpha, (clients - 1) * alpha)
    edges = np.array([0, 0.02, 0.1, 0.2, 0.3, 0.5, 1]) + 0.5 / len(table)
    chance = np.diff([0, *expected.cdf(edges[1:-1]), 1])
    counts = np.histogram(shares, [-1, *edges[1:-1], 2])[0]
    assert stats.chisquare(counts, 300 * chance).pvalue > 0.01
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert abs(shares.mean() - 1 / clients) < 4 * np.sqrt(variance / 300)


def test_limits():
    table = locations(4000)
    decides = deciding_labels(table)
    even = groups(table, clients=5, seed=0, alpha=1e6)
    alone = groups(table, clients=5, seed=0, alpha=1e-6)
    for label in set(decides.tolist()):
        counts = np.bincount(even[decides == label], minlength=5)
        assert counts.max() - counts.min() <= 0.01 * counts.sum() + 6
        assert len(set(alone[decides == label])) == 1


def test_small_alpha_diverges_more():
    found = [
        build(locations(3000), scenario="dirichlet", assignment="both", clients=5, alpha=alpha)
        for alpha in (0.1, 100.0)
    ]
    skewed, even = (client_table(x.summary, ("s1", "s2"))["divergence"] for x in found)
    assert skewed.min() > 10 * even.max()


def test_order_of_rows_and_other_classes_change_nothing():
    table = locations(500)
    one = pd.Series(groups(table, clients=3, seed=1, alpha=0.5), table["pair"])
    mixed = table.sample(frac=1, random_state=2)
    two = pd.Series(groups(mixed, clients=3, seed=1, alpha=0.5), mixed["pair"])
    assert (one == two[one.index]).all()
    seeds = [groups(table, clients=3, seed=s, alpha=0.5) for s in (1, 2)]
    assert (seeds[0] != seeds[1]).any()


def test_the_real_metadata(samples):
    """480,038 locations: every class that decides follows its draw; no location is lost."""
    table = get("bigearthnet-v2").metadata(samples / "bigearthnet-metadata")
    found = groups(table, clients=10, seed=0, alpha=0.5)
    decides = deciding_labels(table)
    assert decides.min() == 0 and decides.max() == 18
    training = (table["split"] == "train").to_numpy()
    for label in range(19):
        rows = training & (decides == label)
        shares = generator(0, "dirichlet", label).dirichlet([0.5] * 10)
        counts = np.bincount(found[rows], minlength=10)
        assert rows.sum() > 100 and np.abs(counts - rows.sum() * shares).max() <= 1
