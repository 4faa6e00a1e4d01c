"""What both versions of BigEarthNet share: CORINE classes, the 19 classes, bands, patch reading.

Sumbul et al., IGARSS 2019 (v1, Sentinel-2) and GRSM 2021, arXiv 2105.07921 (BigEarthNet-MM, 19
classes); Clasen et al., arXiv 2407.03653 (v2). Licence of both: CDLA-Permissive-1.0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmfl.archives.base import Band, Modality

CLASSES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)

# CORINE Land Cover level 3: code -> name as BigEarthNet v1.0 writes it, index into CLASSES.
# None: no target among the 19 classes. 335 occurs in no label of v1.0.
CORINE: dict[int, tuple[str, int | None]] = {
    111: ("Continuous urban fabric", 0),
    112: ("Discontinuous urban fabric", 0),
    121: ("Industrial or commercial units", 1),
    122: ("Road and rail networks and associated land", None),
    123: ("Port areas", None),
    124: ("Airports", None),
    131: ("Mineral extraction sites", None),
    132: ("Dump sites", None),
    133: ("Construction sites", None),
    141: ("Green urban areas", None),
    142: ("Sport and leisure facilities", None),
    211: ("Non-irrigated arable land", 2),
    212: ("Permanently irrigated land", 2),
    213: ("Rice fields", 2),
    221: ("Vineyards", 3),
    222: ("Fruit trees and berry plantations", 3),
    223: ("Olive groves", 3),
    231: ("Pastures", 4),
    241: ("Annual crops associated with permanent crops", 3),
    242: ("Complex cultivation patterns", 5),
    243: (CLASSES[6], 6),
    244: ("Agro-forestry areas", 7),
    311: ("Broad-leaved forest", 8),
    312: ("Coniferous forest", 9),
    313: ("Mixed forest", 10),
    321: ("Natural grassland", 11),
    322: ("Moors and heathland", 12),
    323: ("Sclerophyllous vegetation", 12),
    324: ("Transitional woodland/shrub", 13),
    331: ("Beaches, dunes, sands", 14),
    332: ("Bare rock", None),
    333: ("Sparsely vegetated areas", 11),
    334: ("Burnt areas", None),
    335: ("Glaciers and perpetual snow", None),
    411: ("Inland marshes", 15),
    412: ("Peatbogs", 15),
    421: ("Salt marshes", 16),
    422: ("Salines", 16),
    423: ("Intertidal flats", None),
    511: ("Water courses", 17),
    512: ("Water bodies", 17),
    521: ("Coastal lagoons", 18),
    522: ("Estuaries", 18),
    523: ("Sea and ocean", 18),
}

SHOW = {"s1": ("VV", "VH"), "s2": ("B04", "B03", "B02")}
# name -> metres, pixels of a side
S1_BANDS = {"VV": (10, 120), "VH": (10, 120)}
S2_BANDS = {
    "B01": (60, 20),
    "B02": (10, 120),
    "B03": (10, 120),
    "B04": (10, 120),
    "B05": (20, 60),
    "B06": (20, 60),
    "B07": (20, 60),
    "B08": (10, 120),
    "B8A": (20, 60),
    "B09": (60, 20),
    "B11": (20, 60),
    "B12": (20, 60),
}


def modalities(statistics: dict[str, tuple[float, float]]) -> dict[str, Modality]:
    """Sentinel-1 (VV, VH in dB, float32) and Sentinel-2 (12 bands, reflectance x 10,000, uint16).

    `statistics`: band -> published mean and standard deviation of the version.
    """
    return {
        name: Modality(
            name,
            tuple(
                Band(band, resolution, size, dtype, *statistics[band])
                for band, (resolution, size) in bands.items()
            ),
            SHOW[name],
        )
        for name, dtype, bands in (("s1", "float32", S1_BANDS), ("s2", "uint16", S2_BANDS))
    }


PACKED = (".tar.zst", ".tar.gz", ".tar")


def packed(root: Path, tops: tuple[str, ...]) -> Path | None:
    """The tar of a modality, where none of the folders that it would unpack to is there."""
    if any((root / top).is_dir() for top in tops):
        return None
    files = (root / f"{top}{end}" for top in tops for end in PACKED)
    return next((file for file in files if file.is_file()), None)


def packs(name: str, tops: Iterable[tuple[str, ...]]) -> bool:
    """Whether `packed` finds a file of this name."""
    return any(name == f"{top}{end}" for group in tops for top in group for end in PACKED)


def listed(folder: Path) -> dict[str, Path]:
    """name -> path of the folders in a folder; empty if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: folder / entry.name for entry in entries if entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
