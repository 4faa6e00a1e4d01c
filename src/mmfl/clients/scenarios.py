"""Decentralisation scenarios: which group (agency, country, company) holds a location.

A scenario is a function (table, *, clients, seed, alpha) -> group of each row: names, or categories
of which the unused ones are reported as empty. `table` has one row per location: pair, split,
labels, the modalities and the archive's group columns, such as country, month, season, tile; a
group column is a scenario, too. docs/partitions.md shows how to add one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mmfl.randomness import generator

Scenario = Callable[..., "pd.Series | pd.Categorical[Any]"]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario under its name, one of `mmfl.params.registry.SCENARIOS`."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


def by_column(column: str) -> Scenario:
    """The groups that a column names."""

    def groups(table: pd.DataFrame, **_: Any) -> pd.Series:
        return table[column]

    return groups


@scenario("region")
def region(table: pd.DataFrame, **_: Any) -> pd.Series:
    """The archive's own regions: a column `region`, else the countries."""
    return table["region"] if "region" in table else table["country"]


@scenario("country")
def country(table: pd.DataFrame, **_: Any) -> pd.Series:
    """DS2 of the same group's studies: one country per group."""
    return table["country"]


@scenario("country-season")
def country_season(table: pd.DataFrame, **_: Any) -> pd.Categorical[str]:
    """DS3: one country in one season (DJF, MAM, JJA, SON) per group."""
    seasons = table["season"].unique()
    names = [f"{name} {season}" for name in table["country"].cat.categories for season in seasons]
    return pd.Categorical(table["country"].astype(str) + " " + table["season"].astype(str), names)


@scenario("tile")
def tile(table: pd.DataFrame, **_: Any) -> pd.Series:
    """One Sentinel-2 tile (100 km x 100 km) per group; a tile may span countries."""
    return table["tile"]


@scenario("random")
def random(table: pd.DataFrame, *, clients: int, seed: int, **_: Any) -> pd.Categorical[str]:
    """DS1: groups of equal size at random, within each split; independent of the row order."""
    order = np.argsort(ranks(table["pair"], f"{seed}/random"), kind="stable")
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    within = pd.Series(place, index=table.index).groupby(table["split"], observed=True)
    number = within.rank(method="first").astype(int) - 1
    return pd.Categorical.from_codes(number.to_numpy() % clients, _numbered(clients))


@scenario("dirichlet")
def dirichlet(
    table: pd.DataFrame, *, clients: int, seed: int, alpha: float, **_: Any
) -> pd.Categorical[str]:
    """Label skew: each class is spread over the groups by a draw from a Dirichlet distribution.

    For each class c: p_c ~ Dir_K(alpha, ..., alpha), K = `clients` (the draw per class of
    Yurochkin et al., arXiv 1905.12022, and Li et al., arXiv 2102.02079). A location has several
    labels; its rarest decides (as in iterative stratification, Sechidis et al. 2011; see
    `deciding_labels`). Of the n locations of a split that class c decides, in an order by hash,
    group k gets those from round(n (p_c1 + ... + p_c(k-1))) to round(n (p_c1 + ... + p_ck)): n p_ck
    with an error of at most one. The splits share p_c. Large alpha: equal shares; small alpha: a
    class goes to one group.
    """
    decides = deciding_labels(table)
    split = table["split"].astype("category").cat.codes.to_numpy()
    order = np.lexsort((ranks(table["pair"], f"{seed}/dirichlet"), split, decides))
    changes = np.diff(decides[order]) | np.diff(split[order])
    group = np.zeros(len(table), np.int64)
    for rows in np.split(order, np.flatnonzero(changes) + 1):
        label = int(decides[rows[0]])
        shares = generator(seed, "dirichlet", label).dirichlet(np.full(clients, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        group[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return pd.Categorical.from_codes(group, _numbered(clients))


def deciding_labels(table: pd.DataFrame) -> np.ndarray:
    """(N,) int64: each location's rarest label in the training split, of equals the lowest index.

    -1 where there is no label.
    """
    lengths = table["labels"].map(len).to_numpy()
    flat = np.concatenate([np.empty(0, np.int64), *table["labels"]]).astype(np.int64)
    row = np.repeat(np.arange(len(table)), lengths)
    training = (table["split"] == "train").to_numpy()
    counts = np.bincount(flat[training[row]], minlength=flat.max(initial=-1) + 1)
    order = np.lexsort((flat, counts[flat], row))
    first = np.cumsum(lengths) - lengths  # `order` keeps the rows' places
    found = np.full(len(table), -1, np.int64)
    found[lengths > 0] = flat[order][first[lengths > 0]]
    return found


def _numbered(clients: int) -> pd.Index:
    width = len(str(clients - 1))
    return pd.Index([f"group-{k:0{width}d}" for k in range(clients)])


def ranks(pairs: pd.Series, key: str) -> np.ndarray:
    """(N,) uint64, a hash of each pair's id under a key: a random order that no row order moves."""
    prefix = hashlib.sha256(key.encode()).digest()[:8].hex() + "/"
    values = pd.util.hash_array((prefix + pairs.astype(str)).to_numpy(object), categorize=False)
    return np.asarray(values, np.uint64)
