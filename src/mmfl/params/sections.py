"""The sections of a parameter file, each a pydantic model with its defaults."""

from __future__ import annotations

import difflib
import functools
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmfl.files import digest
from mmfl.params.archives import S1_BANDS, S2_TRAINED

SCENARIOS = ("random", "region", "country", "country-season", "tile", "dirichlet")
ASSIGNMENTS = ("duplicate", "disjoint", "alternate", "both", "mixed")

Policy = Literal["modality", "average", "local"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Simulate(Section):
    """The simulated archives (docs/simulated.md)."""

    pairs: int = Field(1200, ge=40, description="locations of `simulated`")
    tiles: int = Field(120, ge=20, description="locations of `simulated-tiles`")
    tile_size: int = Field(96, ge=32, le=510, description="pixels of such a tile's side")
    seed: int = Field(7, ge=0, description="seed of the generator")
    countries: list[str] = Field(
        ["Austria", "Finland", "Ireland", "Portugal"], min_length=1, description="countries drawn"
    )
    unpaired: float = Field(
        0.05, ge=0, lt=1, description="share of locations that lack one of the two modalities"
    )


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
    shard_size: int = Field(4096, ge=1, description="patches in a shard")


def stored(modality: str) -> str:
    """The modality of the archive that a client's modality is read from: `s2-20m` is part of s2."""
    return modality.partition("-")[0]


class Partition(Section):
    """Who holds what."""

    modalities: list[str] = Field(
        ["s1", "s2"],
        min_length=1,
        description="what a client holds apart: the archive's modalities, or parts of them such "
        "as s2-10m, s2-20m; default: all of the archive's",
    )
    scenario: str = Field(
        "region",
        description=" | ".join(SCENARIOS) + " | a group column of an archive of one's own; region: "
        "the country (BigEarthNet), hemisphere and biome (Dynamic World)",
    )
    assignment: str = Field("duplicate", description=" | ".join(ASSIGNMENTS))
    clients: int = Field(4, ge=1, description="groups of the scenarios `random` and `dirichlet`")
    alpha: float = Field(
        0.5, gt=0, le=1e6, description="concentration of the scenario `dirichlet`: small is skewed"
    )
    seed: int = Field(0, ge=0, description="seed of the partition")
    countries: list[str] | None = Field(None, description="only these countries; null: all")
    months: list[int] | None = Field(None, description="only these months (1-12); null: all")

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
        return one_of(value, ASSIGNMENTS, "assignment")

    @field_validator("months")
    @classmethod
    def _months(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not all(1 <= month <= 12 for month in value):
            raise ValueError("months are 1 to 12")
        return value


class Model(Section):
    """The network."""

    backbone: Literal["compact", "resnet18", "resnet50"] = "compact"
    width: int = Field(16, ge=4, description="channels of the compact network's first stage")
    fusion: Literal["mean", "concat", "logit", "probability"] = "mean"
    projection: int = Field(128, ge=1, description="outputs of the projection head")
    share_from_stage: int | None = Field(
        None, ge=1, le=4, description="stages from this one on are shared by all modalities"
    )


class Whitening(Section):
    """FW, used by methods with `+fw`."""

    where: Literal["stem", "stem+layer1", "all"] = "stem+layer1"
    group: int = Field(4, ge=1)
    epsilon: float = Field(1e-3, gt=0, lt=1)
    shrinkage: Literal["relative", "absolute"] = "relative"
    momentum: float = Field(0.1, gt=0, le=1)
    stride: int = Field(1, ge=1, description="statistics from every stride-th pixel")
    method: Literal["cholesky", "zca"] = "cholesky"


class Mim(Section):
    """MIM, used by methods with `+mim`."""

    weight: float = Field(0.1, ge=0, description="lambda")
    temperature: float = Field(0.5, gt=0, description="tau")
    negatives: Literal["all", "cross"] = "all"
    bank: Literal["harvest", "fresh", "prototype"] = Field(
        "harvest",
        description="features of the last local epoch, of an extra forward pass, or class means",
    )
    features: Literal["pooled", "cells"] = Field(
        "pooled",
        description="features of a whole sample, or of the same pixels (cells of a tile's window)",
    )
    cells: int = Field(4, ge=1, description="cells along a side, with features: cells")


class Absence(Section):
    """A client that does not contribute to a round, by schedule."""

    round: int = Field(ge=1)
    client: str
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
    schedule: list[Absence] = Field([], description="absences beside the drawn ones")

    @model_validator(mode="after")
    def _together(self) -> Participation:
        if self.fails + self.late > 1:
            raise ValueError("fails and late are probabilities; their sum exceeds 1")
        return self


class Tune(Section):
    """Choosing hyper-parameters on the validation split (docs/algorithms.md)."""

    trials: dict[str, dict[str, list[Any]]] = Field(
        {}, description="method -> key -> values; every combination is a trial"
    )


class MethodEntry(Section):
    """A row of the comparison: a method and the parameters in which it departs from the rest."""

    method: str
    label: str | None = None
    set: dict[str, Any] = Field({}, description="dotted key -> value, e.g. train.normalisation")

    @functools.cached_property
    def variant(self) -> str:
        """`default`, or a short digest of the hyper-parameters that differ."""
        return digest(self.set, 8) if self.set else "default"


class Train(Section):
    """Federated training."""

    seeds: list[int] = Field([1, 2, 3], min_length=1)
    methods: list[str | MethodEntry] = Field(["mf"], min_length=1)
    size: int = Field(
        32, ge=8, description="pixels of a training image's side; of a tile: of a window's"
    )
    bands: dict[str, list[str]] = Field(
        {"s1": list(S1_BANDS), "s2": list(S2_TRAINED)},
        description="default: those of the archive",
    )
    rounds: int = Field(10, ge=1)
    epochs: int = Field(1, ge=1, description="local epochs of a round")
    window: int = Field(
        0, ge=0, description="shards whose samples are shuffled together (network disks); 0: all"
    )
    batch: int = Field(32, ge=2)
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.05, gt=0)
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
            if not bands or len(set(bands)) != len(bands):
                raise ValueError(f"{modality}: bands must be distinct and at least one")
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
    rates: list[int] = Field([0, 25, 50, 75, 100], description="missing rates in percent")
    batch: int = Field(256, ge=1, description="patches at a time, or windows of tiles")
    overlap: float = Field(
        0.5, ge=0, lt=1, description="of a tile's windows of train.size, as a part of their side"
    )

    @field_validator("rates")
    @classmethod
    def _rates(cls, value: list[int]) -> list[int]:
        if not all(0 <= rate <= 100 for rate in value):
            raise ValueError("rates are percentages, 0 to 100")
        return sorted(set(value))


class Report(Section):
    """Tables and the page."""

    baseline: str = Field("mf", description="method that the differences are taken to")
    gallery: int = Field(6, ge=0, description="test locations shown as pictures")


def one_of(value: str, known: tuple[str, ...], what: str) -> str:
    """Return `value` if it is known, else raise ValueError with the nearest valid name."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown {what} {value!r}; {hint}known: {', '.join(known)}")
