"""The optimiser of local training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmfl.params.sections import Train


class Sgd:
    """`torch.optim.SGD` to the bit, but without torch's compiler.

    The first step of torch's own optimisers imports it: 800 modules, 1.5 s in every process.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, momentum: float) -> None:
        self.parameters, self.rate, self.momentum = list(parameters), rate, momentum
        self._changes: dict[int, Tensor] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step; a parameter without a gradient stays."""
        for place, parameter in enumerate(self.parameters):
            change = parameter.grad
            if change is None:
                continue
            if self.momentum and place in self._changes:
                change = self._changes[place].mul_(self.momentum).add_(change)
            elif self.momentum:
                change = self._changes[place] = change.clone()
            parameter.add_(change, alpha=-self.rate)


def optimiser(parameters: list[nn.Parameter], train: Train) -> Sgd | torch.optim.Optimizer:
    """That of the parameters; torch's on a GPU, where it changes many tensors at a time."""
    if train.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=train.learning_rate)
    if any(parameter.is_cuda for parameter in parameters):
        return torch.optim.SGD(parameters, lr=train.learning_rate, momentum=train.momentum)
    return Sgd(parameters, train.learning_rate, train.momentum)
