"""Environments of the steps: conda and a container, by stand-ins of both and by the real conda.

The stand-ins answer what Snakemake asks; the interpreter of their environment or image writes down
which steps it ran, so the tests see what a rule gets, not what its text says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers.project_copy import copy_project
from helpers.stub_project import ROOT, Project

pytestmark = pytest.mark.slow

ENVS = sorted((ROOT / "workflow/envs").glob("*.yaml"))
OLDEST = Version("24.7.1")  # conda that Snakemake works with
ALL_STEPS = {
    "simulate", "download", "split", "partition", "train", "evaluate", "tune", "report", "page",
}  # fmt: skip

# `conda` and, as bin/activate below its prefix, what Snakemake sources before each job.
CONDA = """#!/bin/bash
case "$1" in
    --version) echo "conda {version}" ;;
    info) echo '{{"conda_prefix": "{base}", "platform": "linux-64"}}' ;;
    config) echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    clean) ;;
    env)
        while [ $# -gt 0 ]; do
            case "$1" in --file) file=$2 ;; --prefix) prefix=$2 ;; esac
            shift
        done
        grep -q torch== "$file" || exit 1
        mkdir -p "$prefix/bin" "$prefix/conda-meta"
        cp "$file" "$prefix/environment.yaml"
        cp "{base}/python" "$prefix/bin/python"
        ;;
    *) exit 1 ;;
esac
"""
# As conda does: where an environment is active, the new one takes its place on the PATH.
ACTIVATE = """
if [ "${{CONDA_SHLVL:-0}}" -gt 0 ]; then
    PATH="${{PATH/"$CONDA_PREFIX"//"$1"}}"
else
    PATH="$1/bin:$PATH"
fi
export CONDA_PREFIX="$1" CONDA_SHLVL=1 PATH
"""
# The interpreter of an environment: writes down its place and its step, then does the work.
PYTHON = """#!/bin/bash
echo "$(dirname "$(dirname "$0")") $3 $PWD" >> "{calls}"
exec "{python}" "$@"
"""
APPTAINER = """#!/bin/bash
[ "$1" = --version ] && {{ echo "apptainer version 1.3.4"; exit 0; }}
[ "$1" = exec ] || exit 1
shift
while [ "${{1#--}}" != "$1" ]; do
    [ "$1" = --home ] && home=$2
    shift 2
done
echo "$1" >> "{images}"
shift
cd "$home" && exec env -i HOME="$home" PATH="{inside}/bin:/usr/bin:/bin" \\
    MMFL_PARAMS="$MMFL_PARAMS" MMFL_RUN="$MMFL_RUN" "$@"
"""


def executable(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(**values))
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with stand-ins of conda and apptainer; calls.txt says what ran where."""
    folder = tmp_path / "tools"
    python = {"calls": folder / "calls.txt", "python": sys.executable}
    executable(folder / "python", PYTHON, **python)
    executable(folder / "image/bin/python", PYTHON, **python)
    executable(folder / "bin/conda", CONDA, version=OLDEST, base=folder)
    executable(folder / "bin/activate", ACTIVATE)
    executable(
        folder / "bin/apptainer", APPTAINER, images=folder / "images.txt", inside=folder / "image"
    )
    return folder


def path_with(tools: Path) -> str:
    """The virtual environment first, as after `source .venv/bin/activate`, then the stand-ins."""
    folders = [str(Path(sys.executable).parent), str(tools / "bin"), os.environ["PATH"]]
    return os.pathsep.join(folders)


def places(tools: Path) -> dict[str, set[tuple[Path, Path]]]:
    """Step -> environments that ran it and working folders."""
    found: dict[str, set[tuple[Path, Path]]] = {}
    for line in (tools / "calls.txt").read_text().splitlines():
        prefix, step, folder = line.split()
        found.setdefault(step, set()).add((Path(prefix), Path(folder)))
    return found


def copied(fresh: Project, folder: Path) -> Project:
    """The stub project with trials to choose from, so that every rule has a job."""
    project = fresh.copy(folder)
    project.edit(tune__trials={"mf": {"train.learning_rate": [0.1, 0.2]}}, train__methods=["mf"])
    return project


def test_every_rule_runs_in_its_conda_environment(
    fresh: Project, tools: Path, tmp_path: Path
) -> None:
    project = copied(fresh, tmp_path / "project")
    active = {"CONDA_SHLVL": "1", "CONDA_PREFIX": str(tools)}  # conda's base, as in most shells
    asked = {"PATH": path_with(tools), "MMFL_ENV": "cuda", **active}
    project.snakemake("--use-conda", "all", "tuned", **asked)
    ran = places(tools)
    assert set(ran) == ALL_STEPS
    for step, found in ran.items():
        ((prefix, folder),) = found
        assert folder == project.folder
        wanted = "cuda" if step in ("train", "evaluate") else "cpu"
        env = ROOT / f"workflow/envs/{wanted}.yaml"
        assert (prefix / "environment.yaml").read_text() == env.read_text(), step
    inside = [line.split()[1] for line in (tools / "calls.txt").read_text().splitlines()]
    assert sorted(project.calls()) == sorted(inside), "the copy's own package ran"
    again = project.snakemake("--use-conda", "--dry-run", "all", "tuned", **asked)
    assert "Nothing to be done" in again


def test_without_a_choice_every_rule_has_the_cpu_environment(
    fresh: Project, tools: Path, tmp_path: Path
) -> None:
    project = copied(fresh, tmp_path / "project")
    project.snakemake(
        "--use-conda", "--conda-create-envs-only", "all", "tuned", PATH=path_with(tools)
    )
    (made,) = (project.folder / ".snakemake/conda").glob("*/environment.yaml")
    assert made.read_text() == (ROOT / "workflow/envs/cpu.yaml").read_text()


@pytest.mark.parametrize(
    ("version", "said"),
    [(None, "Is conda installed"), ("24.7.0", f"{OLDEST} or later, found version 24.7.0")],
)
def test_conda_missing_or_too_old(
    version: str | None, said: str, fresh: Project, tools: Path, tmp_path: Path
) -> None:
    project = fresh.copy(tmp_path / "project")
    if version:
        executable(tools / "bin/conda", CONDA, version=version, base=tools)
        path = path_with(tools)
    else:
        path = "/usr/bin:/bin"
        assert shutil.which("conda", path=path) is None
    done = project.run("snakemake", "--cores", "1", "--use-conda", PATH=path)
    assert done.returncode != 0
    assert said in done.stdout
    assert project.calls() == []


def test_an_unknown_environment(fresh: Project) -> None:
    done = fresh.run("snakemake", "--dry-run", MMFL_ENV="gpu")
    assert done.returncode == 2
    assert "MMFL_ENV: found gpu, expected cpu or cuda" in done.stdout


def test_every_rule_runs_in_the_container(fresh: Project, tools: Path, tmp_path: Path) -> None:
    project = copied(fresh, tmp_path / "project")
    (project.folder / "mmfl.sif").touch()
    project.snakemake(
        "all", "tuned", "--sdm", "apptainer", PATH=path_with(tools), MMFL_CONTAINER="mmfl.sif"
    )
    assert places(tools) == {step: {(tools / "image", project.folder)} for step in ALL_STEPS}
    images = (tools / "images.txt").read_text().split()
    assert images == ["mmfl.sif"] * len(project.calls())


def test_a_container_without_an_image(fresh: Project, tools: Path) -> None:
    done = fresh.run("snakemake", "--cores", "1", "--sdm", "apptainer", PATH=path_with(tools))
    assert done.returncode == 2
    assert "set MMFL_CONTAINER" in done.stdout


def conda_on_the_path() -> str:
    """Why the real conda cannot be tested; empty if it can."""
    if shutil.which("conda") is None:
        return "not run: no conda on the PATH"
    said = subprocess.run(["conda", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout)
    if not found or Version(found[0]) < OLDEST:
        return f"not run: conda {OLDEST} or later is needed, found {said.stdout.strip()}"
    return ""


@pytest.mark.skipif(bool(conda_on_the_path()), reason=conda_on_the_path() or "conda is there")
def test_the_real_conda_runs_the_real_steps(tmp_path: Path) -> None:
    """Downloads the packages of workflow/envs/cpu.yaml, some gigabytes."""
    project = Project(copy_project(tmp_path / "project"))
    small = yaml.safe_load((ROOT / "configs/ci.yaml").read_text())
    small["archives"] = {"simulated": {}}
    small["train"].update(methods=["mf"], seeds=[1])
    (project.folder / "small.yaml").write_text(yaml.safe_dump(small))
    project.snakemake("--use-conda", "--configfile", "small.yaml")
    (python,) = (project.folder / ".snakemake/conda").glob("*/bin/python")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    installed = {canonicalize_name(p["name"]): p["version"] for p in json.loads(listed.stdout)}
    for name, version in pins(ROOT / "workflow/envs/cpu.yaml").items():
        assert Version(installed[name]).public == version, name
    assert "mmfl" not in installed
    assert (project.folder / "page/simulated.html").is_file()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def pins(file: Path) -> dict[str, str]:
    """Package -> exact version of an environment; options of pip left out."""
    *_, packages = yaml.safe_load(file.read_text())["dependencies"]
    found = {}
    for line in packages["pip"]:
        if line.startswith("--"):
            continue
        (exact,) = Requirement(line).specifier
        assert exact.operator == "==", line
        found[canonicalize_name(Requirement(line).name)] = exact.version
    return found


@pytest.mark.parametrize("file", ENVS, ids=lambda file: file.stem)
def test_environments_pin_what_the_package_needs(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert pins(file) == {name: lock()[name] for name in needed}
    env = yaml.safe_load(file.read_text())
    assert env["channels"] == ["conda-forge", "nodefaults"]
    python, pip, _ = env["dependencies"]
    assert pip == "pip"
    name, version = python.split("=")
    assert name == "python"
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_both_environments_name_the_same_versions() -> None:
    assert [file.stem for file in ENVS] == ["cpu", "cuda"]
    assert pins(ENVS[0]) == pins(ENVS[1])


def test_the_image_has_what_the_lock_has() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "-r /tmp/requirements.lock" in text
    version = re.search(r"^FROM python:(\d+\.\d+)", text, flags=re.M)
    assert version and f"python={version[1]}" in ENVS[0].read_text()
    assert (ROOT / ".dockerignore").read_text().split() == ["*", "!requirements.lock"]


def test_lock_agrees_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = lock()
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    for line in [*project["dependencies"], *extras]:
        need = Requirement(line)
        assert need.specifier.contains(versions[canonicalize_name(need.name)]), line


def test_lock_has_only_exact_pins() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9A-Za-z.]+", line) for line in lines)
