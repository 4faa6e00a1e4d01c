"""Jobs of one machine share its GPUs. None is used here: the locks are real, the devices named."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.warm_python import kill, python
from mmfl.errors import UserError
from mmfl.federation import devices as module
from mmfl.federation.devices import claim, devices

SOURCE = Path(__file__).resolve().parents[2] / "src"
JOB = """
import sys, time
from pathlib import Path
from mmfl.federation.devices import claim
count, folder, record = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
with claim(["a", "b", "c"], count, folder) as chosen:
    begun = time.time()
    time.sleep(0.3)
    record.write_text(f"{begun} {time.time()} {' '.join(map(str, chosen))}")
"""


def test_jobs_never_overlap_on_a_device(tmp_path: Path) -> None:
    """Jobs for one and for two of three devices: each starts when its number is free."""
    counts = [2, 1, 2, 1, 2, 1]
    records = [tmp_path / str(i) for i in range(len(counts))]
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    jobs = [
        subprocess.Popen([python(), "-c", JOB, str(count), str(tmp_path / "locks"), record],
                         env=env)
        for count, record in zip(counts, records, strict=True)
    ]  # fmt: skip
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    held = [record.read_text().split() for record in records]
    assert [len(places) for _, _, *places in held] == counts
    spans = [(float(a), float(b), place) for a, b, *places in held for place in places]
    for i, (a, b, place) in enumerate(spans):
        for c, d, other in spans[i + 1 :]:
            assert place != other or b <= c or d <= a, "two jobs had one device at a time"


def test_a_killed_job_frees_its_device(tmp_path: Path) -> None:
    code = JOB.replace("time.sleep(0.3)", "record.touch(); time.sleep(6000)")
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [python(), "-c", code, "3", str(tmp_path / "locks"), str(tmp_path / "held")]
    job = subprocess.Popen(command, env=env)
    while not (tmp_path / "held").exists():
        assert job.poll() is None
        time.sleep(0.05)
    kill(job)
    with claim(["a", "b", "c"], 3, tmp_path / "locks") as chosen:
        assert chosen == [0, 1, 2]


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three devices by name, the second of which another job holds."""
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    uuid = lambda i: SimpleNamespace(uuid=f"GPU-{i}")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", uuid)


@pytest.mark.usefixtures("three_gpus")
def test_a_job_takes_as_many_free_devices_as_it_asks_for(tmp_path: Path) -> None:
    with claim(["GPU-1"], 1, tmp_path / module.LOCKS):
        with devices("auto") as first, devices("auto") as second:
            assert [first, second] == [[torch.device("cuda:0")], [torch.device("cuda:2")]]
        with devices("cuda", 2) as both:
            assert both == [torch.device("cuda:0"), torch.device("cuda:2")]
        with devices("auto", 0) as none:
            assert none == [torch.device("cpu")]
    with pytest.raises(UserError, match=r"--gpus: found 4, expected at most the 3 CUDA devices"):
        devices("auto", 4).__enter__()


def test_without_cuda_the_processor_is_used() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with devices("auto", 2) as chosen:
        assert chosen == [torch.device("cpu")]
    with pytest.raises(UserError, match=r"--device: found no CUDA device"):
        devices("cuda").__enter__()
    with pytest.raises(UserError, match=r"--device: found tpu, expected auto, cpu or cuda"):
        devices("tpu").__enter__()
