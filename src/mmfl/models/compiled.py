"""Features by `torch.compile`, the same bits in whatever order batches come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from mmfl.errors import UserError
from mmfl.models.dense import Features
from mmfl.models.network import Network
from mmfl.models.norms import OwnNorm

COMPILERS = ("g++", "clang++")
SHAPES = 256
"""Programs of a process at most: one for each modality and size of a batch."""


def compiled(network: Network) -> Callable[[str, Tensor], Features]:
    """`network.features`, compiled anew for every modality and shape.

    A program for all shapes would be made when a second one is met, and by what came first it
    would differ between processes, and after a resume. Whitening layers are left as they are: each
    waits for a value, at which a program has to end, and consists of products of matrices.

    Raises:
        UserError: there is no C++ compiler.
    """
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise UserError(
            f"train.compile: found no C++ compiler ({' or '.join(wanted)}), expected one; "
            "install it, set CXX, or set train.compile: false"
        )
    torch._dynamo.config.recompile_limit = SHAPES
    torch._dynamo.config.accumulated_recompile_limit = SHAPES
    for layer in network.modules():
        if isinstance(layer, OwnNorm):
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    found: Callable[[str, Tensor], Features] = torch.compile(network.features, dynamic=False)
    return found
