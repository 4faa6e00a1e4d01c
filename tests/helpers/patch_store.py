"""A small store of patches in the format of `split`."""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.store_digests import seal
from mmfl.archives import get
from mmfl.patches.shards import Shard
from mmfl.patches.tables import group_columns
from mmfl.patches.writer import write_index, write_labels


def make_store(
    folder: Path, *, pairs=48, seed=0, countries=("A", "B"), lonely=4, month=6
) -> pd.DataFrame:
    """A small store of patches in the format of `split`; random pixels, the mean carries labels."""
    rng = np.random.default_rng(seed)
    archive = get("bigearthnet-v2")
    names = [f"pair-{i:03d}" for i in range(pairs)]
    labels = [np.flatnonzero(rng.random(19) < 0.3).astype(np.int8) for _ in names]
    table = pd.DataFrame(
        {
            "pair": names,
            "s1": [f"{n}-s1" if i >= lonely else None for i, n in enumerate(names)],
            "s2": [f"{n}-s2" if i < pairs - lonely else None for i, n in enumerate(names)],
            "split": [("train", "train", "validation", "test")[i % 4] for i in range(pairs)],
            "country": [countries[(i // 4) % len(countries)] for i in range(pairs)],
            "month": month,
            "season": "JJA",
            "tile": "T33UUP",
            "labels": labels,
        }
    )
    for q, modality in archive.modalities.items():
        held = table[table[q].notna()]
        target = folder / q
        target.mkdir(parents=True)
        for resolution, path in Shard(0, (), None, modality, target).files.items():
            bands = modality.at(resolution)
            shape = (len(held), len(bands), bands[0].size, bands[0].size)
            level = np.array([label.sum() for label in held["labels"]])[:, None, None, None]
            values = rng.normal(level, 20, shape) + (100 if q == "s2" else -120)
            if q == "s2":
                values = np.clip(values, 0, 65535)
            np.save(path, values.astype(bands[0].dtype))
        groups = group_columns(table, list(archive.modalities))
        write_index(target, modality, table, 4096, "test", groups=groups)
    write_labels(folder / "labels", table, archive)
    seal(folder)
    return table
