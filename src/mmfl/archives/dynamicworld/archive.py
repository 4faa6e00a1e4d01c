"""Expert tiles of Dynamic World, Tait et al. 2021, doi 10.1594/PANGAEA.933475; CC-BY-4.0.

Supplement to Brown et al. 2022, Scientific Data 9:251. Labels only: the images are found by STAC
(docs/imagery.md) and lie beside them. Layout below the root:

    Experts/<hemisphere>/<biome>/dw_<lon>_<lat>-<YYYYMMDD>.tif    uint8 codes, 10 m, local UTM
    <other folders>/dw_<lon>_<lat>-<YYYYMMDD>.tif                 the validation tiles
    v1_dw_tile_metadata_for_public_release.xlsx                   a tile's date, region, product
    imagery/s1/<tile>.tif                                         VV, VH: float32 dB, NaN in gaps
    imagery/s2/<tile>.tif                                         ten bands: uint16, 0 in gaps

Images lie on their label tile's grid, pixel by pixel. A tile without an image in a modality lacks
it; that is an outcome of the search and no fault. Folders named Non... (the crowd's tiles) are
ignored.

Splits. The published validation tiles are the test split. Of the expert tiles, those that overlap
a test tile at any date, or lie in one block of 1 degree x 1 degree with one, or are joined with
one by further overlaps, are left out and counted. Of the others, about 15 % of every region
(hemisphere and biome) are the validation split: whole neighbourhoods of overlapping tiles and
tiles of one block, in an order by hash (blocks.py). So no ground lies in two splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio

from mmfl.archives.base import MASK, REMEDY, SEASONS, Archive, Band, Mask, Modality
from mmfl.archives.dynamicworld.files import grid_of, opened, read_bands, same, shown
from mmfl.archives.dynamicworld.location import label_path, labels, located
from mmfl.archives.dynamicworld.table import XLSX
from mmfl.errors import DamagedFile
from mmfl.facts.bands import S1_BANDS, S2_TRAINED
from mmfl.facts.tasks import IGNORED

CLASSES = (
    "water", "trees", "grass", "flooded vegetation", "crops", "shrub and scrub", "built", "bare",
    "snow and ice",
)  # fmt: skip
COLOURS = (
    "#419BDF", "#397D49", "#88B053", "#7A87C6", "#E49635", "#DFC35A", "#C4281B", "#A59B8F",
    "#B39FE1",
)  # fmt: skip
UNMARKED, CLOUD = 0, 10  # codes without a class; the others are 1 to 9
_CLASS_OF_CODE = np.array([IGNORED, *range(len(CLASSES)), IGNORED], np.uint8)
S1 = tuple(Band(name, 10, None, "float32", gaps=True) for name in S1_BANDS)
S2 = tuple(Band(name, 10, None, "uint16", nodata=0) for name in S2_TRAINED)
MODALITIES = {
    "s1": Modality("s1", S1, ("VV", "VH")),
    "s2": Modality("s2", S2, ("B04", "B03", "B02")),
}
COLUMNS = (
    "pair", "s1", "s2", "split", "hemisphere", "biome", "region", "place", "month", "season",
    "labels",
)  # fmt: skip


@dataclass(frozen=True)
class DynamicWorld(Archive):
    """Reader of the layout, see the module's docstring.

    `complete`: the archive holds its images, no search for them is needed.
    """

    name: str = "dynamicworld-expert"
    task: str = "pixel"
    classes: tuple[str, ...] = CLASSES
    modalities: dict[str, Modality] = field(default_factory=lambda: MODALITIES)
    metadata_files: tuple[str, ...] = (XLSX,)
    colours: tuple[str, ...] = field(default=COLOURS, kw_only=True)
    licence: str = field(default="CC-BY-4.0", kw_only=True)
    complete: bool = field(default=False, kw_only=True)

    def metadata(
        self, root: Path, *, snow: bool = False, cloud_or_shadow: bool = False
    ) -> pd.DataFrame:
        """See `Archive.metadata`; nothing is marked as snow, cloud or shadow.

        `region` is hemisphere and biome; `place` is the same for tiles that overlap.
        """
        rows = located(Path(root))
        for q in self.modalities:
            there = self.folders(root, q)
            rows[q] = pd.Series(
                [name if name in there else None for name in rows["pair"]], dtype=object
            )
        rows["region"] = rows["hemisphere"] + " " + rows["biome"]
        rows["month"] = rows["date"].str[5:7].astype(np.int64)
        rows["season"] = rows["month"].map(SEASONS)
        rows["labels"] = None
        return rows[list(COLUMNS)]

    def tiles(self, root: Path) -> pd.DataFrame | None:
        """See `Archive.tiles`. Tiles of no split and tiles whose file is damaged are left out."""
        if self.complete:
            return None
        rows = located(Path(root))
        rows = rows[rows["grid"].notna()].rename(columns={"pair": "name"}).reset_index(drop=True)
        for key in ("crs", "transform", "height", "width"):
            rows[key] = pd.Series([getattr(grid, key) for grid in rows["grid"]], dtype=object)
        rows = rows.astype({"height": "int64", "width": "int64"})
        return rows[["name", "crs", "transform", "height", "width", "product", "date"]]

    def names(self, root: Path) -> dict[str, set[str]]:
        """See `Archive.names`: every label tile, those of no split too."""
        found = {label.name for label in labels(Path(root))}
        return {q: set(found) for q in self.modalities}

    def mask(self, root: Path, pair: str) -> Mask:
        """The classes of a tile's pixels; `DamagedFile` also for a code that is none."""
        path = label_path(Path(root), pair)
        with opened(path) as source:
            grid = grid_of(path, source)
            codes = read_bands(path, source, [_label_band(path, source)])[0]
        if codes.max(initial=0) > CLOUD:
            raise DamagedFile(
                path, f"found code {codes.max()}, expected 0 to 10 of Dynamic World; {REMEDY}"
            )
        return Mask(_CLASS_OF_CODE[codes], grid.crs, grid.transform)

    def folders(self, root: Path, modality: str) -> dict[str, Path]:
        """See `Archive.folders`: tile -> its file."""
        folder = Path(root, "imagery", self.modality(modality).name)
        return {path.stem: path for path in sorted(folder.glob("*.tif"))}

    def patch_folder(self, root: Path, modality: str, patch: str) -> Path:
        """The tile's file, which holds all bands."""
        if modality == MASK.name:
            return label_path(Path(root), patch)
        return Path(root, "imagery", self.modality(modality).name, f"{patch}.tif")

    def band_path(self, root: Path, modality: str, patch: str, band: str) -> Path:
        """See `Archive.band_path`: one file for all bands."""
        self.modality(modality).band(band)
        return self.patch_folder(root, modality, patch)

    def read(self, root: Path, modality: str, patch: str, band: str) -> np.ndarray:
        """See `Archive.read`; gaps are NaN or 0."""
        if modality == MASK.name:
            return self.mask(root, patch).classes
        return self._image(Path(root), modality, patch, [self.modality(modality).band(band)])[0]

    def read_patch(self, root: Path, modality: str, patch: str, resolution: int) -> np.ndarray:
        """See `Archive.read_patch`; `DamagedFile` also where the grid is not the label tile's."""
        if modality == MASK.name:
            return self.mask(root, patch).classes[None]
        return self._image(Path(root), modality, patch, self.modality(modality).at(resolution))

    def _image(self, root: Path, modality: str, patch: str, bands: Sequence[Band]) -> np.ndarray:
        """(bands, H, W) of an image that lies on its label tile's grid."""
        label, path = label_path(root, patch), self.patch_folder(root, modality, patch)
        with opened(label) as source:
            expected = grid_of(label, source)
        with opened(path) as source:
            found = grid_of(path, source)
            if not same(found, expected):
                raise DamagedFile(
                    path, f"lies on {shown(found)}, its label tile on {shown(expected)}; {REMEDY}"
                )
            pixels = read_bands(path, source, [_band_number(path, source, b) for b in bands])
        if np.isinf(pixels).any():
            raise DamagedFile(path, f"holds infinite values, expected numbers or NaN; {REMEDY}")
        return pixels


def _band_number(path: Path, source: rasterio.DatasetReader, band: Band) -> int:
    """The place of the band of this description, from 1."""
    if band.name not in source.descriptions or source.dtypes[0] != band.dtype:
        names = ", ".join(map(str, source.descriptions))
        raise DamagedFile(
            path,
            f"holds bands {names} of {source.dtypes[0]}, expected {band.name} of {band.dtype}; "
            f"{REMEDY}",
        )
    return source.descriptions.index(band.name) + 1


def _label_band(path: Path, source: rasterio.DatasetReader) -> int:
    """The only band, or the one named lulc: Zenodo's copy has the network's own map beside it."""
    named = source.descriptions.index("lulc") + 1 if "lulc" in source.descriptions else None
    if source.dtypes[0] != "uint8" or (named is None and source.count != 1):
        raise DamagedFile(
            path, f"has {source.count} bands of {source.dtypes[0]}, expected one of uint8; {REMEDY}"
        )
    return named or 1
