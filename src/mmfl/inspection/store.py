"""A store of patches: what it holds, and whether its shards are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.archives.base import MASK
from mmfl.errors import UserError
from mmfl.inspection.archive import by_group, class_counts
from mmfl.inspection.findings import GALLERY, Findings
from mmfl.inspection.gallery import load_gallery
from mmfl.patches.faults import SKIPPED, read_skipped
from mmfl.patches.labels import LABELS, Store, read_labels


def inspect_store(folder: Path) -> Findings:
    """See `inspect`. What cannot be read is among the damage; the rest is still shown."""
    found = Findings(f"Patches {folder.resolve().name}", {"Folder": str(folder)})
    classes: tuple[str, ...] = ()
    labels = pd.DataFrame(columns=["pair", "split", "labels"])
    store: Store | None = None
    try:
        store = Store(folder, anew=True)
        labels, classes = read_labels(folder / LABELS, store)
    except UserError as error:
        found.damage.append(str(error))
    found.facts["Locations"] = f"{len(labels):,}"
    rows, held = [], {}
    for path in sorted(path for path in folder.iterdir() if (path / "modality.json").exists()
                       or (path.is_dir() and path.name != LABELS)):  # fmt: skip
        if store is None:
            continue
        row, pairs = _modality(found, store, path, set(labels["pair"]))
        rows.append(row)
        held[path.name] = pairs
    found.add("Modalities", pd.DataFrame(rows))
    images = {q: pairs for q, pairs in held.items() if q != MASK.name}
    if images:
        whole = set.intersection(*images.values())
        every = set(labels["pair"])
        lacking = [f"{len(every - pairs):,} without {q.upper()}" for q, pairs in images.items()]
        found.facts["With every modality"] = f"{len(whole):,}, {', '.join(lacking)}"
    try:
        if store is not None:
            store.content(f"{LABELS}/{SKIPPED}")
        skipped = read_skipped(folder / LABELS / SKIPPED)
        found.facts["Left out by the split"] = f"{len(skipped):,}"
        found.add("Left out", skipped.head(20))
    except UserError as error:
        found.damage.append(str(error))
    if len(labels):
        found.add(*by_group(labels, list(images)))
        found.add("Classes", class_counts(labels["labels"], classes))
        if MASK.name in held and (bare := every - held[MASK.name]):
            found.damage.append(f"{folder / MASK.name}: has no mask of {min(bare)}; run split")
    if not found.damage:
        found.gallery = load_gallery(folder, GALLERY)
    return found


def _modality(
    found: Findings, store: Store, folder: Path, located: set[str]
) -> tuple[dict[str, Any], set[str]]:
    """A row of the table, and the pairs that the modality holds."""
    row: dict[str, Any] = {"modality": folder.name.upper()}
    try:
        described = store.json(f"{folder.name}/modality.json")
        columns = ["pair", "patch", "shard", "row"]
        index = store.table(f"{folder.name}/index.parquet", columns)
        bands, rows, shards = described["bands"], described["rows"], described["shards"]
        shapes = described["shapes"]
        resolutions = sorted({band["resolution"] for band in bands})
    except UserError as error:
        found.damage.append(str(error))
        return row, set()
    except (KeyError, TypeError) as error:
        found.damage.append(f"{folder}: not readable ({error}); {store.watch.remedy}")
        return row, set()
    missing = index["pair"][~index["pair"].isin(located)]
    if len(missing):
        found.damage.append(f"{folder / 'index.parquet'}: {missing.iloc[0]} has no labels")
    outside = (index["shard"] >= len(rows)) | (index["row"] < 0)
    outside |= index["row"] >= np.array([*rows, 0])[index["shard"].clip(upper=len(rows))]
    if outside.any():
        found.damage.append(f"{folder / 'index.parquet'}: {outside.sum():,} rows lie in no shard")
    size, checked = 0, 0
    for number in range(len(rows)):
        sums = shards.get(str(number), {}).get("sha256", {})
        for metres in resolutions:
            path = folder / f"{metres}m-{number:05d}.npy"
            own = [band for band in bands if band["resolution"] == metres]
            expected = (own[0]["dtype"], (rows[number], len(own), *shapes[str(metres)][number]))
            try:
                store.watch.check({path: sums.get(path.name, "")})
                _shard(path, expected, store.watch.remedy)
            except UserError as error:
                found.damage.append(str(error))
            size += path.stat().st_size if path.is_file() else 0
            checked += path.name in sums
    row |= {
        "patches": len(index), "shards": len(rows), "files with checksum": checked,
        "GB": size / 1e9, "bands": " ".join(band["name"] for band in bands),
    }  # fmt: skip
    return row, set(index["pair"])


def _shard(path: Path, expected: tuple[str, tuple], remedy: str) -> None:
    """Raise `UserError` for a file of another type and shape than `expected`."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        seen = (mapped.dtype.name, mapped.shape)
    except (OSError, ValueError, EOFError) as error:
        seen = (" ".join(str(error).split()), ())
    if seen != expected:
        raise UserError(f"{path}: found {seen}, expected {expected}; {remedy}")
