"""dvc.yaml says what the rules read and write, and both tools pick the same work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stub_project import ROOT, Project

from mmfl import code
from mmfl.params import load, step_values, train_values

STEPS = ("download", "split", "partition", "train", "evaluate", "report")
RULES = {"simulate": "download"}  # helper rules belong to a step's stage
ARCHIVE = "simulated"


@pytest.fixture(scope="module")
def stages() -> dict[str, dict]:
    """Stages with the parameters' values in place."""
    params = load(ROOT / "params.yaml")
    text = (ROOT / "dvc.yaml").read_text()
    text = text.replace("${key}", ARCHIVE)
    for name in ("scenario", "assignment", "seed"):
        text = text.replace(f"${{partition.{name}}}", str(getattr(params.partition, name)))
    return {name: stage["do"] for name, stage in yaml.safe_load(text)["stages"].items()}


@pytest.fixture(scope="module")
def rules(finished: Project) -> dict[str, tuple[set[str], set[str]]]:
    """Rule -> files read, files written, as Snakemake sees them."""
    table = finished.run("snakemake", "--detailed-summary").stdout.splitlines()
    start = next(i for i, line in enumerate(table) if line.startswith("output_file\t"))
    found: dict[str, tuple[set[str], set[str]]] = {}
    for line in table[start + 1 :]:
        output, _, rule, _, inputs, *_ = line.split("\t")
        read, written = found.setdefault(RULES.get(rule, rule), (set(), set()))
        read |= {item for item in inputs.split(",") if item not in ("", "-")}
        written.add(output)
    return found


def paths(entries: list) -> set[str]:
    """Names of DVC entries, with or without options."""
    return {next(iter(item)) if isinstance(item, dict) else item for item in entries}


def within(path: str, folders: set[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def test_up_to_date_with_the_imports() -> None:
    script = ROOT / "workflow/scripts/dvc_yaml.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_six_stages_with_fixed_commands(stages: dict[str, dict]) -> None:
    assert tuple(stages) == STEPS
    for step, stage in stages.items():
        assert stage["cmd"] == f"python workflow/scripts/stage.py {step} {ARCHIVE}"


@pytest.mark.parametrize("step", STEPS)
def test_outs_are_what_the_rules_write(step: str, stages: dict, rules: dict) -> None:
    outs = paths([*stages[step]["outs"], *stages[step].get("metrics", [])])
    written = {path for path in rules[step][1] if not Path(path).name.startswith(".")}
    assert {path for path in written if not within(path, outs)} == set()
    assert {out for out in outs if not any(within(path, {out}) for path in written)} == set()


@pytest.mark.parametrize("step", STEPS)
def test_deps_are_what_the_rules_read(step: str, stages: dict, rules: dict) -> None:
    deps = {dep for dep in paths(stages[step]["deps"]) if not dep.startswith("src/")}
    read = {path for path in rules[step][0] if not Path(path).name.startswith(".")}
    assert {path for path in read if not within(path, deps)} == set()
    # a simulated archive has no manifest in git
    unread = {dep for dep in deps if not any(within(path, {dep}) for path in read)}
    assert unread - {"data/manifests"} == set()


@pytest.mark.parametrize("step", STEPS)
def test_deps_are_the_modules_of_the_step(step: str, stages: dict) -> None:
    steps = ["simulate", step] if step == "download" else [step]
    modules = {f"src/{name}" for item in steps for name in code.modules(item)}
    assert {d for d in paths(stages[step]["deps"]) if d.startswith("src/")} == modules


def test_params_cover_every_value_of_the_step(stages: dict) -> None:
    """A value that a rule depends on lies in a section that its stage depends on."""
    params = load(ROOT / "params.yaml")
    for step in ("split", "partition", "evaluate", "report", "download"):
        listed = set(stages[step]["params"])
        for key in step_values(params, step, ARCHIVE):
            named = {step, key, f"train.{key}"} | ({"folders"} if key == "folder" else set())
            assert listed & named, f"{step}: {key}"
    sections = set(train_values(params, "mf", "default"))
    assert sections <= set(stages["train"]["params"])


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_repro_then_nothing_then_only_what_changed(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path / "dvc")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=project.folder, check=True)
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = project.run("dvc", "repro", **path)
    assert done.returncode == 0, done.stdout
    first = project.calls()
    assert [first.count(step) for step in STEPS] == [1, 1, 1, 2, 2, 1]

    assert "up to date" in project.run("dvc", "status", **path).stdout
    assert project.wanted() == {"page": 1}, "pages are not versioned; nothing else is left to do"
    page = [sys.executable, "workflow/scripts/stage.py", "page", "all"]
    subprocess.run(page, cwd=project.folder, check=True, capture_output=True)
    assert project.wanted() == {}

    project.edit(evaluate__rates=[0, 100])
    assert set(project.wanted()) == {"evaluate", "report", "page"}
    assert set(project.changed()) == {f"evaluate@{ARCHIVE}"}, "report follows from its scores"
    module = project.folder / "src/mmfl/federation/loop.py"
    module.write_text(module.read_text() + "\n# edited\n")
    assert set(project.wanted()) == {"train", "evaluate", "report", "page"}
    assert f"train@{ARCHIVE}" in project.changed()
    assert not {f"{step}@{ARCHIVE}" for step in ("download", "split", "partition")} & set(
        project.changed()
    )


def test_a_stage_never_rebuilds_another_ones_outputs(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "broken")
    shutil.rmtree(project.folder / "data/patches")
    shutil.rmtree(project.folder / "runs")
    before = len(project.calls())
    stage = [sys.executable, "workflow/scripts/stage.py", "train", ARCHIVE]
    done = subprocess.run(stage, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "data/patches/simulated" in done.stdout + done.stderr
    assert len(project.calls()) == before
