"""Snakemake's report and the project's page in a clone whose outputs came from a DVC remote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stub_project import ROOT, Project, create

from mmfl.params import load
from mmfl.workflow import every

SMALL = {
    "simulate": {"pairs": 60, "countries": ["Austria", "Finland"]},
    "model": {"width": 4, "projection": 8},
    "train": {"seeds": [1], "methods": ["mf"], "size": 16, "rounds": 1, "batch": 16},
    "evaluate": {"rates": [0, 100]},
    "report": {"gallery": 1},
}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real steps on a few patches, pushed to a folder; a clone of it after `make sync`."""
    folder = tmp_path_factory.mktemp("pull")
    origin = create(folder / "origin")
    shutil.copy2(ROOT / "src/mmfl/cli.py", origin.folder / "src/mmfl/cli.py")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section].update(values)
    params["archives"] = {"simulated": {}}
    (origin.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    origin.snakemake()
    git(origin.folder, "init", "--quiet")
    git(origin.folder, "add", "--all")
    for command in (
        ["remote", "add", "--default", "store", str(folder / "store")],
        ["commit", "--force"],
        ["push"],
    ):
        done = origin.run("dvc", *command)
        assert done.returncode == 0, done.stdout
    git(origin.folder, "add", "--all")
    git(origin.folder, "commit", "--quiet", "--message", "small")
    git(folder, "clone", "--quiet", "origin", "clone")
    clone = Project(folder / "clone")
    assert not (clone.folder / "runs").exists(), "nothing but the remote can have them"
    done = subprocess.run(
        [sys.executable, "workflow/scripts/sync.py"],
        cwd=clone.folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "MMFL"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True)


def test_snakemakes_report(pulled: Project) -> None:
    said = pulled.snakemake("--report", "report.html")
    assert "Missing metadata" not in said
    page = (pulled.folder / "report.html").read_text()
    found = re.search(r"var categories = (.*);", page)
    assert found
    params = load(pulled.folder / "params.yaml")
    wanted = {
        kind.capitalize(): {"simulated": sorted(files)}
        for kind, suffix in (("tables", ".csv"), ("figures", ".svg"))
        if (
            files := [
                path
                for path in every("report", params, "simulated")
                if Path(path).parent.name == kind and path.endswith(suffix)
            ]
        )
    }
    shown = json.loads(found[1])
    assert {k: {a: sorted(f) for a, f in v.items()} for k, v in shown.items()} == wanted
    assert set(wanted) == {"Tables", "Figures"}
    assert "Table of the comparison" in page and "Figure of the comparison" in page
    assert "Multi-modal federated learning: download" in page, "text of its first page"


def test_the_page_is_complete(pulled: Project) -> None:
    """As where it was computed, but for what was measured there, which no remote has."""
    here = (pulled.folder / "page/simulated.html").read_text()
    origin = pulled.folder.parent / "origin/page/simulated.html"
    lacking = '<p class="note">No measurements were found: the models came from elsewhere.</p>\n'
    assert here.count(lacking) == 1
    before, after = here.split(lacking)
    there = origin.read_text()
    assert there.startswith(before) and there.endswith(after)
    assert "Seconds per round" in there[len(before) : -len(after)]


def test_nothing_is_left_to_do(pulled: Project) -> None:
    assert pulled.wanted() == {}
    assert "up to date" in pulled.run("dvc", "status").stdout
