"""BigEarthNet-MM v1.0, Sumbul et al., arXiv 2105.07921; CDLA-Permissive-1.0.

590,326 patch pairs of 1200 m x 1200 m from ten European countries, June 2017 to May 2018, with 43
CORINE labels each, of which 19 classes are made. 519,284 pairs have an official split; the others
have seasonal snow (61,707), cloud or cloud shadow (9,280) or none of the 19 classes (57).

Layout below the root (the folder names of the published archives; see `TOP`):

    BigEarthNet-v1.0/<s2>/<s2>_<band>.tif            uint16, reflectance x 10,000
    BigEarthNet-S1-v1.0/<s1>/<s1>_<band>.tif         float32, dB
    <either>/<name>_labels_metadata.json             labels by name; the tables hold none
    s1_s2_name_country_season.csv                    s1_name, s2_name, country, season
    train.csv, val.csv, test.csv                     Sentinel-2 names, no header
    patches_with_seasonal_snow.csv                   the same
    patches_with_cloud_and_shadow.csv
    patches_with_no_19_class_targets.csv

Each table may be compressed (.csv.gz or .csv.bz2). The season is taken from the month of the name:
the published column calls 115 patches of August "Fall".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import (
    COLUMNS,
    LABELS,
    NOTHING,
    REMEDY,
    SEASONS,
    Archive,
    Fault,
    Labels,
    Modality,
    parsed,
)
from mmfl.archives.bigearthnet import CLASSES, CORINE, listed, modalities, packed, packs
from mmfl.errors import UserError

# Statistics of v1.0, per band: mean, standard deviation.
STATISTICS = {
    "B01": (340.77, 554.81),
    "B02": (429.94, 572.42),
    "B03": (614.22, 582.88),
    "B04": (590.24, 675.89),
    "B05": (950.68, 729.90),
    "B06": (1792.46, 1096.01),
    "B07": (2075.47, 1273.45),
    "B08": (2218.95, 1365.46),
    "B8A": (2266.46, 1356.14),
    "B09": (2246.06, 1302.33),
    "B11": (1594.43, 1079.19),
    "B12": (1009.33, 818.87),
    "VV": (-12.620, 5.116),
    "VH": (-19.290, 5.464),
}
MODALITIES = modalities(STATISTICS)
TOP = {
    "s1": ("BigEarthNet-S1-v1.0", "BigEarthNet-S1", "BigEarthNet-S1-Example"),
    "s2": ("BigEarthNet-v1.0", "BigEarthNet-S2-v1.0", "BigEarthNet-S2", "BigEarthNet-S2-Example"),
}
PAIRS = "s1_s2_name_country_season.csv"
SPLITS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
SNOW = "patches_with_seasonal_snow.csv"
CLOUD = "patches_with_cloud_and_shadow.csv"
WITHOUT_CLASS = "patches_with_no_19_class_targets.csv"
TABLES = (PAIRS, *SPLITS.values(), SNOW, CLOUD, WITHOUT_CLASS)
PACKED = ("", ".gz", ".bz2")
JSON = "_labels_metadata.json"
# S2A_MSIL2A_20170613T101031_87_48; the time has five digits where the hour has one
S2_NAME = r"^S2[AB]_MSIL2A_\d{4}(?P<month>0[1-9]|1[0-2])\d{2}T\d{5,6}_\d{1,2}_\d{1,2}$"
# S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48
S1_NAME = r"^S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_(?P<tile>\d{2}[A-Z]{3})_\d{1,2}_\d{1,2}$"
INDEX = dict(CORINE.values())  # CORINE name -> class or None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BigEarthNetV1(Archive):
    """Reader of the v1.0 layout, see the module's docstring."""

    name: str = "bigearthnet-v1"
    task: str = "multilabel"
    classes: tuple[str, ...] = CLASSES
    licence: str = field(default="CDLA-Permissive-1.0", kw_only=True)
    modalities: dict[str, Modality] = field(default_factory=lambda: MODALITIES)
    metadata_files: tuple[str, ...] = tuple(f"{name}{end}" for name in TABLES for end in PACKED)

    def metadata(
        self, root: Path, *, snow: bool = False, cloud_or_shadow: bool = False
    ) -> pd.DataFrame:
        """See `Archive.metadata`; the labels are None. A patch without a split is left out."""
        root = Path(root)
        pairs = _pairs(root)
        left_out = _column(root, WITHOUT_CLASS)
        left_out |= set() if snow else _column(root, SNOW)
        left_out |= set() if cloud_or_shadow else _column(root, CLOUD)
        split = _splits(root)
        rows = pairs[~pairs["s2_name"].isin(left_out)]
        rows = rows.assign(split=rows["s2_name"].map(split))
        unknown = rows["split"].isna()
        if unknown.any():
            log.warning(
                "%s: %d patches are in none of %s and are left out, e.g. %s",
                root, unknown.sum(), ", ".join(SPLITS.values()), rows["s2_name"][unknown].iloc[0],
            )  # fmt: skip
        rows = rows[~unknown].sort_values("s2_name", kind="stable").reset_index(drop=True)
        month = _parsed(root, rows["s2_name"], S2_NAME, "s2_name")["month"].astype(np.int64)
        result = pd.DataFrame(
            {
                "pair": rows["s2_name"],
                "s1": rows["s1_name"],
                "s2": rows["s2_name"],
                "split": rows["split"],
                "country": rows["country"],
                "month": month,
                "season": month.map(SEASONS),
                "tile": "T" + _parsed(root, rows["s1_name"], S1_NAME, "s1_name")["tile"],
                "labels": None,
            }
        )
        return result[list(COLUMNS)]

    def labelled(
        self,
        root: Path,
        rows: pd.DataFrame,
        workers: int = 1,
        told: Mapping[str, Labels] = NOTHING,
    ) -> tuple[pd.DataFrame, list[Fault]]:
        """See `Archive.labelled`: from the json beside the Sentinel-2 image, else Sentinel-1's."""
        read = partial(self._labels, {q: self._top(Path(root), q) for q in TOP}, told)
        with ThreadPoolExecutor(max(workers, 4)) as pool:  # waits for the disk, not for the CPU
            found = list(pool.map(read, rows["s1"], rows["s2"], chunksize=256))
        faults = [item for item in found if isinstance(item, Fault)]
        keep = np.array([isinstance(item, np.ndarray) for item in found], bool)
        labels = np.empty(int(keep.sum()), dtype=object)
        labels[:] = [item for item in found if isinstance(item, np.ndarray)]
        result = rows[keep].reset_index(drop=True).assign(labels=labels)
        bare = result["labels"].map(len) == 0
        if bare.any():
            log.warning(
                "%s: %d patches have none of the 19 classes and are left out, e.g. %s",
                root, bare.sum(), result["pair"][bare].iloc[0],
            )  # fmt: skip
        return result[~bare].reset_index(drop=True), faults

    def names(self, root: Path) -> dict[str, set[str]]:
        """See `Archive.names`."""
        pairs = _pairs(Path(root))
        return {"s1": set(pairs["s1_name"]), "s2": set(pairs["s2_name"])}

    def folders(self, root: Path, modality: str) -> dict[str, Path]:
        """See `Archive.folders`."""
        return listed(self._top(Path(root), modality))

    def patch_folder(self, root: Path, modality: str, patch: str) -> Path:
        """See `Archive.patch_folder`."""
        return self._top(Path(root), modality) / patch

    def packed(self, root: Path, modality: str) -> Path | None:
        """See `Archive.packed`."""
        return packed(Path(root), TOP[modality])

    def packs(self, name: str) -> bool:
        """See `Archive.packs`."""
        return packs(name, TOP.values())

    def member(self, modality: str, path: str) -> tuple[str, str] | None:
        """See `Archive.member`."""
        if path.endswith(JSON):
            folder, _, name = path.rpartition("/")
            patch = name.removesuffix(JSON)
            return (patch, LABELS) if folder.rpartition("/")[2] == patch else None
        return super().member(modality, path)

    def labels_of(self, data: bytes) -> np.ndarray:
        """See `Archive.labels_of`."""
        return _classes(json.loads(data)["labels"])

    def _top(self, root: Path, modality: str) -> Path:
        """The modality's folder: the first of `TOP` that is there."""
        self.modality(modality)
        tops = [root / name for name in TOP[modality]]
        return next((top for top in tops if top.is_dir()), tops[0])

    def _labels(
        self, tops: dict[str, Path], told: Mapping[str, Labels], s1: str | None, s2: str | None
    ) -> np.ndarray | Fault:
        """Sorted class indices, int8."""
        paths = [
            (q, name, tops[q] / str(name) / f"{name}{JSON}") for q, name in (("s2", s2), ("s1", s1))
        ]
        for q, name, path in paths:
            if name is None:
                continue
            found = told[q].get(name) if q in told else self._read_labels(path)
            if isinstance(found, str):
                return Fault("", str(s2), str(path), f"labels not readable ({found}); {REMEDY}")
            if found is not None:
                return found
        return Fault("", str(s2), str(paths[0][2]), f"is missing, expected the labels; {REMEDY}")

    def _read_labels(self, path: Path) -> np.ndarray | str | None:
        try:
            return parsed(self, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return " ".join(str(error).split())


def _classes(names: Iterable[str]) -> np.ndarray:
    unknown = [name for name in names if name not in INDEX]
    if unknown:
        raise ValueError(f"found {unknown[0]!r}, expected one of the 43 CORINE labels")
    found = {index for name in names if (index := INDEX[name]) is not None}
    return np.array(sorted(found), np.int8)


def _table(root: Path, name: str) -> Path:
    for end in PACKED:
        if (path := root / f"{name}{end}").is_file():
            return path
    raise UserError(
        f"{root / name}: not found (nor .gz, .bz2), expected the archive's table; "
        "run download or copy it there, docs/archives.md"
    )


def _pairs(root: Path) -> pd.DataFrame:
    """s1_name (None where there is none), s2_name, country."""
    path = _table(root, PAIRS)
    frame = _read(path, header=0)
    for column in ("s1_name", "s2_name", "country"):
        if column not in frame:
            found = ", ".join(map(str, frame.columns))
            raise UserError(f"{path}: column {column} is missing, found {found}; fetch it again")
        if column != "s1_name" and frame[column].isna().any():
            row = int(frame[column].isna().argmax())
            raise UserError(f"{path}: row {row + 2} has no {column}; fetch the table again")
    return frame[["s1_name", "s2_name", "country"]].astype(object).where(frame.notna(), None)


def _column(root: Path, name: str) -> set[str]:
    """The Sentinel-2 names of a table without a header; further columns are ignored."""
    path = _table(root, name)
    names = _read(path, header=None)[0]
    wrong = ~names.astype(str).str.match(S2_NAME)
    if wrong.any():
        raise UserError(
            f"{path}: row {int(wrong.argmax()) + 1}: found {names[wrong].iloc[0]!r}, expected "
            "Sentinel-2 names of BigEarthNet v1.0; fetch the table again"
        )
    return set(names)


def _splits(root: Path) -> dict[str, str]:
    """Sentinel-2 name -> split."""
    found: dict[str, str] = {}
    for split, name in SPLITS.items():
        names = _column(root, name)
        twice = sorted(names & found.keys())
        if twice:
            raise UserError(
                f"{_table(root, name)}: {twice[0]} is also in split {found[twice[0]]}, expected "
                "one split per patch; fetch the tables again"
            )
        found |= dict.fromkeys(names, split)
    return found


def _read(path: Path, header: int | None) -> pd.DataFrame:
    try:
        return pd.read_csv(path, header=header, dtype=str)
    except pd.errors.EmptyDataError:  # a list of nothing
        return pd.DataFrame({0: pd.Series([], dtype=object)})
    except (OSError, ValueError, EOFError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable table ({text}); fetch it again") from None


def _parsed(root: Path, names: pd.Series, pattern: str, column: str) -> pd.DataFrame:
    """The groups of a pattern per name; None stays None."""
    parts = names.astype("string").str.extract(pattern)
    wrong = parts.isna().any(axis=1) & names.notna()
    if wrong.any():
        raise UserError(
            f"{_table(root, PAIRS)}: {column} {names[wrong].iloc[0]!r} is no name of BigEarthNet "
            "v1.0, expected one like S2A_MSIL2A_20170613T101031_87_48; fetch the table again"
        )
    return parts.astype(object)


ARCHIVE = BigEarthNetV1()
