"""Finished units and work in progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfl.cache import Unit, key


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMFL_FRESH", raising=False)
    return tmp_path / "cache"


def finished(step: str = "train", name: str = "k") -> Unit:
    unit = Unit(step, name)
    (unit.folder / "model").write_text("weights")
    (unit.folder / "deep").mkdir()
    (unit.folder / "deep/row").write_text("1")
    unit.complete()
    return unit


def test_key_follows_values_inputs_and_code() -> None:
    keys = {key("train", {"a": 1}), key("train", {"a": 2}), key("train", {"a": 1}, ["x"]),
            key("train", {"a": 1}, code="c"), key("split", {"a": 1})}  # fmt: skip
    assert len(keys) == 5
    assert key("train", {"a": 1, "b": 2}) == key("train", {"b": 2, "a": 1})


def test_a_unit_is_done_once_completed(place: Path) -> None:
    unit = Unit("train", "k")
    assert not unit.done and not (place / "train").exists()
    finished()
    assert Unit("train", "k").done


def test_materialise_is_apart_from_the_unit(tmp_path: Path) -> None:
    unit = finished()
    unit.materialise(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["deep", "model"]
    (tmp_path / "out/model").write_text("changed")
    unit.materialise(tmp_path / "one", "model")
    assert (tmp_path / "one").read_text() == "weights"


def test_an_unfinished_unit_is_not_materialised(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not complete"):
        Unit("train", "k").materialise(tmp_path / "out")


def test_fresh_throws_away_other_attempts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    finished()
    finished("download", "f")
    monkeypatch.setenv("MMFL_FRESH", "attempt-2")
    assert Unit("download", "f", keep=True).done
    assert not Unit("train", "k").done
    finished()
    assert Unit("train", "k").done
    monkeypatch.setenv("MMFL_FRESH", "attempt-3")
    assert not Unit("train", "k").done


def test_restore_takes_whole_outputs_only(tmp_path: Path) -> None:
    finished().materialise(tmp_path / "out")
    unit = Unit("train", "other")
    assert not unit.restore(tmp_path / "out", ["model", "missing"])
    assert unit.restore(tmp_path / "out", ["model", "deep"])
    assert (unit.folder / "deep/row").read_text() == "1"
