"""A small federation on the small store of tiles."""

from __future__ import annotations

import numpy as np
import torch

from mmfl.clients.manifest import build
from mmfl.federation.data import Normaliser
from mmfl.federation.loop import Federation
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import Segmentation
from mmfl.federation.tiles import TileData
from mmfl.models.network import initialise
from mmfl.params import MethodEntry, Params, resolve

torch.set_num_threads(1)
BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B08"], "dem": ["height"]}
SIZE = 16


def parameters(method="mf", modalities=("s1", "s2"), **changes):
    base = Params.model_validate(
        {
            "archives": {"simulated-tiles": {}},
            "model": {"width": 4, "projection": 8},
            "train": {"methods": ["mf"], "size": SIZE, "rounds": 2, "batch": 5},
            "evaluate": {"batch": 8},
        }
    ).of("simulated-tiles")
    params = resolve(base, MethodEntry(method=method, set=changes))
    train = params.train.model_copy(update={"bands": {q: BANDS[q] for q in modalities}})
    return params.model_copy(update={"train": train})


def tile_data(tiles, modalities=("s1", "s2"), assignment="duplicate", groups=None, size=SIZE):
    """The data of a partition by country; `groups` stand for the countries of blocks of tiles."""
    folder, table = tiles
    table = table.copy()
    if groups is not None:
        table["country"] = np.resize(np.repeat(list(groups), 4), len(table))
    frame = build(table, scenario="country", assignment=assignment, modalities=modalities).frame
    return TileData(folder, frame, {q: BANDS[q] for q in modalities}, size)


def federation(
    tiles, work, method="mf", modalities=("s1", "s2"), assignment="duplicate", workers=1,
    groups=None, **changes,
):  # fmt: skip
    params = parameters(method, modalities, **changes)
    data = tile_data(tiles, modalities, assignment, groups)
    network = build_network(method, params, len(data.classes), data.task)
    initialise(network, 1)
    initial = {k: v.detach().clone() for k, v in network.state_dict().items()}
    strategy = build_strategy(method, params, network, data)
    normaliser = Normaliser(data.statistics(params.train.normalisation), data)
    task = Segmentation(network, data, normaliser, params, 1, torch.device("cpu"))
    identity = {"method": method, "parameters": params.train.model_dump() | {"rounds": 0}}
    return Federation(
        task, strategy, params, 1, lambda m: 1.0, lambda q: 0.25, work,
        identity=identity, workers=workers,
    ), initial  # fmt: skip
