"""Groups of equal size at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mmfl.clients.draws import numbered, ranks


def groups(table: pd.DataFrame, *, clients: int, seed: int, **_: Any) -> pd.Categorical[str]:
    """DS1: groups of equal size at random, within each split; independent of the row order."""
    order = np.argsort(ranks(table["pair"], f"{seed}/random"), kind="stable")
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    within = pd.Series(place, index=table.index).groupby(table["split"], observed=True)
    number = within.rank(method="first").astype(int) - 1
    return pd.Categorical.from_codes(number.to_numpy() % clients, numbered(clients))
