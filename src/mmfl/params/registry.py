"""What a parameter file may name, and what has to be known of it before anything runs.

A name stands for a file of a package that needs pandas or torch, which Snakemake and DVC do not
load: `mmfl/clients/scenarios/`, `mmfl/models/backbones/` (`mmfl.chosen` imports it), or for a
function of `mmfl/clients/assignments.py`. Tests hold that none is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# scenario -> columns of the table of locations that it reads; a group column is a scenario, too
SCENARIOS: dict[str, tuple[str, ...]] = {
    "random": (),
    "region": (),
    "country": ("country",),
    "country-season": ("country", "season"),
    "tile": ("tile",),
    "dirichlet": (),
}


@dataclass(frozen=True)
class Assignment:
    """What a modality assignment makes of the groups.

    Attributes:
        holds: the modalities of a client: one, all, or of some clients one and of others all.
        shared: whether a location may be held in two modalities, by one client or by two.
    """

    holds: Literal["one", "all", "some"]
    shared: bool


ASSIGNMENTS = {
    "duplicate": Assignment("one", shared=True),
    "disjoint": Assignment("one", shared=False),
    "alternate": Assignment("one", shared=False),
    "both": Assignment("all", shared=True),
    "mixed": Assignment("some", shared=True),
}


@dataclass(frozen=True)
class Backbone:
    """A backbone: its stages, and the channels of the first one; None: `model.width`."""

    stages: int
    channels: int | None = None


BACKBONES = {
    "compact": Backbone(stages=3),
    "resnet18": Backbone(stages=4, channels=64),
    "resnet50": Backbone(stages=4, channels=64),
}
