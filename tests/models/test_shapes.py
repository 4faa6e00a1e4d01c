"""benchmarks/shapes.py: some of its cases, and that it notices what it looks for."""

import os
import signal

import pytest
import torch
from benchmarks import shapes

from mmfl.models.network import Network
from mmfl.models.resnet import Pointwise

SMALL = {
    "backbone": "compact", "width": 4, "size": 8, "task": "multilabel", "batch": 2,
    "method": "mf+fw+mim", "where": "all", "group": 4, "stride": 1, "whitened by": "cholesky",
    "fusion": "concat", "share": 1, "precision": "bfloat16", "modalities": 2, "holds": "few of s2",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        ({}, "ok", ""),
        ({"task": "pixel", "group": "width", "stride": 2, "size": 9}, "ok", ""),
        ({"size": 112, "method": "mf", "width": 8}, "ok", ""),
        ({"holds": "one of s2"}, "refused", "found 1 training image in s2"),
        ({"holds": "one of s2", "size": 9}, "ok", ""),
        ({"stride": 64}, "refused", "whitening.stride: found 64, expected at most 1"),
        ({"group": 8}, "refused", "whitening.group: 8 does not divide"),
        ({"share": 4}, "refused", "model.share_from_stage: found 4"),
        ({"modalities": 1, "method": "moon+fw", "holds": "pairs"}, "ok", ""),
        ({"backbone": "resnet18", "size": 32, "width": 64, "method": "mf"}, "ok", ""),
    ],
)
def test_cases(changes, kind, why):
    found, told = shapes.outcome(SMALL | changes)
    assert (found, why in told) == (kind, True), told


def test_draws_differ_and_are_the_same_for_a_seed():
    cases = shapes.draw(50, 1)
    assert len({str(case) for case in cases}) == 50 and cases == shapes.draw(50, 1)
    assert all(case.keys() == shapes.GRID.keys() for case in cases)


def test_a_crash_an_error_and_nan_are_noticed(monkeypatch):
    plain = Pointwise.forward

    def killed(layer, x):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Pointwise, "forward", killed)
    assert shapes.outcome(SMALL) == ("crash", "SIGKILL")
    monkeypatch.setattr(Pointwise, "forward", lambda layer, x: plain(layer, x) * torch.nan)
    assert shapes.outcome(SMALL) == (
        "error",
        "ArithmeticError: a weight or a statistic is not finite",
    )
    monkeypatch.setattr(Network, "features", lambda net, q, x: x.no_such_thing)
    assert shapes.outcome(SMALL)[0] == "error"
