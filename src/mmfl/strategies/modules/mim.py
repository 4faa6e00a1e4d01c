"""MIM, mutual information maximisation between the modalities of a location.

The loss is NT-Xent between projected features of the same pair (docs/method.md, section 4). How
a client with one modality gets the other's features is not published; here `feature_bank`:
clients that hold the same pair in different modalities upload {pair: v}, and the counterpart
treats v as a constant. Ids and embeddings leave a client: this is no privacy guarantee.

For the pixel task a pair may also be a cell of a location: the same pixels in two modalities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmfl.models.dense import Features
from mmfl.models.losses import ntxent, wide
from mmfl.params import Params
from mmfl.strategies.base import Client, Context, Module, Server, Tensors
from mmfl.strategies.modules.prototypes import Prototypes


def build(params: Params) -> Module:
    """The module as the section `mim` wants it; a bank of class means is that of prototypes."""
    mim = params.mim
    if mim.bank == "prototype":
        return Prototypes("mim", weight=mim.weight, temperature=mim.temperature)
    return Mim(
        weight=mim.weight,
        temperature=mim.temperature,
        negatives=mim.negatives,
        bank=mim.bank,
        features=mim.features,
        cells=mim.cells,
    )


class Mim(Module):
    """lambda * L_MIM on the pairs of a batch whose other modality is known.

    `harvest`: v is kept from the last local epoch and used in the next round, so round 1 has no
    MIM term. `fresh`: an extra forward pass before the round. A client that holds several
    modalities needs no exchange for its own pairs. State, per modality: `ids` (n,) int64, sorted,
    and `values` (n, d).

    features: `pooled`, one v of a location, whose id is the location; `cells`, one v of each cell
    of a grid of at most `cells` x `cells`, whose id is location * cells^2 + the cell's number in
    the image as it was before augmentation.
    """

    name = "mim"

    def __init__(
        self,
        *,
        weight: float,
        temperature: float,
        negatives: Literal["all", "cross"],
        bank: Literal["harvest", "fresh"],
        features: Literal["pooled", "cells"] = "pooled",
        cells: int = 1,
    ) -> None:
        self.weight = weight
        self.temperature = temperature
        self.negatives = negatives
        self.bank = bank
        self.features = features
        self.cells = cells
        self.each = cells**2 if features == "cells" else 1  # ids that a location takes
        self.wanted: dict[str, dict[str, np.ndarray]] = {}

    def bind(self, clients: Sequence[Client]) -> None:
        self.wanted = {client.id: _wanted(client, clients) for client in clients}

    def fresh(self, client: Client) -> bool:
        return self.bank == "fresh" and any(len(ids) for ids in self.wanted[client.id].values())

    def broadcast(self, server: Server, client: Client) -> Tensors:
        """The bank's entries of the client's own pairs, in the modalities that it lacks."""
        sent: Tensors = {}
        for q, ids, values in _entries(server.state.get(self.name, {})):
            held = torch.from_numpy(np.isin(ids.numpy() // self.each, client.locations))
            if q not in client.modalities and held.any():
                sent |= {(q, "ids"): ids[held], (q, "values"): values[held]}
        return sent

    def loss(self, context: Context) -> Tensor | None:
        batch = context.batch
        assert batch is not None
        found = {q: self._projected(context, q) for q in batch.features}
        if self.bank == "harvest" and context.last_epoch:
            for q, (ids, u) in found.items():
                keep(context.memory, q, ids, u)
        terms = []
        for q in found:
            for other in self._others(context, q):
                pair = self._pair(context, q, other, found)
                if pair is not None:
                    terms.append(ntxent(*pair, self.temperature, self.negatives))
        if not terms:
            return None
        return self.weight * torch.stack(terms).mean()

    def _projected(self, context: Context, modality: str) -> tuple[np.ndarray, Tensor]:
        batch = context.batch
        assert batch is not None
        there = batch.present[modality]
        turns = None if batch.turns is None else batch.turns[there]
        return self.projected(
            context.network, modality, batch.features[modality], batch.locations[there], turns
        )

    def projected(
        self,
        network: Any,
        modality: str,
        features: Features,
        locations: np.ndarray,
        turns: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Tensor]:
        """Ids (n,) int64 and projections (n, d) of some locations' features, turned by `turns`."""
        if self.features == "pooled":
            return locations, network.project(modality, features)
        u = network.project_cells(modality, features, self.cells)
        side = math.isqrt(u.shape[1])
        order = np.stack([turned(side, code) for code in range(8)])
        codes = np.zeros(len(locations), np.int64) if turns is None else turns
        return (locations[:, None] * self.each + order[codes]).reshape(-1), u.flatten(0, 1)

    def extra(
        self, memory: dict[str, Any], network: Any, q: str, features: Features, ids: np.ndarray
    ) -> None:
        """The features of the extra forward pass, for the upload."""
        keep(memory, q, *self.projected(network, q, features, ids))

    def _others(self, context: Context, modality: str) -> list[str]:
        banked = {q for q, _ in context.broadcast.extras.get(self.name, {})}
        own = {q for q in context.client.modalities if q > modality}  # each own pair once
        return sorted((banked | own) - {modality})

    def _pair(
        self, context: Context, q: str, other: str, found: dict[str, tuple[np.ndarray, Tensor]]
    ) -> tuple[Tensor, Tensor] | None:
        """Rows of u and v of the pairs that have both; None where there is none."""
        here, u = found[q]
        if other in context.client.modalities:
            if other not in found:
                return None
            there, v = found[other]
        else:
            bank = context.broadcast.extras[self.name]
            there, v = bank[other, "ids"].numpy(), bank[other, "values"].to(u.device)
        _, left, right = np.intersect1d(here, there, assume_unique=True, return_indices=True)
        if not len(left):
            return None
        return u[torch.from_numpy(left).to(u.device)], v[torch.from_numpy(right).to(u.device)]

    def finish(self, client: Client, memory: dict[str, Any]) -> Tensors:
        """What goes up: the features of those pairs that another client can use."""
        sent: Tensors = {}
        for q in client.modalities:
            kept = memory.get(f"mim.{q}")
            wanted = self.wanted[client.id][q]
            if not kept or not len(wanted):
                continue
            ids = np.concatenate([ids for ids, _ in kept])
            values = torch.cat([values for _, values in kept])
            order = np.argsort(ids, kind="stable")
            order = order[np.isin(ids[order] // self.each, wanted)]
            sent[q, "ids"] = torch.from_numpy(ids[order])
            sent[q, "values"] = values[torch.from_numpy(order)]
        return sent

    def receive(self, server: Server, uploads: dict[str, Tensors]) -> None:
        """Merge uploads into the bank; clients in order of id, a later one replaces an earlier."""
        bank = server.state.get(self.name, {})
        found = [entry for client in sorted(uploads) for entry in _entries(uploads[client])]
        after = dict(bank)
        for q in sorted({q for q, _, _ in found}):
            parts = [(i, v) for name, i, v in (*_entries(bank), *found) if name == q]
            ids = torch.cat([ids for ids, _ in parts]).numpy()[::-1]
            values = torch.cat([values for _, values in parts]).flip(0)
            unique, first = np.unique(ids, return_index=True)
            after[q, "ids"] = torch.from_numpy(unique)
            after[q, "values"] = values[torch.from_numpy(first)]
        if after:
            server.state[self.name] = after


def _entries(bank: Tensors) -> list[tuple[str, Tensor, Tensor]]:
    """(modality, ids, values) of a bank, by modality."""
    return [(q, bank[q, "ids"], bank[q, "values"]) for q in sorted({q for q, _ in bank})]


def keep(memory: dict[str, Any], modality: str, ids: np.ndarray, u: Tensor) -> None:
    """Remember projected features (n, d) of some pairs for the upload."""
    memory.setdefault(f"mim.{modality}", []).append((ids.astype(np.int64), wide(u.detach()).cpu()))


def turned(side: int, code: int) -> np.ndarray:
    """(side^2,) int64: which cell of an image is seen where, row by row, after it was turned.

    `code` as in `patches.augment.symmetry`: bit 2 transposes, then bit 0 flips rows, bit 1 columns.
    """
    grid = np.arange(side**2).reshape(side, side)
    grid = grid.T if code & 4 else grid
    return grid[:: -1 if code & 1 else 1, :: -1 if code & 2 else 1].reshape(-1)


def _wanted(client: Client, clients: Sequence[Client]) -> dict[str, np.ndarray]:
    """Per modality of a client: its locations that another client holds in another modality."""
    wanted = {}
    for q in client.modalities:
        others = [
            other.locations
            for other in clients
            if other.id != client.id and q not in other.modalities
        ]
        shared = np.concatenate(others) if others else np.empty(0, np.int64)
        wanted[q] = np.intersect1d(client.train[q], shared)
    return wanted
