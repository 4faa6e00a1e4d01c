"""A country in a season."""

from __future__ import annotations

from typing import Any

import pandas as pd


def groups(table: pd.DataFrame, **_: Any) -> pd.Categorical[str]:
    """DS3: one country in one season (DJF, MAM, JJA, SON) per group."""
    seasons = table["season"].unique()
    names = [f"{name} {season}" for name in table["country"].cat.categories for season in seasons]
    return pd.Categorical(table["country"].astype(str) + " " + table["season"].astype(str), names)
