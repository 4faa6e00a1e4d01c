"""Nothing damaged is trained on or scored: every file, every way, before and during a run."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.store_digests import seal
from helpers.tile_store import make_tiles
from mmfl.cache import root as cache_root
from mmfl.clients.manifest import read_manifest, write_manifest
from mmfl.errors import UserError
from mmfl.federation import task
from mmfl.federation.tiles import open_data
from mmfl.files import file_sha256, read_json
from mmfl.params import Params
from mmfl.patches.labels import Store
from mmfl.steps import evaluate, partition, train

ARCHIVE = "bigearthnet-v2"
BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B11"]}
PARAMS = Params.model_validate(
    {
        "archives": {ARCHIVE: {}},
        "model": {"width": 4, "projection": 8},
        "train": {"seeds": [1], "methods": ["mf"], "size": 16, "rounds": 2, "batch": 8,
                  "bands": BANDS},
        "evaluate": {"rates": [0]},
    }
)  # fmt: skip
PATCHES, CLIENTS = Path("patches"), Path("clients.parquet")
MESSAGE = r"mmfl split --archive bigearthnet-v2` writes it again$"


@pytest.fixture(scope="module")
def partitioned(made_store, tmp_path_factory) -> Path:
    """A working directory with `PATCHES` and `CLIENTS`; to be read only."""
    folder = tmp_path_factory.mktemp("partitioned")
    shutil.copytree(made_store[0], folder / PATCHES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        partition.run(patches=PATCHES, out=CLIENTS, scenario="country", assignment="duplicate")
    return folder


@pytest.fixture
def project(partitioned, made_store, tmp_path, monkeypatch) -> pd.DataFrame:
    """A copy of it to change; the table of locations."""
    shutil.copytree(partitioned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMFL_CACHE", raising=False)
    return made_store[1].copy()


def trained() -> Path:
    """Train; the folder of the run."""
    train.run(
        PARAMS, ARCHIVE, "mf", "default", patches=PATCHES, manifest=CLIENTS, device="cpu",
        out=Path("runs"), measured=Path("measured"),
    )  # fmt: skip
    return next(Path("runs").rglob("seed-1"))


def scored() -> Path:
    evaluate.run(
        PARAMS, ARCHIVE, "mf", "default", patches=PATCHES, manifest=CLIENTS, device="cpu",
        trained=Path("runs"), out=Path("scores"),
    )  # fmt: skip
    return next(Path("scores").rglob("seed-1"))


def opened():
    return open_data(PATCHES, read_manifest(CLIENTS), BANDS, 16)


def flip(path: Path) -> None:
    """A bit of the last tenth, in place; the time of the file as before."""
    before = path.stat()
    with path.open("r+b") as handle:
        handle.seek(path.stat().st_size * 9 // 10)
        (byte,) = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


SHARDS = ["s1/10m-00000.npy", "s2/10m-00000.npy", "s2/20m-00000.npy"]
TABLES = ["s1/index.parquet", "s2/modality.json", "labels/index.parquet", "labels/classes.json"]


@pytest.mark.parametrize("change", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", [*SHARDS, *TABLES])
def test_damage_before_a_run(project, name, change):
    change(PATCHES / name)
    with pytest.raises(UserError, match=f"{name}: .*{MESSAGE}") as caught:
        opened()
    assert "\n" not in str(caught.value)
    if name in TABLES and name != "s2/modality.json":
        with pytest.raises(UserError, match=f"{name}: .*{MESSAGE}"):
            partition.run(patches=PATCHES, out=CLIENTS, scenario="country", assignment="duplicate")


@pytest.mark.parametrize("change", [flip, cut, empty, Path.unlink])
def test_a_damaged_list_of_digests(project, change):
    change(PATCHES / "store.json")
    with pytest.raises(UserError, match=r"store\.json: .*run split|damaged: found"):
        opened()


def test_bands_that_nobody_asked_for_are_not_read(project):
    """A shard of a resolution without any band of the run."""
    flip(PATCHES / "s2/60m-00000.npy")
    opened()


def swap(one: str, other: str) -> None:
    a, b = PATCHES / one, PATCHES / other
    shutil.move(a, "kept")
    shutil.move(b, a)
    shutil.move("kept", b)


def another_order(name: str) -> None:
    """Rows that say of each location what is another one's."""
    table = pd.read_parquet(PATCHES / name)
    column = "labels" if "labels" in table else "row"
    table[column] = table[column].to_numpy()[::-1]
    table.to_parquet(PATCHES / name, index=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda: swap("s1/index.parquet", "s2/index.parquet"),
        lambda: swap("s1/modality.json", "s2/modality.json"),
        lambda: swap("s2/10m-00000.npy", "s2/20m-00000.npy"),
        lambda: swap("labels/index.parquet", "s1/index.parquet"),
        lambda: swap("s1", "s2"),
        lambda: another_order("s1/index.parquet"),
        lambda: another_order("labels/index.parquet"),
    ],
)
def test_files_in_each_others_place(project, change):
    change()
    with pytest.raises(UserError, match=rf"patches/\w+/[\w-]+\.\w+: damaged: .*{MESSAGE}"):
        opened()


@pytest.mark.parametrize("part", ["s1", "labels", "s1/index.parquet", "labels/index.parquet"])
def test_a_part_of_another_archive(project, tmp_path, part):
    """Sound in itself, and with the same names of locations."""
    from helpers.patch_store import make_store

    make_store(tmp_path / "other", seed=7, lonely=3)
    target = PATCHES / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.move(tmp_path / "other" / part, target)
    with pytest.raises(UserError, match=rf"patches/\S+: damaged: .*{MESSAGE}"):
        opened()


def test_all_of_another_archive(project):
    """Nothing is damaged, but it is not what was asked for."""
    seal(PATCHES, "another")
    opened()
    for step in (trained, scored):
        with pytest.raises(UserError, match=r"store\.json: holds the archive another, expected"):
            step()
    assert not Path("runs").exists() and not Path("scores").exists()


# ---- partitions of other patches ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.assign(pair="x" + m["pair"]), "no such location where .* has xpair-0"),
        (lambda m: m.assign(split="train"), "found (test|validation) where .* in train"),
        (lambda m: m.assign(modality="s1"), "s1: has no patch of the pairs pair-000"),
    ],
)
def test_a_partition_of_other_patches(project, change, message):
    """Its own digest fits."""
    write_manifest(CLIENTS, change(read_manifest(CLIENTS)))
    with pytest.raises(UserError, match=f"{message}.*partition again$"):
        opened()


# ---- during a run ------------------------------------------------------------------------------


def replace_by_another(path: Path) -> None:
    pixels = np.load(path)
    np.save(path.with_name("new.npy"), pixels[::-1])
    os.replace(path.with_name("new.npy"), path)


def restored(path: Path, kept: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(kept)


@pytest.mark.parametrize("change", [flip, cut, empty, Path.unlink, replace_by_another])
def test_damage_while_a_seed_trains(project, monkeypatch, change):
    """In its second round. Put right, it goes on and ends with the bits of an undisturbed run."""
    expected = {p.name: file_sha256(p) for p in trained().iterdir()}
    shutil.rmtree("runs")
    shutil.rmtree(cache_root() / "train")
    victim = PATCHES / "s1/10m-00000.npy"
    kept, rounds, validate = victim.read_bytes(), [], task.Classification.validate

    def disturbed(self, ensembles):
        rounds.append(1)
        if len(rounds) == 2:
            change(victim)
        return validate(self, ensembles)

    monkeypatch.setattr(task.Classification, "validate", disturbed)
    with pytest.raises(UserError, match=rf"s1/10m-00000\.npy: .*{MESSAGE}"):
        trained()
    work = next((cache_root() / "train").glob("*/.work"))
    assert sorted(p.name for p in work.glob("round-*")) == ["round-00001.safetensors"]
    assert not Path("runs").exists()
    restored(victim, kept)
    assert {p.name: file_sha256(p) for p in trained().iterdir()} == expected


@pytest.mark.parametrize("name", [*SHARDS, *TABLES, "store.json"])
def test_damage_while_a_run_is_scored(project, monkeypatch, name):
    trained()
    rows = evaluate.own_rows

    def disturbed(*given):
        flip(PATCHES / name)
        return rows(*given)

    monkeypatch.setattr(evaluate, "own_rows", disturbed)
    with pytest.raises(UserError, match=rf"{name}: .*{MESSAGE}"):
        scored()
    assert not Path("scores").exists()


def test_patches_other_than_those_of_the_training(project):
    trained()
    path = PATCHES / "s1/10m-00000.npy"
    pixels = np.load(path)
    np.save(path, pixels[::-1])
    seal(PATCHES)
    with pytest.raises(UserError, match="trained on other patches than those in patches; run tra"):
        scored()


def test_a_run_is_trained_again_for_other_patches(project):
    """And only then."""
    first = file_sha256(trained() / "model.safetensors")
    assert file_sha256(trained() / "model.safetensors") == first
    path = PATCHES / "s1/10m-00000.npy"
    pixels = np.load(path)
    np.save(path, pixels[::-1])
    seal(PATCHES)
    assert file_sha256(trained() / "model.safetensors") != first


# ---- trained models ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.safetensors"], "model.safetensors: damaged: found"),
        (["run.json"], "run.json: seed: found [12], expected [12]; run train"),
        (["model.safetensors", "run.json", "best.safetensors", "rounds.csv"], "run.json: seed: "),
    ],
)
def test_files_of_another_seed(project, monkeypatch, names, message):
    """Sound in themselves: a model's own digest fits."""
    section = PARAMS.train.model_copy(update={"seeds": [1, 2]})
    monkeypatch.setitem(globals(), "PARAMS", PARAMS.model_copy(update={"train": section}))
    one = trained()
    other = one.with_name("seed-2")
    for name in names:
        content = (one / name).read_bytes(), (other / name).read_bytes()
        for path, data in zip((other / name, one / name), content, strict=True):
            path.unlink()
            path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        scored()
    assert not Path("scores").exists()


def test_scores_are_listed_by_digest(project):
    """With the digest of the run that they are of."""
    run, folder = trained(), scored()
    listed = read_json(folder / "evaluation.json", "evaluate")
    names = {path.name for path in folder.iterdir()} - {"evaluation.json"}
    assert listed["files"] == {name: file_sha256(folder / name) for name in names}
    assert listed["run"] == file_sha256(run / "run.json")


def test_the_best_round_in_place_of_the_last(project):
    folder = trained()
    content = (folder / "best.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content + b"\0")
    with pytest.raises(UserError, match=r"model\.safetensors: damaged: .*; run train again$"):
        scored()
    trained()
    scored()


# ---- tiles and masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", ["mask", "s2"])
def test_damaged_tiles(tmp_path, monkeypatch, name, change):
    monkeypatch.chdir(tmp_path)
    make_tiles(PATCHES)
    partition.run(patches=PATCHES, out=CLIENTS, scenario="country", assignment="duplicate")
    data = open_data(PATCHES, read_manifest(CLIENTS), {"s1": ["VV"], "s2": ["B02"]}, 16)
    samples = data.clients[-1].train["s2"]
    images = data.batch("s2", samples)
    victim = next((PATCHES / name).glob("*-00003.npy"))
    change(victim)
    with pytest.raises(UserError, match=rf"{victim}: .*mmfl split"):
        data.unchanged()
    if change in (cut, empty):  # what is read next is an error, and not the end of the process
        with pytest.raises(UserError, match=rf"{victim}: damaged( shard \(ends after|: found)"):
            for location in np.flatnonzero(data.present["s2"]):
                data.tile("s2", location)
                data.mask(location)
    with pytest.raises(UserError, match=rf"{victim}: .*mmfl split"):
        open_data(PATCHES, read_manifest(CLIENTS), {"s1": ["VV"], "s2": ["B02"]}, 16)
    assert torch.isfinite(images[~images.isnan()]).all()


def test_every_describing_file_is_listed(project):
    """With the digest of the whole store in `store.json`."""
    found = Store(PATCHES)
    there = {p.relative_to(PATCHES).as_posix() for p in PATCHES.rglob("*") if p.is_file()}
    assert set(found.files) == {n for n in there if not n.endswith(".npy")} - {"store.json"}
    assert found.modalities == ["s1", "s2"] and found.archive == ARCHIVE
    assert found.sha256 == file_sha256(PATCHES / "store.json")
