"""The table of a partition: divergence by its closed form, columns by hand, the real metadata."""

import numpy as np
import pandas as pd
import pytest

from mmfl.archives import get
from mmfl.clients.manifest import build
from mmfl.clients.table import client_table, divergence
from mmfl.reporting.partition import draw, label_shares
from mmfl.reporting.style import save_svg, style


def closed_form(p, q):
    """JSD = H((p+q)/2) - (H(p)+H(q))/2 in bits, 0 log 0 = 0."""
    p, q = np.array(p) / sum(p), np.array(q) / sum(q)

    def entropy(x):
        x = x[x > 0]
        return -(x * np.log2(x)).sum()

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


@pytest.mark.parametrize(("p", "q"), [([1, 2, 3], [3, 2, 1]), ([5, 0, 0], [1, 1, 1]), ([4], [9])])
def test_divergence(p, q):
    own, pooled = ({str(i): n for i, n in enumerate(x) if n} for x in (p, q))
    assert divergence(own, pooled) == pytest.approx(closed_form(p, q), abs=1e-12)


def test_divergence_ends():
    assert divergence({"1": 4}, {"2": 7}) == pytest.approx(1)
    assert divergence({"1": 2, "2": 6}, {"1": 1, "2": 3}) == pytest.approx(0, abs=1e-9)
    assert np.isnan(divergence({}, {"1": 3}))


def test_by_hand():
    table = pd.DataFrame(
        {
            "pair": ["a", "b", "c", "d"], "split": ["train", "train", "test", "train"],
            "country": ["Austria", "Austria", "Austria", "Finland"], "month": 6, "season": "JJA",
            "tile": "T", "labels": [np.array([0]), np.array([0, 3]), np.array([2]), np.array([3])],
            "s1": [True, False, True, True], "s2": [True, True, True, True],
        }
    )  # fmt: skip
    found = client_table(
        build(table, scenario="country", assignment="duplicate").summary, ("s1", "s2")
    ).set_index("client")
    assert list(found.index) == ["austria-s1", "austria-s2", "finland-s1", "finland-s2"]
    row = found.loc["austria-s2"]
    assert (row["train"], row["validation"], row["test"]) == (2, 0, 1)
    assert (row["patches_s1"], row["patches_s2"], row["modalities"]) == (0, 3, "s2")
    assert (row["partners"], row["labels"], row["classes"]) == (1, 3, 2)
    assert row["divergence"] == pytest.approx(closed_form([2, 1], [2, 2]))
    assert found.loc["finland-s1", "divergence"] == pytest.approx(closed_form([0, 1], [2, 2]))
    both = build(table, scenario="country", assignment="both").summary
    found = client_table(both, ("s1", "s2")).set_index("client")
    assert found.loc["austria-s1-s2", "modalities"] == "s1+s2"
    assert (found["partners"] == 0).all() and found.loc["austria-s1-s2", "train"] == 2
    both["clients"] = dict(reversed(both["clients"].items()))
    assert client_table(both, ("s1", "s2"))["client"].tolist() == sorted(both["clients"])


@pytest.mark.parametrize("scenario", ["country-season", "tile"])
def test_counts_of_the_real_metadata(samples, scenario):
    table = get("bigearthnet-v2").metadata(samples / "bigearthnet-metadata")
    summary = build(table, scenario=scenario, assignment="both").summary
    keys = {"tile": ["tile"], "country-season": ["country", "season"]}[scenario]
    expected = table.groupby([*keys, "split"]).size()
    groups = summary["locations_by_group"]
    assert len(groups) == expected.reset_index().groupby(keys).ngroups
    for key, count in expected.items():
        *parts, split = key
        assert groups["-".join(parts).lower()][split] == count
    if scenario == "tile":
        assert len(groups) == 54


def test_the_picture_repeats_to_the_byte_and_caps_its_rows(tmp_path):
    rng = np.random.default_rng(0)
    clients = pd.DataFrame(
        {
            "client": [f"group-{i:03d}-s1" for i in range(150)],
            "train": rng.integers(0, 50, 150), "validation": 3, "test": 4,
            "divergence": rng.random(150),
        }
    )  # fmt: skip
    labels = {name: {"labels": {"0": 3, "2": 5}} for name in clients["client"]}
    summary = {"clients": labels, "classes": ["a", "b", "c"]}
    for name in ("one", "two"):
        with style():
            save_svg(draw(clients, summary), tmp_path / f"{name}.svg")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "The 120 largest of 150 clients" in text
    assert text.count(">group-") == 120


def test_the_picture_shows_shares_of_the_training_locations():
    clients = pd.DataFrame({"client": ["x", "y"], "train": [4, 0]})
    labels = {"x": {"labels": {"0": 1, "2": 4}}, "y": {"labels": {}}}
    found = label_shares(clients, {"clients": labels, "classes": ["a", "b", "c"]})
    assert found.loc["x"].tolist() == [0.25, 0, 1]
    assert found.loc["y"].isna().all()
