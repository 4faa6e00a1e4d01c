"""The worked example of docs/models.md, as it stands there."""

import re
import sys
import textwrap
from pathlib import Path

import torch

from mmfl.models.flops import training_flops
from mmfl.models.network import Network, initialise
from mmfl.models.whitening import BatchWhitening2d
from mmfl.params import BACKBONES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_the_documented_backbone_works(monkeypatch):
    blocks = re.findall(
        r"```python\n(.*?)^ *```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    module = type(re)("mmfl.models.backbones.plain")
    exec(textwrap.dedent(blocks[0]), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    whitening = {"where": "stem"}
    net = Network(
        {"s1": 2, "s2": 10}, 19, backbone="plain", width=8, whitening=whitening, share_from_stage=1
    )
    pixels = Network({"s1": 2, "s2": 10}, 19, task="pixel", backbone="plain", width=8)
    initialise(net, 1)
    out = net({"s1": torch.randn(2, 2, 16, 16), "s2": torch.randn(2, 10, 16, 16)})
    assert out.shape == (2, 19)
    assert pixels({"s1": torch.randn(2, 2, 17, 9)}).shape == (2, 19, 17, 9)
    assert len(pixels.decoders["s1"].blocks) == 1  # halves and quarters
    assert sum(isinstance(m, BatchWhitening2d) for m in net.modules()) == 2
    assert net.backbone("s1").stages[0][0].weight is net.backbone("s2").stages[0][0].weight
    assert training_flops(net, ("s2",), 16, projections=1) > 0


def test_every_backbone_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in BACKBONES)


def test_the_numbers_of_the_pixel_networks():
    text = PAGE.read_text(encoding="utf-8")
    for name in BACKBONES:
        row = re.search(rf"^\| {name} \| (.*) \|$", text, re.MULTILINE).group(1)
        *counts, size, dense, pooled = row.split(" | ")
        net = Network({"s1": 2, "s2": 10}, 9, task="pixel", backbone=name)
        parts = (net.backbones["s1"], net.backbones["s2"], net.decoders["s1"], net.heads["s1"],
                 net.classifier)  # fmt: skip
        assert counts == [f"{sum(p.numel() for p in part.parameters()):,}" for part in parts]
        side = int(size.removesuffix(" px"))
        for task, told in (("pixel", dense), ("multilabel", pooled)):
            net = Network({"s2": 10}, 9, task=task, backbone=name)
            found = training_flops(net, ("s2",), side, batch=2) / 1e9
            assert abs(found - float(told)) < 0.02 * found
    told = re.search(r"takes\n([\d., and]+) GFLOPs", text).group(1)
    net = Network({"s1": 2, "s2": 10}, 9, task="pixel")
    for batch, value in zip((8, 32, 128), re.findall(r"[\d.]+", told), strict=True):
        found = training_flops(net, ("s2",), 32, negatives="all", cells=4, batch=batch) / 1e9
        assert abs(found - float(value)) < 0.02 * found
