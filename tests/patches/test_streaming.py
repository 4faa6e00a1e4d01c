"""Shards from the stream of a tar: to the bit those of the extracted archive, whatever happens."""

import gzip
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from helpers.damaged_patches import FAULTS, band, contents, row, run
from helpers.warm_python import kill, python
from mmfl import processes
from mmfl.errors import UserError
from mmfl.patches import streaming, writer
from mmfl.patches.faults import read_skipped
from mmfl.patches.shards import Writing

TOPS = ("BigEarthNet-S1", "BigEarthNet-S2")


def tar_of(folder: Path, order=lambda names: names, prefix: str = "", twice: int = 0) -> bytes:
    """The files of a folder, with their folders, as a plain tar."""
    data = io.BytesIO()
    paths = order(sorted(folder.rglob("*")))
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in [*paths, *[p for p in paths if p.is_file()][:twice]]:
            name = path.relative_to(folder.parent).as_posix()
            tar.add(path, f"{prefix}{name}", recursive=False)
    return data.getvalue()


def pack(root: Path, folder: Path, end: str = ".tar.zst", tops=TOPS, **how) -> Path:
    """A root with tars of `tops` and links to everything else."""
    folder.mkdir()
    for item in root.iterdir():
        if item.name not in tops:
            (folder / item.name).symlink_to(item)
            continue
        data = tar_of(item, **how)
        if end == ".tar.zst":
            data = zstandard.ZstdCompressor().compress(data)
        elif end == ".tar.gz":
            data = gzip.compress(data, 1)
        (folder / f"{item.name}{end}").write_bytes(data)
    return folder


def shuffled(names: list[Path]) -> list[Path]:
    return random.Random(5).sample(names, len(names))


def small_pieces(monkeypatch) -> list[int]:
    """A few bands at a time, so that small archives occupy several processes; their numbers."""
    started = []
    pool = processes.pool

    def counted(workers):
        started.append(workers)
        return pool(workers)

    monkeypatch.setattr(processes, "pool", counted)
    monkeypatch.setattr(writer, "CHUNK", 1)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 50_000)
    return started


@pytest.fixture
def root(samples, tmp_path) -> Path:
    """A writable copy of the real sample: 18 clean pairs, 6 others."""
    shutil.copytree(samples / "bigearthnet-v2-sample", tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def sample(samples) -> Path:
    return samples / "bigearthnet-v2-sample"


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "how",
    [
        {"end": ".tar.zst"},
        {"end": ".tar.gz", "order": shuffled},
        {"end": ".tar", "order": lambda names: names[::-1], "prefix": "./"},
        {"tops": TOPS[:1], "order": shuffled},
    ],
    ids=["zst", "gz, any order", "plain, from behind", "one modality extracted"],
)
def test_the_same_bytes_as_extracted(sample, tmp_path, monkeypatch, how, workers):
    """Also when a worker gets a few bands at a time."""
    small_pieces(monkeypatch)
    expected = contents(run(sample, tmp_path / "a"))
    packed = pack(sample, tmp_path / "packed", **how)
    before = sorted(packed.rglob("*"))
    assert contents(run(packed, tmp_path / "b", workers=workers)) == expected
    assert sorted(packed.rglob("*")) == before
    made = {path.suffix for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert made == {".npy", ".parquet", ".json", ".csv"}  # nothing was unpacked to the disk


def test_excluded_patches_and_other_members_are_passed_over(sample, tmp_path):
    """The tar holds 24 patches, 18 are wanted; a read-me and a picture are no bands."""
    expected = contents(run(sample, tmp_path / "a", snow=True))
    root = tmp_path / "root"
    shutil.copytree(sample, root)
    (root / "BigEarthNet-S2" / "README.txt").write_text("no band")
    folder = next((root / "BigEarthNet-S2").glob("*/*"))
    (folder / f"{folder.name}_B10.tif").write_text("no band of this archive")
    assert contents(run(pack(root, tmp_path / "p"), tmp_path / "b", snow=True)) == expected


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_those_of_the_extracted_archive(root, tmp_path, monkeypatch, fault, workers):
    started = small_pieces(monkeypatch)
    fault(root)
    packed = pack(root, tmp_path / "packed", order=shuffled)
    expected = contents(run(root, tmp_path / "a", on_error="skip"))
    assert contents(run(packed, tmp_path / "b", on_error="skip", workers=workers)) == expected
    with pytest.raises(UserError) as one:
        run(root, tmp_path / "c", workers=workers)
    with pytest.raises(UserError) as other:
        run(packed, tmp_path / "d", workers=workers)
    assert str(other.value) == str(one.value).replace(f"{root}/", f"{packed}/")
    assert not (tmp_path / "d" / "out").exists()
    assert not list((tmp_path / "d").rglob("*.tmp"))
    assert set(started) == ({2} if workers == 2 else set())


@pytest.mark.parametrize("order", [lambda names: names, lambda names: names[::-1], shuffled])
def test_of_several_faults_of_a_patch_the_folders_first_counts(root, tmp_path, order):
    """Whichever comes first in a tar; a folder without a band is there, but of no use."""
    for name in ("B01", "B08"):
        band(root, "s2", 3, name).write_bytes(b"II*\0")
    for name in ("B09", "B11"):
        band(root, "s2", 5, name).unlink()
    band(root, "s2", 6, "B12").write_bytes(b"")
    band(root, "s2", 6, "B05").unlink()
    for path in band(root, "s1", 7, "VV").parent.iterdir():
        path.unlink()
    expected = contents(run(root, tmp_path / "a", on_error="skip"))
    packed = pack(root, tmp_path / "packed", order=order)
    out = run(packed, tmp_path / "b", on_error="skip")
    assert contents(out) == expected
    assert len(read_skipped(out / "labels" / "skipped.csv")) == 4


def test_what_one_tar_lacks_is_said_before_the_next_is_read(root, tmp_path, monkeypatch):
    shutil.rmtree(band(root, "s1", 4, "VV").parent)
    packed = pack(root, tmp_path / "packed")
    read = []
    members = streaming.tars.members
    monkeypatch.setattr(
        streaming.tars, "members", lambda tar: read.append(tar.name) or members(tar)
    )
    with pytest.raises(UserError, match="is missing, expected the patch's bands"):
        run(packed, tmp_path / "b")
    assert read == ["BigEarthNet-S1.tar.zst"]


def test_shards_of_another_tar_are_not_kept(root, tmp_path):
    """A tar of the same names and other pixels, in a folder whose tables did not change."""
    packed = pack(root, tmp_path / "packed")
    run(packed, tmp_path / "b")
    path = band(root, "s2", 2, "B02")
    path.write_bytes(band(root, "s2", 3, "B02").read_bytes())
    shutil.copy(pack(root, tmp_path / "other") / "BigEarthNet-S2.tar.zst", packed)
    expected = contents(run(root, tmp_path / "a"))
    assert contents(run(packed, tmp_path / "b")) == expected


def test_a_tar_that_changes_while_it_is_read_is_refused(root, tmp_path, monkeypatch):
    packed = pack(root, tmp_path / "packed")
    tar = packed / "BigEarthNet-S1.tar.zst"
    begin = Writing.begin

    def touched(self, shard):
        os.utime(tar)
        return begin(self, shard)

    monkeypatch.setattr(Writing, "begin", touched)
    with pytest.raises(UserError, match=r"S1\.tar\.zst: changed while it was read"):
        run(packed, tmp_path / "b")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_tar_that_is_gone_takes_no_shard_with_it(root, tmp_path, on_error):
    packed = pack(root, tmp_path / "packed")
    out = run(packed, tmp_path / "b", on_error=on_error)
    before = contents(out)
    (packed / "BigEarthNet-S1.tar.zst").unlink()
    with pytest.raises(UserError, match=r"neither folder nor tar of s1.*put it back"):
        run(packed, tmp_path / "b", on_error=on_error)
    assert contents(out) == before and list((tmp_path / "b/store/s1").glob("*.npy"))


def test_many_faults_at_once_and_a_second_run(root, tmp_path, monkeypatch):
    """What a tar lacks is known from then on: nothing is read again, and nothing changes."""
    for fault in FAULTS:
        fault(root)
    shutil.rmtree(band(root, "s2", 9, "B02").parent)
    packed = pack(root, tmp_path / "packed")
    out = run(packed, tmp_path / "b", on_error="skip", workers=2)
    assert len(read_skipped(out / "labels" / "skipped.csv")) == len(FAULTS) + 1
    found = contents(out)
    assert found == contents(run(root, tmp_path / "a", on_error="skip"))
    monkeypatch.setattr("mmfl.tar.members", None)
    assert contents(run(packed, tmp_path / "b", on_error="skip")) == found


def test_another_tar_is_read(root, tmp_path):
    """A tar that was completed meanwhile brings the patch that was missing."""
    expected = contents(run(root, tmp_path / "a", on_error="skip"))
    whole = pack(root, tmp_path / "whole")
    shutil.rmtree(band(root, "s1", 4, "VV").parent)
    packed = pack(root, tmp_path / "packed")
    out = run(packed, tmp_path / "b", on_error="skip")
    assert len(read_skipped(out / "labels" / "skipped.csv")) == 1
    shutil.copy(whole / "BigEarthNet-S1.tar.zst", packed)
    assert contents(run(packed, tmp_path / "b", on_error="skip")) == expected


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_patches_that_no_table_lists(root, tmp_path, on_error):
    table = pd.read_parquet(root / "metadata.parquet")
    lost = row(root, 3)
    table[table["patch_id"] != lost.pair].to_parquet(root / "metadata.parquet")
    packed = pack(root, tmp_path / "packed")
    if on_error == "stop":
        with pytest.raises(UserError, match=r"has no row in the metadata.*complete.*skip"):
            run(packed, tmp_path / "b")
        return
    out = run(packed, tmp_path / "b", on_error="skip")
    assert set(read_skipped(out / "labels" / "skipped.csv")["patch"]) == {lost.s1, lost.s2}
    assert contents(out) == contents(run(root, tmp_path / "a", on_error="skip"))


def test_a_band_that_comes_twice_is_refused(sample, tmp_path):
    packed = pack(sample, tmp_path / "packed", twice=1)
    with pytest.raises(UserError, match=r"\.tif: is in BigEarthNet-S1\.tar\.zst a second time"):
        run(packed, tmp_path / "b", snow=True, cloud_or_shadow=True)


@pytest.mark.parametrize("end", [".tar.zst", ".tar.gz", ".tar"])
@pytest.mark.parametrize("share", [0.4, 0.999])
def test_a_tar_that_is_cut_off_is_named(sample, tmp_path, end, share):
    """Wherever it ends: whole shards stay, and the right tar ends the work."""
    packed = pack(sample, tmp_path / "packed", end=end)
    victim = packed / f"BigEarthNet-S2{end}"
    data = victim.read_bytes()
    os.truncate(victim, int(share * len(data)))
    with pytest.raises(UserError) as caught:
        run(packed, tmp_path / "b")
    text = str(caught.value)
    assert str(victim) in text or "is missing" in text  # a plain tar that ends between members
    assert "\n" not in text and not (tmp_path / "b" / "out").exists()
    victim.write_bytes(data)
    expected = contents(run(sample, tmp_path / "a"))
    assert contents(run(packed, tmp_path / "b")) == expected


def test_a_link_in_a_tar_is_refused(sample, tmp_path):
    packed = pack(sample, tmp_path / "packed", end=".tar")
    with tarfile.open(packed / "BigEarthNet-S1.tar", "a") as tar:
        info = tarfile.TarInfo("BigEarthNet-S1/x")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match="is a link"):
        run(packed, tmp_path / "b")


PROGRAM = """
import sys
from pathlib import Path
from mmfl.patches import streaming, writer
from mmfl.steps import split
writer.CHUNK, streaming.PIECE_BYTES = 1, 100_000
root, folder, workers = sys.argv[1:]
split.run("bigearthnet-v2", root=Path(root), out=Path(folder, "out"), store=Path(folder, "store"),
          shard_size=2, snow=True, cloud_or_shadow=True, on_error="skip", workers=int(workers))
"""


@pytest.mark.parametrize("workers", ["1", "3"])
def test_killed_at_many_moments(root, tmp_path, workers):
    """kill -9 again and again, each time a little later: the same bytes, whole shards are kept."""
    FAULTS[0](root)
    FAULTS[-1](root)
    packed = pack(root, tmp_path / "packed", order=shuffled)
    command = [python(), "-c", PROGRAM]
    whole = [*command, str(root), str(tmp_path / "whole"), "1"]
    subprocess.run(whole, check=True, capture_output=True)
    expected = contents(tmp_path / "whole" / "out")
    folder = tmp_path / "killed"
    kept = 0
    for moment in range(8):
        started = subprocess.Popen(
            [*command, str(packed), str(folder), workers], stderr=subprocess.DEVNULL
        )
        while started.poll() is None and len(list(folder.rglob("[0-9]*.npy"))) < 6 * moment + 1:
            time.sleep(0.001)
        kill(started)
        notes = folder / "store" / ".s1.json"
        if notes.is_file():
            kept = max(kept, len(json.loads(notes.read_text())))
    assert kept > 3
    subprocess.run([*command, str(packed), str(folder), workers], check=True, capture_output=True)
    assert contents(folder / "out") == expected
    assert not list(folder.rglob("*.tmp"))


def test_a_whole_shard_is_not_decoded_again(sample, tmp_path, monkeypatch):
    packed = pack(sample, tmp_path / "packed")
    expected = contents(run(packed, tmp_path / "b"))
    victim = tmp_path / "b" / "store" / "s2" / "20m-00001.npy"
    victim.write_bytes(b"damaged")
    patches = set()
    decode = streaming.read_band

    def counted(path, band, data=None):
        patches.add(path.parent.name)
        return decode(path, band, data)

    monkeypatch.setattr(streaming, "read_band", counted)
    assert contents(run(packed, tmp_path / "b")) == expected
    assert len(patches) == 4  # those of the damaged shard
