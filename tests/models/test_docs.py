"""The worked example of docs/models.md, as it stands there."""

import re
import textwrap
from pathlib import Path

import torch

from mmfl.models.flops import training_flops
from mmfl.models.network import Network, initialise
from mmfl.models.resnet import BACKBONES
from mmfl.models.whitening import BatchWhitening2d

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_the_documented_backbone_works():
    blocks = re.findall(
        r"```python\n(.*?)^ *```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    try:
        exec(textwrap.dedent(blocks[0]), {"__name__": "example"})
        net = Network(
            {"s1": 2, "s2": 10},
            19,
            backbone="plain",
            width=8,
            whitening={"where": "stem"},
            share_from_stage=1,
        )
    finally:
        BACKBONES.pop("plain", None)
    initialise(net, 1)
    out = net({"s1": torch.randn(2, 2, 16, 16), "s2": torch.randn(2, 10, 16, 16)})
    assert out.shape == (2, 19)
    assert sum(isinstance(m, BatchWhitening2d) for m in net.modules()) == 2
    assert net.backbone("s1").stages[0][0].weight is net.backbone("s2").stages[0][0].weight
    assert training_flops(net, ("s2",), 16, projected=True) > 0


def test_every_backbone_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in BACKBONES)
