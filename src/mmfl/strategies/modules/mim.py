"""MIM, mutual information maximisation between the modalities of a location.

The loss is NT-Xent between projected features of the same pair (docs/method.md, section 4). How
a client with one modality gets the other's features is not published; here `feature_bank`:
clients that hold the same pair in different modalities upload {pair: v}, and the counterpart
treats v as a constant. Ids and embeddings leave a client: this is no privacy guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmfl.models.losses import ntxent, wide
from mmfl.strategies.base import Client, Context, Module, Server, Tensors


class Mim(Module):
    """lambda * L_MIM on the pairs of a batch whose other modality is known.

    `harvest`: v is kept from the last local epoch and used in the next round, so round 1 has no
    MIM term. `fresh`: an extra forward pass before the round. A client that holds several
    modalities needs no exchange for its own pairs. State, per modality: `ids` (n,) int64, sorted,
    and `values` (n, d).
    """

    name = "mim"

    def __init__(
        self,
        *,
        weight: float,
        temperature: float,
        negatives: Literal["all", "cross"],
        bank: Literal["harvest", "fresh"],
    ) -> None:
        self.weight = weight
        self.temperature = temperature
        self.negatives = negatives
        self.bank = bank
        self.wanted: dict[str, dict[str, np.ndarray]] = {}

    def bind(self, clients: Sequence[Client]) -> None:
        self.wanted = {client.id: _wanted(client, clients) for client in clients}

    def fresh(self, client: Client) -> bool:
        return self.bank == "fresh" and any(len(ids) for ids in self.wanted[client.id].values())

    def broadcast(self, server: Server, client: Client) -> Tensors:
        """The bank's entries of the client's own pairs, in the modalities that it lacks."""
        sent: Tensors = {}
        for q, ids, values in _entries(server.state.get(self.name, {})):
            held = torch.from_numpy(np.isin(ids.numpy(), client.locations))
            if q not in client.modalities and held.any():
                sent |= {(q, "ids"): ids[held], (q, "values"): values[held]}
        return sent

    def loss(self, context: Context) -> Tensor | None:
        batch = context.batch
        assert batch is not None
        projected = {q: context.network.project(q, z) for q, z in batch.features.items()}
        if self.bank == "harvest" and context.last_epoch:
            for q, u in projected.items():
                keep(context.memory, q, batch.locations[batch.present[q]], u)
        terms = []
        for q, u in projected.items():
            for other in self._others(context, q):
                pair = self._pair(context, q, other, u, projected)
                if pair is not None:
                    terms.append(ntxent(*pair, self.temperature, self.negatives))
        if not terms:
            return None
        return self.weight * torch.stack(terms).mean()

    def _others(self, context: Context, modality: str) -> list[str]:
        banked = {q for q, _ in context.broadcast.extras.get(self.name, {})}
        own = {q for q in context.client.modalities if q > modality}  # each own pair once
        return sorted((banked | own) - {modality})

    def _pair(
        self, context: Context, q: str, other: str, u: Tensor, projected: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Rows of u and v of the locations that have both; None where there is none."""
        batch = context.batch
        assert batch is not None
        here = batch.locations[batch.present[q]]
        if other in context.client.modalities:
            if other not in projected:
                return None
            there = batch.locations[batch.present[other]]
            v = projected[other]
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
            order = order[np.isin(ids[order], wanted)]
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


def keep(memory: dict[str, Any], modality: str, locations: np.ndarray, u: Tensor) -> None:
    """Remember projected features (B, d) of some locations for the upload."""
    memory.setdefault(f"mim.{modality}", []).append(
        (locations.astype(np.int64), wide(u.detach()).cpu())
    )


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
