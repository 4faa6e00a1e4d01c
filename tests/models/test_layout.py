"""The layout in which networks compute, and the refusal of torch.compile without a compiler."""

import pytest
import torch
from torch import nn

from mmfl.errors import UserError
from mmfl.models.compiled import compiled
from mmfl.models.network import NORMS, Network, initialise


@pytest.mark.parametrize("task", ["multilabel", "pixel"])
@pytest.mark.parametrize("where", ["none", "all"])
def test_every_convolution_and_norm_layer_computes_in_channels_last(task, where):
    net = Network({"s2": 3}, 5, task=task, width=4, whitening={"where": where})
    initialise(net, 1)
    layouts = {}
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Conv2d, *NORMS)):
            layer.register_forward_hook(
                lambda _, given, out, name=name: layouts.update({name: (*given, out)})
            )
    x = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    net.train()({"s2": x}).sum().backward()
    assert len(layouts) > 10
    for name, tensors in layouts.items():
        last = [t.is_contiguous(memory_format=torch.channels_last) for t in tensors]
        assert all(last), (name, [t.stride() for t in tensors])
    weights = [p for p in net.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"train.compile: found no C\+\+ compiler"):
        compiled(Network({"s2": 3}, 5))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        compiled(Network({"s2": 3}, 5))
