"""An archive that is edited after `download` wrote down what it holds: refused, never mixed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mmfl import cli
from mmfl.archives.folder import record
from mmfl.errors import UserError
from mmfl.steps import split

PARAMS = {
    "archives": {"mine": {}}, "folders": {"mine": "mine/mine.yaml"},
    "train": {"size": 8, "methods": ["mf"]},
}  # fmt: skip
SPLITS = ["train", "train", "validation", "test"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of one's own of eight images, downloaded, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMFL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    rows = []
    for i in range(8):
        np.save(tmp_path / f"mine/p{i}.npy", rng.normal(size=(2, 8, 8)).astype("float32"))
        rows.append({"id": f"p{i}", "split": SPLITS[i % 4], "labels": ["wet", "dry"][i % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "mine/table.csv", index=False)
    described = {
        "table": "table.csv", "labels": {"classes": ["wet", "dry"]},
        "modalities": {"a": {"path": "{id}.npy", "bands": ["x", "y"]}},
    }  # fmt: skip
    (tmp_path / "mine/mine.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    run("download")
    return tmp_path


def run(step: str) -> None:
    cli.app([step, "--archive", "mine"], standalone_mode=False)


def relabel(folder: Path) -> None:
    table = folder / "table.csv"
    table.write_text(table.read_text().replace("p0,train,wet", "p0,train,dry"))


def rename(folder: Path) -> None:
    file = folder / "mine.yaml"
    file.write_text(file.read_text().replace("- y", "- z"))


def replace(folder: Path) -> None:
    """Of the same size, as an image that was exported again."""
    shutil.copy(folder / "p1.npy", folder / "p0.npy")


EDITS = {
    "table": (relabel, "table.csv: found another file than download wrote down"),
    "description": (rename, "mine.yaml: found another file than download wrote down"),
    "image": (replace, "mine.yaml: images: found others than download wrote down"),
}


@pytest.mark.parametrize("case", EDITS)
def test_edited_between_download_and_split(project: Path, case: str) -> None:
    edit, message = EDITS[case]
    edit(project / "mine")
    with pytest.raises(UserError, match=f"{message} in files.csv.*; run download again$"):
        run("split")
    assert not (project / "data/patches").exists()
    assert not list((project / "cache/split").glob("*/a/*"))  # no shard of the wrong state
    run("download")
    run("split")


@pytest.mark.parametrize("case", EDITS)
def test_the_workflow_downloads_again(project: Path, case: str) -> None:
    """Whatever was edited while the job ran, whose outputs are newer than the edit."""
    before = record.state(project / "mine/mine.yaml")
    EDITS[case][0](project / "mine")
    assert record.state(project / "mine/mine.yaml") != before


def during(monkeypatch: pytest.MonkeyPatch, edit: Callable[[], object]) -> None:
    """Edit once what is encoded, when all of it was read."""
    encode = split.encode

    def edited(*args: object, **named: object) -> object:
        found = encode(*args, **named)
        edit()
        return found

    monkeypatch.setattr(split, "encode", edited)


@pytest.mark.parametrize("case", EDITS)
def test_edited_while_split_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    edit, _ = EDITS[case]
    with monkeypatch.context() as patch:
        during(patch, lambda: edit(project / "mine"))
        with pytest.raises(UserError, match=r"; run download again$"):
            run("split")
    assert not (project / "data/patches").exists()
    run("download")
    run("split")


def test_many_images_are_seen_by_size_and_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more images than are read to write them down, while they are encoded."""
    monkeypatch.setattr(record, "LIMIT", 0)
    run("download")
    with monkeypatch.context() as patch:
        during(patch, lambda: replace(project / "mine"))
        with pytest.raises(UserError, match="files of it were edited while they were read"):
            run("split")
    run("split")


def test_metadata_of_a_local_copy(tmp_path: Path, samples: Path) -> None:
    from mmfl.archives.recorded import Guard, rows

    root = tmp_path / "copy"
    shutil.copytree(samples / "bigearthnet-v2-sample", root)
    written, _ = rows("bigearthnet-v2", root)
    Guard("bigearthnet-v2", root, written).unchanged()
    table = pd.read_parquet(root / "metadata.parquet")
    table.assign(split="train").to_parquet(root / "metadata.parquet")
    with pytest.raises(UserError, match=r"metadata\.parquet: found another file than download"):
        Guard("bigearthnet-v2", root, written)
