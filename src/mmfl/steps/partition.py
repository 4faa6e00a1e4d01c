"""Partition: index and labels in, a manifest of clients out. No shard is opened."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import compute

from mmfl.clients.manifest import MODALITIES, Manifest, build, write_manifest
from mmfl.errors import UserError
from mmfl.files import write_json
from mmfl.patches.labels import read_labels

log = logging.getLogger(__name__)


def run(*, patches: Path, out: Path, **choice: Any) -> Manifest:
    """Write `out` (.parquet) and its summary (.json); `choice` are the arguments of `build`."""
    manifest = build(location_table(patches), **choice)
    write_manifest(out, manifest.frame)
    write_json(out.with_suffix(".json"), manifest.summary)
    summary = manifest.summary
    if summary["empty_clients"]:
        log.warning("clients without training patches: %s", ", ".join(summary["empty_clients"]))
    lonely = ", ".join(f"{n} only in {q}" for q, n in summary["without_partner"].items() if n)
    if lonely:
        log.warning("locations without a partner: %s", lonely)
    return manifest


def location_table(patches: Path) -> pd.DataFrame:
    """The label table with a bool column per modality, from the indices that `split` wrote."""
    table, _ = read_labels(patches / "labels")
    pairs = pa.array(table["pair"], pa.string())
    for q in MODALITIES:
        path = patches / q / "index.parquet"
        try:
            index = pd.read_parquet(path, columns=["pair"])
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not readable ({reason}); run split again") from None
        table[q] = compute.is_in(pairs, pa.array(index["pair"], pa.string())).to_numpy(False)
    return table
