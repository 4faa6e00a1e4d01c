"""A partition in numbers: a row per client, from the manifest's summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

SPLITS = ("train", "validation", "test")


def client_table(summary: dict[str, Any], modalities: tuple[str, ...]) -> pd.DataFrame:
    """One row per client, sorted by name.

    client, group; modalities (`s1+s2`); train, validation, test: locations;
    patches_<modality>: patches of all splits; partners: training locations that another
    client holds in another modality; labels: labels of the training locations; classes: how many
    differ; divergence: Jensen-Shannon divergence (base 2, 0 to 1) between the label distribution
    of the client's training locations and that of all clients' locations, each counted once.
    """
    pooled = summary["pooled_labels"]
    rows = []
    for client, entry in sorted(summary["clients"].items()):
        counts = entry["counts"]
        own = entry["labels"]
        rows.append(
            {
                "client": client,
                "group": entry["group"],
                "modalities": "+".join(sorted(counts)),
                **{split: entry["locations"].get(split, 0) for split in SPLITS},
                **{f"patches_{q}": sum(counts.get(q, {}).values()) for q in modalities},
                "partners": entry["partners"],
                "labels": sum(own.values()),
                "classes": len(own),
                "divergence": divergence(own, pooled),
            }
        )
    return pd.DataFrame(rows)


def divergence(own: dict[str, int], pooled: dict[str, int]) -> float:
    """Jensen-Shannon divergence, base 2, of two distributions given as counts; nan if one is 0."""
    keys = sorted({*own, *pooled})
    p, q = (np.array([counts.get(k, 0) for k in keys], np.float64) for counts in (own, pooled))
    if not p.sum() or not q.sum():
        return float("nan")
    return float(jensenshannon(p, q, base=2) ** 2)
