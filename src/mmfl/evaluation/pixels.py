"""The test bench of pixel-based classification: answers are confusion matrices, one per tile.

Tiles pass through in chunks, so memory does not grow with the archive. What a question leaves of
a tile is a subset of its modalities; every subset is predicted and counted once per ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfl.evaluation.pixel_scores import confusion, pixel_scores
from mmfl.evaluation.protocol import Cut, Mask
from mmfl.evaluation.tiles import Maps, Subset, Tiles, Windows, ensemble_maps
from mmfl.facts.tasks import IGNORED, TASKS
from mmfl.models.ensemble import Ensemble
from mmfl.models.network import Network

UNSEEN = -1
"""Fills the matrix of a tile of which an ensemble sees nothing."""
DIVERGED = -2
"""Fills the matrix of a tile with a probability that is not finite."""


@dataclass
class PixelBench:
    """A `Bench` (protocol.py) for the pixels of tiles.

    Attributes:
        tile: (modality, location) -> standardised (C, H, W) on the device, gaps 0.
        mask: location -> (H, W) uint8 class indices, 255 ignored.
        size, overlap, batch: the windows, see `Windows`.
        room: probabilities kept at a time, at least those of one tile (4 bytes each).
    """

    network: Network
    pairs: np.ndarray
    present: dict[str, np.ndarray]
    class_names: Sequence[str]
    tile: Callable[[str, int], Tensor]
    mask: Callable[[int], np.ndarray]
    size: int
    overlap: float
    batch: int
    room: int = 2**25
    task = TASKS["pixel"]

    def ask(self, ensemble: Ensemble, locations: np.ndarray, masks: list[Mask]) -> list[np.ndarray]:
        """(N, P, P) int64 confusion of each tile for each availability mask.

        `UNSEEN` or `DIVERGED` in full where there is none.
        """
        classes = len(self.class_names)
        answers = [np.full((len(locations), classes, classes), UNSEEN, np.int64) for _ in masks]
        asked = [_subsets(mask, len(locations)) for mask in masks]
        for subsets, rows in _alike([frozenset(kinds) for kinds in zip(*asked, strict=True)]):
            for part, truths in self._chunks(locations, rows, len(subsets)):
                maps = self._maps(ensemble, locations[part], truths, subsets)
                for place, (row, truth) in enumerate(zip(part, truths, strict=True)):
                    counted = {
                        s: _counted(truth, _decided(found[place]), classes)
                        for s, found in maps.items()
                    }
                    for answer, kinds in zip(answers, asked, strict=True):
                        if kinds[row] in counted:
                            answer[row] = counted[kinds[row]]
        return answers

    def seen(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: tiles of which the ensemble saw something."""
        return answer[:, 0, 0] != UNSEEN

    def finite(self, answer: np.ndarray) -> np.ndarray:
        """(N,) bool: tiles whose probabilities are finite."""
        return answer[:, 0, 0] != DIVERGED

    def cut(self, ensemble: Ensemble, validation: np.ndarray) -> Cut | None:
        """Of no meaning here: the class of the highest probability is predicted."""
        return 0.5

    def score(self, locations: np.ndarray, answer: np.ndarray, cut: Cut) -> dict[str, Any]:
        """Scores of all pixels of the tiles together."""
        return pixel_scores(answer.sum(axis=0))

    def class_maps(
        self, ensemble: Ensemble, locations: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(number in `locations`, class map, confusion matrix) of each tile, in any order.

        The class of the highest probability with all of the tile's modalities, (H, W) uint8; 255
        and a matrix of `UNSEEN` or `DIVERGED`, see `ask`, where there is none.
        """
        classes = len(self.class_names)
        held = {q: found[locations] for q, found in self.present.items()}
        kinds = [frozenset([subset]) for subset in _subsets(held, len(locations))]
        for (subset,), rows in _alike(kinds):
            for part, truths in self._chunks(locations, rows, 1):
                maps = self._maps(ensemble, locations[part], truths, [subset])
                for place, (row, truth) in enumerate(zip(part, truths, strict=True)):
                    drawn = np.full(truth.shape, IGNORED, np.uint8)
                    matrix = np.full((classes, classes), UNSEEN, np.int64)
                    if subset in maps:
                        decided = _decided(maps[subset][place])
                        matrix = _counted(truth, decided, classes)
                        drawn = drawn if decided is None else decided
                    yield int(row), drawn, matrix

    def _maps(
        self,
        ensemble: Ensemble,
        locations: np.ndarray,
        truths: Sequence[np.ndarray],
        subsets: Sequence[Subset],
    ) -> Maps:
        tiles = Tiles([t.shape for t in truths], lambda q, i: self.tile(q, int(locations[i])))  # type: ignore[misc]
        windows = Windows(self.size, self.overlap, self.batch)
        return ensemble_maps(self.network, ensemble, tiles, subsets, windows, len(self.class_names))

    def _chunks(
        self, locations: np.ndarray, rows: Sequence[int], maps: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """(rows, their masks) such that `maps` probability maps of each fit into `room`."""
        part: list[int] = []
        truths: list[np.ndarray] = []
        used = 0
        for row in rows:
            truth = self.mask(int(locations[row]))
            needed = truth.size * len(self.class_names) * maps
            if part and used + needed > self.room:
                yield np.array(part), truths
                part, truths, used = [], [], 0
            part.append(row)
            truths.append(truth)
            used += needed
        if part:
            yield np.array(part), truths


def _subsets(mask: Mask, count: int) -> list[Subset]:
    """What a mask leaves of each of `count` locations."""
    return [tuple(q for q in sorted(mask) if mask[q][row]) for row in range(count)]


def _alike(kinds: Sequence[frozenset[Subset]]) -> list[tuple[list[Subset], list[int]]]:
    """Rows grouped by the subsets that are asked of them, in order of appearance."""
    groups: dict[frozenset[Subset], list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    return [(sorted(kind), rows) for kind, rows in groups.items()]


def _decided(probabilities: Tensor) -> np.ndarray | None:
    """(P, H, W) -> (H, W) uint8: the class of the highest probability, the first of equal ones.

    None where a probability is not finite.
    """
    if not torch.isfinite(probabilities).all():
        return None
    return probabilities.argmax(dim=0).to(torch.uint8).cpu().numpy()


def _counted(truth: np.ndarray, decided: np.ndarray | None, classes: int) -> np.ndarray:
    if decided is None:
        return np.full((classes, classes), DIVERGED, np.int64)
    return confusion(truth, decided, classes)
