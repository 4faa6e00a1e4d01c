"""Images and masks as people have them: GeoTIFF, PNG and npy of any type and number of bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import rasterio.env
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from mmfl.archives.folder import naming
from mmfl.errors import DamagedFile
from mmfl.facts.description_parts import Axes, Images, Pixels
from mmfl.facts.tasks import IGNORED

REMEDY = "correct it, or leave it out with split.on_error: skip"
DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG"}
LIMIT = 1 << 30  # bytes of an image's pixels: it is read whole
STORED = {"float64": "float32", "float16": "float32", "bool": "uint8"}  # the others as they are


@dataclass(frozen=True)
class Grid:
    """Pixels and the ground that they cover; `crs` and `transform` None: nobody knows."""

    height: int
    width: int
    crs: CRS | None = None
    transform: Affine | None = None

    def resized(self, height: int, width: int) -> Grid:
        """The same ground in other pixels."""
        if self.transform is None:
            return Grid(height, width)
        t, x, y = self.transform, self.width / width, self.height / height
        scaled = Affine(t.a * x, t.b * y, t.c, t.d * x, t.e * y, t.f)
        return Grid(height, width, self.crs, scaled)

    @property
    def corners(self) -> np.ndarray:
        """(4, 2) in the CRS, clockwise from the first pixel's; needs a transform."""
        assert self.transform is not None
        t = self.transform
        x, y = np.array([(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)]).T
        return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)

    @property
    def pixel(self) -> float:
        """The longer side of a pixel, in units of the CRS."""
        assert self.transform is not None
        t = self.transform
        return float(max(np.hypot(t.a, t.d), np.hypot(t.b, t.e)))


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Of each band `names` ("" for none), `scales`, `offsets` and `units`, or nothing where the format
    has no such thing; `colours`: what they are where the format says red, green and blue.
    """

    path: Path
    count: int
    grid: Grid
    dtype: str
    nodata: float | None = None
    names: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()

    @property
    def factored(self) -> bool:
        """Whether the file states a scale or an offset."""
        return any(scale != 1 for scale in self.scales) or any(self.offsets)


def said(found: Header) -> Header:
    """A header without what differs from file to file by nature: its path, place and size."""
    return replace(found, path=Path(), grid=Grid(1, 1))


@contextmanager
def located() -> Iterator[None]:
    """Read georeferences too, also from a world file; about twice the time of `pixels_only`."""
    with rasterio.Env(GDAL_GEOREF_SOURCES="PAM,INTERNAL,TABFILE,WORLDFILE",
                      GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):  # fmt: skip
        yield


def header(path: Path, bands: int = 1, axes: Axes | None = None) -> Header:
    """Without the pixels; the georeference only within `located`.

    `bands` that are expected and `axes` decide which axis of an npy file are the bands.

    Raises:
        DamagedFile: missing, unreadable, cut short, or of a kind that cannot be numbers.
    """
    if not path.is_file() or str(path.absolute()).startswith("/vsi"):
        raise DamagedFile(path, f"is missing, expected a file on disk; {REMEDY}")
    if path.suffix.lower() == ".npy":
        pixels = _mapped(path, bands, axes)
        _bounded(path, pixels.shape, pixels.dtype, bands)
        return Header(path, len(pixels), Grid(*pixels.shape[1:]), pixels.dtype.name)
    with _opened(path) as source:
        shape, dtype = (source.count, source.height, source.width), np.dtype(source.dtypes[0])
        _bounded(path, shape, dtype, bands)
        least = source.count * source.height * source.width * dtype.itemsize
        small = source.driver == "GTiff" and path.stat().st_size < least
        bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") if small else None
        if small and source.compression is None and bits is None:  # GDAL would read zeros
            raise DamagedFile(path, f"holds fewer bytes than its pixels, {least:,}; {REMEDY}")
        grid = Grid(source.height, source.width)
        if source.crs and not source.transform.is_identity:
            grid = Grid(source.height, source.width, source.crs, source.transform)
        return Header(
            path, source.count, grid, source.dtypes[0],
            None if source.nodata is None or np.isnan(source.nodata) else source.nodata,
            tuple((name or "").strip() for name in source.descriptions), source.scales,
            source.offsets, tuple(unit or "" for unit in source.units),
            _colours(source),
        )  # fmt: skip


def _colours(source: rasterio.DatasetReader) -> tuple[str, ...]:
    found = tuple(colour.name for colour in source.colorinterp)
    return found if {"red", "green", "blue"} <= set(found) else ()


def places(part: Images, found: Header, band: str | None = None) -> list[int]:
    """Where the bands (or the one `band` of a file of its own) are in a file, counted from 1.

    By the numbers given; else by name, as in `naming.find`; else in order.

    Raises:
        DamagedFile: the file has another number of bands, or names others.
    """
    wanted = wanted_bands(part, band)
    given = [part.bands[name] for name in wanted]
    chosen = [place for place in given if place is not None]
    if len(chosen) == len(wanted):
        if max(chosen) > found.count:
            raise DamagedFile(found.path, f"has {found.count} bands, expected at least "
                              f"{max(chosen)}; {REMEDY}")  # fmt: skip
        return chosen
    remedy = f"give the place of each in the file, e.g. bands: {{{wanted[0]}: 1}}"
    try:
        named = naming.find(wanted, found.names)
    except ValueError as error:
        raise DamagedFile(found.path, f"{error}, expected {', '.join(wanted)}; {remedy}") from None
    if named is not None:
        return named
    if found.count != len(wanted):
        told = f" ({', '.join(found.names)})" if naming.named(found.names) else ""
        raise DamagedFile(
            found.path, f"has {found.count} bands{told}, expected {', '.join(wanted)}; {remedy}"
        )  # fmt: skip
    return list(range(1, found.count + 1))


def wanted_bands(part: Images, band: str | None) -> list[str]:
    """The bands of a file: all, or the one that has it to itself."""
    return list(part.bands) if band is None else [band]


def read(path: Path, part: Images, band: str | None = None) -> tuple[np.ndarray, Header, list[int]]:
    """(bands, H, W) as they are in the file, its header, and the bands' places in it.

    Raises:
        DamagedFile: as `header` and `places`.
    """
    found = header(path, _expected(part, band), part.axes)
    chosen = places(part, found, band)
    return _pixels(found, chosen, part.axes, _expected(part, band)), found, chosen


def settled(
    pixels: np.ndarray,
    found: Header,
    key: str,
    dtype: str,
    nodata: float | None,
    factor: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Pixels in the modality's type; gaps are NaN in floats and `nodata` in whole numbers.

    Args:
        pixels: (bands, H, W) as they are in the file.
        key: of the modality in the description, for the message.
        factor: scale and offset of each band, (bands,), of all that is no gap.

    Raises:
        DamagedFile: values that the type cannot hold, or gaps without a value for them.
    """
    gaps = np.zeros(pixels.shape, bool)
    for value in (found.nodata, nodata):
        if value is not None:
            gaps |= pixels == _as(pixels.dtype, value)
    if pixels.dtype.kind == "f":
        gaps |= ~np.isfinite(pixels)
    target = np.dtype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too large for float32: infinite, a gap
        if factor is not None:
            scale, offset = (values[:, None, None] for values in factor)
            pixels = pixels.astype(np.float64) * scale + offset
        if target.kind == "f":
            out = pixels.astype(target)
            same = pixels.dtype.kind == "f" or (out.astype(np.float64) == pixels).all()
            out[gaps | ~np.isfinite(out)] = np.nan
        else:
            if gaps.any() and nodata is None:
                raise DamagedFile(
                    found.path, f"has {gaps.sum()} pixels without a value and {dtype} no number "
                    f"for it; set {key}.nodata, or {key}.dtype: float32"
                )  # fmt: skip
            if factor is not None and nodata is not None and (pixels[~gaps] == nodata).any():
                raise DamagedFile(
                    found.path, f"holds pixels that scale and offset bring to {nodata:g}, the "
                    f"value of gaps; set {key}.dtype: float32"
                )  # fmt: skip
            filled = np.where(gaps, _as(pixels.dtype, nodata or 0), pixels)
            out = filled.astype(target)
            same = bool((out == filled).all())
    if not same:
        how = " that" if factor is None else ", scaled, that"
        raise DamagedFile(
            found.path, f"holds {found.dtype} values{how} {dtype} cannot; set "
            f"{key}.dtype: float32 if all files are of one unit"
        )  # fmt: skip
    return out


def mask_header(path: Path, part: Pixels) -> Header:
    """As `header`; `DamagedFile` also where the band of the mask is not clear."""
    found = header(path, 1, part.axes)
    if part.band is None and found.count != 1:
        raise DamagedFile(path, f"has {found.count} bands, expected one of class codes; name it "
                          "with mask.band")  # fmt: skip
    if (part.band or 1) > found.count:
        raise DamagedFile(path, f"has {found.count} bands, mask.band is {part.band}; {REMEDY}")
    return found


def read_mask(path: Path, part: Pixels) -> tuple[np.ndarray, Header]:
    """(H, W) uint8 class indices, `IGNORED` where a pixel has none, and the header.

    NaN and the file's own nodata are ignored unless a class has that code.

    Raises:
        DamagedFile: as `header`; several bands; a code that is neither a class nor ignored.
    """
    found = mask_header(path, part)
    codes = _pixels(found, [part.band or 1], part.axes, 1)[0]
    index = {name: number for number, name in enumerate(part.names)}
    classes = np.full(codes.shape, IGNORED, np.uint8)
    known = np.isnan(codes) if codes.dtype.kind == "f" else np.zeros(codes.shape, bool)
    for code, name in part.classes.items():
        here = codes == code
        classes[here] = index[name]
        known |= here
    if part.ignore == "rest":
        return classes, found
    for code in part.ignore:
        known |= codes == code
    if found.nodata is not None:
        known |= codes == found.nodata
    if not known.all():
        strange, counts = np.unique(codes[~known], return_counts=True)
        value = strange[counts.argmax()].item()
        more = f", and {len(strange) - 1} other codes" if len(strange) > 1 else ""
        raise DamagedFile(
            path, f"holds the code {value:g} in {counts.max()} pixels{more}, expected one of "
            f"{', '.join(map(str, part.classes))} or one that is ignored; add it to mask.classes "
            "or mask.ignore"
        )  # fmt: skip
    return classes, found


def disagreement(reference: Grid, other: Grid, name: str) -> str | None:
    """Why two grids cannot be of one location, up to half a pixel of the coarser; else None.

    `name`: what the reference is, e.g. "the mask".
    """
    if reference.transform is None or other.transform is None:
        scale = max(reference.height / other.height, reference.width / other.width, 1)
        off = abs(other.height * reference.width / other.width - reference.height)
        if off > scale:
            return (f"is {other.height} x {other.width} pixels and {name} {reference.height} x "
                    f"{reference.width}, expected the same ground")  # fmt: skip
        return None
    if not same_crs(reference.crs, other.crs):
        return f"is in {crs_text(other.crs)}, {name} in {crs_text(reference.crs)}"
    mine, yours = reference.corners, other.corners
    pixel = max(reference.pixel, other.pixel)
    if (mine.max(0) <= yours.min(0)).any() or (yours.max(0) <= mine.min(0)).any():
        return f"covers other ground than {name}: no overlap"
    off = float(np.abs(mine - yours).max()) / pixel
    return f"is off {name} by {off:.1f} pixels, expected the same ground" if off > 0.5 else None


def same_crs(one: CRS | None, other: CRS | None) -> bool:
    """Whether two systems are the same, however they are written."""
    return one == other or crs_text(one) == crs_text(other)


def crs_text(crs: CRS | None) -> str:
    """EPSG:32633 where there is a number, else well-known text."""
    if crs is None:
        return "no CRS"
    try:
        code = crs.to_epsg()
        return f"EPSG:{code}" if code else crs.to_wkt()
    except CRSError:
        return str(crs)


def one_line(error: BaseException) -> str:
    """An error's text, cut where it repeats the file's content."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def _expected(part: Images, band: str | None) -> int:
    return len(part.bands) if band is None else 1


def _as(dtype: np.dtype, value: float) -> np.generic | float:
    """A number in the type of the pixels that it is compared with."""
    return dtype.type(value) if dtype.kind == "f" else value


def _pixels(found: Header, chosen: list[int], axes: Axes | None, bands: int) -> np.ndarray:
    if found.path.suffix.lower() == ".npy":
        try:
            pixels = np.array(_mapped(found.path, bands, axes)[[place - 1 for place in chosen]])
        except (OSError, ValueError) as error:
            raise DamagedFile(found.path, f"cannot be read ({one_line(error)}); {REMEDY}") from None
        return pixels.astype(pixels.dtype.newbyteorder("="))
    with _opened(found.path) as source:
        return source.read(chosen)


def _bounded(path: Path, shape: tuple[int, ...], dtype: np.dtype, bands: int) -> None:
    """Before anything is read: an image of so many pixels cannot be meant, or be held."""
    size = min(max(bands, 1), shape[0]) * shape[1] * shape[2] * dtype.itemsize
    if size > LIMIT:
        text = " x ".join(f"{side:,}" for side in shape)
        raise DamagedFile(path, f"is {text} {dtype.name}, {size / 1e9:,.1f} GB of pixels, expected "
                          f"at most {LIMIT / 1e9:.1f} GB; cut it into tiles")  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    """A GeoTIFF or PNG; nothing that points to other files, such as a VRT, is opened."""
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise DamagedFile(path, f"found {path.suffix or 'no suffix'}, expected "
                          f"{', '.join(DRIVERS)} or .npy; {REMEDY}")  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path.absolute(), driver=driver) as source:
                if np.dtype(source.dtypes[0]).kind not in "uif":
                    raise DamagedFile(path, f"is {source.dtypes[0]}, expected numbers; {REMEDY}")
                yield source
    except (RasterioError, CPLE_BaseError, TypeError, ValueError, MemoryError) as error:
        text = one_line(error.__cause__ or error) or type(error).__name__
        raise DamagedFile(path, f"cannot be read ({text}); {REMEDY}") from None


def _mapped(path: Path, bands: int, axes: Axes | None) -> np.ndarray:
    """(C, H, W) by memory map. The bands are the axis of `axes`; else the first or last one, the
    one that is as long as there are `bands`, or the shorter, or the first.
    """
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError,
            RecursionError) as error:  # fmt: skip
        text = one_line(error) or type(error).__name__
        raise DamagedFile(path, f"cannot be read ({text}); {REMEDY}") from None
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        shape = getattr(pixels, "shape", "an archive")
        raise DamagedFile(path, f"is {shape}, expected (H, W), (C, H, W) or (H, W, C): one image, "
                          "not a series")  # fmt: skip
    if pixels.dtype.kind not in "uifb" or not pixels.size:
        raise DamagedFile(path, f"is {pixels.dtype} {pixels.shape}, expected numbers; {REMEDY}")
    if pixels.ndim == 2:
        return pixels[None]
    first, last = pixels.shape[0], pixels.shape[2]
    if axes is None:
        fits = [first == bands, last == bands]
        behind = fits[1] if fits[0] != fits[1] else last < first
        axes = "hwc" if behind else "chw"
    return pixels if axes == "chw" else np.moveaxis(pixels, 2, 0)
