"""Tables are used only as they were written, and only of the run that they are said to be of."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers.written_runs import seal_runs, write_runs
from mmfl import cli
from mmfl.errors import UserError
from mmfl.files import file_sha256, read_json, write_json
from mmfl.reporting.gather import answered, key, positives, scores_of
from mmfl.steps import download, report

METHODS = ("prior", "mf")


@pytest.fixture
def runs(tmp_path) -> list[dict]:
    return write_runs(tmp_path, (1, 2), methods=METHODS)


def tables(runs: list[dict]) -> Path:
    out = runs[0]["run"].parents[4] / "out"
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    return out


def edit(path: Path) -> None:
    """Another letter or digit: a table of the same size."""
    data = path.read_bytes()
    place = next(i for i in range(len(data) // 2, len(data)) if data[i : i + 1].isalnum())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def cut(path: Path) -> None:
    """After a line in the middle, where there are lines."""
    data = path.read_bytes()
    os.truncate(path, data.find(b"\n", len(data) // 2) + 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swap(one: Path, other: Path) -> None:
    """Exchange two files or folders."""
    middle = one.with_name("between")
    for source, target in ((one, middle), (other, one), (middle, other)):
        shutil.move(source, target)


@pytest.mark.parametrize("change", [edit, cut, empty, Path.unlink])
@pytest.mark.parametrize(
    ("folder", "name", "step"),
    [("scores", "scores.csv", "evaluate"), ("run", "rounds.csv", "train")],
)
def test_a_table_that_was_changed(runs, folder, name, step, change):
    out = tables(runs)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    path = runs[2][folder] / name
    change(path)
    with pytest.raises(UserError, match=rf"^{path}: .*; run {step} again$"):
        tables(runs)
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


@pytest.mark.parametrize("change", [edit, empty, Path.unlink])
def test_predictions_that_were_changed(runs, change):
    path = runs[2]["scores"] / "predictions.parquet"
    change(path)
    for use in (lambda: answered([runs[2]]), lambda: positives(runs[2], ["a"]), lambda: tables(
        [run for run in runs if key(run) == "mf"]
    )):  # fmt: skip
        with pytest.raises(UserError, match=rf"^{path}: .*; run evaluate again$"):
            use()


@pytest.mark.parametrize("other", [0, 3])
@pytest.mark.parametrize("name", ["scores.csv", "predictions.parquet", "evaluation.json", "."])
def test_scores_of_another_seed_or_method(runs, name, other):
    """Sound in themselves."""
    swap(runs[2]["scores"] / name, runs[other]["scores"] / name)
    if name == "predictions.parquet":
        with pytest.raises(UserError, match=r"predictions\.parquet: damaged: found"):
            answered([runs[2]])
        return
    with pytest.raises(UserError, match=r"^[^\n]*; run evaluate again$") as told:
        tables(runs)
    if name != "scores.csv":
        assert "evaluation.json: holds scores of another run than" in str(told.value)


@pytest.mark.parametrize("names", [["rounds.csv"], ["run.json"], ["."]])
def test_runs_of_another_seed_or_method(runs, names):
    for name in names:
        swap(runs[2]["run"] / name, runs[3]["run"] / name)
    message = "damaged: found" if names == ["rounds.csv"] else r"seed: found 2, expected 1"
    with pytest.raises(UserError, match=rf"^{runs[2]['run']}.*{message}.*; run train again$"):
        tables(runs)


def test_a_run_and_its_scores_of_another_method(runs):
    """They fit each other."""
    for name in ("run", "scores"):
        swap(runs[0][name], runs[2][name])
    with pytest.raises(UserError, match=r"run\.json: method: found mf, expected prior; run train"):
        tables(runs)


def test_scores_of_a_run_before_it_was_trained_again(runs):
    path = runs[1]["run"] / "run.json"
    write_json(path, read_json(path, "train") | {"flops": 1.0})
    with pytest.raises(UserError, match="holds scores of another run than"):
        tables(runs)
    seal_runs(runs)
    tables(runs)


@pytest.mark.parametrize("content", ["{}", '{"files": []}', "[]", "", "{"])
def test_a_listing_that_lists_nothing(runs, content):
    path = runs[0]["scores"] / "evaluation.json"
    described = '{"run": "' + file_sha256(runs[0]["run"] / "run.json") + '", "files": {}}'
    path.write_text(described)
    with pytest.raises(UserError, match=r"scores\.csv: is not listed in evaluation\.json; run ev"):
        scores_of(runs[0]).table("scores.csv")
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path}: .*; run evaluate again$"):
        scores_of(runs[0])
    path.unlink()
    with pytest.raises(UserError, match=rf"^{path}: not found; run evaluate first$"):
        scores_of(runs[0])


@pytest.mark.parametrize("change", [edit, empty, Path.unlink])
@pytest.mark.parametrize("name", ["files.csv", "scenes.csv"])
def test_split_reads_no_table_that_download_did_not_write(tmp_path, monkeypatch, name, change):
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "archive"
    local.mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(local / "metadata.parquet")
    raw = Path("data/raw/bigearthnet-v2")
    choice = {"manifest": None, "local": local, "store": tmp_path / "store"}
    download.run("bigearthnet-v2", out=raw, **choice)
    Path("params.yaml").write_text("archives: {bigearthnet-v2: {}}\n")
    change(raw / name)
    with pytest.raises(UserError, match=rf"^{raw / name}: .*; run download again$"):
        cli.split("bigearthnet-v2", params=Path("params.yaml"))
