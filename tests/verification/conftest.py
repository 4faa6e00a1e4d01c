"""A small experiment whose lock and tables are committed, and a clone that reproduced it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from helpers.project_clone import ARCHIVES, SMALL, Clone
from helpers.project_copy import ROOT, copy_project


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Where it was made: outputs, a lock that DVC wrote, everything committed, DVC's cache."""
    made = Clone(copy_project(tmp_path_factory.mktemp("verify") / "origin"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, made.folder / name)
    (made.folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", made.folder / ".dvc/config")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section].update(values)
    params["archives"] = ARCHIVES
    (made.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    made.git("init", "--quiet")
    made.steps()
    made.dvc("commit", "--force", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "small")
    return made


@pytest.fixture(scope="session")
def reproduced(origin: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone at another path in which every step ran again. Do not change it: use `clone`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    origin.git("clone", "--quiet", str(origin.folder), str(folder / "clone"))
    clone = Clone(folder / "clone")
    clone.steps()
    return clone


@pytest.fixture
def clone(reproduced: Clone, tmp_path: Path) -> Clone:
    """A reproduced clone to change."""
    return reproduced.copy(tmp_path / "clone")
