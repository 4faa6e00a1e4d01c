"""Pictures of some test locations in each modality, beside labels and predictions."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mmfl.facts.tasks import IGNORED
from mmfl.reporting.style import INK, MUTED, short, style
from mmfl.reporting.texts import modality_names

Images = dict[str, NDArray[np.floating] | None]
"""Modality -> (C, H, W), C of 1 to 3, NaN in gaps, or None where the archive holds none."""

SIDE = 256  # pixels of a picture; larger tiles are shown reduced
INCHES = 1.9  # width of a tile's picture
NO_CLASS = "ignored, no class"
STRIPES, GAP = 0.66, 0.93  # greys of ignored pixels and of gaps


@dataclass(frozen=True)
class Location:
    """A test location of the multi-label task.

    Attributes:
        labels, predicted: names of classes; None where nothing was predicted.
    """

    pair: str
    images: Images
    labels: tuple[str, ...]
    predicted: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Tile:
    """A test tile of the pixel task.

    Attributes:
        mask, predicted: (H, W) uint8 class indices, 255 where ignored or not predicted;
            `predicted` None where nothing was.
    """

    pair: str
    images: Images
    mask: NDArray[np.uint8]
    predicted: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Gallery:
    """What a page shows.

    Attributes:
        bands: modality -> names of the bands shown.
        run: whose predictions these are.
        classes, colours: of the masks, in order; no colours: a palette.
    """

    places: Sequence[Location] | Sequence[Tile]
    bands: dict[str, list[str]]
    run: str
    classes: tuple[str, ...] = ()
    colours: Sequence[str] | None = None

    @property
    def tiles(self) -> list[Tile]:
        """The tiles; empty for the multi-label task."""
        return [place for place in self.places if isinstance(place, Tile)]

    def png(self) -> str:
        """The pictures as a base64 PNG."""
        if self.tiles:
            return png_tiles(self.tiles, self.classes, self.colours)
        return png([place for place in self.places if isinstance(place, Location)])

    def shown(self) -> str:
        """Which bands the pictures show."""
        return "; ".join(
            f"{modality_names(name)}: {_band_names(bands)}" for name, bands in self.bands.items()
        )

    def caption(self) -> str:
        """How they were chosen, and how to read them."""
        places = "tiles" if self.tiles else "locations"
        text = (
            f"Test {places} at equal steps of the sorted list, not chosen by result; {self.run}. "
            f"{self.shown()}; each stretched from 2 to 98 %. "
        )
        if not self.tiles:
            return text + "✓ found, ○ missed, ✗ false alarm, at a probability of 0.5."
        large = any(max(tile.mask.shape) > SIDE for tile in self.tiles)
        text += "Hatched: ignored in training and scores, or not predicted; grey: no data."
        return text + (" Large tiles are shown reduced." if large else "")


def png(locations: Sequence[Location]) -> str:
    """The pictures as a base64 PNG: two locations per row, one where they have many pictures."""
    names = list(locations[0].images)
    beside = 2 if len(names) <= 2 else 1
    width = len(names) + 1
    with style():
        lines = -(-len(locations) // beside)
        inches = beside * (1.43 * len(names) + 1.93)
        figure = _figure(inches, 1.72 * lines + 0.25)
        ratios = [*[1.0] * len(names), 1.35] * beside
        axes = figure.subplots(lines, width * beside, squeeze=False, width_ratios=ratios)
        for ax in axes.ravel():
            ax.axis("off")
        for place, location in enumerate(locations):
            start = width * (place % beside)
            row = axes[place // beside][start : start + width]
            _pictures(row, location.images, location.pair, headed=place < beside)
            _words(row[-1], location)
        return _encoded(figure)


def png_tiles(
    tiles: Sequence[Tile], classes: Sequence[str], colours: Sequence[str] | None = None
) -> str:
    """The pictures as a base64 PNG: a tile per row, its label and prediction, a legend below."""
    palette = [*colours] if colours else qualitative(len(classes))
    names = ("Label",) if tiles[0].predicted is None else ("Label", "Prediction")
    columns = len(tiles[0].images) + len(names)
    maps = [[t.mask] if t.predicted is None else [t.mask, t.predicted] for t in tiles]
    shown = np.unique(np.concatenate([values.ravel() for part in maps for values in part]))
    named = [i for i in shown.tolist() if i != IGNORED]
    with style():
        longest = max([len(NO_CLASS), *(len(short(classes[i])) for i in named)])
        across = max(1, int(INCHES * columns / (0.07 * longest + 0.55)))  # of the legend
        below = 0.18 * -(-(len(named) + 1) // across) + 0.1
        heights = [INCHES * min(2, t.mask.shape[0] / t.mask.shape[1]) + 0.14 for t in tiles]
        figure = _figure(INCHES * columns, sum(heights) + 0.2 + below)
        axes = figure.subplots(len(tiles), columns, squeeze=False, height_ratios=heights)
        for ax in axes.ravel():
            ax.axis("off")
        for place, (row, tile) in enumerate(zip(axes, tiles, strict=True)):
            _pictures(row, tile.images, tile.pair, headed=not place)
            for ax, values, name in zip(row[-len(names) :], maps[place], names, strict=True):
                ax.imshow(coloured(values, palette), interpolation="nearest")
                if not place:
                    ax.set_title(name, fontsize=8.5)
        handles = [Patch(color=palette[i], label=short(classes[i])) for i in named]
        if IGNORED in shown:
            handles.append(Patch(facecolor="white", edgecolor=MUTED, hatch="////", label=NO_CLASS))
        figure.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=7.5)
        return _encoded(figure)


def picture(bands: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    """(H, W, 3) in [0, 1] from 1 to 3 bands, stretched from 2 to 98 %; gaps are grey.

    Three bands: red, green, blue, with one stretch for all; two (a, b): a, b and a − b, each with
    its own (for radar in dB: VV, VH and their ratio); one: grey.
    """
    if bands is None:
        return None
    values = _reduced(np.asarray(bands, np.float64))
    if len(values) == 3:
        shown = _stretch(values)
    elif len(values) == 2:
        a, b = values
        shown = np.stack([_stretch(a), _stretch(b), _stretch(a - b)])
    else:
        shown = np.repeat(_stretch(values), 3, axis=0)
    gaps = np.isnan(shown).any(axis=0)
    return np.moveaxis(np.where(gaps, GAP, shown), 0, -1)


def coloured(mask: NDArray[Any], palette: Sequence[str]) -> NDArray[np.float64]:
    """(H, W, 3) of a map of class indices; what has no class is white with grey stripes."""
    step = -(-max(mask.shape) // SIDE)
    mask = mask[::step, ::step]
    known = mask < len(palette)
    colours = np.array([to_rgb(colour) for colour in palette])
    y, x = np.indices(mask.shape)
    period = max(4, max(mask.shape) // 20)
    stripes = np.where((x + y) % period < period / 4, STRIPES, 1.0)
    return np.where(known[..., None], colours[np.where(known, mask, 0)], stripes[..., None])


def qualitative(count: int) -> list[str]:
    """Distinct colours for classes without their own."""
    if count <= 20:
        return [to_hex(mpl.colormaps["tab20"](i)) for i in range(count)]
    return [to_hex(mpl.colormaps["gist_rainbow"](i / count)) for i in range(count)]


def _reduced(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, H, W) with at most `SIDE` pixels a side, means of squares; a gap in one stays a gap."""
    step = -(-max(values.shape[1:]) // SIDE)
    if step == 1:
        return values
    high, wide = (size // step * step for size in values.shape[1:])
    squares = values[:, :high, :wide].reshape(len(values), high // step, step, wide // step, step)
    return squares.mean(axis=(2, 4))


def _stretch(values: NDArray[np.float64]) -> NDArray[np.float64]:
    seen = values[np.isfinite(values)]
    if not seen.size:
        return np.full(values.shape, np.nan)
    low, high = np.percentile(seen, (2, 98))
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _pictures(row, images: Images, pair: str, *, headed: bool) -> None:
    """A picture per modality, their names above the first row, the location's name below."""
    for ax, (name, bands) in zip(row, images.items(), strict=False):
        image = picture(bands)
        if image is None:
            ax.text(0.5, 0.5, f"no {modality_names(name)}", ha="center", va="center", color=MUTED,
                    transform=ax.transAxes)  # fmt: skip
        else:
            ax.imshow(image, interpolation="nearest")
        if headed:
            ax.set_title(modality_names(name), fontsize=8.5, color=INK)
    limit = 34 * (len(row) - 1)
    text = pair if len(pair) <= limit else f"… {pair[-limit:]}"
    _beside(row[0], -0.03, text, fontsize=6.2, color=MUTED)


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
    _beside(ax, 1, "\n".join(lines[:12]), fontsize=7.2, linespacing=1.35)


def _beside(ax, height: float, text: str, **looks: Any) -> None:
    """Text from the left edge of an axes downwards; it takes no room from the pictures."""
    written = ax.text(0, height, text, va="top", transform=ax.transAxes, **looks)
    written.set_in_layout(False)


def _band_names(bands: Sequence[str]) -> str:
    return ", ".join([*bands, f"{bands[0]} − {bands[1]}"] if len(bands) == 2 else bands)


def _figure(width: float, height: float) -> Figure:
    """A figure with room for a line below each row."""
    engine = ConstrainedLayoutEngine(h_pad=0.09)
    return Figure(figsize=(width, height), dpi=130, layout=engine)


def _encoded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
