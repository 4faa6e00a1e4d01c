"""From parameters to the parts of a federation: network, strategy, modules."""

from __future__ import annotations

import numpy as np
import torch

from mmfl import chosen
from mmfl.errors import UserError
from mmfl.federation.data import Data
from mmfl.models.network import Network, fewest_values
from mmfl.params import Params, parts
from mmfl.strategies import strategy as algorithm
from mmfl.strategies.base import Client, Module, Strategy, TensorInfo


def build_network(method: str, params: Params, classes: int, task: str = "multilabel") -> Network:
    """The network of a method; `+fw` puts batch whitening in place of batch normalisation."""
    _, modules = parts(method)
    w = params.whitening
    whitening = {
        "where": w.where if "fw" in modules else "none",
        "group": w.group,
        "epsilon": w.epsilon,
        "shrinkage": w.shrinkage,
        "momentum": w.momentum,
        "stride": w.stride,
        "method": w.method,
    }
    return Network(
        {q: len(names) for q, names in sorted(params.train.bands.items())},
        classes,
        task=task,
        backbone=params.model.backbone,
        width=params.model.width,
        whitening=whitening,
        fusion=params.model.fusion,
        projection=params.model.projection,
        share_from_stage=params.model.share_from_stage,
    )


def build_strategy(method: str, params: Params, network: Network, data: Data) -> Strategy:
    """The strategy of a method with its modules, for the clients of `data`."""
    base, names = parts(method)
    strategy = assemble(base, names, params, tensor_infos(network), data.clients)
    if "mim" in names and params.mim.bank != "prototype":
        require_shared_pairs(method, strategy.clients)
    require_two_images(method, strategy.clients, network, params.train.size)
    if strategy.counts_labels:
        locations = np.unique(np.concatenate([client.locations for client in data.clients]))
        strategy.frequencies = torch.from_numpy(data.frequencies(locations)).float()
    return strategy


def assemble(
    base: str,
    names: tuple[str, ...],
    params: Params,
    tensors: list[TensorInfo],
    clients: list[Client],
) -> Strategy:
    """A strategy by the name of its base and its modules; whose tensors these are is open."""
    modules: list[Module] = [
        chosen.load("strategies.modules", name).build(params) for name in names if name != "fw"
    ]
    hyper = getattr(params.algorithms, base, None)
    return algorithm(base)(
        tensors, clients, hyper, modules, params.train.weights, params.train.statistics
    )


def require_shared_pairs(method: str, clients: list[Client]) -> None:
    """Refuse a feature bank where no training location is held in two modalities."""
    by_modality: dict[str, list[np.ndarray]] = {}
    for client in clients:
        for q, locations in client.train.items():
            by_modality.setdefault(q, []).append(locations)
    pools = [np.unique(np.concatenate(found)) for found in by_modality.values()]
    shared = sum(len(np.intersect1d(a, b)) for i, a in enumerate(pools) for b in pools[i + 1 :])
    if not shared:
        raise UserError(
            f"{method}: found no training pair held in two modalities, expected at least one for "
            "the feature bank; use the assignment duplicate or a method without mim"
        )


def require_two_images(method: str, clients: list[Client], network: Network, size: int) -> None:
    """Refuse a client whose norm layers would see one value: it has no variance."""
    single = [(c.id, q) for c in clients for q in c.modalities if len(c.train[q]) == 1]
    if single and fewest_values(network, size) == 1:
        client, q = single[0]
        raise UserError(
            f"{method}: {client}: found 1 training image in {q}, expected 2 or more, as at "
            f"train.size {size} the network ends in one pixel and a norm layer needs several "
            "values; use a larger train.size, another model.backbone, or fewer groups"
            + (f" ({len(single)} such clients)" if len(single) > 1 else "")
        )


def tensor_infos(network: Network) -> list[TensorInfo]:
    """The network's state_dict, described for the strategies."""
    infos = []
    for key, described in network.describe_keys().items():
        shared = described.shared and described.kind == "parameter"
        infos.append(
            TensorInfo(
                key,
                described.canonical if shared else key,
                described.modality,
                described.kind,
                described.is_norm,
                shared,
                described.projection,
            )
        )
    assert {info.key for info in infos} == set(network.state_dict())
    return infos
