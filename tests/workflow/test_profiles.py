"""Profiles: what no machine here can run is checked as text."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from stub_project import ROOT, Project

NEUTRAL = {"printshellcmds", "show-failed-logs", "rerun-incomplete"}


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text())


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
