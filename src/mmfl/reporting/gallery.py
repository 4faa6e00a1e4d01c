"""Pictures of some test locations in both modalities, beside labels and predictions."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmfl.reporting.style import MUTED, style


@dataclass(frozen=True)
class Location:
    """A test location.

    Attributes:
        optical: (3, H, W) B04, B03, B02, or None where the archive holds none.
        radar: (2, H, W) VV, VH in dB, or None.
        labels, predicted: names of classes; None where nothing was predicted.
    """

    pair: str
    optical: NDArray[np.floating] | None
    radar: NDArray[np.floating] | None
    labels: tuple[str, ...]
    predicted: tuple[str, ...] | None = None


def png(locations: list[Location]) -> str:
    """The pictures as a base64 PNG, two locations per row."""
    with style():
        lines = -(-len(locations) // 2)
        figure = Figure(figsize=(9.6, 1.95 * lines), layout="constrained", dpi=130)
        axes = figure.subplots(lines, 6, squeeze=False, width_ratios=[1, 1, 1.35] * 2)
        for ax in axes.ravel():
            ax.axis("off")
        for place, location in enumerate(locations):
            row = axes[place // 2]
            start = 3 * (place % 2)
            _picture(row[start], rgb(location.optical), "Sentinel-2", location.pair)
            _picture(row[start + 1], composite(location.radar), "Sentinel-1", "")
            _words(row[start + 2], location)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def rgb(bands: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    """(H, W, 3) in [0, 1] from B04, B03, B02: stretched from 2 to 98 %, the same in all three."""
    if bands is None:
        return None
    return np.moveaxis(_stretch(np.asarray(bands, np.float64)), 0, -1)


def composite(bands: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    """(H, W, 3) in [0, 1] from VV and VH in dB: red VV, green VH, blue VV − VH."""
    if bands is None:
        return None
    vv, vh = np.asarray(bands, np.float64)
    return np.stack([_stretch(vv), _stretch(vh), _stretch(vv - vh)], axis=-1)


def _stretch(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.percentile(values, (2, 98))
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _picture(ax, image: NDArray[np.float64] | None, missing: str, title: str) -> None:
    if image is None:
        ax.text(0.5, 0.5, f"no {missing}", ha="center", va="center", color=MUTED)
    else:
        ax.imshow(image, interpolation="nearest")
    ax.set_title(title[-28:], fontsize=6.2, color=MUTED)


def _words(ax, location: Location) -> None:
    """True labels, with a tick where they were found, and false alarms below."""
    predicted = location.predicted
    marks = {name: "" if predicted is None else "✓ " if name in predicted else "○ "
             for name in location.labels}  # fmt: skip
    found = [f"{mark}{name}" for name, mark in marks.items()]
    wrong = [f"✗ {name}" for name in predicted or () if name not in location.labels]
    lines = []
    for text in [*found, *wrong]:
        lines += textwrap.wrap(text, 31, subsequent_indent="   ")
    ax.text(0, 1, "\n".join(lines[:12]), va="top", fontsize=7.2, linespacing=1.35,
            transform=ax.transAxes)  # fmt: skip
