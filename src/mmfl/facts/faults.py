"""The first fault of validated values: its key, what was found, what is expected."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mmfl.facts.reading import Key

KINDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list",
    dict: "a mapping",
}  # fmt: skip
BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
NOT_GIVEN = "not given, expected it"
SHOWN = 60  # characters of what was found


class Fault(ValueError):
    """A fault within a section. `also`: other keys that it may be about, for the line."""

    def __init__(self, key: Sequence[str | int], message: str, also: Sequence[Key] = ()) -> None:
        super().__init__(key, message)
        self.key = tuple(key)
        self.message = message
        self.also = tuple(also)

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(map(str, self.key))

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.key else self.message

    def below(self, *above: str | int) -> Fault:
        """The same fault, as seen from outside a section."""
        also = [(*above, *key) for key in self.also]
        return type(self)((*above, *self.key), self.message, also)


class UnknownKey(Fault):
    """A key that does not exist; the message is a hint."""

    def __str__(self) -> str:
        return f"unknown key {self.name}; {self.message}"


def first(error: ValidationError, model: type[BaseModel], data: Any) -> Fault:
    """The fault of a pydantic error; an unknown key, mostly a misspelt one, goes first."""
    faults = error.errors(include_url=False)
    fault = next((item for item in faults if item["type"] == "extra_forbidden"), faults[0])
    kind, ctx = fault["type"], fault.get("ctx", {})
    key = _key(fault["loc"], data, kind)
    if kind == "value_error":
        own = ctx["error"]
        return own.below(*key) if isinstance(own, Fault) else Fault(key, str(own))
    if kind == "extra_forbidden":
        names = _names(_place(model, key[:-1])[0])
        near = difflib.get_close_matches(str(key[-1]), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        return UnknownKey(key, hint)
    if kind == "missing":
        return Fault(key, NOT_GIVEN)
    if fault["loc"][-1:] == ("[key]",):
        return Fault(key, f"found the key {key[-1]!r}, expected {_expected(kind, ctx, fault)}")
    annotation, bounds = _place(model, key)
    value = fault["input"]
    if value is None and _names(annotation):
        some = ", ".join(_names(annotation)[:3])
        return Fault(key, f"found an empty section, expected keys such as {some}; remove it, or "
                          "write {}")  # fmt: skip
    expected = _typed(kind, annotation, bounds) or _expected(kind, ctx, fault)
    found = f"found {shown(value)}, "
    if kind in ("too_short", "too_long"):
        found = f"found {len(value)} values, "
    return Fault(key, f"{'' if '@' in str(value) else found}expected {expected}")  # a password?


def shown(value: Any) -> str:
    """A value in a message: short, and in yaml's words."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _key(location: Sequence[str | int], data: Any, kind: str) -> Key:
    """A location without what pydantic adds to it, such as the members of a union."""
    found: list[str | int] = []
    for place, part in enumerate(location):
        last = place == len(location) - 1 and kind in ("extra_forbidden", "missing")
        there = part in data if isinstance(data, Mapping) else (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )  # fmt: skip
        if there or last:
            found.append(part)
            data = data[part] if there else None
    return tuple(found)


def _typed(kind: str, annotation: Any, bounds: dict[str, Any]) -> str:
    """A number, text, list, ... and the bounds of a number."""
    base = get_origin(annotation) or annotation
    if base not in KINDS or kind in ("too_short", "too_long", "string_too_long"):
        return ""
    if base is list and kind == "list_type":
        return "a list"
    if base is dict and kind == "dict_type":
        return "a mapping"
    parts = [text.format(_number(bounds[name])) for name, text in BOUNDS.items() if name in bounds]
    return ", ".join([KINDS[base], *parts])


def _expected(kind: str, ctx: dict[str, Any], fault: Any) -> str:
    """What pydantic says, in plain words."""
    message = fault["msg"]
    texts = {
        "literal_error": str(ctx.get("expected", "")).replace("'", ""),
        "too_short": f"at least {ctx.get('min_length')}",
        "too_long": f"at most {ctx.get('max_length')}",
        "string_too_short": f"at least {ctx.get('min_length')} characters",
        "string_too_long": f"at most {ctx.get('max_length')} characters",
        "model_type": "a mapping", "dict_type": "a mapping", "list_type": "a list",
        "string_type": "text; put it in quotes", "int_type": "a whole number",
        "float_type": "a number", "bool_type": "true or false",
        "finite_number": "a finite number", "invalid_key": "a key that is text",
    }  # fmt: skip
    return texts.get(kind) or message[0].lower() + message[1:]


def _place(model: Any, key: Key) -> tuple[Any, dict[str, Any]]:
    """The annotation at a key, and the bounds of its numbers."""
    annotation: Any = model
    metadata: list[Any] = []
    for part in key:
        annotation, metadata = _within(annotation, part)
        annotation, metadata = _bare(annotation, metadata)
    bounds: dict[str, Any] = {}
    for item in metadata:
        more = item.metadata if isinstance(item, FieldInfo) else [item]
        bounds |= {
            name: getattr(one, name)
            for one in more
            for name in BOUNDS
            if getattr(one, name, None) is not None
        }
    return annotation, bounds


def _within(annotation: Any, part: str | int) -> tuple[Any, list[Any]]:
    """The annotation of a value within another, and what is known of it beside."""
    for one in _members(annotation):
        if isinstance(one, type) and issubclass(one, BaseModel):
            field = one.model_fields.get(str(part))
            if field is not None:
                return field.annotation, list(field.metadata)
        elif get_origin(one) in (dict, list) and get_args(one):
            return get_args(one)[-1], []
    return None, []


def _bare(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Without `Annotated` and `| None`."""
    if hasattr(annotation, "__metadata__"):
        return _bare(annotation.__origin__, [*annotation.__metadata__, *metadata])
    members = [one for one in _members(annotation) if one is not type(None)]
    return _bare(members[0], metadata) if len(members) == 1 and members[0] is not annotation else (
        annotation, metadata
    )  # fmt: skip


def _members(annotation: Any) -> list[Any]:
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


def _names(annotation: Any) -> list[str]:
    """The keys of a section."""
    return [
        name
        for one in _members(annotation)
        if isinstance(one, type) and issubclass(one, BaseModel)
        for name in one.model_fields
    ]
