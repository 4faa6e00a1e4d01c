"""The archive's own regions."""

from __future__ import annotations

from typing import Any

import pandas as pd


def groups(table: pd.DataFrame, **_: Any) -> pd.Series:
    """The archive's own regions: a column `region`, else the countries."""
    return table["region"] if "region" in table else table["country"]
