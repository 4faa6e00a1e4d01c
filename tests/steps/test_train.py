"""The train step: finished seeds are kept, a killed run ends with the same bits."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers.warm_python import kill, python
from mmfl.errors import UserError
from mmfl.params import Params
from mmfl.steps import partition, train

ARCHIVE, METHOD = "bigearthnet-v2", "mf+fw+mim"
TEXT = """
archives: {bigearthnet-v2: {}}
model: {width: 4, projection: 8}
train:
  seeds: [1]
  methods: [mf, mf+fw+mim]
  size: 16
  rounds: 40
  batch: 4
  bands: {s1: [VV, VH], s2: [B02, B04, B08]}
"""


@pytest.fixture
def project(store, tmp_path, monkeypatch) -> Path:
    """A working directory with a tiny store and its partition, where the commands look for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMFL_CACHE", raising=False)
    folder, _ = store
    (tmp_path / "data/patches").mkdir(parents=True)
    folder.rename(tmp_path / "data/patches" / ARCHIVE)
    out = Path("data/clients", ARCHIVE, "region-duplicate-p0.parquet")
    out.parent.mkdir(parents=True)
    partition.run(
        patches=Path("data/patches", ARCHIVE), out=out, scenario="country", assignment="duplicate"
    )
    Path("params.yaml").write_text(TEXT)
    return tmp_path


def command(
    cache: str, workers: int = 1, threads: int = 1, interpreter: str = sys.executable
) -> subprocess.Popen:
    return subprocess.Popen(
        [interpreter, "-m", "mmfl.cli", "train", "--archive", ARCHIVE, "--method", METHOD,
         "--workers", str(workers)],
        env=os.environ | {"MMFL_CACHE": cache, "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed_at(cache: str, pattern: str) -> Path:
    """Train until a file of the run's work exists, then kill -9; the folder of that work."""
    job = command(cache, interpreter=python())
    while not list(Path(cache).glob(f"train/*/{pattern}")):
        time.sleep(0.005)
    kill(job)
    return next(Path(cache).glob("train/*/.work"))


def run(seeds: list[int], rounds: int = 2) -> None:
    params = Params.model_validate(
        {
            "archives": {ARCHIVE: {}}, "model": {"width": 4, "projection": 8},
            "train": {
                "seeds": seeds, "methods": ["mf"], "size": 16, "rounds": rounds, "batch": 8,
                "bands": {"s1": ["VV"], "s2": ["B02", "B08"]},
            },
        }
    )  # fmt: skip
    train.run(
        params, ARCHIVE, "mf", "default",
        patches=Path("data/patches", ARCHIVE),
        manifest=Path("data/clients", ARCHIVE, "region-duplicate-p0.parquet"),
        out=Path("runs"), measured=Path("measured"), device="cpu",
    )  # fmt: skip


def contents() -> dict[str, str]:
    files = sorted(p for p in Path("runs").rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_bits_of_an_undisturbed_run(project):
    undisturbed = command("undisturbed", interpreter=python())
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    expected = contents()
    Path("runs").rename("before")
    for least, workers in ((3, 1), (10, 2)):
        job = command("killed", workers, threads=3)  # what a process may use changes no bit
        while job.poll() is None:
            found = sorted(Path("killed").glob("train/*/.work/round-*.safetensors"))
            if found and int(found[-1].stem.rpartition("-")[2]) >= least:
                job.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert job.wait() == -signal.SIGKILL
        assert not Path("runs").exists()
    last = command("killed", interpreter=python())
    errors = last.communicate()[1]
    assert last.returncode == 0, errors
    assert contents() == expected
    assert len(expected) == 4
    assert not list(Path("killed").glob("train/*/.work"))


def test_a_checkpoint_of_other_parameters_is_refused_by_the_command(project):
    """Put in the place of another run's, as a copied or renamed cache would."""
    source = killed_at("one", ".work/round-*.safetensors")
    Path("params.yaml").write_text(TEXT.replace("batch: 4", "batch: 5"))
    target = killed_at("two", ".work")
    for path in target.iterdir():
        path.unlink()
    for path in source.glob("*.safetensors"):
        path.rename(target / path.name)
    refused = command("two", interpreter=python())
    errors = refused.communicate()[1]
    assert refused.returncode == 2
    assert "parameters.train.batch: found 4, expected 5" in errors
    assert "run train with --fresh" in errors.splitlines()[-1]


def test_one_more_seed_trains_that_seed_only(project, caplog):
    run([1])
    kept = contents()
    before = {p: p.stat().st_mtime_ns for p in Path(".cache").rglob("model.safetensors")}
    caplog.set_level("INFO")
    run([1, 2])
    after = {p: p.stat().st_mtime_ns for p in Path(".cache").rglob("model.safetensors")}
    assert len(after) == 2 and before.items() <= after.items()
    assert kept.items() <= contents().items()
    assert "seed-1: finished before" in caplog.text and "seed-2: finished" not in caplog.text


def test_what_a_run_writes(project):
    run([1], rounds=3)
    folder = next(Path("runs").rglob("seed-1"))
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.safetensors", "model.safetensors", "rounds.csv", "run.json",
    ]  # fmt: skip
    rows = pd.read_csv(folder / "rounds.csv")
    clients = rows[rows["client"] != "server"]
    assert clients.groupby("round").size().tolist() == [4, 4, 4]
    assert rows[rows["client"] == "server"]["val_score"].between(0, 1).all()
    described = json.loads((folder / "run.json").read_text())
    assert described["bytes_up"] == clients["bytes_up"].sum() > 0
    assert described["rounds"] == 3
    measured = json.loads(next(Path("measured").rglob("seed-1.json")).read_text())
    assert measured["device"] == "cpu" and measured["seconds"] > 0


def test_an_edited_partition_is_refused_and_nothing_is_left(project):
    path = Path("data/clients", ARCHIVE, "region-duplicate-p0.parquet")
    frame = pd.read_parquet(path)
    frame["client"] = frame["client"].str.upper()
    frame.to_parquet(path)
    with pytest.raises(UserError, match="it was edited; run partition again"):
        run([1])
    assert not Path("runs").exists() and not Path(".cache").exists()


def test_a_gpu_that_is_not_there_is_a_users_mistake(project):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    job = subprocess.run(
        [python(), "-m", "mmfl.cli", "train", "--archive", ARCHIVE, "--method", METHOD,
         "--device", "cuda"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == 2
    assert len(job.stderr.strip().splitlines()) == 1 and "cuda" in job.stderr
