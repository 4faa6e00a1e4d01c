"""What scenarios and assignments draw: an order of the locations that no row order moves."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd


def numbered(clients: int) -> pd.Index:
    """Names of groups: group-0, group-1, ..., of equal width."""
    width = len(str(clients - 1))
    return pd.Index([f"group-{k:0{width}d}" for k in range(clients)])


def ranks(pairs: pd.Series, key: str) -> np.ndarray:
    """(N,) uint64, a hash of each pair's id under a key: a random order that no row order moves."""
    prefix = hashlib.sha256(key.encode()).digest()[:8].hex() + "/"
    values = pd.util.hash_array((prefix + pairs.astype(str)).to_numpy(object), categorize=False)
    return np.asarray(values, np.uint64)
