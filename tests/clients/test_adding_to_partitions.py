"""docs/partitions.md, followed word by word in a copy of the project, down to a partition."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml

from helpers.followed_page import Copy
from helpers.patch_store import make_store

pytestmark = pytest.mark.slow


def test_an_added_scenario_and_assignment_partition_what_a_parameter_file_asks(tmp_path):
    copy = Copy(tmp_path)
    copy.follow("partitions.md", "## Add a scenario")
    copy.follow("partitions.md", "## Add an assignment")
    months = [1 + i % 12 for i in range(48)]
    table = make_store(tmp_path / "data/patches/simulated", month=months)
    chosen = {"scenario": "half-year", "assignment": "last-and-all"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"partition": chosen}))
    copy.run("mmfl", "partition", "--archive", "simulated", "--params", "own.yaml")
    made = tmp_path / "data/clients/simulated/half-year-last-and-all-p0"
    frame = pd.read_parquet(made.with_suffix(".parquet"))
    held = json.loads(made.with_suffix(".json").read_text())
    assert sorted(held["clients"]) == ["summer-s2", "winter-s1-s2"]  # in turn, by name
    summer = table["month"].isin([4, 5, 6, 7, 8, 9])
    both = "winter-s1-s2"
    for client, q, place in (
        ("summer-s2", "s2", summer),
        (both, "s1", ~summer),
        (both, "s2", ~summer),
    ):
        own = frame[(frame["client"] == client) & (frame["modality"] == q)]
        assert sorted(own["pair"]) == sorted(table["pair"][place & table[q].notna()])
    passed = copy.test(
        "half or last or names or drifted or mixed or known",
        "tests/clients/test_scenarios.py", "tests/test_params.py",
    )  # fmt: skip
    assert passed > 12
