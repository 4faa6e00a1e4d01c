"""Step time of feature whitening against batch normalisation.

    python benchmarks/whitening.py                          # the default of docs/models.md
    python benchmarks/whitening.py --backbone compact --size 32 --batch 32

A step is forward, backward and SGD of one backbone. Variants run interleaved, one step of each in
turn, so that a busy machine slows all of them; printed are the median, the quartiles over the
repeats of the ratio to batch normalisation within a turn, and the median milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmfl.models.network import Network, initialise

VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"where": "none"},
    "stem, every 2nd pixel": {"where": "stem", "stride": 2},
    "stem": {"where": "stem"},
    "stem+layer1, every 2nd pixel": {"where": "stem+layer1", "stride": 2},
    "stem+layer1": {"where": "stem+layer1"},
    "stem+layer1, zca": {"where": "stem+layer1", "method": "zca"},
    "all, every 2nd pixel": {"where": "all", "stride": 2},
    "all": {"where": "all"},
}
BASELINE = "batch norm"


def training_step(
    backbone: str, whitening: dict[str, Any], x: torch.Tensor, layout: torch.memory_format
) -> Callable[[], None]:
    """One step of SGD on images x (N, C, H, W)."""
    network = Network({"s2": x.shape[1]}, 19, backbone=backbone, whitening=whitening)
    initialise(network, 0)
    network.train().to(memory_format=layout)
    images = x.contiguous(memory_format=layout)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        network({"s2": images}).square().mean().backward()
        optimiser.step()

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds (repeats,) of every variant, interleaved, after two turns of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
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
    parser.add_argument("--threads", type=int, default=1, help="as in training: one per run")
    parser.add_argument("--channels-last", action="store_true", help="training does not use it")
    args = parser.parse_args()
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    torch.set_num_threads(args.threads)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(args.batch, args.bands, args.size, args.size, generator=source)
    steps = {name: training_step(args.backbone, w, x, layout) for name, w in VARIANTS.items()}
    print(
        f"{args.backbone}, {args.bands} bands, {args.size} px, batch {args.batch}, "
        f"{layout}, {args.threads} thread(s), torch {torch.__version__}, median of {args.repeats}"
    )
    print(table(measure(steps, args.repeats)))


if __name__ == "__main__":
    main()
