"""Fixtures of the workflow's tests: see helpers/stub_project.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.stub_project import Project, create


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project before anything ran. Do not change it: use `copy`."""
    return create(tmp_path_factory.mktemp("workflow") / "fresh")


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after a whole run. Do not change it: use `copy`."""
    project = fresh.copy(tmp_path_factory.mktemp("workflow") / "finished")
    project.snakemake()
    return project


@pytest.fixture
def edited(finished: Project, tmp_path: Path) -> Callable[..., Project]:
    """A finished project with changed parameters."""

    def make(**values: object) -> Project:
        project = finished.copy(tmp_path / "edited")
        project.edit(**values)
        return project

    return make
