"""Decentralisation scenarios: which group (agency, country, company) holds a location.

A scenario is a function (table, *, clients, seed) -> group of each row: names, or categories of
which the unused ones are reported as empty. `table` has one row per location: pair, split, country,
month, season, tile, labels, s1, s2. docs/partitions.md shows how to add one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Scenario = Callable[..., "pd.Series | pd.Categorical[Any]"]
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
    return table["country"]


@scenario("random")
def random(table: pd.DataFrame, *, clients: int, seed: int) -> pd.Categorical[str]:
    """DS1: groups of equal size at random, within each split; independent of the row order."""
    order = np.argsort(ranks(table["pair"], f"{seed}/random"), kind="stable")
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    within = pd.Series(place, index=table.index).groupby(table["split"], observed=True)
    number = within.rank(method="first").astype(int) - 1
    width = len(str(clients - 1))
    names = pd.Index([f"group-{k:0{width}d}" for k in range(clients)])
    return pd.Categorical.from_codes(number.to_numpy() % clients, names)


def ranks(pairs: pd.Series, key: str) -> np.ndarray:
    """(N,) uint64, a hash of each pair's id under a key: a random order that no row order moves."""
    prefix = hashlib.sha256(key.encode()).digest()[:8].hex() + "/"
    values = pd.util.hash_array((prefix + pairs.astype(str)).to_numpy(object), categorize=False)
    return np.asarray(values, np.uint64)
