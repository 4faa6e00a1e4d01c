"""A store of patches: what it holds, and whether its shards are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.errors import UserError
from mmfl.files import file_sha256, read_json
from mmfl.inspection.archive import by_country, class_counts
from mmfl.inspection.findings import GALLERY, Findings, spaced
from mmfl.patches.faults import SKIPPED, read_skipped
from mmfl.patches.labels import read_labels
from mmfl.reporting.gallery import Location


def inspect_store(folder: Path) -> Findings:
    """See `inspect`. What cannot be read is among the damage; the rest is still shown."""
    found = Findings(f"Patches {folder.resolve().name}", {"Folder": str(folder)})
    classes: tuple[str, ...] = ()
    labels = pd.DataFrame(columns=["pair", "country", "split", "tile", "month", "labels"])
    try:
        labels, classes = read_labels(folder / "labels")
    except UserError as error:
        found.damage.append(str(error))
    found.facts["Locations"] = f"{len(labels):,}"
    rows, held = [], {}
    for path in sorted(path for path in folder.iterdir() if (path / "modality.json").exists()
                       or (path.is_dir() and path.name != "labels")):  # fmt: skip
        row, pairs = _modality(found, path, set(labels["pair"]))
        rows.append(row)
        held[path.name] = pairs
    found.add("Modalities", pd.DataFrame(rows))
    if held:
        both = set.intersection(*held.values())
        alone = [f"{len(p - both):,} only in {q.upper()}" for q, p in held.items()]
        found.facts["With every modality"] = f"{len(both):,}, {', '.join(alone)}"
    try:
        skipped = read_skipped(folder / "labels" / SKIPPED)
        found.facts["Left out by the split"] = f"{len(skipped):,}"
        found.add("Left out", skipped.head(20))
    except UserError as error:
        found.damage.append(str(error))
    if len(labels):
        found.add("Locations by country and split", by_country(labels))
        found.add("Classes", class_counts(labels["labels"], classes))
    if not found.damage and {"s1", "s2"} <= held.keys():
        found.gallery = gallery_of(folder)
    return found


def _modality(found: Findings, folder: Path, located: set[str]) -> tuple[dict[str, Any], set[str]]:
    """A row of the table, and the pairs that the modality holds."""
    row: dict[str, Any] = {"modality": folder.name.upper()}
    try:
        described = read_json(folder / "modality.json", "split")
        index = pd.read_parquet(folder / "index.parquet", columns=["pair", "patch", "shard", "row"])
        bands, rows, shards = described["bands"], described["rows"], described["shards"]
        resolutions = sorted({band["resolution"] for band in bands})
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        found.damage.append(f"{folder}: not readable ({text}); run split again")
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
            problem = _shard(path, own, rows[number], sums.get(path.name))
            if problem:
                found.damage.append(f"{path}: {problem}; run split again")
            size += path.stat().st_size if path.is_file() else 0
            checked += path.name in sums
    row |= {
        "patches": len(index), "shards": len(rows), "files with checksum": checked,
        "GB": size / 1e9, "bands": " ".join(band["name"] for band in bands),
    }  # fmt: skip
    return row, set(index["pair"])


def _shard(path: Path, bands: list[dict], rows: int, sha256: str | None) -> str | None:
    """What is wrong with a shard's file."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, EOFError) as error:
        return f"not readable ({' '.join(str(error).split())})"
    size = bands[0]["size"]
    expected = (bands[0]["dtype"], (rows, len(bands), size, size))
    if (mapped.dtype.name, mapped.shape) != expected:
        return f"found {mapped.dtype.name} {mapped.shape}, expected {expected[0]} {expected[1]}"
    if sha256 is not None and file_sha256(path) != sha256:
        return "does not fit its checksum"
    return None


def gallery_of(folder: Path, pairs: set[str] | None = None) -> list[Location]:
    """Some locations (of `pairs`) that a sound store holds in both modalities; else none."""
    from mmfl.patches.reader import Images, Patches

    wanted = {"s2": ["B04", "B03", "B02"], "s1": ["VV", "VH"]}
    try:
        labels, classes = read_labels(folder / "labels")
        stores = {q: Patches(folder / q) for q in wanted}
        size = next(b["size"] for b in stores["s2"].bands if b["name"] == "B04")
        images = {q: Images(store, wanted[q], size) for q, store in stores.items()}
        for store in stores.values():
            labels = labels[labels["pair"].isin(store.pairs)]
        if pairs is not None:
            labels = labels[labels["pair"].isin(pairs)]
        places = []
        for row in labels.iloc[spaced(len(labels), GALLERY)].to_dict("records"):
            pair = np.array([row["pair"]], dtype=object)
            raw = {q: images[q].batch(stores[q].rows(pair))[0].numpy() for q in images}
            has = tuple(classes[i] for i in row["labels"])
            places.append(Location(str(row["pair"]), raw, has))
        return places
    except (UserError, StopIteration):  # damage is told where the store is inspected
        return []
