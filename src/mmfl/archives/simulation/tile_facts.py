"""The numbers of the archive `simulated-tiles`. Sources and decisions: docs/simulated.md.

Fixed before any method was run on the archive. Dynamic World's nine classes are made of the end
members and of the backscatter of the 19 classes in `facts`.
"""

from __future__ import annotations

import numpy as np

from mmfl.archives.simulation import facts

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(9)
# Class -> the class of `facts` whose spectrum and texture it has; bare and snow have their own.
OPTICAL_LIKE = {WATER: 17, TREES: 10, GRASS: 4, FLOODED: 15, CROPS: 2, SHRUB: 12, BUILT: 0}
_BARE = {"soil": 0.6, "sand": 0.4}
COMPOSITION: facts.Composition = (
    *(facts.COMPOSITION[like] for like in OPTICAL_LIKE.values()),
    (_BARE, _BARE),
    ({"snow": 1.0}, {"snow": 1.0}),
)
TEXTURE = np.array([*(facts.TEXTURE[like] for like in OPTICAL_LIKE.values()), 0.12, 0.06], "f4")
# Class -> the class of `facts` whose backscatter it has. Low plants look alike to C band; so do
# bare ground and dry snow on it, which is transparent.
RADAR_LIKE = {
    WATER: 17, TREES: 10, GRASS: 4, FLOODED: 15, CROPS: 4, SHRUB: 12, BUILT: 0, BARE: 14, SNOW: 14,
}  # fmt: skip
BACKSCATTER = np.array([facts.BACKSCATTER[like] for like in RADAR_LIKE.values()])

# Optically alike, told apart by radar; alike in radar, told apart optically.
ONLY_RADAR = ((FLOODED, SHRUB),)
ONLY_OPTICAL = ((GRASS, CROPS), (BARE, SNOW))

# (hemisphere, biome) -> west and south edge, in degrees, of 25 x 10 blocks of one degree.
REGIONS = {
    ("EH", "4"): (5, 43),
    ("EH", "6"): (40, 56),
    ("EH", "13"): (42, 27),
    ("WH", "4"): (-98, 37),
    ("WH", "6"): (-122, 54),
    ("WH", "13"): (-118, 26),
}
COLUMNS, ROWS = 25, 10
# Biome of the RESOLVE ecoregions -> per cent of each class in a draw; decisions.
#      water trees grass flooded crops shrub built bare snow
CLASS_SHARES = {
    "4": (25, 60, 35, 8, 65, 15, 35, 6, 3),  # temperate broadleaf and mixed forests
    "6": (55, 85, 20, 25, 5, 40, 8, 10, 15),  # boreal forests, taiga
    "13": (12, 8, 25, 5, 20, 65, 15, 75, 1),  # deserts and xeric shrublands
}
TEST = 0.2  # share of each region's tiles
CLOUDY = 0.1  # share of tiles with clouds
GAP = 0.05  # share of images that the edge of a scene cuts
# Thresholds of smooth whole-number fields, whose standard deviation is about 600,000.
UNMARKED, UNMARKED_BORDER = 720_000, 0  # above: not marked; of pixels at a border of classes
CLOUD_EDGE, CLOUD_CORE = 300_000, 900_000  # cover by cloud rises from 0 to 1
