"""Descriptions of an archive of one's own that are wrong: always one line, never a traceback."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.facts.description import TORCH, read_description

PIXEL = {
    "table": "t.csv",
    "root": ".",
    "id": "id",
    "split": {"column": "split", "train": ["train"], "validation": "val", "test": 5},
    "groups": ["place"],
    "modalities": {
        "s1": ["VV", "VH"],
        "s2": {"path": {"red": "s2", "nir": "s2"}, "nodata": 0, "dtype": "float32",
               "show": ["red"]},
    },
    "mask": {"path": "mask", "classes": {0: "land", 1: "water"}, "ignore": [-1],
             "colours": {"land": "#00ff00", 1: "#0000ff"}},
}  # fmt: skip
WORDS = {
    "table": "t.csv",
    "modalities": {"s1": {"path": "{id}.npy", "bands": {"VV": 1, "VH": None}, "axes": "chw"}},
    "labels": {"column": "labels", "classes": {3: "pond", "m": "meadow"}, "separator": ";"},
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates()
    | st.sampled_from(["s1", "VV", "id", "land", "rest", "{", "{}", "{band}", "a\nb"])
)  # fmt: skip
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=5,
)


def places(data: Any, at: tuple = ()) -> list[tuple]:
    """The places of all values in nested mappings and lists."""
    inner: Any = enumerate(data) if isinstance(data, list) else ()
    inner = data.items() if isinstance(data, dict) else inner
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@st.composite
def wrong(draw) -> Any:
    """A description with one to three values replaced, removed or added."""
    data = copy.deepcopy(draw(st.sampled_from([PIXEL, WORDS])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places(data)[1:] or [()]))
        if not at:
            return data
        section = data
        for key in at[:-1]:
            section = section[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "replace":
            section[at[-1]] = draw(ANY)
        elif what == "remove":
            section.pop(at[-1])
        elif isinstance(section, dict):
            section[draw(SCALARS)] = draw(ANY)
        else:
            section.append(draw(ANY))
    return data


HEAD = "table: t.csv\nmask: {classes: [a, b]}\n"


def said(folder: Path, text: str) -> str:
    """What is wrong with a description."""
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_description(path)
    line = re.fullmatch(rf"{re.escape(str(path))}:\d+: (.*)", str(caught.value))
    assert line is not None, caught.value
    return line[1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("s1: [{VV: 1}]", "modalities.s1.bands: found {'VV': 1}, expected names"),
        ("s1: {bands: [[VV]]}", r"modalities.s1.bands: found ['VV'], expected names"),
        ("s1: VV", "modalities.s1: found 'VV', expected a mapping"),
        ('"a\\nb": [VV]', r"found 'a\nb', expected text of one line"),
        ("s1: 2020-13-45", "modalities.s1: found '2020-13-45', expected a mapping"),
        ("s1: &again {bands: *again}", "found *again, expected &again before it, not around"),
        ("region: [VV]", "modalities.region: a name that the table of locations uses"),
    ],
)
def test_shapes(tmp_path, text, match):
    assert said(tmp_path, f"{HEAD}modalities: {{{text}}}").startswith(match)


@pytest.mark.parametrize("mask", ["[[a], b]", "{0: {a: b}, 1: c}", "[1.5, b]", "[~, b]"])
def test_names_of_classes(tmp_path, mask):
    text = f"table: t.csv\nmodalities: {{s1: [VV]}}\nmask: {{classes: {mask}, colours: {{a: x}}}}"
    assert re.match(
        r"mask.classes: found .*, expected a name; put it in quotes", said(tmp_path, text)
    )


def test_columns_of_bands(folder):
    """`{band}` alone is a column of the band's name; `id` without braces a column too."""
    path, text = folder / "my.yaml", HEAD + "modalities: {s1: {path: '%s', bands: [%s]}}"
    path.write_text(text % ("{band}", "s1, s2"))
    assert get("my", path).metadata(path)["s1"].tolist() == ["a"]
    for words, name in ((("{band}", "s1, VV"), "VV"), (("name", "VV"), "name")):
        path.write_text(text % words)
        with pytest.raises(UserError, match=rf"modalities.s1.path: no column {name} in"):
            get("my", path)


def test_names_that_pytorch_uses(tmp_path):
    """Those that a network could not hold, and no other."""
    taken = {name for name in dir(nn.ModuleDict()) if re.fullmatch("[a-z0-9]+", name)}
    assert {"type", "train", "keys"} <= taken <= set(TORCH)
    for name in taken:
        text = f"modalities.{name}: a name that PyTorch uses, expected another"
        assert said(tmp_path, f"{HEAD}modalities: {{{name}: [VV]}}") == text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    np.save(folder / "a.npy", np.ones((2, 4, 4), np.float32))
    np.save(folder / "red.npy", np.ones((4, 4), np.float32))
    (folder / "t.csv").write_text(
        "id,split,place,s1,s2,mask,labels\na,train,T,a.npy,red.npy,red.npy,m\n"
    )
    return folder


@settings(deadline=None, max_examples=300, derandomize=True)
@given(wrong())
def test_every_fault_is_one_line(folder, data):
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        get("my", path).metadata(path)
    except UserError as error:
        assert "\n" not in str(error) and "Traceback" not in str(error)
        assert str(folder) in str(error)
