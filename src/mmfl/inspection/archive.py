"""An extracted archive: its tables, its folders, and whether its files can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mmfl.archives import Archive, get
from mmfl.archives.base import pixels_only
from mmfl.errors import DamagedFile, UserError
from mmfl.inspection.findings import GALLERY, Findings, spaced
from mmfl.patches.faults import sift
from mmfl.reporting.gallery import Location

READ = 64  # patches per modality that are read without --full
SPLITS = ["train", "validation", "test"]


def inspect_archive(root: Path, name: str, full: bool) -> Findings:
    """See `inspect`.

    Raises:
        UserError: its tables are missing or malformed, or the name is unknown.
    """
    archive = get(name)
    listed = archive.metadata(root)
    found = Findings(f"Archive {name}", {"Root": str(root)})
    found.facts["Licence"] = "CC0-1.0, simulated" if name == "simulated" else "CDLA-Permissive-1.0"
    found.facts["Locations listed"] = f"{len(listed):,}, without snow, cloud and shadow"
    try:
        every = archive.metadata(root, snow=True, cloud_or_shadow=True)
        found.facts["With snow, cloud or shadow"] = f"{len(every) - len(listed):,} more"
    except UserError as error:
        every = listed
        found.notes.append(f"Excluded patches not looked at: {error}")
    rows, faults = sift(archive, root, every, workers=4)
    found.damage += [str(fault) for fault in faults]
    describe(found, archive, rows)
    damaged = _read(found, archive, root, rows, full)
    good = rows[~rows[list(archive.modalities)].isin(damaged).any(axis=1)]
    found.gallery = _gallery(archive, root, good)
    return found


def describe(found: Findings, archive: Archive, rows: pd.DataFrame) -> None:
    """Who has what: modalities, splits by country, classes, bands."""
    has = {q: rows[q].notna() for q in archive.modalities}
    both = np.all(list(has.values()), axis=0)
    alone = ", ".join(f"{int((m & ~both).sum()):,} only in {q.upper()}" for q, m in has.items())
    found.facts["Locations that can be used"] = f"{len(rows):,}, {alone}"
    if rows.empty:
        return
    found.add("Locations by country and split", by_country(rows))
    found.add("Classes", class_counts(rows["labels"], archive.classes))
    bands = [
        {"band": b.name, "modality": q.upper(), "metres": b.resolution, "pixels": b.size,
         "type": b.dtype, "mean": b.mean, "deviation": b.std}
        for q, m in archive.modalities.items() for b in m.bands
    ]  # fmt: skip
    found.add("Bands", pd.DataFrame(bands))


def by_country(rows: pd.DataFrame) -> pd.DataFrame:
    """country, train, validation, test, tiles, months."""
    table = pd.crosstab(rows["country"], rows["split"]).reindex(columns=SPLITS, fill_value=0)
    other = rows.groupby("country").agg(tiles=("tile", "nunique"), months=("month", "nunique"))
    return table.join(other).reset_index()


def class_counts(labels: pd.Series, classes: tuple[str, ...]) -> pd.DataFrame:
    """class, locations, share in percent."""
    flat = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64)
    counts = np.bincount(flat, minlength=len(classes))
    share = 100 * counts / max(len(labels), 1)
    return pd.DataFrame({"class": classes, "locations": counts, "%": share.round(2)})


def _read(
    found: Findings, archive: Archive, root: Path, rows: pd.DataFrame, full: bool
) -> set[str]:
    """Read bands; the patches that are damaged."""
    damaged: set[str] = set()
    count = 0
    for q, modality in archive.modalities.items():
        names = rows[q].dropna().tolist()
        chosen = names if full else [names[i] for i in spaced(len(names), READ)]
        count += len(chosen)
        bar = tqdm(chosen, desc=f"read {q}", unit="patch", delay=2)
        with pixels_only():
            for patch in bar:
                for band in modality.bands:
                    try:
                        archive.read(root, q, patch, band.name)
                    except DamagedFile as error:
                        found.damage.append(str(error))
                        damaged.add(patch)
    total = sum(int(rows[q].notna().sum()) for q in archive.modalities)
    found.facts["Patches read"] = f"{count:,} of {total:,}" + ("" if full else "; --full reads all")
    return damaged


def _gallery(archive: Archive, root: Path, rows: pd.DataFrame) -> list[Location]:
    """Some locations that have both modalities."""
    names = {q: {band.name for band in m.bands} for q, m in archive.modalities.items()}
    wanted = {"s2": ["B04", "B03", "B02"], "s1": ["VV", "VH"]}
    if any(not set(bands) <= names.get(q, set()) for q, bands in wanted.items()):
        return []
    rows = rows[rows["s1"].notna() & rows["s2"].notna()]
    places = []
    for row in rows.iloc[spaced(len(rows), GALLERY)].to_dict("records"):
        try:
            optical, radar = (
                np.stack([archive.read(root, q, str(row[q]), band) for band in wanted[q]])
                for q in ("s2", "s1")
            )
        except DamagedFile:
            continue  # not among those that were read before
        labels = tuple(archive.classes[i] for i in row["labels"])
        places.append(Location(str(row["pair"]), {"s2": optical, "s1": radar}, labels))
    return places
