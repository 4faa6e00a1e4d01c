"""BigEarthNet v2.0 (reBEN), Clasen et al., arXiv 2407.03653; CDLA-Permissive-1.0.

480,038 patch pairs of 1200 m x 1200 m without seasonal snow, cloud or shadow, and 69,450 with;
ten European countries, June 2017 to May 2018, 19 CORINE classes per patch (multi-label).

Layout below the root:

    BigEarthNet-S2/<product>/<patch_id>/<patch_id>_<band>.tif     uint16, reflectance x 10,000
    BigEarthNet-S1/<scene>/<s1_name>/<s1_name>_<band>.tif         float32, dB
    Reference_Maps/<product>/<patch_id>/<patch_id>_reference_map.tif   uint16 CORINE codes
    metadata.parquet                                              the clean patches
    metadata_for_patches_with_snow_cloud_or_shadow.parquet        the others

`product` is the patch_id without its last two parts (column and row on the tile's patch grid),
`scene` the s1_name without its last three (tile, column, row). Sentinel-1 and Sentinel-2 names are
joined by the table only: one pads column and row with zeros, the other does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmfl.archives.base import COLUMNS, SEASONS, SPLITS, Archive, Band, Modality, read_band
from mmfl.archives.bigearthnet import CLASSES, CORINE, listed, modalities, packed, packs
from mmfl.errors import DamagedFile, UserError

# Statistics of v2.0's training split, per band: mean, standard deviation.
STATISTICS = {
    "B01": (361.08, 575.07),
    "B02": (438.37, 607.03),
    "B03": (614.06, 603.30),
    "B04": (588.41, 684.57),
    "B05": (942.84, 738.43),
    "B06": (1769.93, 1100.46),
    "B07": (2049.55, 1275.81),
    "B08": (2193.29, 1369.37),
    "B8A": (2235.56, 1356.54),
    "B09": (2241.46, 1316.39),
    "B11": (1568.23, 1070.16),
    "B12": (997.73, 813.53),
    "VV": (-12.644, 5.133),
    "VH": (-19.353, 5.590),
}
MODALITIES = modalities(STATISTICS)

METADATA = "metadata.parquet"
EXCLUDED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
TABLE = (
    "patch_id",
    "labels",
    "split",
    "country",
    "s1_name",
    "contains_seasonal_snow",
    "contains_cloud_or_shadow",
)
_FLAG = pa.bool_()
_TYPES = (pa.string(), pa.list_(pa.string()), *[pa.string()] * 3, _FLAG, _FLAG, _FLAG)
_NAMES = (*TABLE, "has_s2")  # has_s2: all true where the table does not have it
# S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57
PATCH_ID = (
    r"^S2[A-D]_MSIL2A_\d{4}(?P<month>\d{2})\d{2}T\d{6}_N\d{4}_R\d{3}"
    r"_(?P<tile>T\d{2}[A-Z]{3})_\d{2}_\d{2}$"
)
REFERENCE_MAP = Band("reference_map", 10, 120, "uint16", 0, 1)
IGNORED = 255
_CLASS_OF_CODE = np.full(1000, IGNORED, np.uint8)
for _code, (_, _index) in CORINE.items():
    if _index is not None:
        _CLASS_OF_CODE[_code] = _index
is_float = pa.types.is_floating
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
FOLDERS = {"s1": ("BigEarthNet-S1", 3), "s2": ("BigEarthNet-S2", 2)}


@dataclass(frozen=True)
class BigEarthNetV2(Archive):
    """Reader of the v2.0 layout, see the module's docstring."""

    name: str = "bigearthnet-v2"
    task: str = "multilabel"
    classes: tuple[str, ...] = CLASSES
    licence: str = field(default="CDLA-Permissive-1.0", kw_only=True)
    modalities: dict[str, Modality] = field(default_factory=lambda: MODALITIES)
    metadata_files: tuple[str, ...] = (METADATA, EXCLUDED)

    def metadata(
        self, root: Path, *, snow: bool = False, cloud_or_shadow: bool = False
    ) -> pd.DataFrame:
        """See `Archive.metadata`. The second table is opened only when it can contribute."""
        files = [METADATA] + ([EXCLUDED] if snow or cloud_or_shadow else [])
        table = pa.concat_tables([_read_table(Path(root) / file) for file in files])
        keep = pa.array(np.ones(len(table), dtype=bool))
        for wanted, column in (
            (snow, "contains_seasonal_snow"),
            (cloud_or_shadow, "contains_cloud_or_shadow"),
        ):
            if not wanted:
                keep = pc.and_(keep, pc.invert(table[column]))
        return _rows(table.filter(keep).sort_by("patch_id").combine_chunks(), Path(root))

    def names(self, root: Path) -> dict[str, set[str]]:
        """See `Archive.names`. The second table counts where it is there."""
        paths = [Path(root) / METADATA, Path(root) / EXCLUDED]
        tables = [_read_table(path) for path in paths if path == paths[0] or path.is_file()]
        return {
            "s1": {name for table in tables for name in table["s1_name"].to_pylist() if name},
            "s2": {name for table in tables for name in table["patch_id"].to_pylist()},
        }

    def folders(self, root: Path, modality: str) -> dict[str, Path]:
        """See `Archive.folders`."""
        top = Path(root) / FOLDERS[modality][0]
        return {name: path for parent in listed(top) for name, path in listed(top / parent).items()}

    def patch_folder(self, root: Path, modality: str, patch: str) -> Path:
        """See `Archive.patch_folder`."""
        folder, parts = FOLDERS[modality]
        return Path(root) / folder / patch.rsplit("_", parts)[0] / patch

    def packed(self, root: Path, modality: str) -> Path | None:
        """See `Archive.packed`."""
        return packed(Path(root), FOLDERS[modality][:1])

    def packs(self, name: str) -> bool:
        """See `Archive.packs`."""
        return packs(name, [folder[:1] for folder in FOLDERS.values()])

    def reference_map(self, root: Path, patch: str) -> np.ndarray:
        """Class of each pixel of a patch's reference map, (120, 120) uint8; 255: no target.

        The file holds CORINE level-3 codes. Raises `DamagedFile` as `read` does, and for a
        number that is no such code (0 is "no data").
        """
        path = Path(root, "Reference_Maps", patch.rsplit("_", 2)[0], patch)
        path /= f"{patch}_reference_map.tif"
        codes = read_band(path, REFERENCE_MAP)
        unknown = np.setdiff1d(codes, [0, *CORINE])
        if len(unknown):
            raise DamagedFile(path, f"found code {unknown[0]}, expected CORINE level-3 codes or 0")
        return _CLASS_OF_CODE[codes]


def _read_table(path: Path) -> pa.Table:
    """The table's known columns with one schema; `has_s2` (all True where it is absent)."""
    if not path.is_file():
        raise UserError(f"{path}: not found, expected the archive's metadata; run download")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, MemoryError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a parquet file ({text}); fetch it again") from error
    missing = [column for column in TABLE if column not in table.column_names]
    if missing:
        raise UserError(
            f"{path}: column {missing[0]} is missing, found {', '.join(table.column_names)}; "
            "expected the metadata of BigEarthNet v2.0"
        )
    if not len(table):  # in which other programs give the columns no type
        if path.name == EXCLUDED:
            read = [pa.list_(pa.int8()) if pa.types.is_list(kind) else kind for kind in _TYPES]
            return pa.table([pa.array([], kind) for kind in read], names=list(_NAMES))
        raise UserError(f"{path}: found no row, expected a row per patch; fetch it again")
    columns = [table[column] for column in TABLE]
    if "has_s2" in table.column_names:
        columns.append(table["has_s2"])
    else:
        columns.append(pa.chunked_array([np.ones(len(table), dtype=bool)]))
    if not any(kind(columns[1].type) for kind in LISTS):
        raise UserError(
            f"{path}: labels: found {columns[1].type}, expected a list of names per row; write the "
            "column as lists"
        )
    for name, column, kind in zip(_NAMES, columns, _TYPES, strict=True):
        if kind == pa.bool_() and (pa.types.is_integer(column.type) or is_float(column.type)):
            _flags(path, name, column)
    try:
        columns = [column.cast(kind) for column, kind in zip(columns, _TYPES, strict=True)]
        for name, column in zip(_NAMES, columns, strict=True):
            if name != "s1_name":  # a patch without Sentinel-1 has none
                _filled(path, name, column)
        columns[1] = _indices(columns[1], path)  # a byte in place of a name: most of the table
        return pa.table(columns, names=list(_NAMES))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{path}: a column has an unexpected type ({str(error).splitlines()[0]}); "
            "expected the metadata of BigEarthNet v2.0"
        ) from error


def _flags(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Numbers in place of true and false: 0 and 1, and no NaN, which would count as true."""
    other = pc.invert(pc.is_in(column, value_set=pa.array([0, 1], column.type)))
    wrong = pc.and_(other, pc.is_valid(column))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise UserError(
            f"{path}: row {row + 1}: {name}: found {column[row].as_py()}, expected true or false; "
            "correct the table or fetch it again"
        )


def _filled(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """A value in every row: one that is missing is neither "no class" nor "no snow"."""
    bare = pc.is_null(column)
    if pa.types.is_list(column.type):
        bare = pc.or_(bare, pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0))
    elif pa.types.is_string(column.type):
        bare = pc.or_(bare, pc.equal(pc.fill_null(column, ""), ""))
    if pc.any(bare).as_py():
        row = pc.index(bare, True).as_py()
        count = pc.sum(bare).as_py()
        more = f" (and in {count - 1:,} more rows)" if count > 1 else ""
        raise UserError(
            f"{path}: row {row + 1}: no {name}{more}, expected one in every row; correct the table "
            "or fetch it again"
        )


def _rows(table: pa.Table, root: Path) -> pd.DataFrame:
    """The rows as `Archive.metadata` promises them."""
    where = root / METADATA
    pair = table["patch_id"]
    parts = pc.extract_regex(pair, pattern=PATCH_ID)
    _refuse(where, "patch_id", pair, pc.is_null(parts), "a name like S2A_MSIL2A_..._T33UUP_26_57")
    split = table["split"]
    _refuse(where, "split", split, _outside(split, SPLITS), "train, validation or test")
    month = pc.cast(pc.struct_field(parts, "month"), pa.int8()).to_numpy().astype(np.int64)
    _refuse(where, "patch_id", pair, pa.array((month < 1) | (month > 12)), "a month of 01 to 12")
    s1 = table["s1_name"]
    s1 = pc.if_else(pc.equal(s1, ""), None, s1)
    strings = pa.table(
        {
            "pair": pair,
            "split": split,
            "country": table["country"],
            "tile": pc.struct_field(parts, "tile"),
        }
    )
    rows = strings.to_pandas()
    rows["s1"] = _objects(s1)
    names = np.where(table["has_s2"].to_numpy(), rows["pair"].to_numpy(object), None)
    rows["s2"] = pd.Series(names, dtype=object)
    rows["month"] = month
    rows["season"] = rows["month"].map(SEASONS)
    rows["labels"] = _labels(table["labels"])
    return rows[list(COLUMNS)]


def _indices(column: pa.ChunkedArray, where: Path) -> pa.Array:
    """Lists of class names as lists of int8 indices."""
    lists = column.combine_chunks()
    names = lists.flatten()
    index = pc.index_in(names, value_set=pa.array(CLASSES))
    _refuse(where, "labels", names, pc.is_null(index), "one of the 19 classes")
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(), dtype=np.int32)
    starts = pa.array(np.concatenate([np.zeros(1, np.int32), ends]), pa.int32())
    return pa.ListArray.from_arrays(starts, index.cast(pa.int8()))


def _labels(column: pa.ChunkedArray) -> np.ndarray:
    """Lists of indices as an object array of sorted int8 arrays, each class once."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    index = lists.flatten().to_numpy()
    order = np.lexsort((index, row))
    row, flat = row[order], index[order]
    once = np.ones(len(row), bool)  # a class that is named twice
    once[1:] = (row[1:] != row[:-1]) | (flat[1:] != flat[:-1])
    flat, counts = flat[once], np.bincount(row[once], minlength=len(counts))
    ends = np.cumsum(counts)
    result = np.empty(len(counts), dtype=object)
    result[:] = [flat[a:b] for a, b in zip((ends - counts).tolist(), ends.tolist(), strict=True)]
    return result


def _outside(column: pa.ChunkedArray, values: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(column, value_set=pa.array(values)))


def _refuse(where: Path, column: str, values: pa.Array, bad: pa.Array, expected: str) -> None:
    if pc.any(bad).as_py():
        found = values.filter(bad)[0].as_py()
        raise UserError(
            f"{where}: {column} {found!r} is not {expected}; is this BigEarthNet v2.0's metadata?"
        )


def _objects(column: pa.ChunkedArray) -> pd.Series:
    """Strings as Python objects: None for null whatever the version of pandas."""
    return pd.Series(column.to_pylist(), dtype=object)


ARCHIVE = BigEarthNetV2()
