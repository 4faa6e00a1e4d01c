"""Label skew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mmfl.clients.draws import numbered, ranks
from mmfl.randomness import generator


def groups(
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
    return pd.Categorical.from_codes(group, numbered(clients))


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
