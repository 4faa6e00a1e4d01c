"""The optimiser against torch's own."""

import subprocess
import sys

import pytest
import torch

from mmfl.federation.optimiser import Sgd, optimiser
from mmfl.params.sections import Train


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_bits_of_torch(momentum: float) -> None:
    """Ten steps; the second tensor has no gradient in some, the third never has one."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in ((7, 5), (31,), (3,))]
    own, other = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    mine = Sgd(own, 0.1, momentum)
    theirs = torch.optim.SGD(other, lr=0.1, momentum=momentum)
    for step in range(10):
        mine.zero_grad()
        theirs.zero_grad()
        for place in (0, 1) if step % 3 else (0,):
            gradient = torch.randn(start[place].shape, generator=generator)
            own[place].grad, other[place].grad = gradient.clone(), gradient.clone()
        mine.step()
        theirs.step()
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert torch.equal(own[2], start[2]) and not torch.equal(own[1], start[1])


def test_a_gradient_that_is_not_forgotten_stays_as_it_is() -> None:
    own, other = (torch.nn.Parameter(torch.arange(3.0)) for _ in range(2))
    mine, theirs = Sgd([own], 0.1, 0.9), torch.optim.SGD([other], lr=0.1, momentum=0.9)
    own.grad, other.grad = torch.ones(3), torch.ones(3)
    for _ in range(3):
        mine.step()
        theirs.step()
    assert torch.equal(own, other) and torch.equal(own.grad, torch.ones(3))


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_every_round_begins_with_a_fresh_optimiser(name: str) -> None:
    """Two rounds of three steps: momentum and moments of the first are forgotten."""
    momentum = 0.9 if name == "momentum" else 0.0
    chosen = "adam" if name == "adam" else "sgd"
    train = Train(optimiser=chosen, momentum=momentum, learning_rate=0.25)  # type: ignore[arg-type]
    own, other = (torch.nn.Parameter(torch.arange(3.0)) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        mine = optimiser([own], train)
        theirs: torch.optim.Optimizer = (
            torch.optim.Adam([other], lr=0.25)
            if name == "adam"
            else torch.optim.SGD([other], lr=0.25, momentum=momentum)
        )
        for _ in range(3):
            gradient = torch.randn(3, generator=generator)
            own.grad, other.grad = gradient.clone(), gradient.clone()
            mine.step()
            theirs.step()
        assert torch.equal(own, other)


def test_a_step_imports_no_compiler() -> None:
    program = (
        "import sys, torch; from mmfl.federation.optimiser import Sgd; "
        "p = torch.nn.Parameter(torch.ones(2)); s = Sgd([p], 0.1, 0.9); "
        "s.zero_grad(); p.sum().backward(); s.step(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
