"""An extracted archive: its tables, its folders, and whether its files can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mmfl.archives import Archive, get
from mmfl.archives.base import MASK, SPLITS, pixels_only
from mmfl.archives.content import varies, worthless
from mmfl.archives.folder.units import READ, spaced
from mmfl.errors import DamagedFile, UserError
from mmfl.inspection.findings import GALLERY, Findings
from mmfl.inspection.gallery import MODALITIES
from mmfl.patches.faults import sift
from mmfl.patches.tables import group_columns
from mmfl.reporting.gallery import Gallery, Location, Tile


def inspect_archive(root: Path, name: str, full: bool) -> Findings:
    """See `inspect`.

    Raises:
        UserError: its tables are missing or malformed, or the name is unknown.
    """
    archive = get(name, root)
    listed = archive.metadata(root)
    found = Findings(f"Archive {name}", {"Root": str(root)})
    found.facts["Licence"] = archive.licence
    found.facts["Locations listed"] = f"{len(listed):,}, without snow, cloud and shadow"
    try:
        every = archive.metadata(root, snow=True, cloud_or_shadow=True)
        found.facts["With snow, cloud or shadow"] = f"{len(every) - len(listed):,} more"
    except UserError as error:
        every = listed
        found.notes.append(f"Excluded patches not looked at: {error}")
    rows, faults = sift(archive, root, every, workers=4)
    found.damage += [str(fault) for fault in faults]
    if packed := {q: tar for q in archive.modalities if (tar := archive.packed(root, q))}:
        names = ", ".join(tar.name for tar in packed.values())
        found.notes.append(f"Not looked into, as only a split reads them: {names}")
    if rows["labels"].notna().all():
        describe(found, archive, rows)
    read = [q for q in archive.modalities if q not in packed]
    damaged = _read(found, archive, root, rows, read, full)
    good = rows[~rows[list(archive.modalities)].isin(damaged).any(axis=1)]
    found.gallery = None if packed else pictures(archive, root, good)
    return found


def describe(found: Findings, archive: Archive, rows: pd.DataFrame) -> None:
    """Who has what: modalities, splits by group, classes, bands."""
    has = {q: rows[q].notna() for q in archive.modalities}
    whole = np.all(list(has.values()), axis=0)
    lacking = ", ".join(f"{int((~m).sum()):,} without {q.upper()}" for q, m in has.items())
    found.facts["Locations that can be used"] = (
        f"{len(rows):,}, {int(whole.sum()):,} with every modality, {lacking}"
    )
    if rows.empty:
        return
    found.add(*by_group(rows, list(archive.modalities)))
    found.add("Classes", class_counts(rows["labels"], archive.classes))
    bands = [
        {"band": b.name, "modality": q.upper(), "metres": b.resolution, "pixels": b.size,
         "type": b.dtype, "mean": b.mean, "deviation": b.std}
        for q, m in archive.modalities.items() for b in m.bands
    ]  # fmt: skip
    found.add("Bands", pd.DataFrame(bands))


def by_group(rows: pd.DataFrame, modalities: list[str]) -> tuple[str, pd.DataFrame]:
    """A title, and a table: group, train, validation, test, different values of other columns.

    The group is what the scenario `region` uses, by the column's own name if it has one.
    """
    groups = [c for c in group_columns(rows, modalities) if c not in ("pair", "split")]
    if not groups:
        groups, rows = ["region"], rows.assign(region="all")
    alike = [c for c in groups if "region" not in rows or rows[c].equals(rows["region"])]
    first = min(alike or groups, key="region".__eq__)
    table = pd.crosstab(rows[first], rows["split"]).reindex(columns=list(SPLITS), fill_value=0)
    for other in groups:
        if other not in (first, "region"):
            table[f"{other}s"] = rows.groupby(first)[other].nunique()
    return f"Locations by {first} and split", table.reset_index()


def class_counts(labels: pd.Series, classes: tuple[str, ...]) -> pd.DataFrame:
    """class, locations, share in percent."""
    flat = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64)
    counts = np.bincount(flat, minlength=len(classes))
    share = 100 * counts / max(len(labels), 1)
    return pd.DataFrame({"class": classes, "locations": counts, "%": share.round(2)})


def _read(
    found: Findings, archive: Archive, root: Path, rows: pd.DataFrame, read: list[str], full: bool
) -> set[str]:
    """Read patches of some modalities; those that are damaged."""
    damaged: set[str] = set()
    count = 0
    for q in read:
        modality = archive.modality(q)
        names = rows[q].dropna().tolist()
        chosen = names if full else [names[i] for i in spaced(len(names), READ)]
        count += len(chosen)
        bar = tqdm(chosen, desc=f"read {q}", unit="patch", delay=2)
        with pixels_only():
            for patch in bar:
                seen = []
                for band in modality.bands:
                    try:
                        pixels = archive.read(root, q, patch, band.name)
                        seen.append(varies(pixels, band.nodata))
                    except DamagedFile as error:
                        found.damage.append(str(error))
                        damaged.add(patch)
                if len(seen) == len(modality.bands) and (reason := worthless(seen)):
                    found.damage.append(f"{archive.patch_folder(root, q, patch)}: {reason}")
                    damaged.add(patch)
    total = sum(int(rows[q].notna().sum()) for q in archive.modalities)
    found.facts["Patches read"] = f"{count:,} of {total:,}" + ("" if full else "; --full reads all")
    return damaged


def pictures(archive: Archive, root: Path, rows: pd.DataFrame) -> Gallery | None:
    """Some locations, those that have every modality if there are any."""
    told = {q: [*m.show] for q, m in archive.modalities.items() if m.show}
    bands = dict([*told.items()][:MODALITIES])
    whole = rows[rows[list(bands)].notna().all(axis=1)]
    rows = whole if len(whole) else rows
    places: list[Location] = []
    tiles: list[Tile] = []
    for row in rows.iloc[spaced(len(rows), GALLERY)].to_dict("records"):
        pair = str(row["pair"])
        try:
            images = {q: None if row[q] is None else _image(archive, root, q, str(row[q]), names)
                      for q, names in bands.items()}  # fmt: skip
            if archive.task == "pixel":
                mask = archive.read_patch(root, MASK.name, pair, MASK.resolutions[0])[0]
                tiles.append(Tile(pair, images, mask))
            else:
                labels = tuple(archive.classes[i] for i in row["labels"])
                places.append(Location(pair, images, labels))
        except DamagedFile:
            continue  # not among those that were read before
    if not tiles and not places:
        return None
    return Gallery(tiles or places, bands, "", archive.classes, archive.colours or None)


def _image(archive: Archive, root: Path, q: str, patch: str, names: list[str]) -> np.ndarray:
    """(bands, H, W) float32, NaN in gaps."""
    found = []
    for name in names:
        pixels = archive.read(root, q, patch, name).astype(np.float32)
        nodata = archive.modality(q).band(name).nodata
        found.append(pixels if nodata is None else np.where(pixels == nodata, np.nan, pixels))
    return np.stack(found)
