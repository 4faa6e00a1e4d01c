"""A run belongs to what it started with: parameters, descriptions, rules, code."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from helpers.project_copy import environment
from helpers.stub_project import Project
from helpers.warm_python import python
from mmfl.errors import UserError
from mmfl.pipeline import code, frozen

PARAMETERS = "archives: {simulated: {}}\ntrain: {learning_rate: 0.3}\n"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMETERS)
    return frozen.freeze("params.yaml")[0]


def test_a_copy_keeps_the_values_of_the_start(copy: Path) -> None:
    Path("params.yaml").write_text(PARAMETERS.replace("0.3", "0.9"))
    assert frozen.check(copy, "train").train.learning_rate == 0.3
    Path("params.yaml").unlink()
    assert frozen.check(copy, "train").train.learning_rate == 0.3


def test_another_run_has_another_copy_and_the_same_one_the_same(copy: Path) -> None:
    assert frozen.freeze("params.yaml")[0] == copy
    assert frozen.freeze(copy)[0] == copy, "jobs of a run that was frozen before belong to it"
    Path("params.yaml").write_text(PARAMETERS.replace("0.3", "0.9"))
    second, params = frozen.freeze("params.yaml")
    assert second != copy and params.train.learning_rate == 0.9
    assert frozen.check(copy).train.learning_rate == 0.3


@pytest.mark.parametrize("name", ["params.yaml", "start.json"])
@pytest.mark.parametrize("how", ["edited", "emptied", "deleted"])
def test_a_changed_copy_is_refused(copy: Path, name: str, how: str) -> None:
    file = copy.with_name(name)
    if how == "deleted":
        file.unlink()
    else:
        file.write_text(file.read_text().replace("0.3", "0.9") + "\n" if how == "edited" else "")
    with pytest.raises(UserError, match="start the run again"):
        frozen.check(copy, "train")


def test_edited_code_is_refused_by_its_own_step_only(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = code.digest
    monkeypatch.setattr(code, "digest", lambda s, c=(): "0" * 16 if s == "train" else real(s, c))
    assert frozen.check(copy, "split", "simulated").archives
    with pytest.raises(UserError, match="code of train was edited since the run started"):
        frozen.check(copy, "train", "simulated", "mf")


@pytest.mark.parametrize("how", ["edited", "deleted"])
def test_an_edited_description_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    described = {
        "table": "t.csv",
        "groups": ["country"],
        "modalities": {q: {"path": f"{q}/{{id}}.tif", "bands": ["a"]} for q in ("s1", "s2")},
        "labels": {"classes": ["x", "y"]},
    }
    Path("own.yaml").write_text(yaml.safe_dump(described))
    parameters = {"archives": {"own": {}}, "folders": {"own": "own.yaml"}}
    Path("params.yaml").write_text(
        yaml.safe_dump(parameters | {"partition": {"scenario": "country"}})
    )
    copy, _ = frozen.freeze("params.yaml")
    assert frozen.check(copy, "train").of("own").train.bands == {"s1": ["a"], "s2": ["a"]}
    if how == "edited":
        described["modalities"]["s1"]["bands"] = ["b"]
        Path("own.yaml").write_text(yaml.safe_dump(described))
    else:
        Path("own.yaml").unlink()
    with pytest.raises(UserError, match=r"own\.yaml: edited or removed since the run started"):
        frozen.check(copy, "train")


@pytest.mark.slow
def test_what_is_edited_during_a_run_belongs_to_the_next(fresh: Project, tmp_path: Path) -> None:
    """Edited while a job runs, then deleted: the run ends with its values, the next has others."""
    project = fresh.copy(tmp_path / "edited")
    file = project.folder / "params.yaml"
    waiting = environment() | {"STUB_WAITS": str(tmp_path / "go on")}
    command = [python(), "-m", "snakemake", "--cores", "2"]
    with subprocess.Popen(
        command, cwd=project.folder, env=waiting, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as running:  # fmt: skip
        while not (project.folder / "calls.txt").exists() and running.poll() is None:
            time.sleep(0.05)
        project.edit(train__learning_rate=0.9)
        edited = file.read_text()
        file.unlink()
        (tmp_path / "go on").touch()
        text, _ = running.communicate()
    assert running.returncode == 0, text
    file.write_text(edited)
    models = list(project.folder.glob("runs/simulated/*/*/*/*/model.safetensors"))
    assert len(models) == 4
    assert {re.search(r"'learning_rate': ([\d.]+)", m.read_text()).group(1) for m in models} == {
        "0.3"
    }
    assert project.wanted() == {"train": 2, "evaluate": 2, "report": 1, "page": 1}
    file.write_text(edited.replace("learning_rate: 0.9", "learning_rate: 0.3"))
    assert project.wanted() == {}, "and what the run has made belongs to its own values"
