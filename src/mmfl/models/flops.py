"""Floating point operations of local training, by torch's counter.

A multiplication and an addition are two operations (docs/models.md, Cost). The counter takes some
operations for free that are none; their formulas are added here (Golub and Van Loan, Matrix
Computations: a Cholesky factor n^3/3, a triangular solve n^2 per right-hand side, a symmetric
eigendecomposition 9 n^3). Whitening is counted as products within its groups, whatever the blocks
in which they are computed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from mmfl.models.dense import Dense, Features
from mmfl.models.losses import ntxent
from mmfl.models.network import Network
from mmfl.models.norms import OwnNorm

log = logging.getLogger(__name__)


def _cholesky(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    batch, n = _batch(shape[:-2]), shape[-1]
    return batch * n**3 // 3


def _solve(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _batch(b[:-2]) * b[-2] ** 2 * b[-1]


def _eigh(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _batch(shape[:-2]) * 9 * shape[-1] ** 3


def _product(into: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _batch(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


FORMULAS = {
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
    torch.ops.aten.linalg_solve_triangular: _solve,
    torch.ops.aten._linalg_eigh: _eigh,
    torch.ops.aten.addmm_: _product,
}
_PER_NUMBER = """
_foreach_sub _local_scalar_dense _log_softmax _log_softmax_backward_data _native_batch_norm_legit
_to_copy _unsafe_index _unsafe_view _upsample_nearest_exact2d_backward abs add add_ alias all
arange avg_pool2d avg_pool2d_backward binary_cross_entropy_with_logits bitwise_and bitwise_not cat
clamp_min clamp_min_ clone copy_ count_nonzero detach diagonal diagonal_backward div div_ empty
empty_like eq exp expand eye ge gt index index_put lerp_ lift_fresh linalg_vector_norm
log_sigmoid_backward log_sigmoid_forward logsumexp masked_fill masked_fill_
max_pool2d_with_indices max_pool2d_with_indices_backward mean mul mul_ native_batch_norm_backward
ne neg new_empty_strided new_zeros ones_like permute pow relu scalar_tensor select sigmoid slice
slice_backward softplus softplus_backward sqrt stack sub sub_ sum t threshold_backward transpose
tril unsqueeze view where zero_ zeros zeros_like
"""
FREE = frozenset(f"aten.{name}" for name in _PER_NUMBER.split())
"""Not counted, by convention: views, copies, and what is done once for every number or a few."""


class Counter(FlopCounterMode):
    """Counts as above; `unknown` are operations met without a formula that are not `FREE`."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        self.unknown: set[str] = set()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if func_packet not in self.flop_registry and str(func_packet) not in FREE:
            self.unknown.add(str(func_packet))
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


# torch would import its compiler, only to have it pass over the counter: 800 modules, 1.5 s in
# every process that trains. With the compiler's own mark the counter is passed over, too.
if hasattr(flop_counter, "_FlopCounterMode"):
    _count = inspect.unwrap(flop_counter._FlopCounterMode.__torch_dispatch__)
    _count.__dict__["__dynamo_disable"] = _count


@contextmanager
def counting(network: Network) -> Iterator[Counter]:
    """A counter of what the network does in training; its state is put back afterwards."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    own = {type(layer) for layer in network.modules() if isinstance(layer, OwnNorm)}
    with ExitStack() as stack:
        for kind in own:
            stack.enter_context(kind.counted())
        counter = stack.enter_context(Counter())
        yield counter
    network.zero_grad(set_to_none=True)
    network.load_state_dict(before)
    if counter.unknown:
        log.warning(
            "FLOPs: found no formula for %s, counted as 0; add one in mmfl/models/flops.py",
            ", ".join(sorted(counter.unknown)),
        )


def training_flops(
    network: Network,
    modalities: tuple[str, ...],
    size: int,
    *,
    projections: int = 0,
    extra_forwards: int = 0,
    negatives: Literal["all", "cross"] | None = None,
    cells: int | None = None,
    batch: int = 8,
) -> float:
    """FLOPs of one training step (forward and backward) per sample of a client.

    projections: how many losses project the features, MIM aside. extra_forwards: forward passes
    with projection and without gradient (MOON). negatives: those of MIM, every sample with a
    counterpart, between whole samples or with `cells` between so many cells of an image's side;
    None without MIM. Its products grow with the `batch`, which then has to be that of the training.
    """
    inputs = {q: _images(network, q, size, batch) for q in modalities}
    with counting(network) as counter:
        features = {q: network.features(q, x) for q, x in inputs.items()}
        total = network.classify(features).square().mean()
        if len(features) > 1:
            total = total + sum(
                network.classify({q: z}).square().mean() for q, z in features.items()
            )
        if negatives is not None:
            total = total + _mim(network, features, cells, negatives)
        for _ in range(projections):
            total = total + sum(network.project(q, z).square().mean() for q, z in features.items())
        total.backward()
        with torch.no_grad():
            for _ in range(extra_forwards):
                for q, x in inputs.items():
                    network.project(q, network.features(q, x))
    return counter.get_total_flops() / batch


def _mim(
    network: Network,
    features: dict[str, Features],
    cells: int | None,
    negatives: Literal["all", "cross"],
) -> Tensor:
    """MIM between every two modalities; of those that the client lacks come constants."""
    own = {
        q: network.project(q, z)
        if cells is None or not isinstance(z, Dense)
        else network.project_cells(q, z, cells).flatten(0, 1)
        for q, z in features.items()
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
    """FLOPs of one forward pass with projection (of `cells` cells), per sample."""
    x = _images(network, modality, size, batch)
    with counting(network) as counter:
        features = network.features(modality, x)
        if cells is not None and isinstance(features, Dense):
            network.project_cells(modality, features, cells)
        else:
            network.project(modality, features)
    return counter.get_total_flops() / batch


def _images(network: Network, modality: str, size: int, batch: int) -> Tensor:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(batch, network.bands[modality], size, size, generator=source)
    return x.to(next(network.parameters()).device)
