"""What the parameters have to know of an archive before its files are there.

The archives themselves are in `mmfl/archives/`, which needs rasterio; this is read by Snakemake.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmfl.facts.bands import S1_BANDS, S2_BANDS, S2_TRAINED
from mmfl.facts.description import read_description


@dataclass(frozen=True)
class Known:
    """Task, bands of each modality (all, and those trained on by default), group columns."""

    task: str
    bands: dict[str, tuple[str, ...]]
    trained: dict[str, tuple[str, ...]]
    groups: tuple[str, ...]


_BIGEARTHNET = Known(
    "multilabel",
    {"s1": S1_BANDS, "s2": S2_BANDS},
    {"s1": S1_BANDS, "s2": S2_TRAINED},
    ("country", "month", "season", "tile"),
)
_DYNAMICWORLD = Known(
    "pixel",
    {"s1": S1_BANDS, "s2": S2_TRAINED},
    {"s1": S1_BANDS, "s2": S2_TRAINED},
    ("hemisphere", "biome", "region", "place", "month", "season"),
)
ARCHIVES = {
    "simulated": _BIGEARTHNET,
    "simulated-tiles": _DYNAMICWORLD,
    "bigearthnet-v1": _BIGEARTHNET,
    "bigearthnet-v2": _BIGEARTHNET,
    "dynamicworld-expert": _DYNAMICWORLD,
}
SIMULATED = ("simulated", "simulated-tiles")
COUNTRIES = (  # of which `simulated` has climates and tiles
    "Austria", "Belgium", "Finland", "Ireland", "Kosovo", "Lithuania", "Luxembourg", "Portugal",
    "Serbia", "Switzerland",
)  # fmt: skip


def known(name: str, folders: dict[str, str]) -> Known:
    """The facts of an archive; those of an archive of one's own stand in its description.

    Raises:
        UserError: the description is not there, or wrong.
    """
    if name not in folders:
        return ARCHIVES[name]
    described = read_description(Path(folders[name]).expanduser())
    bands = {q: tuple(modality.bands) for q, modality in described.modalities.items()}
    return Known(described.task, bands, bands, tuple(described.groups))
