"""Tables cell by cell: what may move, how far, and what may not move at all."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest

from helpers.project_copy import ROOT
from mmfl.verification.cells import Compared, compare_csv, compare_metrics, kind_of
from mmfl.verification.tolerance import MANY, MEASURED, limit, typical_limit

TABLES = sorted((ROOT / "results").glob("simulated*/*/tables/*.csv"))
LABELS = [path for path in TABLES if path.parents[2].name == "simulated"]


def table(name: str) -> pd.DataFrame:
    path = next(path for path in LABELS if path.stem == name)
    return pd.read_csv(path)


def text(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def against_itself(old: pd.DataFrame, new: pd.DataFrame) -> Compared:
    return compare_csv("multilabel", text(old), text(new))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parents[2].name}-{path.stem}")
def test_a_table_against_itself(path):
    found = compare_csv("multilabel", path.read_bytes(), path.read_bytes())
    assert not (found.faults or found.outside or found.shifted or found.worst or found.claims)
    assert found.cells


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parents[2].name}-{path.stem}")
def test_what_is_judged_is_a_fraction_and_what_is_not_is_whole(path):
    """Columns are sorted by name; the values tell whether rightly."""
    for column, values in pd.read_csv(path).select_dtypes("number").items():
        kind, values = kind_of(str(column)), values.dropna()
        if kind is None and column not in ("flops", "flops_per_sample"):  # means over seeds
            assert (values == values.round()).all(), column
        elif kind in ("score", "sd", "difference", "p"):
            assert values.abs().max() <= 1, column


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("ap_macro_mean", "score"), ("client_s1_min", "score"), ("target", "score"),
        ("mean", "score"), ("sd", "sd"), ("f1_micro_diff_sd", "sd"), ("ap_macro_low", "end"),
        ("own_average_diff_high", "end"), ("tiles_low", "end"), ("iou_macro_diff", "difference"),
        ("p", "p"), ("ap_macro_p_holm", "p"), ("rounds_to_target", "rounds"),
        ("bytes_to_target", "bytes"), ("seeds_to_target", "seeds"),
        *((name, None) for name in ("run", "seeds", "patches", "classes", "tests", "rate", "n",
          "ap_macro_tests", "flops", "bytes_up", "rounds", "parameters", "flops_per_sample",
          "clients", "removed")),
    ],
)  # fmt: skip
def test_kinds(column, kind):
    assert kind_of(column) == kind


@pytest.mark.parametrize(
    ("column", "kind"),
    [("ap_macro_mean", "score"), ("ap_macro_sd", "sd"), ("ap_macro_low", "end"),
     ("ap_macro_diff", "difference"), ("f1_micro_diff_high", "end")],
)  # fmt: skip
def test_just_inside_and_just_outside(column, kind):
    old = table("comparison")
    row = old["run"].tolist().index("mf+fw")
    for sign in (-1, 1):
        for share, inside in ((0.999, True), (1.001, False)):
            new = old.copy()
            new.loc[row, column] += sign * share * limit("multilabel", kind)
            found = against_itself(old, new)
            assert not found.faults
            assert ([] if inside else [column]) == [cell.column for cell in found.outside]
            assert found.worst and found.worst.column == column and "mf+fw" in str(found.worst)


@pytest.mark.parametrize(
    ("name", "column"),
    [("comparison", "patches"), ("cost", "flops"), ("cost", "bytes_up"), ("cost", "parameters"),
     ("cost", "clients"), ("missing", "n"), ("comparison", "ap_macro_tests")],
)  # fmt: skip
def test_counts_are_equal(name, column):
    old = table(name)
    new = old.copy()
    new[column] = new[column].astype(float)
    row = int(np.flatnonzero(old[column].notna())[0])
    new.loc[row, column] += 1
    faults = compare_csv("multilabel", text(old.astype({column: float})), text(new)).faults
    assert len(faults) == 1 and column in faults[0] and "expected" in faults[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, "many"])
def test_no_number(value):
    old = table("comparison")
    new = old.astype({"ap_macro_mean": object})
    new.loc[5, "ap_macro_mean"] = value
    found = against_itself(old, new)
    assert found.faults or found.outside
    assert against_itself(new, old).faults or against_itself(new, old).outside


def test_lines_and_columns():
    old = table("missing")
    assert "lines" in against_itself(old, old[:-1]).faults[0]
    assert against_itself(old, old.drop(columns="p")).faults == ["other columns"]
    assert against_itself(old, old[::-1]).faults


def test_a_shift_of_all_that_no_cell_shows():
    """Every score a little higher: inside the limit of a cell, and yet no rounding does that."""
    old = table("missing")
    assert len(old) >= MANY
    shift = 1.01 * typical_limit("multilabel", "score")
    assert shift < limit("multilabel", "score")
    new = old.assign(mean=old["mean"] + shift)
    found = against_itself(old, new)
    assert not found.faults and not found.outside and "median score" in found.shifted
    noise = np.random.default_rng(0).laplace(0, shift / 2, len(old))
    assert not against_itself(old, old.assign(mean=old["mean"] + noise)).shifted


def test_p_values():
    """Not judged where a difference has moved, equal where none has; claims are counted."""
    old = table("comparison")
    row = old["run"].tolist().index("mf+fw")
    new = old.copy()
    assert old.loc[row, "ap_macro_p_holm"] < 0.05, "else the test shows nothing"
    new.loc[row, "ap_macro_p_holm"] = 0.051
    assert "ap_macro_p_holm" in against_itself(old, new).faults[0]
    new.loc[row, "ap_macro_diff_sd"] += 0.001
    found = against_itself(old, new)
    assert not found.faults and found.claims == 1
    for wrong in (1.5, -0.1, math.nan):
        new.loc[row, "ap_macro_p_holm"] = wrong
        assert against_itself(old, new).faults


def test_rounds_to_the_target():
    old = table("cost")
    row = old["run"].tolist().index("mf")
    new = old.copy()
    one = (old.loc[row, "bytes_up"] + old.loc[row, "bytes_down"]) / old.loc[row, "rounds"]
    new.loc[row, "rounds_to_target"] += 1
    new.loc[row, "bytes_to_target"] += one
    found = against_itself(old, new)
    assert not found.faults and not found.outside
    assert [c.moved for c in found.cells if c.moved] == [1, pytest.approx(1)]
    new.loc[row, "bytes_to_target"] += 5 * one
    assert [c.column for c in against_itself(old, new).outside] == ["bytes_to_target"]
    new = old.copy()
    new.loc[row, ["rounds_to_target", "bytes_to_target"]] = math.nan
    new.loc[row, "seeds_to_target"] = 0
    assert [c.column for c in against_itself(old, new).outside] == ["seeds_to_target"]


def test_metrics():
    old = {"mf": {"ap_macro": 0.3, "f1_micro": 0.1}}
    most = limit("multilabel", "score")
    for share, outside in ((0.99, 0), (1.01, 1)):
        new = {"mf": {"ap_macro": 0.3 + share * most, "f1_micro": 0.1}}
        found = compare_metrics("multilabel", old, new)
        assert len(found.outside) == outside and not found.faults
    for wrong in ({}, {"mf": {"ap_macro": 0.3}}, {"mf": 1}, {"mf": {"ap_macro": None}},
                  old | {"mf+fw": {"ap_macro": 0.3}}):  # fmt: skip
        assert compare_metrics("multilabel", old, wrong).faults


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a,b\n"1', b"a,b\n1\n", b"a\n1,2\n"])
def test_damaged(content):
    assert compare_csv("multilabel", LABELS[0].read_bytes(), content).faults


def test_an_empty_table_equals_itself():
    content = text(table("policies")[:0])
    assert not compare_csv("multilabel", content, content).faults
    assert pd.read_csv(io.BytesIO(content)).empty


def test_every_kind_has_a_measured_limit():
    assert {*MEASURED} == {"multilabel", "pixel"}
    for kinds in MEASURED.values():
        assert set(kinds) == {"score", "sd", "end", "difference", "rounds", "seeds"}
        assert all(limits.largest > 0 for limits in kinds.values())
        assert all(0 < m.typical < m.largest for m in kinds.values() if m.typical is not None)
