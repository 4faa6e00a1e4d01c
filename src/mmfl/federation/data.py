"""What the clients and the test bench see: locations, labels, images, normalisation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmfl.errors import UserError
from mmfl.facts.bands import stored
from mmfl.patches.augment import Turned
from mmfl.patches.labels import LABELS, Store, read_classes, read_labels
from mmfl.patches.normalisation import moments, origins, pool
from mmfl.patches.reader import Images, Patches
from mmfl.strategies.base import Client

log = logging.getLogger(__name__)
COUNTED = 64  # samples whose values are counted at a time
Statistics = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
"""modality -> "all" or a client's id -> (mean, std), each (bands,) float64."""


@dataclass(frozen=True)
class Buffers:
    """Tensors that a batch is read into: native pixels by source, or float32 images.

    The latter twice where images are turned.
    """

    native: bool
    tensors: list[Tensor]


class Data:
    """The locations of a partition with their labels and images.

    A location is a row of the label table. `labels` is (L, P) uint8, `present[q]` (L,) bool says
    whether the archive holds modality q there. What a client trains on are samples, numbered; here
    a sample is a location, in `TileData` (federation/tiles.py) it is a window of one.
    """

    task = "multilabel"

    def __init__(
        self, patches: Path, manifest: pd.DataFrame, bands: dict[str, list[str]], size: int
    ) -> None:
        self.store = Store(patches)
        self.table, self.classes = read_labels(patches / LABELS, self.store)
        _fits(manifest, self.table, patches)
        held = self.table["pair"].isin(set(manifest["pair"]))
        self.table = self.table[held].reset_index(drop=True)
        self.colours: list[str] | None = read_classes(patches / LABELS, self.store)["colours"]
        self.pairs = self.table["pair"].to_numpy()
        self.labels = np.zeros((len(self.table), len(self.classes)), np.uint8)
        for row, indices in enumerate(self.table["labels"]):
            self.labels[row, indices] = 1
        self._place = pd.Series(np.arange(len(self.table)), index=self.pairs)
        self.size = size
        self.bands = {q: tuple(names) for q, names in sorted(bands.items())}
        self._row: dict[str, np.ndarray] = {}
        self.present: dict[str, np.ndarray] = {}
        self.stores = {q: Patches(patches / stored(q), self.store) for q in self.bands}
        manifest = manifest[manifest["modality"].isin(list(self.bands))]
        for q, store in self.stores.items():
            store.rows(manifest["pair"][manifest["modality"] == q].to_numpy())  # all are there
            there = np.isin(self.pairs, store.pairs)
            self._row[q] = np.full(len(self.table), -1, np.int64)
            self._row[q][there] = store.rows(self.pairs[there])
            self.present[q] = there
        self._open(patches)
        for q, images in self.images.items():
            resolutions = [source.resolution for source in images.sources]
            self.stores[q].check(self._row[q][self.present[q]], resolutions)
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

    def _open(self, patches: Path) -> None:
        """Make `images`, with which the bands of each modality are read."""
        self.images: dict[str, Any] = {
            q: Images(self.stores[q], list(names), self.size) for q, names in self.bands.items()
        }

    def samples(self, locations: np.ndarray) -> np.ndarray:
        """The samples of some locations, ascending."""
        return locations

    def of(self, patches: str) -> None:
        """`UserError` unless these are the patches of a digest (`Store.sha256`)."""
        if self.store.sha256 != patches:
            raise UserError(
                f"{self.store.folder}: found other patches than before (digest "
                f"{self.store.sha256[:12]}, expected {patches[:12]}); run the step before again"
            )

    def unchanged(self) -> None:
        """To be called before anything is kept that was made from the images.

        Raises:
            UserError: a file that was used has changed since; what was made is worth nothing.
        """
        self.store.watch.unchanged()

    def gapped(self, q: str) -> bool:
        """Whether images of a modality may have gaps, NaN."""
        return self.stores[q].gapped

    def _clients(self, manifest: pd.DataFrame) -> list[Client]:
        clients = []
        training = manifest[manifest["split"] == "train"]
        for (client, group), part in training.groupby(["client", "group"], sort=True):
            train = {
                str(q): self.samples(np.sort(self._place[rows["pair"].to_numpy()].to_numpy()))
                for q, rows in part.groupby("modality", sort=True)
            }
            train = {q: samples for q, samples in train.items() if len(samples)}
            if train:
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

        global: a federated count, sum and sum of squares over the clients' training samples as
        they are fed to the network, resized and cut into windows, before they are turned;
        archive: the published values; client: each client's own, beside the pooled ones.

        Raises:
            UserError: none is published; a band holds nothing but gaps.
        """
        found: Statistics = {}
        for q in self.bands:
            if normalisation == "archive":
                found[q] = {"all": self._published(q)}
                continue
            origin = origins(self.stores[q], self.bands[q])
            own = {
                c.id: moments(self._fed(q, c.train[q]), origin)
                for c in self.clients
                if q in c.train
            }
            pooled = pool(list(own.values()))
            if not pooled.count.all():
                name = self.bands[q][int(np.argmin(pooled.count))]
                raise UserError(
                    f"train.bands.{q}: {name}: found nothing but gaps in the training images, "
                    "expected pixels; drop the band or correct the archive's nodata"
                )
            if pooled.constant.any():
                text = "train.bands.%s: %s has one value in all training images and says nothing"
                log.warning(text, q, self.bands[q][int(pooled.constant.argmax())])
            std = np.where(pooled.constant, 1, pooled.std)  # as scikit-learn's StandardScaler
            found[q] = {"all": (pooled.mean, std)}
            if normalisation == "client":
                found[q] |= {
                    client: (np.where(m.constant, pooled.mean, m.mean),
                             np.where(m.constant, std, m.std))
                    for client, m in own.items()
                }  # fmt: skip
        return found

    def _fed(self, q: str, samples: np.ndarray) -> Iterator[Tensor]:
        """Some samples as they are fed to the network, a few at a time."""
        for start in range(0, len(samples), COUNTED):
            yield self.batch(q, samples[start : start + COUNTED])

    def _published(self, q: str) -> tuple[np.ndarray, np.ndarray]:
        known = {band["name"]: band for band in self.stores[q].bands}
        for name in self.bands[q]:
            if known[name]["mean"] is None or known[name]["std"] is None:
                raise UserError(
                    f"train.normalisation: found archive, but none is published for {q} {name}; "
                    "use global or client"
                )
        values = [[known[name][key] for name in self.bands[q]] for key in ("mean", "std")]
        return np.array(values[0], np.float64), np.array(values[1], np.float64)

    def batch(
        self,
        q: str,
        samples: np.ndarray,
        turned: Turned | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """(N, C, size, size) float32 in raw units, NaN in gaps; `turned` augments.

        `out` is filled (before it is turned), if given.
        """
        x = self.images[q].batch(self._row[q][samples], out)
        return x if turned is None else turned.apply(x, self.names(samples))

    def shards(self, client: Client, samples: np.ndarray) -> np.ndarray:
        """(N,) int64: the shard of each sample, of the first modality that the client has of it."""
        places = self.places(samples)
        found = np.zeros(len(samples), np.int64)
        for q in reversed(client.modalities):
            rows = self._row[q][places]
            there = np.isin(samples, client.train[q])
            found[there] = self.stores[q].shards(rows[there])
        return found

    def places(self, samples: np.ndarray) -> np.ndarray:
        """(N,) the location of each sample."""
        return samples

    @property
    def in_memory(self) -> bool:
        """Whether reading a batch is a copy within memory."""
        return all(images.kept for images in self.images.values())

    def buffers(self, q: str, count: int, device: torch.device, augment: bool) -> Buffers:
        """What `fill` reads up to `count` samples into, on their way to a device."""
        cuda = device.type == "cuda"
        native = self._native(q, count) if cuda else None
        if native is not None:
            return Buffers(True, native)
        shape = (count, self.images[q].channels, self.size, self.size)
        count = 2 if augment else 1
        return Buffers(False, [torch.empty(shape, pin_memory=cuda) for _ in range(count)])

    def _native(self, q: str, count: int) -> list[Tensor] | None:
        """Buffers of the shards' native pixels, where a device can complete them."""
        images = self.images[q]
        return None if images.kept else images.buffers(count, pinned=True)

    def fill(
        self, q: str, samples: np.ndarray, buffers: Buffers, turned: Turned | None
    ) -> list[Tensor]:
        """Read samples into buffers on the CPU; the used parts."""
        if buffers.native:
            return list(self.images[q].native(self._row[q][samples], buffers.tensors))
        parts = [tensor[: len(samples)] for tensor in buffers.tensors]
        x = self.batch(q, samples, out=parts[0])
        return [x if turned is None else turned.apply(x, self.names(samples), out=parts[1])]

    def finish(
        self,
        q: str,
        samples: np.ndarray,
        buffers: Buffers,
        parts: list[Tensor],
        turned: Turned | None,
    ) -> Tensor:
        """What `batch` gives, from the parts that `fill` read, on their device."""
        if not buffers.native:
            return parts[0]
        x: Tensor = self.images[q].assemble(parts)
        return x if turned is None else turned.apply(x, self.names(samples))

    def names(self, samples: np.ndarray) -> np.ndarray:
        """The samples' names, which key their augmentation."""
        return self.pairs[samples]

    def frequencies(self, samples: np.ndarray) -> np.ndarray:
        """(P,) share of some samples that have each class."""
        return self.labels[samples].mean(axis=0)


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
                by_group = {c.group: c.id for c in data.clients if c.id in entries}
                for location, group in groups.items():
                    if group in by_group:
                        owner[location] = self._names[q].index(by_group[group])
            self._owner[q] = owner
        self._gapped = {q for q in statistics if data.gapped(q)}

    def client(self, q: str, x: Tensor, client: str) -> Tensor:
        """Standardise a training batch (N, C, H, W) of a client, in place."""
        names = self._names[q]
        return self._apply(q, x, np.full(len(x), names.index(client) if client in names else 0))

    def locations(self, q: str, x: Tensor, locations: np.ndarray) -> Tensor:
        """Standardise by the client of each location's group, else pooled statistics; in place."""
        return self._apply(q, x, self._owner[q][locations])

    def without_client(self, q: str, locations: np.ndarray) -> int:
        """How many of the locations fall back on the pooled statistics (client normalisation)."""
        return int((self._owner[q][locations] == 0).sum()) if len(self._names[q]) > 1 else 0

    def _apply(self, q: str, x: Tensor, rows: np.ndarray) -> Tensor:
        mean, std = self._tables[q]
        index = torch.from_numpy(np.ascontiguousarray(rows))
        mean = mean[index][:, :, None, None].to(x.device)
        std = std[index][:, :, None, None].to(x.device)
        x = x.sub_(mean).div_(std)
        return x.nan_to_num_(nan=0.0) if q in self._gapped else x


def _fits(manifest: pd.DataFrame, table: pd.DataFrame, patches: Path) -> None:
    """A partition has to be of these patches: its locations are there, in the same splits."""
    split = manifest["pair"].map(table.set_index("pair")["split"])
    wrong = (split != manifest["split"]).to_numpy(bool)
    if wrong.any():
        pair, expected = manifest[["pair", "split"]].iloc[int(wrong.argmax())]
        found = split.iloc[int(wrong.argmax())]
        there = "no such location" if pd.isna(found) else f"{found}"
        raise UserError(
            f"{patches / LABELS}: found {there} where the partition has {pair} in {expected}: it "
            "is of other patches; run partition again"
        )


def _groups(data: Data) -> dict[int, str]:
    """location -> group, from the manifest."""
    found: dict[int, str] = {}
    for part in data.held.values():
        found.update(zip(part["location"].tolist(), part["group"].tolist(), strict=True))
    return found
