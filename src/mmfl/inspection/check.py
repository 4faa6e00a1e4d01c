"""`mmfl check`: what an archive of one's own holds, and what is wrong with it, in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mmfl.archives.base import MASK, SPLITS
from mmfl.archives.folder import Folder, base_folder, metres
from mmfl.archives.folder import table as tables
from mmfl.archives.folder.files import Grid
from mmfl.archives.folder.units import READ, spaced
from mmfl.clients.manifest import group_names
from mmfl.errors import UserError
from mmfl.facts.description import Description, read_description
from mmfl.facts.description_parts import Splits
from mmfl.facts.tasks import TASKS
from mmfl.inspection import overlap, survey
from mmfl.inspection.archive import class_counts, pictures
from mmfl.inspection.findings import Findings

ROWS = 20  # of a table by group


@dataclass
class Checked(Findings):
    """`damage` is what has to be put right; warnings stand among the notes."""

    snippet: str = ""

    def warn(self, text: str) -> None:
        """Something to look at, which nothing refuses."""
        self.notes.append(f"Warning: {text}")

    def verdict(self) -> list[str]:
        """Lines on what is wrong."""
        lines = super().verdict()
        lines[0] = lines[0].replace("is damaged", "is wrong").replace("Damaged", "Wrong")
        odd = sum(note.startswith("Warning: ") for note in self.notes)
        if odd and not self.damage:
            lines[0] = f"Nothing is wrong; {odd} warning{'s' if odd > 1 else ''} above."
        return lines

    def text(self) -> str:
        """For a terminal; ends with what to write to run it."""
        return f"{super().text()}\n\n{self.snippet}" if self.snippet else super().text()


def check(path: Path, *, full: bool = False) -> Checked:
    """Look at an archive of one's own; nothing is written.

    Args:
        path: its description, a yaml file.
        full: read the pixels of every file, not only of some.

    Raises:
        UserError: the description cannot be used, or its table is not there.
    """
    described = read_description(path)
    table = tables.read_table(described, path)
    found = Checked(f"Archive described by {path}")
    found.snippet = snippet(path)
    usable = _table(found, described, table, path)
    _files(found, described, usable, path)
    try:
        archive = Folder.described_by(name_of(path), path)
    except UserError as error:
        found.damage.append(str(error))
        return found
    pairs = usable[described.id].tolist()
    looked = survey.headers(archive, path, pairs)
    found.damage += [line for line in looked.wrong if ": is missing" not in line]
    for said in looked.said.values():
        found.damage += said.wrong
        found.notes += said.notes
        for text in said.odd:
            found.warn(text)
    found.add("Modalities", modalities(archive, looked, usable, path))
    _pixels(found, archive, path, looked, pairs, full)
    splits = dict(zip(pairs, tables.splits(described, usable), strict=True))
    _ground(found, archive, path, looked, splits)
    found.damage = list(dict.fromkeys(found.damage))
    if not found.damage:
        found.gallery = pictures(archive, path, archive.metadata(path))
    return found


def name_of(path: Path) -> str:
    """A name that the parameters allow: the file's, or its folder's where that says more."""
    stem = path.resolve().parent.name if path.stem in ("archive", "description") else path.stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "mine"


def snippet(path: Path) -> str:
    """A parameter file to run it, and how."""
    name = name_of(path)
    chosen = {
        "folders": {name: str(path.expanduser().absolute())},
        "archives": {name: {}},
        "partition": {"scenario": "region"},
        "train": {"size": 32, "rounds": 2, "seeds": [1], "methods": ["mf"]},
    }
    text = yaml.safe_dump(chosen, sort_keys=False, default_flow_style=None, width=1000)
    lines = "".join(f"  {line}\n" for line in text.splitlines())
    return (f"To run it, write a parameter file of its own, {name}.params.yaml:\n{lines}"
            "and run, in the checkout:\n"
            f"  snakemake --cores 2 --configfile {name}.params.yaml")  # fmt: skip


def _table(found: Checked, described: Description, table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Facts of the table; its rows that can be used, sorted, each location once."""
    path = tables.table_path(described, root)
    found.damage += [f"{path}: {line}" for line in tables.faults(described, table)]
    ids = table[described.id]
    for name, count in ids[ids.duplicated(keep=False) & (ids != "")].value_counts().items():
        found.damage.append(f"{path}: {name} stands in {count} rows, expected one")
    split = tables.splits(described, table)
    usable = table[split.notna() & (ids != "") & ~ids.duplicated()]
    usable = usable.sort_values(described.id, kind="stable", ignore_index=True)
    split = tables.splits(described, usable)
    counts = ", ".join(f"{(split == name).sum():,} {name}" for name in SPLITS)
    task = TASKS[described.task]
    found.facts |= {
        "Task": f"{task.title}, {len(described.classes)} classes",
        "Table": f"{path}, {len(table):,} rows",
        "Files below": str(base_folder(described, root)),
        "Locations": counts,
        "Clients by region": f"column {described.grouped}" if described.grouped else "none: one",
        "Licence": described.licence,
    }
    if described.split.selects and len(split) < len(table):
        found.notes.append(f"{len(table) - len(split):,} rows are in no split and left out.")
    if not (split == "train").any():
        found.damage.append(f"{path}: no location for training, expected some")
    if not (split == "test").any():
        found.damage.append(f"{path}: no location for the test, expected some; else nothing can be "
                            "evaluated")  # fmt: skip
    if not (split == "validation").any():
        found.warn("no location for validation: rounds cannot be compared, the last one counts")
    for group in dict.fromkeys([*filter(None, [described.grouped]), *described.groups]):
        try:
            group_names(sorted(set(usable[group]) - {""}))
        except UserError as error:
            found.damage.append(f"{path}: column {group}: {error}")
        counted = pd.crosstab(usable[group], split).reindex(columns=list(SPLITS), fill_value=0)
        largest = counted.loc[counted.sum(axis=1).sort_values(ascending=False, kind="stable").index]
        more = f", the largest {ROWS} of {len(counted):,}" if len(counted) > ROWS else ""
        found.add(f"Locations by {group} and split{more}", largest.head(ROWS).reset_index())
    if described.labels and described.task == "multilabel":
        has = pd.Series(tables.labels(described.labels, usable), dtype=object)
        found.add("Classes", class_counts(has, described.classes))
        bare = (has.map(len) == 0).sum()
        if bare:
            found.warn(f"{bare:,} locations have no label at all")
    return usable


def _files(found: Checked, described: Description, table: pd.DataFrame, root: Path) -> None:
    """Cells without a path, paths without a file, and paths that name another split."""
    base = base_folder(described, root)
    pixel = described.task == "pixel"
    bare = np.ones(len(table), bool)
    splits = tables.splits(described, table)
    strange: list[str] = []
    for q in [*described.modalities, *([MASK.name] if pixel else [])]:
        named = tables.paths(described, table, q)
        for pair, split, texts in zip(table[described.id], splits, named, strict=True):
            if texts is None and q == MASK.name:
                found.damage.append(f"{pair}: the table names no mask, expected one")
            for text in texts or ():
                if not (base / text).is_file():
                    found.damage.append(f"{base / text}: is missing, the {q} of {pair}; "
                                        f"{_where(base / text, base)}")  # fmt: skip
                says = {Splits().of(part) for part in Path(text).parts[:-1]} - {None}
                if says and split not in says:
                    strange.append(f"{base / text} is of {pair}, which the table has in {split}")
        if q != MASK.name:
            bare &= np.array([texts is None for texts in named], bool)
    if strange:
        found.warn(f"{len(strange):,} files lie in the folder of another split, e.g. {strange[0]}")
    if bare.any():
        found.warn(f"{bare.sum():,} locations have no image and are left out, e.g. "
                   f"{table[described.id][bare].iloc[0]}")  # fmt: skip


def _where(path: Path, base: Path) -> str:
    """What to do about a file that is not there."""
    folder = path.parent
    if not folder.is_dir():
        return (f"there is no folder {folder}, see path and root in the description (files are "
                f"looked for below {base})")  # fmt: skip
    near = [name for name in _names(folder) if name.casefold() == path.name.casefold()
            or Path(name).stem.casefold() == path.stem.casefold()]  # fmt: skip
    hint = f"did you mean {near[0]}? Else " if near else ""
    return f"{hint}correct the table, or leave it out with split.on_error: skip"


@lru_cache(maxsize=8)
def _names(folder: Path) -> list[str]:
    """Files of a folder, not all where they are many."""
    return [item.name for item in islice(folder.iterdir(), 100_000)]


def modalities(
    archive: Folder, looked: survey.Survey, table: pd.DataFrame, root: Path
) -> pd.DataFrame:
    """A row per modality and one for the mask: who has it, and what its files are like."""
    rows = []
    for q, grids in looked.grids.items():
        shapes = sorted({(grid.height, grid.width) for grid in grids.values()})
        sides = sorted({metres(grid) for grid in grids.values() if grid.transform is not None})
        ends = [f"{height} x {width}" for height, width in shapes[:1] + shapes[1:][-1:]]
        rows.append({
            "modality": q, "locations": len(grids), "without": len(table) - len(grids),
            "bands": " ".join(band.name for band in archive.modality(q).bands),
            "files": " ".join(sorted(looked.kinds[q])), "type": " ".join(sorted(looked.dtypes[q])),
            "pixels": " to ".join(ends), "metres": " ".join(map(str, sides)) or None,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _pixels(
    found: Checked, archive: Folder, root: Path, looked: survey.Survey, pairs: list[str], full: bool
) -> None:
    """Ranges of the bands and frequencies of the classes, of all or some locations."""
    bands: list[dict[str, object]] = []
    read = {}
    for q, grids in looked.grids.items():
        held = [pair for pair in pairs if pair in grids]
        chosen = held if full else [held[i] for i in spaced(len(held), READ)]
        read[q] = f"{len(chosen):,} of {len(held):,} {q}"
        if q == MASK.name:
            classes, wrong, bare = survey.masks(archive, root, chosen)
            found.damage += wrong
            found.add("Classes", classes)
            if bare:
                found.warn(f"{bare:,} of {len(chosen):,} masks read have no pixel with a class")
            absent = classes["class"][(classes["pixels"] == 0) & (classes["class"] != "ignored")]
            if len(absent):
                found.warn(f"in the masks read there is no {', '.join(absent)}")
            continue
        seen = survey.values(archive, root, q, chosen)
        bands += seen.bands
        found.damage += seen.wrong
        for text in seen.odd:
            found.warn(text)
    found.add("Bands", pd.DataFrame(bands))
    found.facts["Files opened"] = f"{sum(map(len, looked.grids.values())):,}, all there are"
    rest = "" if full else "; --full reads all"
    found.facts["Pixels read"] = f"{', '.join(read.values())}, at equal steps of the list{rest}"


def _ground(
    found: Checked, archive: Folder, root: Path, looked: survey.Survey, splits: dict[str, str]
) -> None:
    """Whether splits share ground, or files where nobody knows the ground."""
    placed: dict[str, Grid] = {}
    unplaced: list[tuple[Path, str, str]] = []
    for grids in looked.grids.values():
        for pair, grid in grids.items():
            if grid.transform is not None:
                placed.setdefault(pair, grid)
    for q in archive.modalities:
        for pair in looked.grids[q]:
            if pair not in placed:
                unplaced += [(p, pair, splits[pair]) for p in archive.paths(root, q, pair)]
    for one, other, path, same in overlap.identical(unplaced):
        found.damage.append(f"{same}: of {other} ({splits[other]}) is the same image as {path} of "
                            f"{one} ({splits[one]})")  # fmt: skip
    if unplaced:
        count = len({pair for _, pair, _ in unplaced})
        found.notes.append(
            f"{count:,} locations have no georeference: whether their splits lie apart cannot be "
            "seen, only that no image stands in two. " + _shared(archive.described, root)
        )
    feet = overlap.footprints(placed, splits)
    shared = overlap.overlapping(feet)
    for i, j in shared:
        found.damage.append(f"{feet.names[i]} ({feet.splits[i]}) and {feet.names[j]} "
                            f"({feet.splits[j]}) cover the same ground")  # fmt: skip
    if len(shared) >= overlap.SHARED:
        found.notes.append(f"The search for shared ground ended at {len(shared):,} pairs.")
    for split in ("validation", "test"):
        gap, width = overlap.distances(feet, split)
        near = gap < overlap.NEAR * width
        if near.any():
            found.warn(f"{near.sum():,} of {len(near):,} {split} locations lie within "
                       f"{overlap.NEAR} tile widths of a training location (the nearest "
                       f"{gap.min():,.0f} m), so scores may be optimistic")  # fmt: skip
    if len(feet.names) and not any("cover the same ground" in line for line in found.damage):
        found.notes.append(f"No ground is shared by two splits ({len(feet.names):,} footprints).")


def _shared(described: Description, root: Path) -> str:
    """How many groups of each column are in training and in test."""
    table = tables.read_table(described, root)
    split = tables.splits(described, table)
    said = []
    for group in described.groups:
        train, test = (set(table[group][split == name]) for name in ("train", "test"))
        said.append(f"{len(train & test)} of {len(train | test)} values of {group} are both in "
                    "train and test.")  # fmt: skip
    return " ".join(said)
