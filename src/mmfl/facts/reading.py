"""Reading a yaml file: its values, and the line of each.

A file is read as YAML 1.2: only `true` and `false` are truth values, and a number is written as in
JSON. So `no`, `1:30`, `010` and `2020-01-05` are text, whoever reads the file. A parameter file
comes from a person, so its size, depth and number of values are bounded, aliases written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmfl.errors import UserError

Key = tuple[str | int, ...]

BYTES = 4 << 20  # the largest committed file has 10 kB; 10,000 rows of train.methods 1 MB
VALUES = 200_000  # of a file, aliases written out; 10,000 rows of train.methods have 60,000
DEPTH = 20  # the deepest value of a parameter file lies at 8
TEXT = 4096  # characters of a value: the longest path of Linux
NUMBER = re.compile(
    r"[-+]?(?P<whole>0|[1-9][0-9]*)?(?(whole)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
)
DIGITS = 40  # more of them are no number that anyone means
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # line breaks and the like, but a tab
WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-")
       for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}  # fmt: skip
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 40 times as fast where there is libyaml


@dataclass(frozen=True)
class Document:
    """What a yaml file says, and the line of each key and item, counted from 1."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    def at(self, *keys: Key) -> str:
        """`<path>:<line>` of the first key that is there, else of what the first one lies in."""
        for key in keys:
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
        for end in range(len(keys[0]) - 1, 0, -1) if keys else ():
            if keys[0][:end] in self.lines:
                return f"{self.path}:{self.lines[keys[0][:end]]}"
        return str(self.path)


def read_yaml(path: Path, what: str, keys: str, content: bytes | None = None) -> Document:
    """The mapping in a yaml file; `what` it should be and the `keys` expected are for the message.

    `content`: the bytes of the file, where they were read before.

    Raises:
        UserError: it is not there, or not such a file; names the line.
    """
    text = _text(path, what, read_bytes(path, what) if content is None else content)
    reader = _Reader(path)
    try:
        data = reader.document(iter(yaml.parse(text, Loader=PARSER)))
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark) - 1
        tab = (text + "\n").split("\n")[line].lstrip(" ").startswith("\t")
        hint = "; the line begins with a tab, expected spaces" if tab else ""
        raise UserError(f"{path}:{line + 1}: not readable as YAML: {error.problem}{hint}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{path}: found {found}, expected {keys}")
    return Document(path, data, reader.lines)


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of a file that a person wrote, at most one more than are allowed.

    Raises:
        UserError: it is not there, or may not be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected {what}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected {what}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected {what} that may be read") from None


def _text(path: Path, what: str, content: bytes) -> str:
    if len(content) > BYTES:
        raise UserError(f"{path}: found more than {BYTES:,} bytes; expected {what}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: found UTF-16, expected UTF-8; save it so in your editor")
    try:
        text = content.decode("utf-8-sig")  # Windows' editors begin with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not text in UTF-8; expected {what}, saved as UTF-8"
        ) from None
    strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if strange:
        line = text.count("\n", 0, strange.start()) + 1
        raise UserError(f"{path}:{line}: found {strange[0]!r}, no text; expected {what}")
    return text


def _line(mark: Any) -> int:
    return int(mark.line) + 1


class _Reader:
    """Builds values from the events of PyYAML's parser; nothing is built before it is counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {}
        self.count = 0
        self.anchors: dict[str, tuple[Any, int]] = {}  # value, and how many values it holds

    def fault(self, event: Any, text: str) -> UserError:
        return UserError(f"{self.path}:{_line(event.start_mark)}: {text}")

    def document(self, events: Iterator[Any]) -> Any:
        value = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fault(event, "found a second document (---), expected one")
                value = self.value(next(events), events, ())
        return value

    def value(self, event: Any, events: Iterator[Any], key: Key) -> Any:
        before = self.count
        self.counted(event, 1)
        if len(key) > DEPTH:
            raise self.fault(event, f"found values {len(key)} deep, expected at most {DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.fault(
                    event, f"found *{event.anchor}, expected &{event.anchor} before it, not around"
                )
            value, size = self.anchors[event.anchor]
            self.counted(event, size)
            return value
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self.fault(event, f"found the tag {tag}, expected plain values")
        if isinstance(event, yaml.SequenceStartEvent):
            value = self.items(events, key)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self.mapping(events, key)
        else:
            value = self.scalar(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.count - before
        return value

    def counted(self, event: Any, number: int) -> None:
        self.count += number
        if self.count > VALUES:
            raise self.fault(event, f"found more than {VALUES:,} values, expected fewer")

    def items(self, events: Iterator[Any], key: Key) -> list[Any]:
        found: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            place = (*key, len(found))
            self.lines[place] = _line(event.start_mark)
            found.append(self.value(event, events, place))
        return found

    def mapping(self, events: Iterator[Any], key: Key) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            name = self.value(event, events, (*key, "?"))
            if not isinstance(name, str | int) or isinstance(name, bool):
                text = "a list or mapping" if isinstance(name, list | dict) else event.value or "''"
                raise self.fault(event, f"found the key {text}, expected text; put it in quotes")
            if name in found:
                raise self.fault(event, f"the key {name} is given twice, first in line "
                                 f"{self.lines[(*key, name)]}")  # fmt: skip
            place = (*key, name)
            self.lines[place] = _line(event.start_mark)
            value = self.value(next(events), events, place)
            if name == "<<" and not event.style:
                merged = self.merged(event, value)
            else:
                found[name] = value
        return merged | found

    def merged(self, event: Any, value: Any) -> dict[Any, Any]:
        """`<<: *anchor`: the values of another mapping, or of several, the first one wins."""
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.fault(event, "<<: expected a mapping such as *anchor")
        return {name: own for part in reversed(parts) for name, own in part.items()}

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if len(text) > TEXT:
            raise self.fault(event, f"found {len(text):,} characters, expected at most {TEXT:,}")
        if CONTROL.search(text):
            raise self.fault(event, f"found {text[:80]!r}, expected text of one line")
        if event.style:  # in quotes
            return text
        if text in WORDS:
            return WORDS[text]
        if NUMBER.fullmatch(text) and len(text) <= DIGITS:
            return float(text) if set(text) & set(".eE") else int(text)
        return text
