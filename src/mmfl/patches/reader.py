"""Reading shards: by memory map, only the bands asked for, resized to one square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mmfl.errors import UserError


class Patches:
    """The shards of one modality.

    Attributes:
        index: pair, patch, shard, row and the group columns, sorted by pair.
        bands: name, resolution, size, dtype, mean, std of each band, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.index = pd.read_parquet(self.folder / "index.parquet")
            described = json.loads((self.folder / "modality.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not readable ({error}); run split again") from None
        self.bands: list[dict] = described["bands"]
        self.pairs = self.index["pair"].to_numpy()
        self._shard = self.index["shard"].to_numpy()
        self._row = self.index["row"].to_numpy()
        self._maps: dict[str, np.ndarray] = {}

    def rows(self, pairs: np.ndarray) -> np.ndarray:
        """Rows of some pairs.

        Raises:
            UserError: a pair is not held in this modality.
        """
        found = np.searchsorted(self.pairs, pairs)
        found = np.minimum(found, max(len(self.pairs) - 1, 0))
        wrong = self.pairs[found] != pairs if len(self.pairs) else np.ones(len(pairs), bool)
        if wrong.any():
            raise UserError(
                f"{self.folder}: has no patch of the pair {np.asarray(pairs)[wrong][0]}; "
                "run split and partition again"
            )
        return found

    def read(self, rows: np.ndarray, resolution: int, channels: list[int]) -> np.ndarray:
        """(N, len(channels), H, W) in the native type, of the bands of one resolution."""
        out = None
        for shard in np.unique(self._shard[rows]):
            chosen = np.flatnonzero(self._shard[rows] == shard)
            source = self._map(f"{resolution}m-{shard:05d}.npy")
            if out is None:
                shape = (len(rows), len(channels), *source.shape[2:])
                out = np.empty(shape, source.dtype)
            inside = self._row[rows[chosen]]
            for position, channel in enumerate(channels):
                out[chosen, position] = source[inside, channel]
        assert out is not None
        return out

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            path = self.folder / name
            try:
                self._maps[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                text = str(error).splitlines()[0]
                raise UserError(
                    f"{path}: damaged shard ({text}); delete it, run split again"
                ) from None
        return self._maps[name]


class Images:
    """Batches of some bands of a modality as float32 squares in raw units.

    A row's pixels do not depend on the batch that it is in. Bands of another size are resized
    bilinearly (with antialiasing when they shrink).
    """

    def __init__(self, patches: Patches, bands: list[str], size: int, limit_bytes: int = 2 << 30):
        self.patches = patches
        self.size = size
        self.limit_bytes = limit_bytes
        known = {band["name"]: band for band in patches.bands}
        for name in bands:
            if name not in known:
                raise UserError(
                    f"train.bands: {name} is not in {patches.folder}: {', '.join(known)}"
                )
        self._plan: dict[int, tuple[list[int], list[int]]] = {}
        for target, name in enumerate(bands):
            resolution = known[name]["resolution"]
            same = [b["name"] for b in patches.bands if b["resolution"] == resolution]
            channels, targets = self._plan.setdefault(resolution, ([], []))
            channels.append(same.index(name))
            targets.append(target)
        self.names = tuple(bands)
        self.channels = len(bands)
        self._kept: Tensor | None = None
        self._place: np.ndarray | None = None

    def batch(self, rows: np.ndarray) -> Tensor:
        """(N, C, size, size) float32."""
        if self._kept is not None and self._place is not None:
            place = self._place[rows]
            if (place >= 0).all():
                return self._kept[torch.from_numpy(place)]
        return self._decode(rows)

    def preload(self, rows: np.ndarray, chunk: int = 256) -> None:
        """Keep some rows in memory, resized, if they fit into `limit_bytes`."""
        if len(rows) * self.channels * self.size**2 * 4 > self.limit_bytes:
            return
        rows = np.unique(rows)
        kept = torch.empty((len(rows), self.channels, self.size, self.size))
        for start in range(0, len(rows), chunk):
            kept[start : start + chunk] = self._decode(rows[start : start + chunk])
        self._place = np.full(len(self.patches.pairs), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._kept = kept

    def _decode(self, rows: np.ndarray) -> Tensor:
        out = torch.empty((len(rows), self.channels, self.size, self.size))
        for resolution, (channels, targets) in self._plan.items():
            raw = self.patches.read(rows, resolution, channels)
            native = torch.from_numpy(raw.astype(np.float32))
            if native.shape[-1] != self.size:
                native = F.interpolate(
                    native, size=(self.size, self.size), mode="bilinear", antialias=True
                )
            out[:, targets] = native
        return out
