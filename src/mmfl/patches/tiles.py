"""Tiles and their masks: images of any size, read whole or by windows on the grid of the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmfl.facts.tasks import IGNORED
from mmfl.patches.labels import Store
from mmfl.patches.reader import Patches, blank, resize, sources


class Tiles:
    """Tiles of one modality as float32 in raw units, NaN in gaps.

    Args:
        patches: the modality's store.
        bands: names, in the order of the channels.
    """

    def __init__(self, patches: Patches, bands: list[str]) -> None:
        self.patches = patches
        self.names = tuple(bands)
        self.channels = len(bands)
        self.sources = sources(patches, bands)

    def tile(self, row: int, shape: tuple[int, int] | None = None) -> Tensor:
        """(C, H, W) of a tile, resized to `shape`; by default that of its finest bands."""
        wanted = shape or self.shape(row)
        return self._read(row, wanted, (0, 0), wanted)

    def window(
        self, row: int, shape: tuple[int, int], corner: tuple[int, int], size: int
    ) -> Tensor:
        """(C, size, size) of a tile on the grid `shape`, at (top, left), all of it inside."""
        return self._read(row, shape, corner, (size, size))

    def shape(self, row: int) -> tuple[int, int]:
        """(H, W) of a tile's finest bands."""
        return max(self.patches.shape(row, source.resolution) for source in self.sources)

    def _read(
        self, row: int, shape: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        out = torch.empty((self.channels, *size))
        rows = slice(corner[0], corner[0] + size[0])
        columns = slice(corner[1], corner[1] + size[1])
        for source in self.sources:
            there = self.patches.shape(row, source.resolution)
            direct = there == shape  # then only the window's lines are read
            lines = rows if direct else slice(None)
            pixels = self.patches.pixels(row, source.resolution, source.channels, lines)
            values = torch.from_numpy(
                pixels[:, :, columns].astype(np.float32) if direct else pixels.astype(np.float32)
            )[None]
            blank(values, source.gaps)
            if not direct:
                values = resize(values, shape)[:, :, rows, columns]
            if len(self.sources) == 1:
                return values[0]
            out[list(source.targets)] = values[0]
        return out


class Masks:
    """Classes of tiles' pixels; `IGNORED` where there is none."""

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.patches = Patches(folder, store)
        self._resolution = int(self.patches.bands[0]["resolution"])

    def rows(self, pairs: np.ndarray) -> np.ndarray:
        """Rows of some pairs; `UserError` for one that has no mask."""
        return self.patches.rows(pairs)

    def check(self, rows: np.ndarray) -> None:
        """See `Patches.check`."""
        self.patches.check(rows, [self._resolution])

    def shape(self, row: int) -> tuple[int, int]:
        """(H, W)."""
        return self.patches.shape(row, self._resolution)

    def tile(self, row: int) -> np.ndarray:
        """(H, W) uint8."""
        return self.patches.pixels(row, self._resolution, [0])[0]

    def window(self, row: int, corner: tuple[int, int], size: int) -> np.ndarray:
        """(size, size) uint8 at (top, left); ignored outside the tile."""
        top, left = corner
        out = np.full((size, size), IGNORED, np.uint8)
        lines = slice(top, top + size)
        part = self.patches.pixels(row, self._resolution, [0], lines)[0, :, left : left + size]
        out[: part.shape[0], : part.shape[1]] = part
        return out
