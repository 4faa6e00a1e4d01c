"""Tiles as clients and test bench see them: samples are windows, labels are masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from affine import Affine
from torch import Tensor

from mmfl.evaluation.windows import padded
from mmfl.facts.tasks import IGNORED, MASK
from mmfl.federation.data import Data
from mmfl.patches.augment import Turned
from mmfl.patches.labels import LABELS, read_classes
from mmfl.patches.tiles import Masks, Tiles

LIMIT = 2 << 30  # bytes of resized tiles that are kept in memory, per modality


class TileData(Data):
    """The tiles of a partition with their masks and images.

    A location is a tile of any size (H, W). A sample is one of its windows of `size` pixels: they
    stand at equal steps so that all of the tile is covered, overlapping where they have to; a tile
    that is smaller is mirrored at its edges, where no pixel has a class. A window has the same
    number in every modality and round, so that what is known of it in one modality belongs to it
    in the other. Nobody trains on a window in which no pixel has a class.
    """

    task = "pixel"

    def _open(self, patches: Path) -> None:
        self.images = {q: Tiles(self.stores[q], list(names)) for q, names in self.bands.items()}
        self.masks = Masks(patches / MASK, self.store)
        self._mask_row = self.masks.rows(self.pairs)
        self.masks.check(self._mask_row)
        shapes = self.table[["height", "width"]].to_numpy(np.int64)
        corners = [grid((int(h), int(w)), self.size) for h, w in shapes]
        counts = np.array([len(found) for found in corners], np.int64)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._tile = np.repeat(np.arange(len(corners)), counts)
        self._corner = np.concatenate([*corners, np.empty((0, 2), np.int64)]).astype(np.int64)
        self._useful: dict[int, np.ndarray] = {}
        self._kept: dict[tuple[str, int], Tensor] = {}

    def samples(self, locations: np.ndarray) -> np.ndarray:
        """The windows of some tiles that have a pixel with a class, ascending."""
        parts = [self._labelled(int(location)) for location in locations]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)

    def _labelled(self, location: int) -> np.ndarray:
        if location not in self._useful:
            known = self.mask(location) != IGNORED
            own = np.arange(self._first[location], self._first[location + 1])
            self._useful[location] = own[
                [
                    known[top : top + self.size, left : left + self.size].any()
                    for top, left in self._corner[own]
                ]
            ]
        return self._useful[location]

    def preload(self) -> None:
        """Keep the tiles of other pixels than their masks' in memory, resized, if they fit.

        Windows of all others are read from their shards.
        """
        for q, images in self.images.items():
            rows = {
                i: self.shape(i)
                for i in np.flatnonzero(self.present[q]).tolist()
                if images.shape(self._row[q][i]) != self.shape(i)
            }
            size = sum(4 * images.channels * h * w for h, w in rows.values())
            if size <= LIMIT:
                self._kept |= {(q, i): self.tile(q, i) for i in rows}

    def shape(self, location: int) -> tuple[int, int]:
        """(H, W) of a tile."""
        return self.masks.shape(self._mask_row[location])

    def tile(self, q: str, location: int) -> Tensor:
        """(C, H, W) float32 in raw units on the grid of the tile's mask, NaN in gaps."""
        if (q, location) in self._kept:
            return self._kept[q, location].clone()
        return self.images[q].tile(self._row[q][location], self.shape(location))

    def mask(self, location: int) -> np.ndarray:
        """(H, W) uint8 class indices, `IGNORED` where a pixel has none."""
        return self.masks.tile(self._mask_row[location])

    def georeference(self, location: int) -> tuple[str, Affine] | None:
        """The tile's reference system and transform, or None."""
        crs, transform = (self.table[name].iloc[location] for name in ("crs", "transform"))
        return None if crs is None or transform is None else (str(crs), Affine(*transform))

    def places(self, samples: np.ndarray) -> np.ndarray:
        """See `Data.places`."""
        return self._tile[samples]

    @property
    def in_memory(self) -> bool:
        """See `Data.in_memory`: windows of few tiles stay in the system's memory."""
        channels = sum(images.channels for images in self.images.values())
        return len(self._tile) * channels * self.size**2 * 4 <= LIMIT

    def _native(self, q: str, count: int) -> None:
        return None

    def batch(
        self,
        q: str,
        samples: np.ndarray,
        turned: Turned | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Data.batch`."""
        channels = self.images[q].channels
        x = torch.empty((len(samples), channels, self.size, self.size)) if out is None else out
        for target, sample in zip(x, samples.tolist(), strict=True):
            tile, (top, left) = self._tile[sample], self._corner[sample].tolist()
            shape = self.shape(tile)
            whole = self._kept.get((q, int(tile)))
            if min(shape) < self.size or whole is not None:
                whole = padded(self.tile(q, tile) if whole is None else whole, self.size)
                target[:] = whole[:, top : top + self.size, left : left + self.size]
            else:
                row = self._row[q][tile]
                target[:] = self.images[q].window(row, shape, (top, left), self.size)
        return x if turned is None else turned.apply(x, self.names(samples))

    def targets(self, samples: np.ndarray, turned: Turned | None = None) -> Tensor:
        """(N, size, size) uint8 class indices of windows, turned like their images."""
        y = np.empty((len(samples), 1, self.size, self.size), np.uint8)
        for target, sample in zip(y, samples.tolist(), strict=True):
            top, left = self._corner[sample].tolist()
            row = self._mask_row[self._tile[sample]]
            target[0] = self.masks.window(row, (top, left), self.size)
        found = torch.from_numpy(y)
        return (found if turned is None else turned.apply(found, self.names(samples)))[:, 0]

    def names(self, samples: np.ndarray) -> np.ndarray:
        """`<pair>#<number of the window in its tile>`."""
        tiles = self._tile[samples]
        number = samples - self._first[tiles]
        names = [f"{pair}#{n}" for pair, n in zip(self.pairs[tiles], number, strict=True)]
        return np.array(names, dtype=object)

    def frequencies(self, samples: np.ndarray) -> np.ndarray:
        """(P,) share of each class among the pixels of the windows' tiles that have one."""
        counts = np.zeros(IGNORED + 1, np.int64)
        for tile in np.unique(self._tile[samples]):
            counts += np.bincount(self.mask(tile).ravel(), minlength=IGNORED + 1)
        known = counts[: len(self.classes)]
        return known / max(known.sum(), 1)


def open_data(
    patches: Path, manifest: pd.DataFrame, bands: dict[str, list[str]], size: int
) -> Data:
    """The data of a partition, by the task of its archive."""
    task = read_classes(patches / LABELS)["task"]
    return (TileData if task == TileData.task else Data)(patches, manifest, bands, size)


def grid(shape: tuple[int, int], size: int) -> np.ndarray:
    """(N, 2) int64: top and left of the windows that cover (H, W), as few as can be."""
    axes = []
    for length in shape:
        count = max(1, -(-length // size))
        axes.append(np.rint(np.linspace(0, max(length - size, 0), count)).astype(np.int64))
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
