"""Floating point operations of local training, by torch's counter.

The counter takes Cholesky factors and triangular solves for free; their formulas are added here
(Golub and Van Loan, Matrix Computations: n^3/3, and n^2 per right-hand side).
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from mmfl.models.dense import Dense, Features
from mmfl.models.losses import ntxent
from mmfl.models.network import Network


def _cholesky(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    batch, n = _batch(shape[:-2]), shape[-1]
    return batch * n**3 // 3


def _solve(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _batch(b[:-2]) * b[-2] ** 2 * b[-1]


def _eigh(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _batch(shape[:-2]) * 9 * shape[-1] ** 3


def _batch(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


FORMULAS = {
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
    torch.ops.aten.linalg_solve_triangular: _solve,
    torch.ops.aten._linalg_eigh: _eigh,
}


# torch would import its compiler, only to have it pass over the counter: 800 modules, 1.5 s in
# every process that trains. With the compiler's own mark the counter is passed over, too.
if hasattr(flop_counter, "_FlopCounterMode"):
    _count = inspect.unwrap(flop_counter._FlopCounterMode.__torch_dispatch__)
    _count.__dict__["__dynamo_disable"] = _count


def training_flops(
    network: Network,
    modalities: tuple[str, ...],
    size: int,
    *,
    projected: bool = False,
    extra_forwards: int = 0,
    cells: int | None = None,
    negatives: Literal["all", "cross"] = "all",
    batch: int = 8,
) -> float:
    """FLOPs of one training step (forward and backward) per sample of a client.

    projected: the loss reaches the projection heads. extra_forwards: forward passes with
    projection and without gradient (MOON). cells: MIM between so many cells of an image's side
    with these `negatives`, every sample with a counterpart; the products of all cells of a `batch`
    are counted, too, so it has to be that of the training. The network's running statistics are
    left as they were.
    """
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    inputs = {q: _images(network, q, size, batch) for q in modalities}
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        features = {q: network.features(q, x) for q, x in inputs.items()}
        total = network.classify(features).square().mean()
        if len(features) > 1:
            total = total + sum(
                network.classify({q: z}).square().mean() for q, z in features.items()
            )
        if cells is not None:
            total = total + _between_cells(network, features, cells, negatives)
        if projected:
            total = total + sum(network.project(q, z).square().mean() for q, z in features.items())
        total.backward()
        with torch.no_grad():
            for _ in range(extra_forwards):
                for q, x in inputs.items():
                    network.project(q, network.features(q, x))
    network.zero_grad(set_to_none=True)
    network.load_state_dict(before)
    return counter.get_total_flops() / batch


def _between_cells(
    network: Network, features: dict[str, Features], cells: int, negatives: Literal["all", "cross"]
) -> Tensor:
    """MIM between every two modalities; of those that the client lacks come constants."""
    own = {
        q: network.project_cells(q, z, cells).flatten(0, 1)
        for q, z in features.items()
        if isinstance(z, Dense)
    }
    pairs = [
        (u, own.get(other, u.detach()))
        for q, u in own.items()
        for other in network.modalities
        if other not in own or q < other
    ]
    return torch.stack([ntxent(u, v, 0.5, negatives) for u, v in pairs]).sum()


@torch.no_grad()
def forward_flops(
    network: Network, modality: str, size: int, batch: int = 8, *, cells: int | None = None
) -> float:
    """FLOPs of one forward pass with projection (of `cells` cells), per sample.

    The network's running statistics are left as they were.
    """
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    x = _images(network, modality, size, batch)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        features = network.features(modality, x)
        if cells is not None and isinstance(features, Dense):
            network.project_cells(modality, features, cells)
        else:
            network.project(modality, features)
    network.load_state_dict(before)
    return counter.get_total_flops() / batch


def _images(network: Network, modality: str, size: int, batch: int) -> Tensor:
    parameter = next(network.parameters())
    first = network.backbone(modality).stem[0]
    assert isinstance(first, nn.Conv2d)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(batch, first.in_channels, size, size, generator=source)
    return x.to(parameter.device)
