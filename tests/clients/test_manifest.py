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
