"""Profiles as text, and what the jobs ask for with them; tests/cluster/ runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from helpers.stub_project import ROOT, Project

NEUTRAL = {"printshellcmds", "rerun-incomplete", "rerun-triggers", "show-failed-logs"}


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


def test_all_but_training_is_grouped() -> None:
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    groups = dict(line.split("=") for line in profile("slurm")["groups"])
    assert set(groups) == set(re.findall(r"^rule (\w+):", text, flags=re.M)) - {"train", "tune"}


ASK = """
import sys; from pathlib import Path; sys.path.insert(0, "workflow/scripts")
from check_cluster import requests
for asked in requests(Path("profiles/slurm"), Path("params.yaml")):
    print(asked.rules, asked.attempt, asked.partition, asked.threads, asked.mem_mb, asked.minutes,
          asked.gpus, sep="|")
"""


def test_what_jobs_ask_for_grows_with_the_attempt(fresh: Project, tmp_path: Path) -> None:
    """Resolved by Snakemake from rules and profile, a line per job or group and attempt."""
    project = fresh.copy(tmp_path / "asked")
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=project.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("train|")] == [
        "train|1|gpu|1|2000|240|1",
        "train|2|gpu|1|4000|480|1",
        "train|3|gpu|1|6000|720|1",
    ]
    assert "evaluate|1|main|2|4000|60|0" in lines  # two methods, side by side
    assert "split + partition|1|main|8|4000|510|0" in lines  # one after the other
    assert "report + page|2|main|1|4000|180|0" in lines
