"""The first fault of a parameter file as one line."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from mmfl.params.imagery import Catalogue
from mmfl.params.sections import MethodEntry


def one_line(error: ValidationError, prefix: str = "") -> str:
    """Key, what was found, what is expected; `prefix` is where the values stand."""
    fault = error.errors()[0]
    key = ".".join(
        str(part) for part in fault["loc"] if part not in ("str", "MethodEntry", "list[int]")
    )
    at = f"{prefix}.{key}" if prefix and key else key
    if fault["type"] == "extra_forbidden":
        names = _names(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        return f"unknown key {at}; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{at or prefix}: {message}" if key or prefix else message
    found = "" if "@" in str(fault["input"]) else f"found {fault['input']!r}; "  # a password?
    return f"{at}: {found}{message[0].lower()}{message[1:]}"


def _names(location: tuple[Any, ...]) -> list[str]:
    from mmfl.params.schema import Params

    if location[:2] == ("imagery", "catalogues"):
        return list(Catalogue.model_fields)
    model: Any = Params
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return list(MethodEntry.model_fields)
        model = annotation
    return list(model.model_fields)
