"""Real samples, found through MMFL_SAMPLES, and a small simulated archive."""

import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from mmfl.archives.simulation.simulated import generate


def _samples(name: str) -> Path:
    folder = os.environ.get("MMFL_SAMPLES")
    if not folder:
        pytest.skip("MMFL_SAMPLES is unset: no real samples of the archives")
    return Path(folder).resolve() / name


@pytest.fixture(scope="session")
def sample() -> Path:
    """24 real patch pairs of BigEarthNet v2.0."""
    return _samples("bigearthnet-v2-sample")


@pytest.fixture(scope="session")
def published() -> Path:
    """The complete published metadata of BigEarthNet v2.0."""
    return _samples("bigearthnet-metadata")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """Folder of a generated archive of 80 locations, as downloaded."""
    out = tmp_path_factory.mktemp("simulated")
    generate(out, pairs=80, seed=3, unpaired=0.2, workers=1)
    return out


FILTER: dict = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python < 3.11.4


@pytest.fixture(scope="session")
def unpacked(simulated, tmp_path_factory) -> Path:
    """The same archive, unpacked."""
    root = tmp_path_factory.mktemp("unpacked")
    for path in simulated.glob("*.parquet"):
        (root / path.name).write_bytes(path.read_bytes())
    for path in simulated.glob("*.tar.zst"):
        with (
            path.open("rb") as handle,
            zstandard.ZstdDecompressor().stream_reader(handle) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            tar.extractall(root, **FILTER)
    return root
