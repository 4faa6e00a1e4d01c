"""One look for all figures: colours that colour-blind readers can tell apart, little ink."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfl.files import atomic

# Okabe and Ito, "Color universal design" (2008), without yellow (too light on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, FAINT = "#222222", "#777777", "#DDDDDD"

SETTINGS: Any = {
    "svg.hashsalt": "mmfl",  # the same ids, hence the same bytes, every time
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings above, else matplotlib's defaults, whatever the user's own."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def looks(runs: Sequence[str], baseline: str) -> dict[str, dict[str, str]]:
    """Colour, marker and line of each run; the baseline is black."""
    others = [run for run in runs if run != baseline]
    found = {baseline: {"color": INK, "marker": "o", "linestyle": "-"}}
    for place, run in enumerate(others):
        found[run] = {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[(place + 1) % len(MARKERS)],
            "linestyle": ("-", "--", ":")[place // len(COLOURS) % 3],
        }
    return found


def save_svg(figure: Figure, path: Path) -> None:
    """Write without date, version and hashes, so that equal data give equal bytes."""
    with atomic(path) as temporary:
        figure.savefig(
            temporary, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
        text = temporary.read_text(encoding="utf-8")
        temporary.write_text(numbered(text), encoding="utf-8")


def numbered(svg: str) -> str:
    """The text with matplotlib's ids replaced by numbers in order of appearance.

    They are hashes of positions, whose last digits the layout's solver does not repeat.
    """
    names: dict[str, str] = {}
    for name in re.findall(r'\bid="([A-Za-z]+[0-9a-f]{10})"', svg):
        names.setdefault(name, f"i{len(names)}")
    return re.sub(r"\b[A-Za-z]+[0-9a-f]{10}\b", lambda m: names.get(m[0], m[0]), svg)


def heat(ax: Axes, values: np.ndarray, low: float, high: float, form: str) -> None:
    """Cells from white to blue with their numbers; an empty cell is grey."""
    ax.set_facecolor(FAINT)
    ax.pcolormesh(values, cmap="Blues", vmin=low, vmax=1.15 * high, edgecolors="white", linewidth=1)
    ax.set_xlim(0, values.shape[1])
    ax.set_ylim(values.shape[0], 0)
    for y, x in np.argwhere(~np.isnan(values)) if form else ():
        dark = values[y, x] > 0.6 * high
        ax.text(x + 0.5, y + 0.52, form.format(values[y, x]), ha="center", va="center",
                fontsize=7, color="white" if dark else INK)  # fmt: skip
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def top_ticks(ax: Axes, names: list[str]) -> None:
    """Names above the cells, slanted."""
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=40, ha="left",
                  rotation_mode="anchor", fontsize=7.5)  # fmt: skip
    ax.xaxis.tick_top()


def short(name: str, limit: int = 42) -> str:
    """A long class name cut at a comma or a word."""
    if len(name) <= limit:
        return name
    return name[:limit].rsplit(" ", 1)[0].rstrip(",") + " …"
