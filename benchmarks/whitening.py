"""Step time of feature whitening, and of layouts and precisions, against batch normalisation.

    python benchmarks/whitening.py                          # the default of docs/models.md
    python benchmarks/whitening.py --backbone compact --size 32

A step is forward, backward and SGD of one backbone in one thread. Variants run interleaved, one
step of each in turn, and what is compared is the time that the processor spends on them, so that
little depends on what else a machine does. Printed are the median and the quartiles over the turns
of the ratio to batch normalisation within a turn, and the median milliseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
import torch

from mmfl.federation.workers import deterministic
from mmfl.models.network import Network, initialise


@dataclass(frozen=True)
class Variant:
    """What is measured: whitening, layout, precision, whether torch fills every new tensor."""

    whitening: dict[str, Any]
    layout: torch.memory_format = torch.channels_last
    bfloat16: bool = False
    fill: bool = False


PLAIN: dict[str, Any] = {"where": "none"}
BASELINE = "batch norm"
VARIANTS = {
    BASELINE: Variant(PLAIN),
    "batch norm, new tensors filled": Variant(PLAIN, fill=True),
    "batch norm, contiguous": Variant(PLAIN, torch.contiguous_format),
    "batch norm, contiguous, filled": Variant(PLAIN, torch.contiguous_format, fill=True),
    "batch norm, bfloat16": Variant(PLAIN, bfloat16=True),
    "stem, every 2nd pixel": Variant({"where": "stem", "stride": 2}),
    "stem": Variant({"where": "stem"}),
    "stem+layer1, every 2nd pixel": Variant({"where": "stem+layer1", "stride": 2}),
    "stem+layer1": Variant({"where": "stem+layer1"}),
    "stem+layer1, bfloat16": Variant({"where": "stem+layer1"}, bfloat16=True),
    "stem+layer1, zca": Variant({"where": "stem+layer1", "method": "zca"}),
    "all, every 2nd pixel": Variant({"where": "all", "stride": 2}),
    "all": Variant({"where": "all"}),
}


def training_step(backbone: str, variant: Variant, x: torch.Tensor) -> Callable[[], None]:
    """One step of SGD on images x (N, C, H, W)."""
    network = Network({"s2": x.shape[1]}, 19, backbone=backbone, whitening=variant.whitening)
    initialise(network, 0)
    network.train().to(memory_format=variant.layout)
    images = x.contiguous(memory_format=variant.layout)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    trained = network.backbone("s2")

    def step() -> None:
        torch.utils.deterministic.fill_uninitialized_memory = variant.fill
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, variant.bfloat16):
            logits = network.classifier(trained(images))
        logits.float().square().mean().backward()
        optimiser.step()

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Processor seconds (repeats,) of every variant, interleaved, after two turns of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            start = process_time()
            step()
            if turn >= 2:
                seconds[name].append(process_time() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def table(seconds: dict[str, np.ndarray]) -> str:
    """A markdown table of ratios to the baseline."""
    lines = ["| variant | ratio | quartiles | ms |", "|---|---|---|---|"]
    for name, values in seconds.items():
        low, middle, high = np.quantile(values / seconds[BASELINE], [0.25, 0.5, 0.75])
        lines.append(
            f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {np.median(values) * 1e3:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Step time of whitening / batch norm.")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--bands", type=int, default=10)
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    deterministic()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(args.batch, args.bands, args.size, args.size, generator=source)
    steps = {name: training_step(args.backbone, v, x) for name, v in VARIANTS.items()}
    print(
        f"{args.backbone}, {args.bands} bands, {args.size} px, batch {args.batch}, "
        f"torch {torch.__version__}, median of {args.repeats}"
    )
    print(table(measure(steps, args.repeats)))


if __name__ == "__main__":
    main()
