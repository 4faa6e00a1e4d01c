"""Shared fixtures: the real samples, and a tiny store of patches."""

import gc
import os
import shutil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # pytest's processes fill the cores; for torch, so before it

import pandas as pd
import pytest

from helpers.patch_store import make_store
from helpers.tile_store import make_tiles
from mmfl import intact

# The longest files begin first: `make test` gives whole files to processes in this order.
LONGEST = (
    "test_slurm.py", "test_verify.py", "test_dvc.py", "test_pipeline.py", "test_algorithms.py",
    "test_after_pull.py", "test_streaming.py", "test_report.py", "test_report_diverged.py",
    "test_environments.py", "test_real_archives.py", "test_conformance.py", "test_failures.py",
    "test_train.py", "test_pixel_pipeline.py", "test_bigearthnet_v1.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: each collection by a test would go through all of it


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real samples, see CONTRIBUTING.md."""
    folder = os.environ.get("MMFL_SAMPLES")
    if not folder:
        pytest.skip("MMFL_SAMPLES is not set: real samples not tested")
    return Path(folder).resolve()


@pytest.fixture(autouse=True, scope="session")
def _remembered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was checked is remembered apart from the cache of this copy."""
    intact.REMEMBERED = str(tmp_path_factory.mktemp("checked"))


@pytest.fixture(scope="session")
def made_store(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of patches; to be read only."""
    folder = tmp_path_factory.mktemp("store") / "patches"
    return folder, make_store(folder)


@pytest.fixture
def store(made_store, tmp_path) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a copy of it to change."""
    return shutil.copytree(made_store[0], tmp_path / "patches"), made_store[1].copy()


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of tiles; to be read only."""
    folder = tmp_path_factory.mktemp("tiles") / "patches"
    return folder, make_tiles(folder)
