"""`make sync` names finished work exactly as the steps do."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import mmfl.clients.manifest
import mmfl.pipeline.units
import mmfl.steps.split
import mmfl.steps.train
from helpers.stub_project import ROOT
from mmfl import cli
from mmfl.files import write_json
from mmfl.intact import digests
from mmfl.params import clients_name, load, runs
from mmfl.patches.labels import write_store

ARCHIVE = "simulated"


class Recorder:
    """Stands for a finished unit and remembers its key."""

    made: list[tuple[str, str]]

    def __init__(self, step: str, key: str) -> None:
        Recorder.made.append((step, key))
        self.path = self.folder = Path("unit")
        self.done = True

    def materialise(self, out: Path) -> None: ...

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def sync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sync", ROOT / "workflow/scripts/sync.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs of split and partition as far as keys need them."""
    params = load(ROOT / "params.yaml")
    Recorder.made = []
    monkeypatch.chdir(tmp_path)
    for name in (
        f"data/raw/{ARCHIVE}/files.csv",
        f"data/raw/{ARCHIVE}/scenes.csv",
        f"data/patches/{ARCHIVE}/s1/modality.json",
        f"data/clients/{ARCHIVE}/{clients_name(params)}.parquet",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    (tmp_path / "raw").mkdir()
    raw = tmp_path / f"data/raw/{ARCHIVE}"
    (raw / "files.csv").write_text("name,bytes,sha256\n")
    listed = digests(raw, ("files.csv", "scenes.csv"))
    write_json(raw / "root.json", {"root": "raw", "files": listed})
    write_store(tmp_path / "data/patches" / ARCHIVE, ARCHIVE)
    return tmp_path


def test_runs_have_the_keys_of_the_train_step(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load(ROOT / "params.yaml")
    for module in (mmfl.clients.manifest, mmfl.steps.train):
        monkeypatch.setattr(module, "read_manifest", lambda path: SimpleNamespace())
        monkeypatch.setattr(module, "content_hash", lambda frame: "hash")
    monkeypatch.setattr(mmfl.pipeline.units, "Unit", Recorder)
    patches = Path("data/patches", ARCHIVE)
    table = Path("data/clients", ARCHIVE, clients_name(params) + ".parquet")
    for method, variant in dict.fromkeys((r.method, r.variant) for r in runs(params, ARCHIVE)):
        mmfl.steps.train.run(
            params, ARCHIVE, method, variant,
            patches=patches, manifest=table, out=Path("runs"), measured=Path("measured"),
        )  # fmt: skip
    trained, Recorder.made = Recorder.made, []
    assert sync.restore_runs(params, ARCHIVE) == 0
    assert Recorder.made == trained
    assert len(set(trained)) == len(runs(params, ARCHIVE))


def test_shards_have_the_key_of_the_split_step(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmfl.pipeline.units, "Unit", Recorder)
    monkeypatch.setattr(mmfl.steps.split, "run", lambda *args, **values: None)
    cli.split(ARCHIVE, ROOT / "params.yaml")
    params = load(ROOT / "params.yaml")
    assert sync.restore_split(params, ARCHIVE)  # s1, which the unit lacks
    assert Recorder.made[0] == Recorder.made[1]
    Path("data/raw", ARCHIVE, "scenes.csv").write_text("other scenes")
    sync.restore_split(params, ARCHIVE)
    assert Recorder.made[2] != Recorder.made[0]
