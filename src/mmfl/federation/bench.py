"""The test bench of a task, over the locations that the data hold."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmfl.evaluation.labels import LabelBench
from mmfl.evaluation.pixels import PixelBench
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.tiles import TileData
from mmfl.models.network import Network
from mmfl.params import Params

PIXELS = 1 << 20  # of the windows that pass through the network at a time, at most


def build_bench(
    network: Network,
    data: Data,
    normaliser: Normaliser,
    params: Params,
    device: torch.device,
    overlap: float = 0.0,
) -> LabelBench | PixelBench:
    """What validation in training and the evaluate step ask; images are standardised on `device`.

    The network is scratch space: experts are loaded into it. `overlap` of a tile's windows: none in
    training, so that nothing of the evaluation decides which round is the best.
    """
    places = (network, data.pairs)

    def inputs(q: str, locations: np.ndarray) -> Tensor:
        return normaliser.locations(q, data.batch(q, locations).to(device), locations)

    if isinstance(data, TileData):
        tiles, size = data, params.train.size

        def tile(q: str, location: int) -> Tensor:
            x = tiles.tile(q, location)[None].to(device)
            return normaliser.locations(q, x, np.array([location]))[0]

        return PixelBench(
            *places, data.present, data.classes, tile, data.mask,
            size, overlap, max(1, min(params.evaluate.batch, PIXELS // size**2)),
        )  # fmt: skip
    return LabelBench(
        *places, data.labels, data.present, data.classes, inputs,
        params.evaluate.batch, params.evaluate.threshold,
    )  # fmt: skip
