"""Class probabilities of tiles by plain NumPy and torch functions: nothing of mmfl is used.

The compact network of `model.safetensors` written out (docs/models.md), windows, blending and
normalisation as docs/method.md, section 8, says.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F


class Model:
    """A run's model under a statistics policy. Images are (C, H, W) in raw units, NaN in gaps."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.described = json.loads((folder / "run.json").read_text())
        self.tensors = {}
        for name, value in load_file(folder / "model.safetensors").items():
            kind, *rest = name.split("/")
            if kind == "parameters":
                self.tensors[rest[1]] = value
            elif kind == "statistics" and rest[0] == policy:
                self.tensors[rest[2]] = value

    def standardised(self, q: str, image: np.ndarray) -> np.ndarray:
        mean, std = (np.array(v)[:, None, None] for v in self.described["statistics"][q]["all"])
        return np.nan_to_num((image - mean) / std, nan=0.0).astype(np.float32)

    def norm(self, name: str, x):
        t = self.tensors
        mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        scale = t[f"{name}.weight"] / (variance + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + t[f"{name}.bias"][:, None, None]

    def block(self, name: str, x, stride: int):
        """Two convolutions and a shortcut."""
        t = self.tensors
        out = F.conv2d(x, t[f"{name}.conv1.weight"], stride=stride, padding=1)
        out = self.norm(f"{name}.norm1", out).clamp_min(0)
        out = self.norm(f"{name}.norm2", F.conv2d(out, t[f"{name}.conv2.weight"], padding=1))
        if f"{name}.shortcut.0.weight" in t:
            x = F.conv2d(x, t[f"{name}.shortcut.0.weight"], stride=stride)
            x = self.norm(f"{name}.shortcut.1", x)
        return (out + x).clamp_min(0)

    def maps(self, q: str, x):
        """theta_q: the end of the U-Net's first part, half the window's resolution."""
        t, encoder, decoder = self.tensors, f"backbones.{q}", f"decoders.{q}.blocks"
        x = F.conv2d(x, t[f"{encoder}.stem.0.weight"], stride=2, padding=1)
        fine = self.block(
            f"{encoder}.stages.0.0", self.norm(f"{encoder}.stem.1", x).clamp_min(0), 1
        )
        middle = self.block(f"{encoder}.stages.1.0", fine, 2)
        x = self.block(f"{encoder}.stages.2.0", middle, 2)
        for number, skip in enumerate((middle, fine)):
            x = torch.cat([repeated(x, skip.shape[-2:]), skip], dim=1)
            x = F.conv2d(x, t[f"{decoder}.{number}.0.weight"], padding=1)
            x = self.norm(f"{decoder}.{number}.1", x).clamp_min(0)
        return x

    def window(self, images: dict[str, np.ndarray]) -> np.ndarray:
        """(P, S, S) probabilities of a window of standardised images."""
        t = self.tensors
        found = [self.maps(q, torch.from_numpy(x)[None]) for q, x in sorted(images.items())]
        size = next(iter(images.values())).shape[-2:]
        x = repeated(sum(found) / len(found), size)
        x = F.conv2d(x, t["classifier.conv.weight"], t["classifier.conv.bias"], padding=1)
        x = F.conv2d(x.clamp_min(0), t["classifier.logits.weight"], t["classifier.logits.bias"])
        e = np.exp(x[0].numpy() - x[0].numpy().max(axis=0))
        return e / e.sum(axis=0)

    @torch.no_grad()
    def tile(self, images: dict[str, np.ndarray], size: int, overlap: float) -> np.ndarray:
        """(P, H, W) probabilities of a tile from overlapping windows."""
        height, width = next(iter(images.values())).shape[-2:]
        down, right = max(0, size - height), max(0, size - width)
        whole = {
            q: np.pad(self.standardised(q, x), ((0, 0), (0, down), (0, right)), mode="reflect")
            for q, x in images.items()
        }
        sine = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
        weight, step = np.outer(sine, sine), round(size * (1 - overlap))
        total, weights = 0.0, np.zeros((height + down, width + right))
        for top, left in itertools.product(*(
            sorted({*range(0, length - size, step), length - size}) for length in weights.shape
        )):  # fmt: skip
            place = slice(top, top + size), slice(left, left + size)
            part = self.window({q: np.ascontiguousarray(x[:, *place]) for q, x in whole.items()})
            if not isinstance(total, np.ndarray):
                total = np.zeros((len(part), *weights.shape))
            total[:, *place] += part * weight
            weights[place] += weight
        return (total / weights)[:, :height, :width]


def repeated(x, size):
    """Every pixel repeated until at least `size`, cropped."""
    down, right = -(-size[0] // x.shape[-2]), -(-size[1] // x.shape[-1])
    x = x.repeat_interleave(down, dim=-2).repeat_interleave(right, dim=-1)
    return x[..., : size[0], : size[1]]
