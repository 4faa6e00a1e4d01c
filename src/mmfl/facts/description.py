"""The description of an archive of one's own, a yaml file (docs/your-own-archive.md).

Only what stands in the yaml is looked at here, no table and no image.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mmfl.errors import UserError
from mmfl.facts.description_parts import Images, Part, Pixels, Splits, Words
from mmfl.facts.faults import NOT_GIVEN, Fault, first
from mmfl.facts.reading import read_yaml
from mmfl.facts.tasks import TASKS

RESERVED = ("pair", "split", "labels", "height", "width", "crs", "transform", "mask", "patch",
            "shard", "row", "client", "group", "modality", "random", "dirichlet")  # fmt: skip
TORCH = ("apply", "bfloat16", "buffers", "children", "clear", "compile", "cpu", "cuda", "double",
         "eval", "float", "forward", "half", "ipu", "items", "keys", "modules", "mtia",
         "parameters", "pop", "to", "train", "training", "type", "update", "values",
         "xpu")  # fmt: skip
HOW = "docs/your-own-archive.md"


class Description(Part):
    """An archive of one's own: a table with a row per location, and files that it names."""

    task: Literal["multilabel", "pixel"]
    table: str
    root: str = "."
    id: str = "id"
    split: Splits = Splits()
    groups: list[str] = Field([])
    region: str | None = None
    modalities: dict[str, Images] = Field(min_length=1)
    mask: Pixels | None = None
    labels: Words | None = None
    licence: str = "not stated"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        """What is given says what the task is, if nothing else does; `split` may be a column."""
        if isinstance(data, dict) and isinstance(data.get("split"), str):
            data = {**data, "split": {"column": data["split"]}}
        if isinstance(data, dict) and "task" not in data and ("mask" in data) != ("labels" in data):
            return {**data, "task": "pixel" if "mask" in data else "multilabel"}
        return data

    @field_validator("modalities")
    @classmethod
    def _modalities(cls, value: dict[str, Images]) -> dict[str, Images]:
        for name in value:
            if name in (*RESERVED, *TORCH, "region"):
                whose = "PyTorch" if name in TORCH else "the table of locations"
                raise Fault((name,), f"a name that {whose} uses, expected another")
            if not re.fullmatch(r"[a-z0-9]+", name):
                raise Fault((name,), "expected a name of lower-case letters and digits such as s2")
        return value

    @field_validator("groups")
    @classmethod
    def _groups(cls, value: list[str]) -> list[str]:
        for place, name in enumerate(value):
            if name in RESERVED or not re.fullmatch(r"\w+", name):
                what = "a name that is not taken" if name in RESERVED else "letters, digits and _"
                raise Fault((place,), f"found {name!r}, expected {what}; rename the column")
        if len(set(value)) < len(value):
            raise ValueError(f"found {', '.join(value)}, expected each column once")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Description:
        need = "mask" if self.task == "pixel" else "labels"
        if getattr(self, need) is None:
            raise Fault((need,), f"not given; the task {self.task} needs its classes, {HOW}")
        both = [name for name in self.groups if name in self.modalities]
        if both:
            raise Fault(("groups",), f"{both[0]} is a modality too; rename one of the two")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the task's classes."""
        part = self.mask if self.task == "pixel" else self.labels
        assert part is not None
        return part.names

    @property
    def grouped(self) -> str | None:
        """The column that the scenario `region` uses; None: all locations are one group."""
        if self.region is not None or not self.groups:
            return self.region
        return "region" if "region" in self.groups else self.groups[0]


def read_description(path: Path) -> Description:
    """The description in a yaml file.

    Raises:
        UserError: one line that names the file's line, the key, what was found and what is
            expected.
    """
    file = read_yaml(Path(path), "a description of an archive", "table:, modalities:")
    try:
        return Description.model_validate(file.data)
    except ValidationError as error:
        fault = first(error, Description, file.data)
    if fault.message == NOT_GIVEN:
        task = f", expected {' or '.join(TASKS)}, with labels or a mask"
        more = task if fault.key == ("task",) else ", expected it"
        fault = Fault(fault.key, f"not given{more}; {HOW}")
    raise UserError(f"{file.at(fault.key)}: {fault}")
