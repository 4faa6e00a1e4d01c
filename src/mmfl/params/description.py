"""The description of an archive of one's own, a yaml file (docs/your-own-archive.md).

Only what stands in the yaml is looked at here, no table and no image.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmfl.errors import UserError
from mmfl.params.description_parts import Images, Part, Pixels, Splits, Words
from mmfl.params.tasks import TASKS

RESERVED = ("pair", "split", "labels", "height", "width", "crs", "transform", "mask", "patch",
            "shard", "row", "client", "group", "modality", "random", "dirichlet")  # fmt: skip
TORCH = ("apply", "bfloat16", "buffers", "children", "clear", "compile", "cpu", "cuda", "double",
         "eval", "float", "forward", "half", "ipu", "items", "keys", "modules", "mtia",
         "parameters", "pop", "to", "train", "training", "type", "update", "values",
         "xpu")  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # line breaks and the like, but a tab
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
                raise ValueError(f"found {name!r}, a name that {whose} uses, expected another")
            if not re.fullmatch(r"[a-z0-9]+", name):
                raise ValueError(f"found {name!r}, expected names of lower-case letters and digits "
                                 "such as s2")  # fmt: skip
        return value

    @field_validator("groups")
    @classmethod
    def _groups(cls, value: list[str]) -> list[str]:
        for name in value:
            if name in RESERVED or not re.fullmatch(r"\w+", name):
                what = "a name that is not taken" if name in RESERVED else "letters, digits and _"
                raise ValueError(f"found {name!r}, expected {what}; rename the column")
        if len(set(value)) < len(value):
            raise ValueError(f"found {', '.join(value)}, expected each column once")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Description:
        need = "mask" if self.task == "pixel" else "labels"
        if getattr(self, need) is None:
            raise ValueError(f"{need}: not given; the task {self.task} needs its classes, {HOW}")
        both = [name for name in self.groups if name in self.modalities]
        if both:
            raise ValueError(f"groups: {both[0]} is a modality too; rename one of the two")
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
        UserError: one line that names the file, the key, what was found and what is expected.
    """
    from mmfl.params.loading import read_yaml

    data = read_yaml(Path(path), "a description of an archive", "table:, modalities:")
    try:
        broken = next((text for text in _texts(data) if CONTROL.search(text)), None)
        if broken is not None:
            raise UserError(f"{path}: found {broken!r}, expected text of one line")
        return Description.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    except RecursionError:  # an alias within its own anchor
        raise UserError(f"{path}: found a value within itself, expected it beside") from None


def _texts(data: Any) -> Iterator[str]:
    """All keys and values that are text."""
    if isinstance(data, dict):
        data = [*data, *data.values()]
    if isinstance(data, list):
        for item in data:
            yield from _texts(item)
    elif isinstance(data, str):
        yield data


def _one_line(error: ValidationError) -> str:
    from mmfl.params.faults import one_line

    faults = error.errors()
    fault = next((item for item in faults if item["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if key == "task" and fault["type"] == "missing":
        return f"task: not given, expected {' or '.join(TASKS)}, with labels or a mask; {HOW}"
    if fault["type"] == "missing":
        return f"{key}: not given, expected it; {HOW}"
    text = one_line(error).replace(".[key]", "").replace("dictionary", "mapping")
    return re.sub(r" or instance of \w+", "", text)


def _keys(location: tuple[Any, ...]) -> list[str]:
    """The keys of the section at a place."""
    models: dict[str, type[BaseModel]] = {
        "modalities": Images, "mask": Pixels, "labels": Words, "split": Splits,
    }  # fmt: skip
    return list(models.get(str(location[0]) if location else "", Description).model_fields)
