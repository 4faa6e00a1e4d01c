"""`mmfl inspect`: what it counts is what is there, and every kind of damage is named."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from helpers.store_digests import seal
from mmfl import cli, intact
from mmfl.archives import get
from mmfl.inspection.recognise import inspect
from mmfl.intact import State, digests
from mmfl.patches.labels import Store, write_store
from mmfl.steps import partition, split

V2 = get("bigearthnet-v2")


@pytest.fixture
def archive(samples, tmp_path) -> Path:
    shutil.copytree(samples / "bigearthnet-v2-sample", tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture
def made(archive, tmp_path) -> Path:
    """data/patches and data/clients of the real sample."""
    split.run(
        "bigearthnet-v2", root=archive, out=tmp_path / "data/patches/bigearthnet-v2",
        store=tmp_path / "store", shard_size=5, snow=True, cloud_or_shadow=True,
    )  # fmt: skip
    out = tmp_path / "data/clients/bigearthnet-v2/region-duplicate-p0.parquet"
    partition.run(
        patches=tmp_path / "data/patches/bigearthnet-v2", out=out, scenario="country",
        assignment="duplicate",
    )  # fmt: skip
    return tmp_path / "data"


def test_a_sound_archive(archive, tmp_path):
    found = inspect(archive, full=True)
    text = found.text()
    assert not found.damage and text.endswith("Nothing is damaged.")
    assert re.search(r"Patches read +48 of 48", text) and len(found.gallery.places) == 12
    assert re.search(r"Austria +7 +7 +7", text) and "Broad-leaved forest" in text
    found.write_page(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png" in page and not re.search(r'(src|href)="(?!data:|#)', page)


def test_archive_by_its_download(archive, tmp_path):
    raw = tmp_path / "data/raw/bigearthnet-v2"
    raw.mkdir(parents=True)
    (raw / "root.json").write_text(json.dumps({"root": str(archive)}))
    assert inspect(raw).title == "Archive bigearthnet-v2"


def band(root: Path, q: str, number: int, name: str) -> Path:
    return V2.band_path(root, q, V2.metadata(root)[q].iloc[number], name)


def test_a_damaged_archive(archive):
    cut, gone = band(archive, "s2", 3, "B05"), band(archive, "s1", 6, "VV")
    os.truncate(cut, 3000)
    gone.unlink()
    folder = band(archive, "s2", 9, "B02").parent
    shutil.rmtree(folder)
    stranger = folder.with_name(folder.name[:-5] + "88_88")
    stranger.mkdir()
    found = inspect(archive, full=True)
    text = found.text()
    assert len(found.damage) == 4 and "Damaged: 4" in text
    for path in (cut, gone, folder, stranger):
        assert f"{path}: " in text


def test_a_sound_store_and_partition(made, tmp_path):
    found = inspect(made / "patches/bigearthnet-v2")
    assert not found.damage and len(found.gallery.places) == 12
    assert re.search(r"With every modality +24", found.text())
    path = made / "clients/bigearthnet-v2/region-duplicate-p0.parquet"
    found = inspect(path)
    assert not found.damage and "austria-s1" in found.text() and len(found.gallery.places) == 12
    found.write_page(tmp_path / "p.html")
    assert "<svg" in (tmp_path / "p.html").read_text()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path) -> None:
    table = pq.read_table(path)
    names = pa.array([name.upper() for name in table["client"].to_pylist()])
    pq.write_table(table.set_column(0, "client", names), path)


def grow(path: Path) -> None:
    frame = pd.read_parquet(path)
    pd.concat([frame, frame.assign(row=99, pair=frame["pair"] + "x")]).to_parquet(path)


DIGEST = "damaged: found SHA-256"


@pytest.mark.parametrize(
    ("name", "break_it", "match"),
    [
        ("s2/20m-00001.npy", flip, DIGEST),
        ("s1/10m-00000.npy", lambda p: os.truncate(p, 5000), DIGEST),
        ("s1/10m-00000.npy", lambda p: os.truncate(p, 0), DIGEST),
        ("s2/60m-00004.npy", Path.unlink, "is missing"),
        ("s2/index.parquet", Path.unlink, "is missing"),
        ("s2/index.parquet", grow, DIGEST),
        ("s1/modality.json", lambda p: p.write_text("{}"), DIGEST),
        ("labels/index.parquet", lambda p: p.write_bytes(b"PAR1"), DIGEST),
        ("labels/classes.json", flip, DIGEST),
        ("labels/skipped.csv", lambda p: p.write_text("a,b\n"), DIGEST),
    ],
)
def test_a_damaged_store(made, name, break_it, match):
    folder = made / "patches/bigearthnet-v2"
    break_it(folder / name)
    found = inspect(folder)
    assert any(
        f"{folder / name}: {match}" in line and "`mmfl split --archive bigearthnet-v2`" in line
        for line in found.damage
    ), found.damage
    assert str(folder) in found.text()


@pytest.mark.parametrize(
    ("name", "break_it", "match"),
    [
        ("s1/10m-00002.npy", lambda p: np.save(p, np.zeros(3)), "expected ('float32'"),
        ("s2/index.parquet", grow, "24 rows lie in no shard"),
        ("s1/modality.json", lambda p: p.write_text("{}"), "s1: not readable"),
        ("labels/skipped.csv", lambda p: p.write_text("a,b\n"), "skipped.csv: found a, b"),
        ("store.json", lambda p: p.write_text("{}"), "store.json: lists no digests"),
    ],
)
def test_files_that_do_not_belong_together(made, name, break_it, match):
    """Each as its digest says."""
    folder = made / "patches/bigearthnet-v2"
    break_it(folder / name)
    if name == "s1/modality.json":
        write_store(folder, "bigearthnet-v2")
    elif name != "store.json":
        seal(folder)
    found = inspect(folder)
    assert any(match in line for line in found.damage), found.damage


@pytest.mark.parametrize(
    ("end", "break_it", "match"),
    [
        (".parquet", edit, "does not fit its hash"),
        (".parquet", lambda p: os.truncate(p, 700), "not a partition"),
        (".json", lambda p: p.write_text("{}"), "is of another partition"),
        (".json", Path.unlink, "not found; run partition"),
        (".csv", lambda p: p.write_text(""), "not readable"),
        (".csv", lambda p: p.write_text("client\nx\n"), "is of another partition"),
    ],
)
def test_a_damaged_partition(made, end, break_it, match):
    path = made / "clients/bigearthnet-v2/region-duplicate-p0.parquet"
    break_it(path.with_suffix(end))
    found = inspect(path)
    assert any(re.search(match, line) for line in found.damage), found.damage


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "seed-1"
    folder.mkdir()
    described = {"method": "mf", "seed": 1, "rounds": 2, "parameters_count": 6,
                 "parameters": {"train": {"batch": 4}}}  # fmt: skip
    for name in ("model", "best"):
        save_file({"a": np.ones((2, 3), np.float32)}, folder / f"{name}.safetensors")
    (folder / "rounds.csv").write_text(
        "round,client,loss,bytes_up,bytes_down,val_score\n1,a,0.5,3,4,\n1,server,,,,0.25\n"
        "2,a,0.25,3,4,\n2,server,,,,0.5\n"
    )
    described["files"] = digests(folder, ["model.safetensors", "best.safetensors", "rounds.csv"])
    (folder / "run.json").write_text(json.dumps(described))
    return folder


def test_a_sound_run(run):
    found = inspect(run)
    assert not found.damage and found.title == "Run mf, seed 1"
    assert re.search(r"2 +1 +0.25 +3 +4 +0.5", found.text()) and "train.batch" in found.text()


@pytest.mark.parametrize(
    ("name", "break_it", "match"),
    [
        ("model.safetensors", lambda p: os.truncate(p, 40), "not readable"),
        ("model.safetensors", Path.unlink, "not readable"),
        (
            "model.safetensors",
            lambda p: save_file({"a": np.full((2, 3), np.nan, np.float32)}, p),
            "a holds NaN or infinity",
        ),
        ("best.safetensors", lambda p: save_file({"a": np.ones(2)}, p), "expected at least 6"),
        ("best.safetensors", flip, f"best.safetensors: {DIGEST}"),
        ("rounds.csv", lambda p: p.write_text(p.read_text().replace("25", "75")), DIGEST),
        ("run.json", lambda p: p.write_text("{"), "run.json: not readable"),
        ("run.json", lambda p: p.write_text("{}"), "lists no digests of its files; run train"),
        ("rounds.csv", lambda p: p.write_bytes(os.urandom(50)), "rounds.csv: not readable"),
        (
            "rounds.csv",
            lambda p: p.write_text(p.read_text().split("2,a")[0]),
            "ends at round 1 of 2",
        ),
    ],
)
def test_a_damaged_run(run, name, break_it, match):
    break_it(run / name)
    found = inspect(run)
    assert any(match in line for line in found.damage), found.damage


def test_what_was_right_before_is_read_again(made, monkeypatch):
    """A bit may change on a disk without anything being written; train trusts its memory."""
    folder = made / "patches/bigearthnet-v2"
    shards = {path: intact.sha256(path)[1] for path in folder.glob("*/*.npy")}
    monkeypatch.setattr(intact, "_remembered", lambda p: (State.of(p.stat()), shards[p]))
    flip(folder / "s2/20m-00001.npy")
    Store(folder).watch.check(shards)
    (damage,) = inspect(folder).damage
    assert damage.startswith(f"{folder}/s2/20m-00001.npy: {DIGEST}")


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mmfl", "inspect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_exit_status(run, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, str(run), "--page", str(tmp_path / "p.html")) == 0
    assert (tmp_path / "p.html").is_file() and "Nothing is damaged." in capsys.readouterr().out
    (run / "rounds.csv").unlink()
    assert command(monkeypatch, str(run)) == 1
    for path in (tmp_path / "nothing", tmp_path / "p.html", tmp_path):
        assert command(monkeypatch, str(path)) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_tars_are_said_not_to_be_looked_into(archive, tmp_path):
    root = tmp_path / "packed"
    root.mkdir()
    for item in archive.iterdir():
        if item.name == "BigEarthNet-S1":
            (root / "BigEarthNet-S1.tar.zst").write_bytes(b"")
        else:
            (root / item.name).symlink_to(item)
    found = inspect(root, full=True)
    assert any("BigEarthNet-S1.tar.zst" in note for note in found.notes)
    assert not found.damage and found.facts["Patches read"].startswith("24 of 48")
