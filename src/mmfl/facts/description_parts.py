"""The parts of a description of an archive: splits, images, masks, labels."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mmfl.facts.faults import Fault

SPLITS = ("train", "validation", "test")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32")
RGB = (("B04", "B03", "B02"), ("red", "green", "blue"), ("R", "G", "B"))
CLASSES = 127  # class indices are int8
Axes = Literal["chw", "hwc"]


class Part(BaseModel):
    """Unknown keys and other types are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Splits(Part):
    """The column of the splits and the values of each; capitals do not matter.

    Where values are given, locations with any other value are left out; else such are refused.
    """

    column: str = "split"
    train: list[str] = ["train", "training"]
    validation: list[str] = ["validation", "val", "valid", "dev"]
    test: list[str] = ["test", "testing"]

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        return [_text(item) for item in (value if isinstance(value, list) else [value])]

    @property
    def selects(self) -> bool:
        """Whether locations of other values are left out."""
        return bool(set(SPLITS) & self.model_fields_set)

    def of(self, value: str) -> str | None:
        """The split that a value stands for, or None."""
        values = {value.lower(), whole(value)}
        return next((s for s in SPLITS if values & set(map(str.lower, getattr(self, s)))), None)


class Column(Part):
    """A column of the table."""

    column: str


Factor = float | Column | Literal["file"]


class Images(Part):
    """A modality: where its files are and which bands they hold.

    `path` is a column of the table, or a template with {id}, {band} or {any column} in it, or one
    of these per band. `bands`: band -> its place in the file counted from 1, or None: by the
    names in the file, else in the order given. `scale` and `offset`: a pixel is its number in the
    file times `scale` plus `offset`; for all files, of a column, or as each file states.
    """

    path: str | dict[str, str] = ""
    bands: dict[str, int | None] = {}
    nodata: float | None = None
    dtype: str | None = None
    axes: Axes | None = None
    show: list[str] = []
    scale: Factor | None = None
    offset: Factor | None = None

    @field_validator("scale", "offset", mode="before")
    @classmethod
    def _factor(cls, value: Any, info: ValidationInfo) -> Any:
        """A number, {column: name}, or the word file."""
        named = isinstance(value, dict) and list(value) == ["column"]
        if value is None or value == "file" or (named and isinstance(value["column"], str)):
            return value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or (info.field_name == "scale" and value == 0):
            zero = " other than 0" if info.field_name == "scale" else ""
            raise ValueError(f"found {value!r}, expected a number{zero}, {{column: its name in the "
                             "table}, or the word file")  # fmt: skip
        return value

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, list):  # s1: [VV, VH]
            data = {"bands": data}
        if isinstance(data, dict):
            data = dict(data)
            if not isinstance(data.get("bands", []), list | dict):
                raise Fault(("bands",), f"found {data['bands']!r}, expected a list of names")
            if isinstance(data.get("path"), dict):
                data.setdefault("bands", list(data["path"]))
            if isinstance(data.get("bands"), list):
                names = data["bands"]
                wrong = [name for name in names if not isinstance(name, str)]
                if wrong:
                    raise Fault(("bands",), f"found {wrong[0]!r}, expected names; a place in the "
                                     "file is given as in bands: {B04: 4, B08: 8}")  # fmt: skip
                twice = [name for name in names if names.count(name) > 1]
                if twice:
                    raise Fault(("bands",), f"{twice[0]} is listed twice, expected it once")
                data["bands"] = dict.fromkeys(names)
        return data

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, value: str | None) -> str | None:
        if value is not None and value not in DTYPES:
            raise ValueError(f"found {value}, expected one of {', '.join(DTYPES)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Images:
        if not self.bands:
            raise Fault(("bands",), "found none, expected their names, e.g. bands: [B02, B03, B04]")
        for name, place in self.bands.items():
            if place is not None and place < 1:
                raise Fault(("bands", name), f"found {place}, places count from 1")
        if isinstance(self.path, dict) and set(self.path) != set(self.bands):
            wrong = sorted(set(self.path) ^ set(self.bands))[0]
            raise Fault(
                ("path",), f"names the bands {', '.join(self.path)}; {wrong} is not in both"
            )
        for name in self.show:
            if name not in self.bands:
                raise Fault(("show",), f"{name} is not a band, expected of {', '.join(self.bands)}")
        if len(self.show) > 3:
            raise Fault(("show",), f"found {len(self.show)} bands, expected one to three")
        return self

    @property
    def apart(self) -> bool:
        """Whether every band has a file of its own."""
        return isinstance(self.path, dict) or "{band}" in self.path

    @property
    def scaled(self) -> bool:
        """Whether pixels are other numbers than those in the file."""
        return self.scale is not None or self.offset is not None

    @property
    def shown(self) -> tuple[str, ...]:
        """The bands of its picture: those asked for, red, green and blue, or the first three."""
        found = (names for names in RGB if set(names) <= set(self.bands))
        return tuple(self.show) or next(found, tuple(self.bands)[:3])


class Pixels(Part):
    """The mask of a tile: code in the file -> class; `ignore`: codes that count nowhere."""

    path: str = "mask"
    classes: dict[int, str]
    ignore: list[int] | Literal["rest"] = []
    colours: list[str] = []
    band: int | None = Field(None, ge=1)
    axes: Axes | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("classes"), list):
            data["classes"] = dict(enumerate(data["classes"]))
        if isinstance(data.get("classes"), dict):
            data["classes"] = {code: _name(name) for code, name in data["classes"].items()}
        if isinstance(data.get("ignore"), int):
            data["ignore"] = [data["ignore"]]
        if not isinstance(data.get("ignore", []), list) and data["ignore"] != "rest":
            raise Fault(("ignore",), f"found {data['ignore']!r}, expected codes, or the word rest")
        if isinstance(data.get("colours"), dict) and isinstance(data.get("classes"), dict):
            data["colours"] = _in_order(data["colours"], data["classes"])
        return data

    @model_validator(mode="after")
    def _fits(self) -> Pixels:
        _count(self.names)
        both = [code for code in self.classes if self.ignore != "rest" and code in self.ignore]
        if both:
            raise Fault(("ignore",), f"{both[0]} is a class too, expected it in one of the two")
        if self.colours and len(self.colours) != len(self.names):
            raise Fault(("colours",), f"found {len(self.colours)}, expected {len(self.names)}, one "
                             "per class")  # fmt: skip
        for colour in self.colours:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
                raise Fault(
                    ("colours",), f"found {colour!r}, expected one like '#1b7837' in quotes"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order given; codes of one name are one class."""
        return tuple(dict.fromkeys(self.classes.values()))


class Words(Part):
    """The labels of a location: a cell with names or codes, or a column of 0 and 1 per class."""

    column: str = "labels"
    classes: dict[str, str] = {}
    columns: dict[str, str] = {}
    separator: str = Field(";", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key in ("classes", "columns"):
            if isinstance(data.get(key), list):
                names = [_name(name) for name in data[key]]
                data[key] = dict(zip(names, names, strict=True))
            elif isinstance(data.get(key), dict):
                data[key] = {_text(code): _name(name) for code, name in data[key].items()}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Words:
        if bool(self.classes) == bool(self.columns):
            raise ValueError("expected either classes, the names in a cell, or columns, one of 0 "
                             "and 1 per class")  # fmt: skip
        _count(self.names)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order given."""
        return tuple(dict.fromkeys((self.classes or self.columns).values()))


def whole(text: str) -> str:
    """A whole number without its point: 1.0, as a table writes it after a gap, is 1."""
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def _text(value: Any) -> Any:
    """Numbers as text: a table's cells are compared as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _name(value: Any) -> str:
    """A class's name."""
    if isinstance(value, bool):
        raise Fault(("classes",), "found true or false, expected a name; put it in quotes")
    if not isinstance(value, str | int):
        raise Fault(("classes",), f"found {value!r}, expected a name; put it in quotes")
    return str(value)


def _in_order(colours: dict[Any, str], classes: dict[Any, str]) -> list[str]:
    """A colour per class, from a mapping by name or by code."""
    found = {classes.get(key, key): colour for key, colour in colours.items()}
    lacking = [name for name in dict.fromkeys(classes.values()) if name not in found]
    strange = [key for key in found if key not in classes.values()]
    if lacking or strange:
        raise Fault(("colours",), f"expected one per class, {(lacking or strange)[0]} is "
                         + ("not there" if lacking else "not a class"))  # fmt: skip
    return [found[name] for name in dict.fromkeys(classes.values())]


def _count(names: tuple[str, ...]) -> None:
    if not 2 <= len(names) <= CLASSES:
        raise Fault(("classes",), f"found {len(names)}, expected 2 to {CLASSES}")
