"""The split step: locations that lack a modality, damage found again, memory, user's mistakes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmfl.archives import get
from mmfl.archives.simulation import simulated
from mmfl.errors import UserError
from mmfl.fetch.unpack import unpack
from mmfl.files import file_sha256
from mmfl.patches.labels import read_labels
from mmfl.steps import split


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A simulated archive of 60 locations, a third of them without one modality, extracted."""
    folder = tmp_path_factory.mktemp("simulated")
    simulated.generate(folder / "files", pairs=60, seed=3, unpaired=0.35, workers=1)
    extracted = folder / "root"
    extracted.mkdir()
    for path in (folder / "files").glob("*.parquet"):
        shutil.copy(path, extracted)
    for path in (folder / "files").glob("*.tar.zst"):
        unpack(path, folder / path.stem)
        for part in (folder / path.stem).iterdir():
            part.rename(extracted / part.name)
    return extracted


def run(root: Path, folder: Path, **kwargs) -> Path:
    choice = {"shard_size": 16, "snow": False, "cloud_or_shadow": False} | kwargs
    split.run("simulated", root=root, out=folder / "out", store=folder / "store", **choice)
    return folder / "out"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def test_locations_without_a_modality(root, tmp_path):
    out = run(root, tmp_path)
    table, classes = read_labels(out / "labels")
    metadata = get("simulated").metadata(root)
    assert table["pair"].tolist() == sorted(metadata["pair"]) and len(table) == 60
    assert [list(x) for x in table["labels"]] == [list(x) for x in metadata["labels"]]
    assert len(classes) == 19
    held = {}
    for q in ("s1", "s2"):
        index = pd.read_parquet(out / q / "index.parquet")
        held[q] = set(index["pair"])
        assert index["patch"].tolist() == metadata[q].dropna().tolist()
        assert index["pair"].is_monotonic_increasing
        described = json.loads((out / q / "modality.json").read_text())
        shards = sorted((out / q).glob("*.npy"))
        sums = [note["sha256"] for note in described["shards"].values()]
        assert {k: v for d in sums for k, v in d.items()} == {
            p.name: file_sha256(p) for p in shards
        }
        assert described["patches"] == len(index)
        tenth = [np.load(p, mmap_mode="r") for p in shards if p.name.startswith("10m")]
        assert described["rows"] == list(map(len, tenth)) and len(tenth) > 1
        assert sum(map(len, tenth)) == len(index)
    assert held["s1"] | held["s2"] == set(table["pair"])
    assert 0 < len(held["s1"] & held["s2"]) < 60
    assert min(len(held["s1"]), len(held["s2"])) < 60


def test_one_modality_may_be_absent_altogether(root, tmp_path):
    other = tmp_path / "root"
    shutil.copytree(root, other, copy_function=os.link)
    shutil.rmtree(other / "BigEarthNet-S1")
    table = pd.read_parquet(root / "metadata.parquet")
    table = table[table["has_s2"]].assign(s1_name=None)
    (other / "metadata.parquet").unlink()
    table.to_parquet(other / "metadata.parquet")
    out = run(other, tmp_path)
    assert len(pd.read_parquet(out / "s1" / "index.parquet")) == 0
    assert not list((out / "s1").glob("*.npy")) and list((out / "s2").glob("*.npy"))


def test_workers_change_no_byte(root, tmp_path):
    expected = contents(run(root, tmp_path / "1"))
    assert contents(run(root, tmp_path / "2", workers=2, shard_size=16)) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_is_found_and_made_good(root, tmp_path, workers):
    """Shards in `out` are linked from the store: what damages one damages both."""
    expected = contents(run(root, tmp_path))
    victim, sound = (tmp_path / "out" / "s2" / f"20m-0000{shard}.npy" for shard in (1, 0))
    with victim.open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"damaged")
    kept = sound.stat().st_ino
    assert contents(run(root, tmp_path, workers=workers)) == expected
    assert sound.stat().st_ino == kept


def test_shards_that_came_from_elsewhere_are_taken(root, tmp_path):
    """A store filled from a checkout of the outputs reads no pixel of the archive."""
    expected = contents(run(root, tmp_path / "a"))
    for q in ("s1", "s2"):
        shutil.copytree(tmp_path / "a" / "out" / q, tmp_path / "b" / "store" / q)
    bare = tmp_path / "bare"
    shutil.copytree(root, bare)
    for path in bare.rglob("*.tif"):
        path.unlink()
    assert contents(run(bare, tmp_path / "b")) == expected


def test_what_a_killed_run_left_is_removed(root, tmp_path):
    folder = tmp_path / "store" / "s1"
    folder.mkdir(parents=True)
    for name in (".10m-00000.npy.77.tmp", "10m-00099.npy"):
        (folder / name).write_bytes(b"half")
    (tmp_path / "store" / ".s1.json").write_text("{")
    (tmp_path / "store" / "..s1.json.77.tmp").write_text("{")
    out = run(root, tmp_path)
    found = {path.name for path in [*folder.iterdir(), *(out / "s1").iterdir()]}
    assert not any(name.endswith(".tmp") or "99" in name for name in found)
    assert not list((tmp_path / "store").glob(".*.tmp"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_band_is_named_and_nothing_appears(root, tmp_path, workers):
    other = tmp_path / "root"
    shutil.copytree(root, other)
    victim = sorted((other / "BigEarthNet-S2").rglob("*_B11.tif"))[7]
    victim.write_bytes(victim.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"{victim.name}: band B11 .*fetch"):
        run(other, tmp_path, workers=workers, snow=True, cloud_or_shadow=True)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_nothing_left_is_a_users_mistake(root, tmp_path):
    other = tmp_path / "root"
    other.mkdir()
    table = pd.read_parquet(root / "metadata.parquet").assign(contains_seasonal_snow=True)
    table.to_parquet(other / "metadata.parquet")
    with pytest.raises(UserError, match=r"no patch after the exclusions.*split.snow"):
        run(other, tmp_path)


def test_the_process_does_not_import_torch():
    program = "import sys, mmfl.steps.split; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
