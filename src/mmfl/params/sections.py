"""The sections of a parameter file, each a pydantic model with its defaults.

Types are strict (`true` and `1.0` are no whole numbers), numbers are finite, and all have bounds.
An upper one has one of three reasons, which stands beside it: what a machine holds, what a run
costs, or what float32 can compute with.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from mmfl.facts.bands import S1_BANDS, S2_TRAINED
from mmfl.facts.faults import Fault
from mmfl.files import digest
from mmfl.params.archives import COUNTRIES
from mmfl.params.registry import ASSIGNMENTS, BACKBONES, SCENARIOS

Policy = Literal["modality", "average", "local"]


# Bounds that several sections share.
WORD = 2**32 - 1  # the largest seed that every generator takes
IMAGES = 1_000_000  # BigEarthNet, the largest archive here, has 549,488 locations
BATCH = 65_536  # images of 120 px and 12 bands of so many take 45 GB
FINITE = 1e30  # float32 ends at 3.4e38: a rate may diverge, its product with a gradient may not
WEIGHT = 1e6  # of a loss term beside one of weight 1: float32 has 7 digits
SMALL = 1e-6  # of what is divided by

LOCATIONS = 10  # of a simulated country, so that each of its splits has some

Seed = Annotated[int, Field(ge=0, le=WORD)]
Weight = Annotated[float, Field(ge=0, le=WEIGHT)]
Temperature = Annotated[  # a similarity of 1 over a smaller one: differences beyond all digits
    float, Field(ge=1e-3, le=1e3)
]
Name = Annotated[str, Field(min_length=1, max_length=200)]  # a file's name may have 255 bytes


class Section(BaseModel):
    """Base of all sections: unknown keys and other types are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Simulate(Section):
    """The simulated archives (docs/simulated.md)."""

    pairs: int = Field(
        1200, ge=40, le=10_000, description="locations of `simulated`"
    )  # the tiles hold no more
    tiles: int = Field(
        120, ge=20, le=1500, description="locations of `simulated-tiles`"
    )  # the regions hold no more
    tile_size: int = Field(96, ge=32, le=510, description="pixels of such a tile's side")
    seed: Seed = Field(7, description="seed of the generator")
    countries: list[Name] = Field(
        ["Austria", "Finland", "Ireland", "Portugal"],
        min_length=1,
        max_length=100,
        description="countries drawn",
    )
    unpaired: float = Field(
        0.05, ge=0, lt=1, description="share of locations that lack one of the two modalities"
    )

    @field_validator("countries")
    @classmethod
    def _countries(cls, value: list[str]) -> list[str]:
        for place, country in enumerate(value):
            if country in value[:place]:
                raise Fault((place,), f"found {country} a second time, expected it once")
            try:
                one_of(country, COUNTRIES, "country")
            except ValueError as error:
                raise Fault((place,), str(error)) from None
        return value

    @model_validator(mode="after")
    def _enough(self) -> Simulate:
        least = LOCATIONS * len(self.countries)
        if self.pairs < least:
            raise Fault(
                ("pairs",),
                f"found {self.pairs}, expected at least {least}, {LOCATIONS} for each of "
                f"{len(self.countries)} countries",
                also=[("countries",)],
            )
        return self


class Download(Section):
    """Where an archive's bytes come from."""

    local: dict[str, str] = Field(
        {}, description="archive name -> folder of a local copy, used in place"
    )
    extract: bool = Field(
        False, description="unpack the tars of images, which split reads as a stream otherwise"
    )


class Split(Section):
    """Encoding of the patches."""

    snow: bool = Field(False, description="keep patches with seasonal snow")
    cloud_or_shadow: bool = Field(False, description="keep patches with cloud or cloud shadow")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="a patch that cannot be used: stop, or skip it and list it"
    )
    shard_size: int = Field(4096, ge=1, le=IMAGES, description="patches in a shard")


class Partition(Section):
    """Who holds what."""

    modalities: list[Name] = Field(
        ["s1", "s2"],
        min_length=1,
        max_length=8,  # every subset is scored: 255 of 8
        description="what a client holds apart: the archive's modalities, or parts of them such "
        "as s2-10m, s2-20m; default: all of the archive's",
    )
    scenario: Name = Field(
        "region",
        description=" | ".join(SCENARIOS) + " | a group column of an archive of one's own; region: "
        "the country (BigEarthNet), hemisphere and biome (Dynamic World)",
    )
    assignment: Name = Field("duplicate", json_schema_extra={"enum": list(ASSIGNMENTS)})
    clients: int = Field(
        4, ge=1, le=10_000, description="groups of the scenarios `random` and `dirichlet`"
    )  # each keeps state of its own, a network's size with some algorithms
    alpha: float = Field(
        0.5,
        ge=1e-3,  # below, draws are 0 and 1 to float64's last digit
        le=WEIGHT,
        description="concentration of the scenario `dirichlet`: small is skewed",
    )
    seed: Seed = Field(0, description="seed of the partition")
    countries: list[Name] | None = Field(
        None, min_length=1, max_length=300, description="only these countries; null: all"
    )
    months: list[Annotated[int, Field(ge=1, le=12)]] | None = Field(
        None, min_length=1, max_length=12, description="only these months (1-12); null: all"
    )

    @field_validator("modalities")
    @classmethod
    def _modalities(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)?", name):
                raise ValueError(f"modality {name!r}: expected a name such as s2 or s2-20m")
        if len(set(value)) != len(value):
            raise ValueError("modalities must be distinct")
        return sorted(value)

    @field_validator("assignment")
    @classmethod
    def _assignment(cls, value: str) -> str:
        return one_of(value, tuple(ASSIGNMENTS), "assignment")


class Model(Section):
    """The network."""

    backbone: Name = Field("compact", json_schema_extra={"enum": list(BACKBONES)})
    width: int = Field(
        16, ge=4, le=512, description="channels of the compact network's first stage"
    )  # its last one has four times as many: those of a ResNet-50
    fusion: Literal["mean", "concat", "logit", "probability"] = "mean"
    projection: int = Field(
        128, ge=1, le=8192, description="outputs of the projection head"
    )  # of the literature's; a head has D times as many weights, D up to 2,048
    share_from_stage: int | None = Field(
        None, ge=1, le=100, description="stages from this one on are shared by all modalities"
    )

    @field_validator("backbone")
    @classmethod
    def _backbone(cls, value: str) -> str:
        return one_of(value, tuple(BACKBONES), "backbone")


class Whitening(Section):
    """FW, used by methods with `+fw`."""

    where: Literal["stem", "stem+layer1", "all"] = "stem+layer1"
    group: int = Field(4, ge=1, le=512)  # a factor costs its cube
    epsilon: float = Field(1e-3, ge=1e-7, lt=1)  # float32 has 7 digits
    shrinkage: Literal["relative", "absolute"] = "relative"
    momentum: float = Field(0.1, ge=SMALL, le=1)
    stride: int = Field(
        1, ge=1, le=64, description="statistics from every stride-th pixel"
    )  # a pixel is left of a map of 64
    method: Literal["cholesky", "zca"] = "cholesky"


class Mim(Section):
    """MIM, used by methods with `+mim`."""

    weight: Weight = Field(0.1, description="lambda")
    temperature: Temperature = Field(0.5, description="tau")
    negatives: Literal["all", "cross"] = "all"
    bank: Literal["harvest", "fresh", "prototype"] = Field(
        "harvest",
        description="features of the last local epoch, of an extra forward pass, or class means",
    )
    features: Literal["pooled", "cells"] = Field(
        "pooled",
        description="features of a whole sample, or of the same pixels (cells of a tile's window)",
    )
    cells: int = Field(
        4, ge=1, le=64, description="cells along a side, with features: cells"
    )  # the bank holds their square for each sample


ROUNDS = 100_000  # a checkpoint each


class Absence(Section):
    """A client that does not contribute to a round, by schedule."""

    round: int = Field(ge=1, le=ROUNDS)
    client: Name
    what: Literal["fails", "late"] = "fails"


class Participation(Section):
    """Who takes part in a round. Draws depend on the seed and the round, not on the method."""

    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients asked each round")
    fails: float = Field(
        0.0, ge=0, lt=1, description="probability that a client asked never trains"
    )
    late: float = Field(
        0.0, ge=0, lt=1, description="probability that it trains and its answer comes too late"
    )
    schedule: list[Absence] = Field(
        [], max_length=1000, description="absences beside the drawn ones"
    )

    @model_validator(mode="after")
    def _together(self) -> Participation:
        if self.fails + self.late > 1:
            raise ValueError("fails and late are probabilities; their sum exceeds 1")
        seen: set[tuple[int, str]] = set()
        for place, absence in enumerate(self.schedule):
            if (absence.round, absence.client) in seen:
                text = f"{absence.client} in round {absence.round} a second time, expected once"
                raise Fault(("schedule", place), f"found {text}")
            seen.add((absence.round, absence.client))
        return self


TRIALS = 1000  # of a method; each is trained


class Tune(Section):
    """Choosing hyper-parameters on the validation split (docs/algorithms.md)."""

    trials: dict[Name, dict[Name, Annotated[list[Any], Field(min_length=1)]]] = Field(
        {}, description="method -> key -> values; every combination is a trial"
    )

    @field_validator("trials")
    @classmethod
    def _trials(cls, value: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        for method, grid in value.items():
            count = math.prod(len(values) for values in grid.values())
            if count > TRIALS:
                raise Fault((method,), f"found {count:,} combinations, expected at most {TRIALS}")
        return value


class MethodEntry(Section):
    """A row of the comparison: a method and the parameters in which it departs from the rest."""

    method: Name
    label: Name | None = None
    set: dict[Name, Any] = Field({}, description="dotted key -> value, e.g. train.normalisation")

    @functools.cached_property
    def variant(self) -> str:
        """`default`, or a short digest of the hyper-parameters that differ."""
        return digest(self.set, 8) if self.set else "default"


def _form(item: Any) -> str:
    return "entry" if isinstance(item, dict | MethodEntry) else "name"


Method = Annotated[
    Annotated[Name, Tag("name")] | Annotated[MethodEntry, Tag("entry")], Discriminator(_form)
]


class Train(Section):
    """Federated training."""

    seeds: list[Seed] = Field([1, 2, 3], min_length=1, max_length=100)  # a run of each method each
    methods: list[Method] = Field(["mf"], min_length=1, max_length=10_000)
    size: int = Field(
        32, ge=8, le=4096, description="pixels of a training image's side; of a tile: of a window's"
    )  # 12 bands of 4,096 px take 800 MB for one image
    bands: dict[Name, Annotated[list[Name], Field(min_length=1, max_length=1000)]] = Field(
        {"s1": list(S1_BANDS), "s2": list(S2_TRAINED)},
        description="default: those of the archive",
    )
    rounds: int = Field(10, ge=1, le=ROUNDS)
    epochs: int = Field(1, ge=1, le=10_000, description="local epochs of a round")
    window: int = Field(
        0,
        ge=0,
        le=IMAGES,
        description="shards whose samples are shuffled together (network disks); 0: all",
    )
    batch: int = Field(32, ge=2, le=BATCH)
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.05, gt=0, le=FINITE)
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    weights: Literal["size", "uniform"] = "size"
    statistics: Policy = "modality"
    normalisation: Literal["global", "archive", "client"] = "global"
    augment: bool = Field(True, description="flips and quarter turns")
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = Field(False, description="networks by torch.compile, docs/models.md")

    @field_validator("bands")
    @classmethod
    def _bands(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        if not value:
            raise ValueError("name at least one modality")
        for modality, bands in value.items():
            if len(set(bands)) != len(bands):
                raise Fault((modality,), "bands must be distinct")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("seeds must be distinct")
        return value


class Evaluate(Section):
    """What is measured on the test set."""

    round: Literal["last", "best"] = Field(
        "last", description="best: by the task's first score, validation, all modalities"
    )
    threshold: Literal["half", "validation"] = Field(
        "half", description="0.5, or per class from the validation split"
    )
    rates: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        [0, 25, 50, 75, 100], max_length=101, description="missing rates in percent"
    )
    batch: int = Field(256, ge=1, le=BATCH, description="patches at a time, or windows of tiles")
    overlap: float = Field(
        0.5,
        ge=0,
        le=0.9,  # 100 windows see a pixel
        description="of a tile's windows of train.size, as a part of their side",
    )

    @field_validator("rates")
    @classmethod
    def _rates(cls, value: list[int]) -> list[int]:
        return sorted(set(value))


class Report(Section):
    """Tables and the page."""

    baseline: Name = Field("mf", description="method that the differences are taken to")
    gallery: int = Field(
        6, ge=0, le=100, description="test locations shown as pictures"
    )  # all of them stand in one page


def one_of(value: str, known: tuple[str, ...], what: str) -> str:
    """Return `value` if it is known, else raise ValueError with the nearest valid name."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown {what} {value!r}; {hint}known: {', '.join(known)}")
