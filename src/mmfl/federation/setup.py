"""From parameters to the parts of a federation: network, strategy, modules."""

from __future__ import annotations

import numpy as np
import torch

from mmfl.errors import UserError
from mmfl.federation.data import Data
from mmfl.models.network import Network
from mmfl.params import Params, parse_method
from mmfl.strategies import STRATEGIES
from mmfl.strategies.base import Client, Module, Strategy, TensorInfo
from mmfl.strategies.modules.mim import Mim
from mmfl.strategies.prior import Prior


def build_network(method: str, params: Params, classes: int) -> Network:
    """The network of a method; `+fw` puts batch whitening in place of batch normalisation."""
    _, modules = parse_method(method)
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
        backbone=params.model.backbone,
        width=params.model.width,
        whitening=whitening,
        fusion=params.model.fusion,
        projection=params.model.projection,
        share_from_stage=params.model.share_from_stage,
    )


def build_strategy(method: str, params: Params, network: Network, data: Data) -> Strategy:
    """The strategy of a method with its modules, for the clients of `data`."""
    base, names = parse_method(method)
    modules: list[Module] = []
    if "mim" in names:
        mim = params.mim
        modules.append(
            Mim(
                data.clients,
                weight=mim.weight,
                temperature=mim.temperature,
                negatives=mim.negatives,
                bank=mim.bank,
            )
        )
        require_shared_pairs(method, data.clients)
    strategy = STRATEGIES[base](
        tensor_infos(network), modules, params.train.weights, params.train.statistics
    )
    if isinstance(strategy, Prior):
        locations = np.unique(np.concatenate([client.locations for client in data.clients]))
        strategy.frequencies = torch.from_numpy(data.labels[locations].mean(axis=0)).float()
    return strategy


def require_shared_pairs(method: str, clients: list[Client]) -> None:
    """Refuse a feature bank where no training location is held in two modalities."""
    by_modality: dict[str, list[np.ndarray]] = {}
    for client in clients:
        for q, locations in client.train.items():
            by_modality.setdefault(q, []).append(locations)
    pools = [np.unique(np.concatenate(parts)) for parts in by_modality.values()]
    shared = sum(len(np.intersect1d(a, b)) for i, a in enumerate(pools) for b in pools[i + 1 :])
    if not shared:
        raise UserError(
            f"{method}: found no training pair held in two modalities, expected at least one for "
            "the feature bank; use the assignment duplicate or a method without mim"
        )


def tensor_infos(network: Network) -> list[TensorInfo]:
    """The network's state_dict, described for the strategies."""
    infos = []
    for key, described in network.describe_keys().items():
        name = described.canonical if described.shared and described.kind == "parameter" else key
        infos.append(
            TensorInfo(
                key,
                name,
                described.modality,
                described.kind,
                described.is_norm,
                described.shared and described.kind == "parameter",
            )
        )
    assert {info.key for info in infos} == set(network.state_dict())
    return infos


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        UserError: the name is unknown, or cuda was asked for and is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: found {name}, expected auto, cpu or cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: found no CUDA device, expected one for cuda; use --device cpu")
    return torch.device(name)
