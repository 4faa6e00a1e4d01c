"""An archive of one's own: a table with a row per location, and a yaml file that describes it.

`root` is everywhere the path of that yaml file. Nothing in the table is run or fetched: a path is
a GeoTIFF, PNG or npy file on disk, or a fault.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import MASK, NOTHING, Archive, Band, Fault, Labels, Mask, Modality
from mmfl.archives.folder import files, units
from mmfl.archives.folder import table as tables
from mmfl.archives.folder.statements import Statements
from mmfl.errors import DamagedFile, UserError
from mmfl.facts.description import Description, read_description
from mmfl.facts.description_parts import Images

log = logging.getLogger(__name__)
RESOLUTION = 10  # of images whose pixels have no known size
DEGREE = 111_320  # metres
TRIES = 20  # files of a modality that are opened to find out its type


@dataclass(frozen=True)
class Folder(Archive):
    """See `Folder.described_by`."""

    described: Description = field(kw_only=True)

    @classmethod
    def described_by(cls, name: str, path: Path) -> Folder:
        """The archive that the yaml file `path` describes.

        A modality's type and resolution are those of the first file that can be read.

        Raises:
            UserError: the description or its table is wrong, or no file of a modality can be read.
        """
        described = read_description(path)
        return cls(
            name,
            described.task,
            described.classes,
            {q: _modality(described, path, q) for q in described.modalities},
            (str(tables.table_path(described, path).absolute()),),
            colours=tuple(described.mask.colours) if described.mask else (),
            licence=described.licence,
            described=described,
        )

    def metadata(
        self, root: Path, *, snow: bool = False, cloud_or_shadow: bool = False
    ) -> pd.DataFrame:
        """See `Archive.metadata`; nothing is marked as snow, cloud or shadow."""
        return tables.metadata(self.described, tables.read_table(self.described, root), root)

    def labelled(
        self,
        root: Path,
        rows: pd.DataFrame,
        workers: int = 1,
        told: Mapping[str, Labels] = NOTHING,
    ) -> tuple[pd.DataFrame, list[Fault]]:
        """See `Archive.labelled`; an image that covers other ground is a fault and not there.

        Raises:
            UserError: the files do not agree with each other, in the order of their bands or in
                their unit, so that nobody knows which are right.
        """
        rows, faults = super().labelled(root, rows, workers, told)
        rows = rows.copy()
        said = {q: Statements(part, q) for q, part in self.described.modalities.items()}
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            looked = pool.map(lambda pair: self.look(root, pair), rows["pair"])
            for row, (headers, wrong) in enumerate(looked):
                for q, found in headers.items():
                    if q in said:
                        said[q].add(found)
                for fault in wrong:
                    if fault.modality in said and rows.at[row, fault.modality] is not None:
                        faults.append(fault)
                        rows.at[row, fault.modality] = None
        for q, statements in said.items():
            pairs = rows["pair"][rows[q].notna()].tolist()
            mixed, odd = units.agreement(self, root, q, pairs, workers)
            for line in (*statements.odd, *odd):
                log.warning("%s: %s", root, line)
            for line in (*statements.wrong, *mixed):
                raise UserError(f"{root}: {line}")
        return rows, faults

    def look(self, root: Path, pair: str) -> tuple[dict[str, list[files.Header]], list[Fault]]:
        """The headers of a location's files by modality (and mask), and what is wrong with them.

        Images that cannot be placed on the mask, or on the first image, are wrong.
        """
        found: dict[str, list[files.Header]] = {}
        faults, reference = [], None
        with files.located():
            for q in [*([MASK.name] if self.task == "pixel" else []), *self.modalities]:
                try:
                    headers = self.headers(root, q, pair)
                    if not headers:
                        continue
                    grid = _finest(headers)
                    name = "the mask" if q == MASK.name else q
                    reference = reference or (name, grid)
                    reason = files.disagreement(reference[1], grid, reference[0])
                except DamagedFile as error:
                    faults.append(Fault(q, pair, error.path, error.reason))
                    continue
                found[q] = headers
                if reason is not None:
                    path = self.path(root, q, pair)
                    faults.append(Fault(q, pair, str(path), f"{reason}; {files.REMEDY}"))
        return found, faults

    def headers(self, root: Path, modality: str, pair: str) -> list[files.Header]:
        """Of a location's files in a modality (or its mask), opened but not read.

        Raises:
            DamagedFile: one cannot be used, or is of other bands.
        """
        if modality == MASK.name:
            assert self.described.mask is not None
            return [files.mask_header(self.path(root, modality, pair), self.described.mask)]
        part = self.described.modalities[modality]
        found = []
        for path, band in zip(self.paths(root, modality, pair), _apart(part), strict=False):
            found.append(files.header(path, 1 if part.apart else len(part.bands), part.axes))
            files.places(part, found[-1], band)
        return found

    def paths(self, root: Path, modality: str, patch: str) -> tuple[Path, ...]:
        """The files of a location, one or one per band; none where the table names none."""
        named = tables.named(self.described, root).get(modality, {}).get(patch) or ()
        base = tables.base_folder(self.described, root)
        return tuple(base / name for name in named)

    def path(self, root: Path, modality: str, patch: str) -> Path:
        """The first of them; `DamagedFile` where there is none."""
        found = self.paths(root, modality, patch)
        if not found:
            raise DamagedFile(self.metadata_files[0], f"names no {modality} of {patch}; complete "
                              "the table")  # fmt: skip
        return found[0]

    def names(self, root: Path) -> dict[str, set[str]]:
        """See `Archive.names`; rows in no split are known too."""
        named = tables.named(self.described, root)
        return {q: {pair for pair, paths in named[q].items() if paths} for q in self.modalities}

    def folders(self, root: Path, modality: str) -> dict[str, Path]:
        """patch -> its file, for all whose files are there; the table names all there are."""
        named = tables.named(self.described, root)[modality]
        base = tables.base_folder(self.described, root)
        return {pair: base / names[0] for pair, names in named.items()
                if names and all((base / name).is_file() for name in names)}  # fmt: skip

    def patch_folder(self, root: Path, modality: str, patch: str) -> Path:
        """The patch's file, the first that is missing where there are several."""
        found = self.paths(root, modality, patch)
        return next((path for path in found if not path.is_file()), found[0])

    def shape(self, root: Path, modality: str, patch: str) -> tuple[int, int]:
        """(H, W) of the finest band."""
        grid = self.grid(root, modality, patch)
        return grid.height, grid.width

    def grid(self, root: Path, modality: str, patch: str) -> files.Grid:
        """The grid of the finest band; with its georeference within `files.located`."""
        return _finest(self.headers(root, modality, patch))

    def read(self, root: Path, modality: str, patch: str, band: str) -> np.ndarray:
        """See `Archive.read`; gaps are NaN in floats and `nodata` in whole numbers."""
        described = self.modality(modality)
        place = described.bands.index(described.band(band))
        return self.read_patch(root, modality, patch, described.bands[0].resolution)[place]

    def read_patch(self, root: Path, modality: str, patch: str, resolution: int) -> np.ndarray:
        """See `Archive.read_patch`; bands of coarser pixels are repeated on the finest grid."""
        if modality == MASK.name:
            return self._classes(root, patch)[0][None]
        part, bands = self.described.modalities[modality], self.modality(modality).bands
        found = []
        for path, band in zip(self.paths(root, modality, patch), _apart(part), strict=True):
            pixels, header, places = files.read(path, part, band)
            nodata = part.nodata if bands[0].nodata is None else bands[0].nodata
            factor = self._factor(root, modality, patch, header, places)
            key = f"modalities.{modality}"
            found.append(files.settled(pixels, header, key, bands[0].dtype, nodata, factor))
        height = max(pixels.shape[1] for pixels in found)
        width = max(pixels.shape[2] for pixels in found)
        return np.concatenate([_repeated(pixels, height, width) for pixels in found])

    def _factor(
        self, root: Path, modality: str, pair: str, header: files.Header, places: list[int]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(bands,) scales and offsets of a file's bands; None where its numbers are the pixels."""
        part = self.described.modalities[modality]
        if not part.scaled:
            return None
        row = tables.factors(self.described, root).get(modality, {}).get(pair, {})
        found = []
        for kind, given, own, plain in (("scale", part.scale, header.scales, 1.0),
                                        ("offset", part.offset, header.offsets, 0.0)):  # fmt: skip
            if given == "file":
                found.append(np.array([own[place - 1] if own else plain for place in places]))
            else:
                value = given if isinstance(given, int | float) else row.get(kind, plain)
                found.append(np.full(len(places), value, np.float64))
        return found[0], found[1]

    def mask(self, root: Path, pair: str) -> Mask:
        """See `Archive.mask`; without a georeference of its own it has its images'."""
        with files.located():
            classes, header = self._classes(root, pair)
            grid = header.grid
            for q in self.modalities if grid.transform is None else ():
                try:
                    image = self.grid(root, q, pair) if self.paths(root, q, pair) else grid
                except DamagedFile:
                    continue  # told where the image is read
                if image.transform is not None:
                    grid = image.resized(grid.height, grid.width)
                    break
        if grid.transform is None:
            return Mask(classes)
        return Mask(classes, files.crs_text(grid.crs), tuple(grid.transform)[:6])

    def _classes(self, root: Path, pair: str) -> tuple[np.ndarray, files.Header]:
        part = self.described.mask
        assert part is not None
        return files.read_mask(self.path(root, MASK.name, pair), part)


def _modality(described: Description, root: Path, name: str) -> Modality:
    """Type, resolution and nodata by the first file that can be read."""
    part = described.modalities[name]
    base = tables.base_folder(described, root)
    named = filter(None, tables.named(described, root)[name].values())
    faults: list[DamagedFile] = []
    for texts in named:
        try:
            with files.located():
                first = files.header(base / texts[0], len(part.bands), part.axes)
                finest = [files.header(base / text, 1, part.axes) for text in texts[1:]]
        except DamagedFile as error:
            faults.append(error)
            if len(faults) >= TRIES:
                break
            continue
        grid = max([first.grid, *(item.grid for item in finest)], key=lambda grid: grid.height)
        return Modality(name, _bands(part, first, grid, f"{root}: modalities.{name}"), part.shown)
    if faults:
        raise UserError(f"{faults[0]} (and no other file of {name} could be read)")
    raise UserError(f"{root}: modalities.{name}: the table names no file of it, expected some")


def _bands(part: Images, first: files.Header, grid: files.Grid, key: str) -> tuple[Band, ...]:
    stored = "float32" if part.scaled else files.STORED.get(first.dtype, first.dtype)
    dtype = part.dtype or stored
    nodata = first.nodata if part.nodata is None else part.nodata
    if np.dtype(dtype).kind == "f":
        nodata = None  # gaps are NaN when they are read
    elif nodata is not None:
        limits = np.iinfo(dtype)
        if not (float(nodata).is_integer() and limits.min <= nodata <= limits.max):
            if part.nodata is not None:
                raise UserError(f"{key}.nodata: found {nodata:g}, expected a value of {dtype}")
            nodata = None
    return tuple(
        Band(name, metres(grid), None, dtype, nodata=nodata, gaps=np.dtype(dtype).kind == "f")
        for name in part.bands
    )


def _apart(part: Images) -> list[str | None]:
    """The band of each file of a location; None: one file holds all."""
    return [*part.bands] if part.apart else [None]


def _finest(headers: list[files.Header]) -> files.Grid:
    return max((header.grid for header in headers), key=lambda grid: grid.height)


def metres(grid: files.Grid) -> int:
    """A pixel's side, at least 1; `RESOLUTION` where the files do not say it."""
    if grid.crs is None or grid.transform is None:
        return RESOLUTION
    if grid.crs.is_projected:
        return max(1, round(grid.pixel * grid.crs.linear_units_factor[1]))
    return max(1, round(grid.pixel * DEGREE))


def _repeated(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, H, W) on a finer grid, each pixel as the one below it."""
    if pixels.shape[1:] == (height, width):
        return pixels
    rows = (np.arange(height) * 2 + 1) * pixels.shape[1] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * pixels.shape[2] // (2 * width)
    return pixels[:, rows[:, None], columns[None, :]]
