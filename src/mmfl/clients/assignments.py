"""Modality assignments: which clients a group becomes, and in which modality they hold a location.

An assignment is a function (table, modalities, *, seed) -> rows (position in the table, client,
modality). `table` has the columns group, pair, split and a bool column per modality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mmfl.clients.scenarios import ranks

Assignment = Callable[..., pd.DataFrame]
ASSIGNMENTS: dict[str, Assignment] = {}


def assignment(name: str) -> Callable[[Assignment], Assignment]:
    """Register an assignment under its name."""

    def register(function: Assignment) -> Assignment:
        ASSIGNMENTS[name] = function
        return function

    return register


@assignment("duplicate")
def duplicate(table: pd.DataFrame, modalities: tuple[str, ...], **_: Any) -> pd.DataFrame:
    """Each group becomes a client per modality, so pairs exist across clients."""
    return pd.concat([_held(table, q, table[q].to_numpy()) for q in modalities])


@assignment("disjoint")
def disjoint(table: pd.DataFrame, modalities: tuple[str, ...], *, seed: int) -> pd.DataFrame:
    """Each location in one modality only: halves of every group and split, by a hash of the pair.

    A location that exists in one modality goes there.
    """
    held = table[list(modalities)].to_numpy()
    choice = np.argmax(held, axis=1)
    free = np.flatnonzero(held.all(axis=1))
    key = pd.Series(ranks(table["pair"].iloc[free], f"{seed}/disjoint"), index=free)
    by = [table["group"].to_numpy()[free], table["split"].to_numpy()[free]]
    choice[free] = (key.groupby(by).rank(method="first").to_numpy().astype(int) - 1) % len(
        modalities
    )
    choice[~held.any(axis=1)] = -1
    return pd.concat([_held(table, q, choice == k) for k, q in enumerate(modalities)])


def _held(table: pd.DataFrame, modality: str, mask: np.ndarray) -> pd.DataFrame:
    position = np.flatnonzero(mask)
    client = table["group"].to_numpy()[position] + f"-{modality}"
    return pd.DataFrame({"position": position, "client": client, "modality": modality})
