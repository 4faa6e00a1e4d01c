"""Decentralisation scenarios: which group (agency, country, company) holds a location.

A scenario is a function (table, *, clients, seed) -> group name per row. `table` has one row per
location: pair, split, country, month, season, tile, labels. To add one: a function with the
decorator, its name in `SCENARIOS` of params.py, its tests, its row in docs/partitions.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Scenario = Callable[..., pd.Series]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario under its name."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


@scenario("country")
def country(table: pd.DataFrame, **_: Any) -> pd.Series:
    """DS2 of the same group's studies: one country per group."""
    return table["country"].astype(str).str.lower().str.replace(" ", "-")


@scenario("random")
def random(table: pd.DataFrame, *, clients: int, seed: int) -> pd.Series:
    """DS1: groups of equal size at random, within each split; independent of the row order."""
    order = np.argsort(ranks(table["pair"], f"{seed}/random"), kind="stable")
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    within = (
        pd.Series(place, index=table.index).groupby(table["split"]).rank(method="first").astype(int)
        - 1
    )
    width = len(str(clients - 1))
    return (within % clients).map(lambda number: f"group-{number:0{width}d}")


def ranks(pairs: pd.Series, key: str) -> np.ndarray:
    """(N,) uint64, a hash of each pair's id under a key: a random order that no row order moves."""
    prefix = hashlib.sha256(key.encode()).digest()[:8].hex() + "/"
    values = pd.util.hash_array((prefix + pairs.astype(str)).to_numpy(object), categorize=False)
    return np.asarray(values, np.uint64)
