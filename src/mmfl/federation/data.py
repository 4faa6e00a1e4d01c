"""What the clients and the test bench see: locations, labels, images, normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmfl.errors import UserError
from mmfl.params import stored
from mmfl.patches.augment import augment
from mmfl.patches.labels import read_labels
from mmfl.patches.normalisation import moments, pool
from mmfl.patches.reader import Images, Patches
from mmfl.strategies.base import Client

Statistics = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
"""modality -> "all" or a client's id -> (mean, std), each (bands,) float64."""


class Data:
    """The locations of a partition with their labels and images.

    A location is a row of the label table. `labels` is (L, P) uint8, `present[q]` (L,) bool says
    whether the archive holds modality q there.
    """

    def __init__(
        self, patches: Path, manifest: pd.DataFrame, bands: dict[str, list[str]], size: int
    ) -> None:
        table, self.classes = read_labels(patches / "labels")
        table = table[table["pair"].isin(set(manifest["pair"]))].reset_index(drop=True)
        self.pairs = table["pair"].to_numpy()
        self.labels = np.zeros((len(table), len(self.classes)), np.uint8)
        for row, indices in enumerate(table["labels"]):
            self.labels[row, indices] = 1
        self._place = pd.Series(np.arange(len(table)), index=self.pairs)
        self.bands = {q: tuple(names) for q, names in sorted(bands.items())}
        self.images: dict[str, Images] = {}
        self._row: dict[str, np.ndarray] = {}
        self.present: dict[str, np.ndarray] = {}
        self.archive_statistics: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for q, names in self.bands.items():
            store = Patches(patches / stored(q))
            held = np.isin(self.pairs, store.pairs)
            self._row[q] = np.full(len(table), -1, np.int64)
            self._row[q][held] = store.rows(self.pairs[held])
            self.present[q] = held
            self.images[q] = Images(store, list(names), size)
            published = {band["name"]: band for band in store.bands}
            self.archive_statistics[q] = (
                np.array([published[name]["mean"] for name in names], np.float64),
                np.array([published[name]["std"] for name in names], np.float64),
            )
        manifest = manifest[manifest["modality"].isin(list(self.bands))]
        self.clients = self._clients(manifest)
        for q in self.bands:
            if not any(q in client.modalities for client in self.clients):
                raise UserError(
                    f"train.bands: {q}: found no client that holds training patches in it, "
                    "expected one; drop it, or use another partition.assignment or more groups"
                )
        self.held = self._held(manifest)
        self.splits = {
            split: np.unique(self._place[part["pair"].to_numpy()].to_numpy())
            for split, part in manifest.groupby("split")
        }

    def _clients(self, manifest: pd.DataFrame) -> list[Client]:
        clients = []
        training = manifest[manifest["split"] == "train"]
        for (client, group), part in training.groupby(["client", "group"], sort=True):
            train = {
                str(q): np.sort(self._place[rows["pair"].to_numpy()].to_numpy())
                for q, rows in part.groupby("modality", sort=True)
            }
            clients.append(Client(str(client), str(group), tuple(train), train))
        if not clients:
            raise UserError(
                "partition: found no client with training patches in the modalities of "
                "train.bands, expected at least one; check partition.countries and .months"
            )
        return clients

    def _held(self, manifest: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """modality -> locations with columns client, split: who holds a location in it."""
        held = {}
        for q, part in manifest.groupby("modality", sort=True):
            place = self._place[part["pair"].to_numpy()].to_numpy()
            held[str(q)] = pd.DataFrame(
                {
                    "location": place,
                    "client": part["client"].to_numpy(),
                    "group": part["group"].to_numpy(),
                    "split": part["split"].to_numpy(),
                }
            )
        return held

    def preload(self) -> None:
        """Keep all images of the partition resized in memory where they fit."""
        for q, images in self.images.items():
            images.preload(self._row[q][self.present[q]])

    def statistics(self, normalisation: str) -> Statistics:
        """Mean and std for standardising inputs.

        global: a federated count, sum and sum of squares over the clients' training patches;
        archive: the published values; client: each client's own, beside the pooled ones.
        """
        found: Statistics = {}
        for q in self.bands:
            if normalisation == "archive":
                found[q] = {"all": self.archive_statistics[q]}
                continue
            own = {
                c.id: moments(self.images[q], self._row[q][c.train[q]])
                for c in self.clients
                if q in c.train
            }
            pooled = pool(list(own.values()))
            found[q] = {"all": (pooled.mean, pooled.std)}
            if normalisation == "client":
                found[q] |= {client: (m.mean, m.std) for client, m in own.items()}
        return found

    def batch(self, q: str, locations: np.ndarray, flips: tuple[int, int] | None = None) -> Tensor:
        """(N, C, size, size) float32 in raw units; `flips` = (seed, epoch) augments."""
        x = self.images[q].batch(self._row[q][locations])
        if flips is not None:
            x = augment(x, self.pairs[locations], seed=flips[0], epoch=flips[1])
        return x


class Normaliser:
    """Standardises images, with one (mean, std) per modality or per client that holds them."""

    def __init__(self, statistics: Statistics, data: Data) -> None:
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}
        self._owner: dict[str, np.ndarray] = {}
        self._names: dict[str, list[str]] = {}
        groups = _groups(data)
        for q, entries in statistics.items():
            self._names[q] = list(entries)
            mean = torch.tensor(np.stack([m for m, _ in entries.values()]), dtype=torch.float32)
            std = torch.tensor(np.stack([s for _, s in entries.values()]), dtype=torch.float32)
            self._tables[q] = (mean, std.clamp_min(1e-6))
            owner = np.zeros(len(data.pairs), np.int64)
            if len(entries) > 1:
                by_group = {
                    c.group: c.id for c in data.clients if q in c.modalities and c.id in entries
                }
                for location, group in groups.items():
                    if group in by_group:
                        owner[location] = self._names[q].index(by_group[group])
            self._owner[q] = owner

    def client(self, q: str, x: Tensor, client: str) -> Tensor:
        """Standardise a training batch (N, C, H, W) of a client."""
        names = self._names[q]
        return self._apply(q, x, np.full(len(x), names.index(client) if client in names else 0))

    def locations(self, q: str, x: Tensor, locations: np.ndarray) -> Tensor:
        """Standardise by the client of each location's group, else by the pooled statistics."""
        return self._apply(q, x, self._owner[q][locations])

    def without_client(self, q: str, locations: np.ndarray) -> int:
        """How many of the locations fall back on the pooled statistics (client normalisation)."""
        return int((self._owner[q][locations] == 0).sum()) if len(self._names[q]) > 1 else 0

    def _apply(self, q: str, x: Tensor, rows: np.ndarray) -> Tensor:
        mean, std = self._tables[q]
        index = torch.from_numpy(np.ascontiguousarray(rows))
        mean = mean[index][:, :, None, None].to(x.device)
        std = std[index][:, :, None, None].to(x.device)
        return (x - mean) / std


def _groups(data: Data) -> dict[int, str]:
    """location -> group, from the manifest."""
    found: dict[int, str] = {}
    for part in data.held.values():
        found.update(zip(part["location"].tolist(), part["group"].tolist(), strict=True))
    return found
