"""The numbers of the simulated archive. Sources and decisions: docs/simulated.md.

Fixed before any method was run on the archive. Spectra and backscatter are typical values of
literature's magnitude, not a table copied from one source; shares of classes and seasons are
counted in the published metadata of BigEarthNet v2.0.
"""

from __future__ import annotations

import numpy as np

# Surface reflectance of the end members, bands B01 to B12 in the archive's order (no B10).
ENDMEMBERS = {
    #             B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
    "broadleaf": (0.02, 0.025, 0.05, 0.025, 0.085, 0.30, 0.38, 0.40, 0.42, 0.43, 0.20, 0.085),
    "conifer": (0.015, 0.02, 0.035, 0.02, 0.055, 0.155, 0.19, 0.205, 0.215, 0.22, 0.095, 0.04),
    "grass": (0.025, 0.035, 0.075, 0.04, 0.115, 0.30, 0.37, 0.39, 0.41, 0.42, 0.23, 0.115),
    "crop": (0.025, 0.035, 0.07, 0.035, 0.11, 0.36, 0.46, 0.48, 0.50, 0.50, 0.20, 0.095),
    "dry": (0.06, 0.075, 0.11, 0.14, 0.17, 0.21, 0.235, 0.26, 0.28, 0.29, 0.35, 0.25),
    "soil": (0.06, 0.08, 0.11, 0.15, 0.175, 0.19, 0.205, 0.22, 0.235, 0.24, 0.32, 0.28),
    "peat": (0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.10, 0.11, 0.07),
    "sand": (0.14, 0.18, 0.25, 0.30, 0.33, 0.34, 0.35, 0.36, 0.37, 0.37, 0.45, 0.40),
    "paved": (0.09, 0.11, 0.13, 0.145, 0.155, 0.165, 0.175, 0.185, 0.195, 0.20, 0.22, 0.205),
    "roof": (0.17, 0.20, 0.22, 0.235, 0.24, 0.25, 0.255, 0.265, 0.27, 0.27, 0.29, 0.27),
    "lake": (0.025, 0.03, 0.035, 0.02, 0.018, 0.012, 0.011, 0.01, 0.009, 0.009, 0.006, 0.004),
    "sea": (0.04, 0.035, 0.022, 0.009, 0.008, 0.006, 0.006, 0.005, 0.005, 0.005, 0.003, 0.002),
    "snow": (0.85, 0.88, 0.87, 0.86, 0.85, 0.84, 0.83, 0.82, 0.80, 0.75, 0.10, 0.08),
    "cloud": (0.45, 0.46, 0.45, 0.46, 0.47, 0.50, 0.51, 0.52, 0.53, 0.50, 0.42, 0.33),
}

Composition = tuple[tuple[dict[str, float], dict[str, float]], ...]
_ARABLE = ({"crop": 0.45, "soil": 0.25, "dry": 0.3}, {"soil": 0.7, "grass": 0.2, "dry": 0.1})
_LEAVES = ({"broadleaf": 1.0}, {"dry": 0.6, "soil": 0.2, "broadleaf": 0.2})
_HEATH = (
    {"dry": 0.35, "conifer": 0.2, "grass": 0.2, "peat": 0.25},
    {"dry": 0.45, "conifer": 0.2, "peat": 0.35},
)
# Class index -> composition at full greenness and in winter. Same object: same spectrum.
COMPOSITION: Composition = (
    (  # 0 Urban fabric
        {"paved": 0.5, "grass": 0.3, "broadleaf": 0.2},
        {"paved": 0.5, "dry": 0.2, "grass": 0.2, "soil": 0.1},
    ),
    (  # 1 Industrial or commercial units
        {"roof": 0.6, "paved": 0.3, "grass": 0.1},
        {"roof": 0.6, "paved": 0.3, "dry": 0.1},
    ),
    _ARABLE,  # 2 Arable land
    (  # 3 Permanent crops
        {"grass": 0.25, "soil": 0.45, "broadleaf": 0.3},
        {"soil": 0.5, "dry": 0.2, "grass": 0.3},
    ),
    ({"grass": 0.95, "soil": 0.05}, {"grass": 0.7, "dry": 0.25, "soil": 0.05}),  # 4 Pastures
    _ARABLE,  # 5 Complex cultivation patterns
    (  # 6 Agriculture with natural vegetation
        {"crop": 0.25, "dry": 0.15, "soil": 0.1, "broadleaf": 0.3, "grass": 0.2},
        {"soil": 0.35, "dry": 0.35, "grass": 0.3},
    ),
    (  # 7 Agro-forestry areas (evergreen oaks over grass that dries in summer)
        {"dry": 0.45, "broadleaf": 0.3, "soil": 0.15, "grass": 0.1},
        {"grass": 0.45, "broadleaf": 0.25, "soil": 0.2, "dry": 0.1},
    ),
    _LEAVES,  # 8 Broad-leaved forest
    ({"conifer": 1.0}, {"conifer": 0.95, "peat": 0.05}),  # 9 Coniferous forest
    (  # 10 Mixed forest
        {"conifer": 0.5, "broadleaf": 0.5},
        {"conifer": 0.55, "dry": 0.35, "soil": 0.1},
    ),
    (  # 11 Natural grassland and sparsely vegetated areas
        {"grass": 0.35, "dry": 0.4, "soil": 0.25},
        {"dry": 0.6, "soil": 0.35, "grass": 0.05},
    ),
    _HEATH,  # 12 Moors, heathland and sclerophyllous vegetation
    _LEAVES,  # 13 Transitional woodland, shrub
    ({"sand": 1.0}, {"sand": 1.0}),  # 14 Beaches, dunes, sands
    _HEATH,  # 15 Inland wetlands
    (  # 16 Coastal wetlands
        {"peat": 0.4, "grass": 0.3, "lake": 0.3},
        {"peat": 0.5, "dry": 0.2, "lake": 0.3},
    ),
    ({"lake": 1.0}, {"lake": 1.0}),  # 17 Inland waters
    ({"sea": 1.0}, {"sea": 1.0}),  # 18 Marine waters
)
GREENNESS = {"DJF": 0.0, "MAM": 0.6, "JJA": 1.0, "SON": 0.5}

# Class index -> backscatter VV, VH in dB, and its spatial variation in dB.
BACKSCATTER = (
    (-6.0, -13.5, 3.0),  # 0 Urban fabric
    (-3.5, -12.0, 4.0),  # 1 Industrial or commercial units
    (-12.0, -19.0, 1.5),  # 2 Arable land
    (-10.5, -16.5, 1.2),  # 3 Permanent crops
    (-12.5, -19.5, 0.8),  # 4 Pastures
    (-9.5, -16.0, 1.8),  # 5 Complex cultivation patterns
    (-10.5, -16.5, 1.5),  # 6 Agriculture with natural vegetation
    (-10.8, -16.8, 1.2),  # 7 Agro-forestry areas
    (-9.0, -14.5, 0.7),  # 8 Broad-leaved forest
    (-9.5, -15.0, 0.7),  # 9 Coniferous forest
    (-9.5, -15.0, 0.7),  # 10 Mixed forest
    (-12.5, -19.5, 0.8),  # 11 Natural grassland
    (-12.0, -18.0, 0.8),  # 12 Moors and heathland
    (-11.0, -17.0, 1.0),  # 13 Transitional woodland, shrub
    (-16.0, -24.0, 1.5),  # 14 Beaches, dunes, sands
    (-9.5, -17.5, 1.2),  # 15 Inland wetlands
    (-13.0, -20.0, 2.0),  # 16 Coastal wetlands
    (-19.5, -27.0, 0.8),  # 17 Inland waters
    (-19.5, -27.0, 0.8),  # 18 Marine waters
)
SEASON_DB = {"DJF": (-0.5, -1.0), "MAM": (0.0, -0.3), "JJA": (0.2, 0.5), "SON": (0.0, 0.0)}
SNOW_DB = -2.0
LOOKS = 4.4  # equivalent number of looks of an IW GRDH product

# Class index -> spatial variation of reflectance, as a coefficient of variation.
# fmt: off
TEXTURE = np.array((
    0.25, 0.3, 0.15, 0.15, 0.08, 0.15, 0.18, 0.18, 0.10, 0.12,
    0.12, 0.12, 0.12, 0.10, 0.10, 0.12, 0.15, 0.05, 0.05,
), dtype=np.float32)
# fmt: on
# The same for the patch's own class means: brightness, single bands; dB of both, of one.
PATCH_BRIGHTNESS, PATCH_BAND = 0.08, 0.03
PATCH_DB, PATCH_POLARISATION_DB = 0.8, 0.4
SENSOR_NOISE = 0.002  # reflectance, per pixel and band
# Standard deviations between countries: gain (all bands, one band), offset, band mixing, dB.
COUNTRY_GAIN, COUNTRY_BAND_GAIN = 0.08, 0.04
COUNTRY_OFFSET, COUNTRY_MIXING, COUNTRY_DB = 0.005, 0.02, 1.0

# Optically alike, told apart by radar; alike in radar, told apart optically.
ONLY_RADAR = ((2, 5), (8, 13), (12, 15))
ONLY_OPTICAL = ((9, 10), (4, 11), (17, 18))

MINIMUM_SHARE = 0.03  # of the patch, for a class to be a label
COUNT_SHARES = (0.18, 0.20, 0.28, 0.21, 0.13)  # 1, 2, 3, 4, 5 and more classes in a patch
SPLIT_SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}

# Country -> patches that hold the class, in per cent, over BigEarthNet v2.0's clean patches.
CLASS_SHARES = {
    "Austria": (37, 4, 65, 10, 24, 32, 31, 0, 38, 30, 40, 3, 1, 3, 0, 2, 0, 5, 0),
    "Belgium": (64, 8, 50, 0, 66, 54, 29, 0, 40, 22, 29, 0, 4, 8, 0, 4, 0, 3, 0),
    "Finland": (3, 1, 16, 0, 0, 0, 18, 0, 7, 66, 61, 0, 0, 35, 0, 7, 0, 28, 24),
    "Ireland": (8, 1, 35, 0, 72, 6, 11, 0, 6, 15, 8, 1, 5, 10, 1, 10, 0, 2, 24),
    "Kosovo": (31, 6, 39, 1, 9, 37, 54, 0, 72, 3, 5, 18, 0, 37, 0, 0, 0, 1, 0),
    "Lithuania": (14, 3, 65, 1, 39, 50, 40, 0, 37, 33, 48, 0, 0, 29, 0, 4, 0, 11, 5),
    "Luxembourg": (47, 7, 69, 3, 66, 49, 31, 0, 70, 29, 37, 0, 0, 1, 0, 0, 0, 4, 0),
    "Portugal": (9, 2, 43, 25, 15, 21, 18, 37, 40, 10, 16, 1, 11, 44, 1, 0, 1, 5, 11),
    "Serbia": (17, 2, 49, 2, 10, 41, 47, 0, 59, 3, 5, 10, 0, 35, 0, 2, 0, 7, 0),
    "Switzerland": (50, 10, 65, 2, 27, 27, 9, 0, 20, 36, 66, 6, 2, 6, 0, 1, 0, 12, 0),
}
# Country -> clean patches, per cent of them in DJF, MAM, JJA, SON, from the same table.
SIZES = {
    "Austria": 43797,
    "Belgium": 11196,
    "Finland": 155227,
    "Ireland": 48326,
    "Kosovo": 1616,
    "Lithuania": 48365,
    "Luxembourg": 3460,
    "Portugal": 89792,
    "Serbia": 73385,
    "Switzerland": 4874,
}
SEASON_SHARES = {
    "Austria": (12, 49, 24, 16),
    "Belgium": (17, 33, 17, 32),
    "Finland": (5, 43, 20, 33),
    "Ireland": (30, 25, 32, 13),
    "Kosovo": (100, 0, 0, 0),
    "Lithuania": (0, 29, 18, 52),
    "Luxembourg": (0, 52, 0, 48),
    "Portugal": (27, 27, 18, 27),
    "Serbia": (23, 29, 19, 30),
    "Switzerland": (0, 0, 100, 0),
}
# Country -> tiles: two for training, one for validation, one for test. Tiles of the archive, and
# their neighbours where a country has fewer than four of its own. No tile occurs twice.
TILES = {
    "Austria": ("T33TWN", "T33UWP", "T33UXP", "T33TXN"),
    "Belgium": ("T31UER", "T31UES", "T31UFR", "T31UFS"),
    "Finland": ("T35VNL", "T35VPK", "T35VNJ", "T35VNK"),
    "Ireland": ("T29UPU", "T29UPV", "T29UNB", "T29UPB"),
    "Kosovo": ("T34TEN", "T34TDN", "T34TDM", "T34TEM"),
    "Lithuania": ("T35ULB", "T35VLC", "T35UMB", "T35ULA"),
    "Luxembourg": ("T31UGR", "T31UGQ", "T31UFQ", "T31UGP"),
    "Portugal": ("T29SND", "T29SNC", "T29SNB", "T29TNE"),
    "Serbia": ("T34TEP", "T34TCR", "T34TEQ", "T34TFN"),
    "Switzerland": ("T32TMT", "T32TLT", "T32TMS", "T32TLS"),
}
TILE_SPLITS = ("train", "train", "validation", "test")


def spectra(season: str, composition: Composition = COMPOSITION) -> np.ndarray:
    """Reflectance per class and band in a season: (P, 12), linear mixtures of end members."""
    green = GREENNESS[season]
    result = np.zeros((len(composition), 12))
    for index, (summer, winter) in enumerate(composition):
        for weight, mixture in ((green, summer), (1 - green, winter)):
            for name, share in mixture.items():
                result[index] += weight * share * np.array(ENDMEMBERS[name])
    return result
