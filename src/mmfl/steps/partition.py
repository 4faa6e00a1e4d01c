"""Partition: index and labels in; a manifest of clients, its summary and table out.

No shard is opened.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import compute

from mmfl.clients.manifest import Manifest, build, write_manifest
from mmfl.clients.table import client_table
from mmfl.files import atomic, digest, write_json
from mmfl.intact import digests
from mmfl.patches.labels import LABELS, Store, read_labels

log = logging.getLogger(__name__)


def run(*, patches: Path, out: Path, **choice: Any) -> Manifest:
    """Write `out` (.parquet) and beside it a summary (.json) and a row per client (.csv).

    `choice` are the arguments of `build`.
    """
    table, classes = location_table(patches)
    manifest = build(table, **choice)
    summary = manifest.summary
    clients = client_table(summary, tuple(summary["without_partner"]))
    with atomic(out.with_suffix(".csv")) as temporary:
        clients.to_csv(temporary, index=False, lineterminator="\n")
    written = summary | {"classes": list(classes)}
    written["files"] = digests(out.parent, [out.with_suffix(".csv").name])
    write_json(out.with_suffix(".json"), written | {"digest": digest(written)})
    write_manifest(out, manifest.frame)
    if summary["empty_clients"]:
        log.warning("clients without training patches: %s", ", ".join(summary["empty_clients"]))
    lonely = ", ".join(f"{n} of {q}" for q, n in summary["without_partner"].items() if n)
    if lonely:
        log.warning("locations without a partner: %s", lonely)
    if summary["without_holder"]:
        log.warning("locations that no client holds: %d", summary["without_holder"])
    return manifest


def location_table(patches: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The label table with a bool column per modality, from the indices of `split`; classes."""
    store = Store(patches)
    table, classes = read_labels(patches / LABELS, store)
    pairs = pa.array(table["pair"], pa.string())
    for q in store.modalities:
        index = store.table(f"{q}/index.parquet", ["pair"])
        table[q] = compute.is_in(pairs, pa.array(index["pair"], pa.string())).to_numpy(False)
    return table, classes
