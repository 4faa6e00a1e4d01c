"""The picture of a partition: how many patches each client holds, and of which classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmfl.reporting.style import COLOURS, INK, heat, short, style, top_ticks

SHOWN = 120  # clients
SPLITS = ("train", "validation", "test")


def draw(clients: pd.DataFrame, summary: dict[str, Any]) -> Figure:
    """The picture.

    Args:
        clients: the partition's table: client, modalities, train, validation, test, divergence.
        summary: the partition's summary: each client's labels, the names of the classes.
    """
    shares = label_shares(clients, summary)
    left_out = len(clients) - SHOWN
    if left_out > 0:
        largest = clients[list(SPLITS)].sum(axis=1).nlargest(SHOWN).index
        clients = clients.loc[sorted(largest)]
    clients = clients.reset_index(drop=True)
    grid = shares.reindex(index=clients["client"])
    count = len(clients)
    with style():
        numbers = count <= 40
        line = 0.19 if numbers else 0.13
        figure = Figure(figsize=(9.6, line * count + 2.2), layout="constrained")
        bars, cells, far = figure.subplots(1, 3, sharey=True, width_ratios=[1.5, 3.4, 0.9])
        y = np.arange(count) + 0.5
        start = np.zeros(count)
        for colour, split in zip(COLOURS, SPLITS, strict=False):
            bars.barh(y, clients[split], left=start, height=0.75, color=colour, label=split)
            start += clients[split].to_numpy()
        size = 7.5 if numbers else 5.5
        bars.set_yticks(y, clients["client"], fontsize=size)
        bars.set_xlabel("Locations")
        bars.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=7, ncols=1)
        heat(cells, 100 * grid.to_numpy(np.float64), 0, 100, "{:.0f}" if numbers else "")
        top_ticks(cells, [short(str(name), 34) for name in grid.columns])
        cells.set_xlabel("Share (%) of the training locations that have the class")
        far.barh(y, clients["divergence"], height=0.75, color=INK)
        far.set_xlabel("Divergence")
        far.set_xlim(0, max(0.1, 1.1 * clients["divergence"].max(skipna=True) or 0.1))
        for ax in (bars, far):
            ax.grid(True, axis="x")
            ax.tick_params(axis="y", length=0)
        bars.set_ylim(count, 0)
        if left_out > 0:
            figure.suptitle(f"The {SHOWN} largest of {SHOWN + left_out} clients", fontsize=8.5)
    return figure


def label_shares(clients: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """Clients x classes: share of a client's training locations that have the class."""
    classes = summary["classes"]
    shares = {
        row.client: [
            summary["clients"][row.client]["labels"].get(str(k), 0) / (row.train or np.nan)
            for k in range(len(classes))
        ]
        for row in clients.itertuples()
    }
    return pd.DataFrame.from_dict(shares, orient="index", columns=classes)
