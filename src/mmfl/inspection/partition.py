"""A partition: who holds what, and whether its files belong together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd

from mmfl.clients.manifest import content_hash, read_manifest
from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.inspection.findings import GALLERY, Findings
from mmfl.inspection.gallery import load_gallery
from mmfl.reporting import page
from mmfl.reporting.partition import draw
from mmfl.reporting.results import holders
from mmfl.reporting.texts import CLIENTS


def inspect_partition(path: Path) -> Findings:
    """See `inspect`; beside the manifest lie its summary (.json) and its table (.csv).

    Raises:
        UserError: it is a parquet file of another kind.
    """
    found = Findings(f"Partition {path.stem}", {"File": str(path)})
    try:
        frame = read_manifest(path)
    except UserError as error:
        found.damage.append(str(error))
        return found
    found.facts["Content SHA-256"] = content_hash(frame)
    found.facts["Rows"] = f"{len(frame):,} (client, modality, location)"
    found.facts["Locations"] = f"{frame['pair'].nunique():,}"
    twice = frame.duplicated(["client", "modality", "pair"])
    if twice.any():
        pair = frame["pair"][twice].iloc[0]
        found.damage.append(f"{path}: {pair} is held twice by one client; run partition again")
    splits = frame.groupby("pair")["split"].nunique()
    if (splits > 1).any():
        found.damage.append(f"{path}: {splits.idxmax()} is in two splits; run partition again")
    try:
        summary = read_json(path.with_suffix(".json"), "partition")
        if summary.get("sha256") != content_hash(frame):
            found.damage.append(f"{path.with_suffix('.json')}: is of another partition")
        holders(path.with_suffix(""))
        found.facts["Held in every modality"] = f"{summary['shared_training_pairs']:,} (training)"
        found.facts["Classes"] = f"{len(summary['classes'])}"
        found.facts["Held by nobody"] = f"{summary['without_holder']:,}"
        found.facts["Clients without training patches"] = (
            ", ".join(summary["empty_clients"]) or "none"
        )
    except UserError as error:
        found.damage.append(str(error))
    except (KeyError, TypeError, ValueError) as error:
        found.damage.append(f"{path.with_suffix('.json')}: lacks {error}; run partition again")
    try:
        table = pd.read_csv(path.with_suffix(".csv"))
        if set(table["client"]) != set(frame["client"]):
            found.damage.append(f"{path.with_suffix('.csv')}: is of another partition")
        found.add("Clients", table)
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        found.damage.append(f"{path.with_suffix('.csv')}: not readable ({text})")
        counted = frame.groupby(["client", "group", "modality", "split"]).size()
        found.add("Clients", counted.unstack(fill_value=0).reset_index())
    if not found.damage:
        found.picture = page.picture_of("clients", draw(table, summary), *CLIENTS)
    store = path.resolve().parents[2] / "patches" / path.resolve().parent.name
    if (store / "labels").is_dir():
        with suppress(UserError):  # damage is told where the store is inspected
            found.gallery = load_gallery(store, GALLERY, pairs=set(frame["pair"]))
    return found
