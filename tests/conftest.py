"""Shared fixtures: the real samples, and a tiny store of patches."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # pytest's processes fill the cores; for torch, so before it

import numpy as np
import pandas as pd
import pytest

from drawn_tiles import make_tiles
from mmfl import intact
from mmfl.archives import get
from mmfl.patches.shards import Shard
from mmfl.patches.tables import group_columns
from mmfl.patches.writer import write_index, write_labels
from sealing import seal

# Minutes each, so they begin first; `make test` gives whole files to processes in this order.
LONGEST = ("test_slurm.py", "test_pipeline.py", "test_dvc.py", "test_after_pull.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


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


def make_store(
    folder: Path, *, pairs=48, seed=0, countries=("A", "B"), lonely=4, month=6
) -> pd.DataFrame:
    """A small store of patches in the format of `split`; random pixels, the mean carries labels."""
    rng = np.random.default_rng(seed)
    archive = get("bigearthnet-v2")
    names = [f"pair-{i:03d}" for i in range(pairs)]
    labels = [np.flatnonzero(rng.random(19) < 0.3).astype(np.int8) for _ in names]
    table = pd.DataFrame(
        {
            "pair": names,
            "s1": [f"{n}-s1" if i >= lonely else None for i, n in enumerate(names)],
            "s2": [f"{n}-s2" if i < pairs - lonely else None for i, n in enumerate(names)],
            "split": [("train", "train", "validation", "test")[i % 4] for i in range(pairs)],
            "country": [countries[(i // 4) % len(countries)] for i in range(pairs)],
            "month": month,
            "season": "JJA",
            "tile": "T33UUP",
            "labels": labels,
        }
    )
    for q, modality in archive.modalities.items():
        held = table[table[q].notna()]
        target = folder / q
        target.mkdir(parents=True)
        for resolution, path in Shard(0, (), None, modality, target).files.items():
            bands = modality.at(resolution)
            shape = (len(held), len(bands), bands[0].size, bands[0].size)
            level = np.array([label.sum() for label in held["labels"]])[:, None, None, None]
            values = rng.normal(level, 20, shape) + (100 if q == "s2" else -120)
            if q == "s2":
                values = np.clip(values, 0, 65535)
            np.save(path, values.astype(bands[0].dtype))
        groups = group_columns(table, list(archive.modalities))
        write_index(target, modality, table, 4096, "test", groups=groups)
    write_labels(folder / "labels", table, archive)
    seal(folder)
    return table


@pytest.fixture
def store(tmp_path) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of patches."""
    return tmp_path / "patches", make_store(tmp_path / "patches")


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """(folder, table) of a small store of tiles; to be read only."""
    folder = tmp_path_factory.mktemp("tiles") / "patches"
    return folder, make_tiles(folder)
