"""Modality assignments: which clients a group becomes, and in which modality they hold a location.

An assignment is a function (table, modalities, *, seed) -> tables with the columns client,
modality (categories; a client without locations stays one) and position (row of `table`). `table`
has the columns group (categories), pair, split and a bool column per modality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mmfl.clients.scenarios import ranks

Assignment = Callable[..., list[pd.DataFrame]]
ASSIGNMENTS: dict[str, Assignment] = {}


def assignment(name: str) -> Callable[[Assignment], Assignment]:
    """Register an assignment under its name."""

    def register(function: Assignment) -> Assignment:
        ASSIGNMENTS[name] = function
        return function

    return register


@assignment("duplicate")
def duplicate(table: pd.DataFrame, modalities: tuple[str, ...], **_: Any) -> list[pd.DataFrame]:
    """Each group becomes a client per modality, so pairs exist across clients."""
    return [_held(table, q, table[q].to_numpy()) for q in modalities]


@assignment("disjoint")
def disjoint(table: pd.DataFrame, modalities: tuple[str, ...], *, seed: int) -> list[pd.DataFrame]:
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
    return [_held(table, q, choice == k) for k, q in enumerate(modalities)]


def _held(table: pd.DataFrame, modality: str, mask: np.ndarray) -> pd.DataFrame:
    """The locations of `mask`, each held by the client `<group>-<modality>`."""
    client = table["group"].cat.rename_categories(lambda group: f"{group}-{modality}")
    return pd.DataFrame(
        {
            "client": client.array[mask],
            "modality": pd.Categorical([modality] * int(mask.sum()), [modality]),
            "position": np.flatnonzero(mask),
        }
    )
