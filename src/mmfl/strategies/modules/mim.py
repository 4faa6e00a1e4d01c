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

from mmfl.models.losses import ntxent
from mmfl.strategies.base import Broadcast, Client, Context, Module, Server


class Mim(Module):
    """lambda * L_MIM on the pairs of a batch whose other modality is known.

    `harvest`: v is kept from the last local epoch and used in the next round, so round 1 has no
    MIM term. `fresh`: an extra forward pass before the round. A client that holds both
    modalities needs no exchange. State: `mim.<modality>.ids` (n,) int64, `.values` (n, d).
    """

    name = "mim"

    def __init__(
        self,
        clients: Sequence[Client],
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
        self.wanted = {client.id: _wanted(client, clients) for client in clients}

    def fresh(self, client: Client) -> bool:
        return self.bank == "fresh" and any(len(ids) for ids in self.wanted[client.id].values())

    def broadcast(self, server: Server, client: Client) -> dict[str, Tensor]:
        """The bank's entries of the client's own pairs, in the modalities that it lacks."""
        extras = {}
        for name, ids in server.state.items():
            if not (name.startswith("mim.") and name.endswith(".ids")):
                continue
            modality = name.split(".")[1]
            if modality in client.modalities:
                continue
            held = torch.from_numpy(np.isin(ids.numpy(), client.locations))
            if held.any():
                extras[f"mim.{modality}.ids"] = ids[held]
                extras[f"mim.{modality}.values"] = server.state[f"mim.{modality}.values"][held]
        return extras

    def loss(self, context: Context) -> Tensor | None:
        projected = {
            q: context.network.project(q, features) for q, features in context.features.items()
        }
        if self.bank == "harvest" and context.last_epoch:
            for q, u in projected.items():
                keep(context.memory, q, context.locations[context.present[q]], u)
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
        banked = {
            name.split(".")[1] for name in context.broadcast.extras if name.startswith("mim.")
        }
        own = {q for q in context.client.modalities if q > modality}  # each own pair once
        return sorted((banked | own) - {modality})

    def _pair(
        self, context: Context, q: str, other: str, u: Tensor, projected: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Rows of u and v of the locations that have both; None where there is none."""
        here = context.locations[context.present[q]]
        if other in context.client.modalities:
            if other not in projected:
                return None
            there = context.locations[context.present[other]]
            v = projected[other]
        else:
            there = context.broadcast.extras[f"mim.{other}.ids"].numpy()
            v = context.broadcast.extras[f"mim.{other}.values"].to(u.device)
        _, left, right = np.intersect1d(here, there, assume_unique=True, return_indices=True)
        if not len(left):
            return None
        return u[torch.from_numpy(left).to(u.device)], v[torch.from_numpy(right).to(u.device)]

    def finish(
        self, client: Client, broadcast: Broadcast, memory: dict[str, Any]
    ) -> dict[str, Tensor]:
        """What goes up: the features of those pairs that another client can use."""
        extras = {}
        for q in client.modalities:
            kept = memory.get(f"mim.{q}")
            wanted = self.wanted[client.id][q]
            if not kept or not len(wanted):
                continue
            ids = np.concatenate([ids for ids, _ in kept])
            values = torch.cat([values for _, values in kept])
            order = np.argsort(ids, kind="stable")
            order = order[np.isin(ids[order], wanted)]
            extras[f"mim.{q}.ids"] = torch.from_numpy(ids[order])
            extras[f"mim.{q}.values"] = values[torch.from_numpy(order)]
        return extras

    def receive(self, server: Server, extras: dict[str, dict[str, Tensor]]) -> None:
        """Merge uploads into the bank; clients in order of id, a later one replaces an earlier."""
        modalities = sorted(
            {n.split(".")[1] for up in extras.values() for n in up if n[:4] == "mim."}
        )
        for q in modalities:
            parts = [extras[c] for c in sorted(extras) if f"mim.{q}.ids" in extras[c]]
            if f"mim.{q}.ids" in server.state:
                parts.insert(0, server.state)
            ids = torch.cat([part[f"mim.{q}.ids"] for part in parts]).numpy()[::-1]
            values = torch.cat([part[f"mim.{q}.values"] for part in parts]).flip(0)
            unique, first = np.unique(ids, return_index=True)
            server.state[f"mim.{q}.ids"] = torch.from_numpy(unique)
            server.state[f"mim.{q}.values"] = values[torch.from_numpy(first)]


def keep(memory: dict[str, Any], modality: str, locations: np.ndarray, u: Tensor) -> None:
    """Remember projected features (B, d) of some locations for the upload."""
    memory.setdefault(f"mim.{modality}", []).append(
        (locations.astype(np.int64), u.detach().float().cpu())
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
