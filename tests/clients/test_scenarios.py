"""Every registered scenario and assignment."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmfl.clients import scenarios
from mmfl.clients.assignments import ASSIGNMENTS
from mmfl.clients.manifest import build
from mmfl.errors import UserError
from mmfl.params import ASSIGNMENTS as KNOWN_ASSIGNMENTS
from mmfl.params import SCENARIOS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "partitions.md"


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    count = 90
    return pd.DataFrame(
        {
            "pair": [f"p{i:02d}" for i in rng.permutation(count)],
            "split": rng.choice(["train", "validation", "test"], count),
            "country": rng.choice(["Austria", "Kosovo", "Finland"], count),
            "month": rng.integers(1, 13, count),
            "season": rng.choice(["DJF", "MAM", "JJA", "SON"], count),
            "tile": rng.choice(["T33UUP", "T34WFT"], count),
            "labels": [np.flatnonzero(rng.random(19) < 0.2) for _ in range(count)],
            "s1": rng.random(count) < 0.9,
            "s2": True,
        }
    )


def test_names_are_those_of_the_parameters_and_of_the_page():
    files = {f.stem.replace("_", "-") for f in Path(scenarios.__file__).parent.glob("[a-z]*.py")}
    columns = {name for name, needed in SCENARIOS.items() if needed == (name,)}
    assert files | columns == {*SCENARIOS} and not files & columns
    assert sorted(ASSIGNMENTS) == sorted(KNOWN_ASSIGNMENTS)
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in (*SCENARIOS, *ASSIGNMENTS))


@pytest.mark.parametrize("assignment", sorted(ASSIGNMENTS))
@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_nothing_is_lost_and_nothing_held_twice(table, scenario, assignment):
    """What the summary counts is what the rows say, for every combination."""
    found = build(table, scenario=scenario, assignment=assignment, clients=4, seed=2)
    frame, summary = found.frame, found.summary
    assert not frame.duplicated(["modality", "pair"]).any()
    assert frame.groupby("pair")["group"].nunique().max() == 1
    held = pd.concat([table[["pair"]].assign(modality=q)[table[q]] for q in ("s1", "s2")])
    assert len(frame.merge(held)) == len(frame)
    assert summary["without_holder"] == len(table) - frame["pair"].nunique()
    if assignment in ("duplicate", "disjoint", "both"):
        assert summary["without_holder"] == 0
    counted = summary["clients"]
    total = sum(n for c in counted.values() for q in c["counts"].values() for n in q.values())
    assert total == len(frame)
    labels = table.set_index("pair")["labels"]
    train = frame[frame["split"] == "train"]
    for client, entry in counted.items():
        own = train[train["client"] == client]
        pairs = own["pair"].unique()
        expected = np.bincount(np.concatenate([[], *labels[pairs]]).astype(int), minlength=19)
        assert [entry["labels"].get(str(k), 0) for k in range(19)] == expected.tolist()
        assert entry["locations"].get("train", 0) == len(pairs)
        others = train[train["client"] != client]
        partners = {
            pair
            for q in ("s1", "s2")
            for pair in own["pair"][own["modality"] == q]
            if pair in set(others["pair"][others["modality"] != q])
        }
        assert entry["partners"] == len(partners)
    both = train.groupby("pair")["modality"].nunique()
    assert summary["shared_training_pairs"] == (both > 1).sum()


def test_alternate_and_mixed_take_turns(table):
    """Over the groups by name: one modality each, or one, the other, both."""
    frame = build(table, scenario="country", assignment="alternate").frame
    assert set(frame["client"]) == {"austria-s1", "finland-s2", "kosovo-s1"}
    frame = build(table, scenario="country", assignment="mixed").frame
    assert set(frame["client"]) == {"austria-s1", "finland-s2", "kosovo-s1-s2"}
    held = table.set_index("pair")
    for group, q in (("austria", "s1"), ("finland", "s2"), ("kosovo", "s1"), ("kosovo", "s2")):
        own = held.index[(held["country"].str.lower() == group) & held[q]]
        part = frame[(frame["group"] == group) & (frame["modality"] == q)]
        assert sorted(part["pair"]) == sorted(own)


def test_both_is_one_client_per_group(table):
    frame = build(table, scenario="random", assignment="both", clients=3).frame
    assert (frame["client"] == frame["group"] + "-s1-s2").all()
    assert len(frame) == table["s1"].sum() + table["s2"].sum()


def test_empty_clients_of_every_assignment(table):
    """Three locations, five groups: what holds nothing is named, in the modality of its turn."""
    few = table[table["split"] == "train"].assign(s1=True).head(3)
    for assignment, names in {
        "alternate": ["group-3-s2", "group-4-s1"],
        "both": ["group-3-s1-s2", "group-4-s1-s2"],
        "mixed": ["group-3-s1", "group-4-s2"],
    }.items():
        summary = build(few, scenario="random", assignment=assignment, clients=5).summary
        assert summary["empty_clients"] == names


def test_country_season_and_tile(table):
    frame = build(table, scenario="country-season", assignment="duplicate").frame
    expected = (table["country"] + "-" + table["season"]).str.lower().set_axis(table["pair"])
    assert (frame["group"].to_numpy() == expected[frame["pair"]].to_numpy()).all()
    frame = build(table, scenario="tile", assignment="duplicate").frame
    expected = table["tile"].str.lower().set_axis(table["pair"])
    assert (frame["group"].to_numpy() == expected[frame["pair"]].to_numpy()).all()


def test_groups_without_locations_are_reported(table):
    few = table[table["split"] == "train"].head(3)
    summary = build(few, scenario="random", assignment="duplicate", clients=5).summary
    assert summary["empty_clients"] == [f"group-{k}-{q}" for k in (3, 4) for q in ("s1", "s2")]
    july = table["month"].where(table["country"] == "Austria", 1).replace(7, 8)
    summary = build(
        table.assign(month=july.where(july == 1, 7)),
        scenario="country", assignment="duplicate", months=[7],
    ).summary  # fmt: skip
    assert {"finland-s1", "kosovo-s2"} <= set(summary["empty_clients"])


def test_groups_that_would_share_a_name_are_refused(table):
    table["country"] = table["country"].replace({"Kosovo": "North-Land", "Austria": "North Land"})
    with pytest.raises(UserError, match="'North Land' and 'North-Land' would both be called"):
        build(table, scenario="country", assignment="duplicate")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "training", r"location p\d\d: split: found 'training'"),
        ("country", None, r"location p\d\d: found no country"),
        ("month", np.nan, r"location p\d\d: found no month"),
        ("labels", None, r"location p\d\d: found no labels"),
    ],
)
def test_a_table_with_a_gap_is_refused(table, column, value, message):
    values = table[column].tolist()
    values[7] = value
    with pytest.raises(UserError, match=message):
        build(table.assign(**{column: values}), scenario="country", assignment="duplicate")


def test_a_location_without_a_group_is_refused(table):
    tiles = table["tile"].astype(object).where(table["pair"] != "p07", None)
    with pytest.raises(UserError, match="location p07 has no group in the scenario tile"):
        build(table.assign(tile=tiles), scenario="tile", assignment="mixed")


def test_a_table_without_a_column_is_refused(table):
    with pytest.raises(UserError, match=r"scenario: unknown 'country'; known: dirichlet, month"):
        build(table.drop(columns="country"), scenario="country", assignment="duplicate")
    with pytest.raises(UserError, match="no column labels"):
        build(table.drop(columns="labels"), scenario="country", assignment="duplicate")
    with pytest.raises(UserError, match=r"partition\.months: the archive has no column month"):
        build(table.drop(columns="month"), scenario="country", assignment="both", months=[6])


def test_a_group_column_is_a_scenario_and_regions_go_before_countries(table):
    own = table.assign(agency=["north" if i % 3 else "south" for i in range(len(table))])
    frame = build(own, scenario="agency", assignment="both").frame
    agency = own.set_index("pair")["agency"]
    assert (frame["group"] == frame["pair"].map(agency)).all() and frame["group"].nunique() == 2
    by_country = build(table, scenario="country", assignment="duplicate").frame
    assert build(table, scenario="region", assignment="duplicate").frame.equals(by_country)
    named = own.assign(region=own["agency"])
    assert build(named, scenario="region", assignment="both").frame.equals(frame)
    with pytest.raises(UserError, match="unknown 'agenci'; did you mean agency"):
        build(own, scenario="agenci", assignment="both")
    with pytest.raises(UserError, match="unknown 's1'"):
        build(own, scenario="s1", assignment="both")
