"""What an archive of images is: its bands, classes, metadata table and pixel reader.

An archive is described by data (`Band`, `Modality`) and two functions of its own: where the
metadata table comes from and where a band of a patch lies. Reading pixels is the same for all.
"""

from __future__ import annotations

import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import rasterio.env
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from mmfl.errors import DamagedFile, UserError
from mmfl.facts import tasks
from mmfl.facts.tasks import IGNORED, MASK_COLUMNS

REMEDY = "fetch it again, or leave it out with split.on_error: skip"
COLUMNS = ("pair", "s1", "s2", "split", "country", "month", "season", "tile", "labels")
SPLITS = ("train", "validation", "test")
log = logging.getLogger(__name__)
SEASONS = {month: ["DJF", "MAM", "JJA", "SON"][month % 12 // 3] for month in range(1, 13)}


@dataclass(frozen=True)
class Band:
    """One band as it lies on disk.

    `resolution` in metres, `size` in pixels of a side (None: the archive's images differ), `dtype`
    a numpy name, `mean` and `std` as published for the archive (None: not published), in the
    band's own unit (reflectance x 10,000; dB). Pixels of the value `nodata` are gaps, as NaN is
    where `gaps` says that there may be some.
    """

    name: str
    resolution: int
    size: int | None
    dtype: str
    mean: float | None = None
    std: float | None = None
    nodata: float | None = None
    gaps: bool = False


@dataclass(frozen=True)
class Modality:
    """A sensor and its bands, in the order in which they are stored and fed to a network.

    `show`: one to three bands that make its picture.
    """

    name: str
    bands: tuple[Band, ...]
    show: tuple[str, ...] = ()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The bands' resolutions in metres, ascending, each once."""
        return tuple(sorted({band.resolution for band in self.bands}))

    def at(self, resolution: int) -> tuple[Band, ...]:
        """The bands of one resolution, in order."""
        return tuple(band for band in self.bands if band.resolution == resolution)

    def band(self, name: str) -> Band:
        """The band of this name; `UserError` names the known ones."""
        for band in self.bands:
            if band.name == name:
                return band
        known = ", ".join(band.name for band in self.bands)
        raise UserError(f"band {name}: not in modality {self.name}, expected one of {known}")


@dataclass(frozen=True)
class Fault:
    """A patch that cannot be used: its name in a modality ("" for both), a file or folder, why."""

    modality: str
    patch: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Mask:
    """The classes of a tile's pixels.

    `classes` (H, W) uint8, 255: ignored. `crs` is a text that rasterio understands and `transform`
    the six numbers of its Affine, or both None where the file has no georeference.
    """

    classes: np.ndarray
    crs: str | None = None
    transform: tuple[float, ...] | None = None


LABELS = "labels"  # what `Archive.member` calls a file with the labels of a patch
Labels = Mapping[str, "np.ndarray | str"]
"""patch -> sorted class indices, or why they cannot be read."""
NOTHING: Mapping[str, Labels] = {}

MASK = Modality(tasks.MASK, (Band("class", 10, None, "uint8", nodata=IGNORED),))


@dataclass(frozen=True)
class Archive(ABC):
    """An archive: facts as fields, and a reader of its metadata and pixels.

    `task` is "multilabel" or "pixel" (facts/tasks.py); `classes` are the names, a label is an
    index into them; `metadata_files` are relative to the root, those that `metadata` may read.
    `colours`: one like #1b7837 per class, or none.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    modalities: dict[str, Modality]
    metadata_files: tuple[str, ...]
    colours: tuple[str, ...] = field(default=(), kw_only=True)
    licence: str = field(default="not stated", kw_only=True)

    @abstractmethod
    def metadata(
        self, root: Path, *, snow: bool = False, cloud_or_shadow: bool = False
    ) -> pd.DataFrame:
        """One row per location and date, sorted by `pair`.

        Columns: `pair`; each modality (`s1`, `s2`): the patch's name in it, or None where the
        archive lacks it; `split` (`SPLITS`); any columns that group locations, such as `country`,
        `month` int 1-12, `season` DJF, MAM, JJA or SON, `tile` like T33UUP, `region`; `labels`
        sorted class indices, int8 arrays, or all None where the tables hold none (see
        `labelled`). Patches with seasonal snow, cloud or shadow only when asked for. Names may be
        listed twice. Raises `UserError` for a missing or malformed table.
        """

    def labelled(
        self,
        root: Path,
        rows: pd.DataFrame,
        workers: int = 1,
        told: Mapping[str, Labels] = NOTHING,
    ) -> tuple[pd.DataFrame, list[Fault]]:
        """Rows of `metadata` with labels that lie beside the images; those without are faults.

        For the pixel task from the masks, with the columns `MASK_COLUMNS`. `told`: modality -> the
        labels that its tar holds.
        """
        return label_tiles(self, root, rows, workers) if self.task == "pixel" else (rows, [])

    def mask(self, root: Path, pair: str) -> Mask:
        """The classes of a tile's pixels (pixel task); `DamagedFile` as `read`."""
        raise NotImplementedError(f"{self.name} has no masks")

    def tiles(self, root: Path) -> pd.DataFrame | None:
        """The tiles whose imagery has to be found by STAC; None: the archive has its images.

        Columns: name; crs (EPSG:32633); transform (six numbers of rasterio's Affine); height,
        width; product (the Sentinel-2 product that the tile was drawn on, or None); date
        (YYYY-MM-DD).
        """
        return None

    def names(self, root: Path) -> dict[str, set[str]]:
        """modality -> every patch that the tables know, excluded ones too."""
        rows = self.metadata(root, snow=True, cloud_or_shadow=True)
        return {q: set(rows[q].dropna()) for q in self.modalities}

    @abstractmethod
    def folders(self, root: Path, modality: str) -> dict[str, Path]:
        """patch -> its folder, for all that lie on disk, whatever the tables say."""

    @abstractmethod
    def patch_folder(self, root: Path, modality: str, patch: str) -> Path:
        """Where a patch lies; `patch` is the modality's own name (column `s1` or `s2`)."""

    def band_path(self, root: Path, modality: str, patch: str, band: str) -> Path:
        """The file of a band."""
        self.modality(modality).band(band)
        return self.patch_folder(root, modality, patch) / f"{patch}_{band}.tif"

    def shape(self, root: Path, modality: str, patch: str) -> tuple[int, int]:
        """(H, W) of a patch's finest bands; called where bands have no `size`."""
        path = self.patch_folder(root, modality, patch)
        try:
            with pixels_only(), rasterio.open(path) as source:
                return source.height, source.width
        except RasterioError as error:
            raise DamagedFile(path, f"cannot be read ({_one_line(error)}); {REMEDY}") from None

    def packed(self, root: Path, modality: str) -> Path | None:
        """The tar that holds a modality where it is not extracted; None where it is.

        Its members are then read as a stream: `member` says what they are.
        """
        return None

    def packs(self, name: str) -> bool:
        """Whether a file of this name is a tar that `packed` finds."""
        return False

    def member(self, modality: str, path: str) -> tuple[str, str] | None:
        """(patch, band) of a file in a tar, or (patch, `LABELS`); None: of no use."""
        parts = path.split("/")
        if len(parts) < 2 or not parts[-1].startswith(f"{parts[-2]}_"):
            return None
        what, _, end = parts[-1][len(parts[-2]) + 1 :].rpartition(".")
        known = end == "tif" and any(band.name == what for band in self.modality(modality).bands)
        return (parts[-2], what) if known else None

    def labels_of(self, data: bytes) -> np.ndarray:
        """Sorted class indices, int8, from a file that `member` calls `LABELS`.

        Raises ValueError, KeyError or TypeError for one that cannot be read.
        """
        raise NotImplementedError(f"{self.name} keeps no labels beside its images")

    def modality(self, name: str) -> Modality:
        """The modality of this name; `UserError` names the known ones."""
        if name == MASK.name and self.task == "pixel":
            return MASK
        if name not in self.modalities:
            known = ", ".join(self.modalities)
            raise UserError(f"modality {name}: not in archive {self.name}, expected one of {known}")
        return self.modalities[name]

    def read(self, root: Path, modality: str, patch: str, band: str) -> np.ndarray:
        """Pixels of one band, (size, size), native dtype and values.

        Raises `DamagedFile`, naming file and band, when the file is missing, unreadable, cut
        short, of another size or type than the archive's, or holds NaN or infinity.
        """
        return read_band(
            self.band_path(root, modality, patch, band), self.modality(modality).band(band)
        )

    def read_patch(self, root: Path, modality: str, patch: str, resolution: int) -> np.ndarray:
        """(bands, H, W) of one resolution, native dtype and values; `DamagedFile` as `read`."""
        if modality == MASK.name:
            return self.mask(root, patch).classes[None]
        bands = self.modality(modality).at(resolution)
        return np.stack([self.read(root, modality, patch, band.name) for band in bands])


def parsed(archive: Archive, data: bytes) -> np.ndarray | str:
    """The labels in a file's content, or why they cannot be read."""
    try:
        return archive.labels_of(data)
    except (ValueError, KeyError, TypeError) as error:
        return _one_line(error) or type(error).__name__


def label_tiles(
    archive: Archive, root: Path, rows: pd.DataFrame, workers: int = 1
) -> tuple[pd.DataFrame, list[Fault]]:
    """Rows with the columns `MASK_COLUMNS`, from every tile's mask; a damaged one is a fault.

    A tile without a single pixel that has a class is left out, with a warning.
    """

    def look(pair: str) -> tuple[object, ...] | Fault:
        try:
            mask = archive.mask(root, pair)
        except DamagedFile as error:
            return Fault(MASK.name, pair, error.path, error.reason)
        found = np.flatnonzero(np.bincount(mask.classes.ravel(), minlength=IGNORED + 1)[:IGNORED])
        return (found.astype(np.int8), *mask.classes.shape, mask.crs,
                None if mask.transform is None else list(mask.transform))  # fmt: skip

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        found = list(pool.map(look, rows["pair"]))
    faults = [item for item in found if isinstance(item, Fault)]
    seen = [not isinstance(item, Fault) for item in found]
    rows = rows[seen].reset_index(drop=True)
    kept = [item for item in found if not isinstance(item, Fault)]
    for place, column in enumerate(MASK_COLUMNS):
        rows[column] = pd.Series([item[place] for item in kept], dtype=object)
    rows = rows.astype({"height": "int64", "width": "int64"})
    bare = rows["labels"].map(len) == 0
    if bare.any():
        log.warning(
            "%s: %d tiles have no pixel with a class and are left out, e.g. %s",
            root, bare.sum(), rows["pair"][bare].iloc[0],
        )  # fmt: skip
    return rows[~bare].reset_index(drop=True), faults


@contextmanager
def pixels_only() -> Iterator[None]:
    """Read bands without georeferences or side-car files: most of the time of opening a small file.

    Entered once for many bands; `read_band` enters it where nobody has.
    """
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_GEOREF_SOURCES="NONE", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def read_band(path: Path, band: Band, data: bytes | None = None) -> np.ndarray:
    """Pixels of a single-band raster file, checked against `band`: (size, size), native dtype.

    `data`: the file's content where it is no file but a member of a tar; `path` names it then.
    """
    try:
        with ExitStack() as stack:
            if not rasterio.env.hasenv():
                stack.enter_context(pixels_only())
            if (path.is_file() and not path.stat().st_size) if data is None else not data:
                raise DamagedFile(path, unreadable(band, "is empty"))
            if data is None:
                source = stack.enter_context(rasterio.open(path, driver="GTiff"))
            else:
                memory = stack.enter_context(MemoryFile(data, filename=path.name))
                source = stack.enter_context(memory.open(driver="GTiff"))
            _check(path, band, source, data)
            pixels = source.read(1)
    except RasterioError as error:
        there = data is not None or path.exists()
        found = f"cannot be read ({_without_folder(error, path)})" if there else "is missing"
        raise DamagedFile(path, unreadable(band, found)) from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int((~np.isfinite(pixels)).sum())
        raise DamagedFile(
            path, f"band {band.name} has {count} pixels of NaN or infinity, expected none; {REMEDY}"
        )
    return pixels


def unreadable(band: Band, found: str) -> str:
    """Why a band's file is of no use."""
    return f"band {band.name} {found}, expected a whole GeoTIFF; {REMEDY}"


def _check(path: Path, band: Band, source: rasterio.DatasetReader, data: bytes | None) -> None:
    assert band.size is not None
    found = f"{source.count} x {source.height} x {source.width} {source.dtypes[0]}"
    expected = f"1 x {band.size} x {band.size} {band.dtype}"
    if found != expected:
        raise DamagedFile(path, f"band {band.name} is {found}, expected {expected}; {REMEDY}")
    least = band.size**2 * np.dtype(band.dtype).itemsize
    size = path.stat().st_size if data is None else len(data)
    if source.compression is None and size < least:  # GDAL would read zeros
        raise DamagedFile(
            path, f"band {band.name} holds fewer bytes than its pixels, {least:,}; {REMEDY}"
        )


def _without_folder(error: BaseException, path: Path) -> str:
    """The message, with the file's bare name: its folder may be one in memory."""
    return re.sub(rf"/[^\s']*/{re.escape(path.name)}", path.name, _one_line(error))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
