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

from mmfl.clients.draws import ranks

Assignment = Callable[..., list[pd.DataFrame]]
ASSIGNMENTS: dict[str, Assignment] = {}


def assignment(name: str) -> Callable[[Assignment], Assignment]:
    """Register an assignment under its name, one of `mmfl.params.registry.ASSIGNMENTS`."""

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


@assignment("alternate")
def alternate(table: pd.DataFrame, modalities: tuple[str, ...], **_: Any) -> list[pd.DataFrame]:
    """Each group is one client with one modality, in turn over the groups in order of name.

    A location that lacks its group's modality is held by nobody.
    """
    return _in_turn(table, [(q,) for q in modalities])


@assignment("both")
def both(table: pd.DataFrame, modalities: tuple[str, ...], **_: Any) -> list[pd.DataFrame]:
    """Each group is one client that holds every modality."""
    return _in_turn(table, [modalities])


@assignment("mixed")
def mixed(table: pd.DataFrame, modalities: tuple[str, ...], **_: Any) -> list[pd.DataFrame]:
    """Each group is one client: in turn one modality alone, then the next, then all of them.

    A location that lacks its group's modality is held by nobody.
    """
    return _in_turn(table, [*((q,) for q in modalities), modalities])


def _in_turn(table: pd.DataFrame, kinds: list[tuple[str, ...]]) -> list[pd.DataFrame]:
    """One client per group, `<group>-<modalities>`; the k-th by name holds `kinds[k mod n]`."""
    groups = table["group"].cat.categories
    own = {group: kinds[place % len(kinds)] for place, group in enumerate(sorted(groups))}
    clients = [f"{group}-{'-'.join(own[group])}" for group in groups]
    parts = []
    for q in sorted({q for kind in kinds for q in kind}):
        holds = np.array([q in own[group] for group in groups])
        if not holds.any():  # fewer groups than kinds
            continue
        code = table["group"].cat.codes.to_numpy()
        mask = table[q].to_numpy() & holds[code]
        number = np.cumsum(holds) - 1  # of a group's client among those that hold q
        held = pd.Categorical.from_codes(number[code[mask]], pd.Index(np.array(clients)[holds]))
        parts.append(_part(held, q, np.flatnonzero(mask)))
    return parts


def _held(table: pd.DataFrame, modality: str, mask: np.ndarray) -> pd.DataFrame:
    """The locations of `mask`, each held by the client `<group>-<modality>`."""
    client = table["group"].cat.rename_categories(lambda group: f"{group}-{modality}")
    return _part(client.array[mask], modality, np.flatnonzero(mask))


def _part(client: pd.Categorical[str], modality: str, position: np.ndarray) -> pd.DataFrame:
    kind = pd.Categorical.from_codes(np.zeros(len(position), np.int8), pd.Index([modality]))
    return pd.DataFrame({"client": client, "modality": kind, "position": position})
