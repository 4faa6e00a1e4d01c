"""Profiles and environments: what no machine here can run is checked as text."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stub_project import ROOT, Project

NEUTRAL = {"printshellcmds", "show-failed-logs", "rerun-incomplete"}
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
ENVS = sorted((ROOT / "workflow/envs").glob("*.yaml"))


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text())


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_the_default_profile_is_neutral() -> None:
    assert set(profile("default")) <= NEUTRAL


def test_profiles_share_no_key() -> None:
    assert not set(profile("default")) & set(profile("slurm"))


def test_slurm_profile_names_its_status_command_and_the_gpu() -> None:
    slurm = profile("slurm")
    assert slurm["executor"] == "slurm"
    assert slurm["slurm-status-command"] in ("squeue", "sacct")
    assert slurm["set-resources"]["train"]["gpu"] == 1
    assert "tasks" not in str(slurm)


def test_rules_name_no_machine() -> None:
    for file in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk"), ROOT / "dvc.yaml"]:
        assert not re.search(r"slurm|partition=|gres", file.read_text()), file.name


@pytest.mark.skipif(shutil.which("sinfo") is None, reason="SLURM is not installed")
def test_resolved_resources_of_a_cluster_run(fresh: Project) -> None:
    text = fresh.snakemake("--profile", "profiles/slurm", "--dry-run", "--verbose")
    assert "gpu=1" in text and "mem_mb=" in text


@pytest.mark.parametrize("file", ENVS, ids=lambda file: file.stem)
def test_environments_pin_what_the_package_needs(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    env = yaml.safe_load(file.read_text())
    assert env["channels"] == ["conda-forge", "nodefaults"]
    pins = {}
    for line in env["dependencies"]:
        assert re.fullmatch(r"[a-z0-9-]+=[0-9.]+(=[a-z0-9*_]+)?", line), line
        name, version, *_ = line.split("=")
        pins[canonicalize_name(CONDA_NAMES.get(name, name))] = version
    python = pins.pop("python")
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)
    assert set(pins) == needed
    assert pins == {name: lock()[name] for name in needed}


def test_lock_agrees_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = lock()
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    for line in [*project["dependencies"], *extras]:
        need = Requirement(line)
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), line


def test_lock_has_only_exact_pins() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9A-Za-z.]+", line) for line in lines)
