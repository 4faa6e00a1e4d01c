"""Partitions: invariants for any table, and the published counts on the complete real metadata."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl.archives import get
from mmfl.clients.manifest import build, content_hash, read_manifest, write_manifest
from mmfl.errors import UserError

SPLITS = ("train", "validation", "test")

# Büyüktaş et al.'s study: train / test, June to August 2017, METHOD of the docs, section 7.
V2 = {
    "finland": (14805, 8209), "ireland": (7150, 4263), "serbia": (7180, 3248),
    "austria": (5941, 1871), "belgium": (1323, 32), "lithuania": (4206, 2151),
    "portugal": (8037, 4220), "switzerland": (1692, 2039),
}  # fmt: skip


@st.composite
def tables(draw):
    count = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    which = rng.integers(0, 3, count)
    return pd.DataFrame(
        {
            "pair": [f"p{i}" for i in rng.permutation(count)],
            "split": rng.choice(SPLITS, count),
            "country": rng.choice(["Austria", "Kosovo", "Finland"], count),
            "month": rng.integers(1, 13, count),
            "season": "JJA",
            "tile": "T33UUP",
            "labels": [np.flatnonzero(rng.random(19) < 0.2) for _ in range(count)],
            "s1": which != 1,
            "s2": which != 2,
        }
    )


@given(tables(), st.sampled_from(["random", "country"]), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_duplicate_holds_every_patch_once_per_modality(table, scenario, clients, seed):
    frame = build(
        table, scenario=scenario, assignment="duplicate", clients=clients, seed=seed
    ).frame
    for q in ("s1", "s2"):
        assert sorted(frame["pair"][frame["modality"] == q]) == sorted(table["pair"][table[q]])
    assert (frame["client"] == frame["group"] + "-" + frame["modality"]).all()
    assert frame.groupby("pair")["group"].nunique().max() == 1
    expected = table.set_index("pair")["split"]
    assert (frame["split"].to_numpy() == expected[frame["pair"]].to_numpy()).all()


@given(tables(), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_disjoint_holds_every_location_once(table, clients, seed):
    frame = build(table, scenario="random", assignment="disjoint", clients=clients, seed=seed).frame
    assert sorted(frame["pair"]) == sorted(table["pair"])
    both = set(table["pair"][table["s1"] & table["s2"]])
    halves = frame[frame["pair"].isin(both)].groupby(["group", "split", "modality"]).size()
    for _, part in halves.groupby(level=[0, 1]):
        sizes = part.reindex(["s1", "s2"], level=2, fill_value=0)
        assert sizes.max() - (sizes.min() if len(part) == 2 else 0) <= 1


@given(tables(), st.sampled_from(["random", "country"]), st.sampled_from(["duplicate", "disjoint"]))
@settings(max_examples=30, deadline=None)
def test_order_of_rows_changes_nothing(table, scenario, assignment):
    choice = {"scenario": scenario, "assignment": assignment, "clients": 3, "seed": 1}
    one = build(table, **choice)
    two = build(table.sample(frac=1, random_state=0), **choice)
    assert one.summary["sha256"] == two.summary["sha256"] == content_hash(two.frame)


def test_random_groups_are_of_equal_size_and_depend_on_the_seed():
    table = pd.DataFrame(
        {
            "pair": [f"p{i}" for i in range(100)], "split": ["train"] * 80 + ["test"] * 20,
            "country": "A", "month": 1, "season": "DJF", "tile": "T", "s1": True, "s2": True,
            "labels": [np.array([1])] * 100,
        }
    )  # fmt: skip
    found = [
        build(table, scenario="random", assignment="duplicate", clients=8, seed=s) for s in (0, 1)
    ]
    sizes = found[0].frame.groupby(["client", "split"]).size()
    assert sizes.xs("train", level=1).tolist() == [10] * 16
    assert found[0].summary["sha256"] != found[1].summary["sha256"]


def test_published_counts_of_the_real_metadata(samples):
    table = get("bigearthnet-v2").metadata(samples / "bigearthnet-metadata")
    assert len(table) == 480_038
    manifest = build(
        table, scenario="country", assignment="duplicate", months=[6, 7, 8],
        countries=[name.title() for name in V2],
    )  # fmt: skip
    groups = manifest.summary["locations_by_group"]
    assert {g: (n["train"], n["test"]) for g, n in groups.items()} == V2
    assert manifest.summary["locations"]["train"] == 50_334
    assert manifest.summary["locations"]["test"] == 26_033


def test_empty_clients_and_missing_partners_are_reported():
    table = pd.DataFrame(
        {
            "pair": ["a", "b", "c"], "split": ["train", "train", "test"],
            "country": ["Austria", "Austria", "Finland"], "month": 6, "season": "JJA", "tile": "T",
            "labels": [np.array([0]), np.array([0, 3]), np.array([2])],
            "s1": [True, False, True], "s2": [True, True, True],
        }
    )  # fmt: skip
    summary = build(table, scenario="country", assignment="duplicate").summary
    assert summary["empty_clients"] == ["finland-s1", "finland-s2"]
    assert summary["without_partner"] == {"s1": 0, "s2": 1}
    assert summary["shared_training_pairs"] == 1
    assert summary["clients"]["austria-s2"]["labels"] == {"0": 2, "3": 1}


SMALL = pd.DataFrame(
    [
        ("p0", "train", [0, 1], True, True, "A", 1),
        ("p1", "train", [1], True, False, "A", 2),
        ("p2", "train", [2], True, True, "B", 2),
        ("p3", "train", [0], False, True, "B", 3),
        ("p4", "validation", [1], True, True, "A", 2),
        ("p5", "test", [0], True, True, "B", 12),
        ("p6", "train", [1, 2], True, True, "A", 12),
        ("p7", "test", [3], False, False, "A", 2),
    ],
    columns=["pair", "split", "labels", "s1", "s2", "country", "month"],
)


def test_a_summary_by_hand():
    """Counts of training alone; a location of two modalities counts once; p7 is held by nobody."""
    found = build(SMALL, scenario="country", assignment="duplicate").summary
    assert found["locations"] == {"test": 2, "train": 5, "validation": 1}
    assert found["locations_by_group"] == {
        "a": {"train": 3, "validation": 1, "test": 1}, "b": {"train": 2, "test": 1}
    }  # fmt: skip
    clients = found["clients"]
    assert {c: e["labels"] for c, e in clients.items()} == {
        "a-s1": {"0": 1, "1": 3, "2": 1}, "a-s2": {"0": 1, "1": 2, "2": 1},
        "b-s1": {"2": 1}, "b-s2": {"0": 1, "2": 1},
    }  # fmt: skip
    assert {c: e["partners"] for c, e in clients.items()} == {
        "a-s1": 2, "a-s2": 2, "b-s1": 1, "b-s2": 1
    }  # fmt: skip
    assert clients["a-s1"]["locations"] == {"train": 3, "validation": 1}
    assert clients["b-s2"]["counts"] == {"s2": {"train": 2, "test": 1}}
    assert found["shared_training_pairs"] == 3 and found["without_holder"] == 1
    assert found["without_partner"] == {"s1": 1, "s2": 1}
    assert found["pooled_labels"] == {"0": 2, "1": 3, "2": 2} and found["empty_clients"] == []
    both = build(SMALL, scenario="country", assignment="both").summary["clients"]["a-s1-s2"]
    assert both["labels"] == {"0": 1, "1": 3, "2": 1} and both["partners"] == 0
    assert both["counts"] == {"s1": {"train": 3, "validation": 1},
                              "s2": {"train": 2, "validation": 1}}  # fmt: skip
    assert both["locations"] == {"train": 3, "validation": 1}


@pytest.mark.parametrize("assignment", ["duplicate", "disjoint", "alternate", "both", "mixed"])
def test_nobody_holds_a_location_in_a_modality_that_it_lacks(assignment):
    frame = build(SMALL, scenario="country", assignment=assignment).frame
    held = SMALL.set_index("pair")[["s1", "s2"]]
    assert all(held.loc[row.pair, row.modality] for row in frame.itertuples())
    assert "p7" not in set(frame["pair"])  # it has neither


@pytest.mark.parametrize(
    ("months", "countries", "pairs"),
    [
        ([2], None, ["p1", "p2", "p4"]), ([12], None, ["p5", "p6"]), ([1, 3], None, ["p0", "p3"]),
        (None, ["B"], ["p2", "p3", "p5"]), ([2, 12], ["B"], ["p2", "p5"]),
    ],
)  # fmt: skip
def test_months_and_countries_by_hand(months, countries, pairs):
    found = build(
        SMALL, scenario="country", assignment="duplicate", months=months, countries=countries
    ).frame
    assert sorted(set(found["pair"])) == pairs


@pytest.mark.parametrize(("scenario", "assignment"), [("dirichlet", "duplicate"),
                                                      ("country", "disjoint")])  # fmt: skip
def test_what_is_drawn_depends_on_the_seed(scenario, assignment):
    table = pd.DataFrame(
        {
            "pair": [f"p{i}" for i in range(60)], "split": "train", "country": "A", "month": 6,
            "labels": [[0]] * 60, "s1": True, "s2": True,
        }
    )  # fmt: skip
    draws = [
        build(
            table, scenario=scenario, assignment=assignment, clients=3, seed=seed, alpha=100
        ).frame
        for seed in (1, 2, 1)
    ]
    held = [{(r.client, r.pair) for r in frame.itertuples()} for frame in draws]
    assert held[0] == held[2]
    assert len(held[0] & held[1]) < 0.8 * len(held[0])


def test_groups_take_turns_in_the_order_of_their_names_as_clients():
    """Upper case comes before lower case in the table; clients are all in lower case."""
    table = SMALL.replace({"country": {"A": "b", "B": "C"}})  # "C" < "b", but b < c
    found = build(table, scenario="country", assignment="alternate").summary["clients"]
    assert sorted(found) == ["b-s1", "c-s2"]


def test_halves_of_disjoint_are_of_every_split():
    table = pd.DataFrame(
        {
            "pair": [f"p{i:02d}" for i in range(48)],
            "split": np.repeat(["train", "validation", "test"], [24, 16, 8]),
            "country": np.resize(["A", "A", "B", "B"], 48), "month": 6,
            "labels": [[0]] * 48, "s1": True, "s2": True,
        }
    )  # fmt: skip
    frame = build(table, scenario="country", assignment="disjoint", seed=3).frame
    sizes = frame.groupby(["client", "split"]).size()
    assert all((sizes[f"{g}-s1"] == sizes[f"{g}-s2"]).all() for g in ("a", "b"))
    assert sizes["a-s1"].to_dict() == {"test": 2, "train": 6, "validation": 4}


def test_file_keeps_content_and_notices_edits(tmp_path, store):
    frame = build(store[1], scenario="country", assignment="duplicate").frame
    path = tmp_path / "m.parquet"
    write_manifest(path, frame)
    assert content_hash(read_manifest(path)) == content_hash(frame)
    frame["client"] = frame["client"].str.upper()
    frame.to_parquet(path)
    with pytest.raises(UserError, match="does not fit its hash"):
        read_manifest(path)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="not a partition"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"scenario": "contry"}, "did you mean country"),
        ({"assignment": "duplicates"}, "did you mean duplicate"),
        ({"countries": ["C"]}, "partition.countries"),
        ({"months": [1]}, "found no location"),
    ],
)
def test_impossible_requests_are_refused(store, choice, message):
    with pytest.raises(UserError, match=message):
        build(store[1], **({"scenario": "country", "assignment": "duplicate"} | choice))
