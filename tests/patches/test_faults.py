"""Patches that cannot be used: real files, damaged in every way, stop the split or are listed."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.damaged_patches import (
    ARCHIVE,
    FAULTS,
    band,
    contents,
    missing_band,
    nan,
    row,
    run,
    truncated,
)
from helpers.warm_python import kill, python
from mmfl.errors import UserError
from mmfl.patches.faults import read_skipped
from mmfl.patches.reader import Patches


@pytest.fixture
def root(samples, tmp_path) -> Path:
    """A writable copy of the real sample: 18 clean pairs, 6 others."""
    shutil.copytree(samples / "bigearthnet-v2-sample", tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.parametrize("fault", FAULTS)
def test_stops_and_names_the_file(root, tmp_path, fault):
    _, _, path = fault(root)
    with pytest.raises(UserError) as caught:
        run(root, tmp_path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and "split.on_error: skip" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_skips_and_lists(root, samples, tmp_path, fault, workers):
    """The patch goes, its partner and all others stay, to the bit."""
    whole = run(samples / "bigearthnet-v2-sample", tmp_path / "whole")
    q, patch, path = fault(root)
    out = run(root, tmp_path, on_error="skip", workers=workers)
    listed = read_skipped(out / "labels" / "skipped.csv")
    assert listed[["modality", "patch", "file"]].to_numpy().tolist() == [
        [q, patch, path.relative_to(root).as_posix()]
    ]
    assert listed["reason"].str.len().item() > 5
    labels = pd.read_parquet(out / "labels" / "index.parquet")
    assert labels["pair"].tolist() == ARCHIVE.metadata(root)["pair"].tolist()
    for name in ("s1", "s2"):
        before, after = Patches(whole / name), Patches(out / name)
        left = set(before.index["patch"]) - set(after.index["patch"])
        assert left == ({patch} if name == q else set())
        for metres in ARCHIVE.modality(name).resolutions:
            channels = range(len(after.at(metres)))
            rows = before.rows(after.pairs)
            same = before.read(rows, metres, channels)
            assert np.array_equal(after.read(np.arange(len(rows)), metres, channels), same)


def test_both_modalities_lost_is_a_location_less(root, tmp_path):
    for q, name in (("s1", "VV"), ("s2", "B02")):
        band(root, q, 9, name).unlink()
    pair = row(root, 9).pair
    out = run(root, tmp_path, on_error="skip")
    assert len(read_skipped(out / "labels" / "skipped.csv")) == 2
    labels = pd.read_parquet(out / "labels" / "index.parquet")
    assert len(labels) == 17 and pair not in set(labels["pair"])


def test_patch_without_metadata(root, tmp_path):
    there = band(root, "s2", 1, "B02").parent
    stranger = there.with_name(there.name[:-5] + "89_89")
    shutil.copytree(there, stranger)
    with pytest.raises(UserError, match=rf"{stranger.name}: has no row in the metadata"):
        run(root, tmp_path / "a")
    out = run(root, tmp_path / "b", on_error="skip")
    listed = read_skipped(out / "labels" / "skipped.csv")
    assert listed["patch"].tolist() == [stranger.name]
    assert len(pd.read_parquet(out / "labels" / "index.parquet")) == 18


def test_excluded_patches_are_no_strangers(root, tmp_path):
    """Snow and cloud are in the second table; without that table they are unknown."""
    run(root, tmp_path / "a")
    (root / "metadata_for_patches_with_snow_cloud_or_shadow.parquet").unlink()
    with pytest.raises(UserError, match=r"has no row in the metadata.*\(11 more like it\)"):
        run(root, tmp_path / "b")


@pytest.mark.parametrize("column", ["patch_id", "s1_name"])
def test_duplicate_names(root, tmp_path, column):
    """No row of a name that is listed twice is kept: nothing says which is right."""
    table = pd.read_parquet(root / "metadata.parquet")
    copy = table.iloc[[4]].copy()
    if column == "s1_name":
        copy["patch_id"] = table["patch_id"].iloc[5]
        table = table.drop(index=table.index[5])
    pd.concat([table, copy]).to_parquet(root / "metadata.parquet")
    name = copy[column].item()
    with pytest.raises(UserError, match=rf"metadata.parquet: lists {name} 2 times"):
        run(root, tmp_path / "a")
    out = run(root, tmp_path / "b", on_error="skip")
    assert name in set(read_skipped(out / "labels" / "skipped.csv")["patch"])
    kept = set(pd.read_parquet(out / "labels" / "index.parquet")["pair"])
    assert len(kept) == (17 if column == "patch_id" else 16)
    assert copy["patch_id"].item() not in kept


def test_nothing_can_be_used(root, tmp_path):
    for path in root.rglob("*.tif"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no patch that can be used"):
        run(root, tmp_path, on_error="skip")
    assert not (tmp_path / "out").exists()


def test_what_was_skipped_is_known_after_a_resume(root, tmp_path):
    """Whole shards are not read again, yet the table and the bytes are those of one run."""
    for fault in (truncated, missing_band, nan):
        fault(root)
    expected = contents(run(root, tmp_path / "a", on_error="skip"))
    out = run(root, tmp_path / "b", on_error="skip")
    shutil.rmtree(out)
    for path in root.rglob("*.tif"):
        path.write_bytes(b"")
    assert contents(run(root, tmp_path / "b", on_error="skip")) == expected


def test_a_good_archive_has_an_empty_list(samples, tmp_path):
    out = run(samples / "bigearthnet-v2-sample", tmp_path, on_error="skip")
    assert len(read_skipped(out / "labels" / "skipped.csv")) == 0
    described = json.loads((out / "s1" / "modality.json").read_text())
    assert described["rows"] == [4, 4, 4, 4, 2]


PROGRAM = """
import sys
from pathlib import Path
from mmfl.steps import split
root, folder = map(Path, sys.argv[1:])
split.run("bigearthnet-v2", root=root, out=folder / "out", store=folder / "store", shard_size=2,
          snow=True, cloud_or_shadow=True, on_error="skip")
"""


def test_killed_at_many_moments(root, tmp_path):
    """kill -9 again and again, each time a little later, then once to the end: the same bytes."""
    truncated(root)
    missing_band(root)
    command = [python(), "-c", PROGRAM, str(root)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    expected = contents(tmp_path / "whole" / "out")
    for moment in range(6):
        started = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
        shards = tmp_path / "killed" / "store"
        while started.poll() is None and len(list(shards.rglob("*.npy"))) < 4 * moment + 1:
            time.sleep(0.001)
        kill(started)
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    assert contents(tmp_path / "killed" / "out") == expected
    assert not list(tmp_path.joinpath("killed").rglob("*.tmp"))
