"""Failing rules, killed runs, full disks, two users: what is said, and what is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.project_copy import copy_project
from helpers.stub_project import ROOT, Project
from helpers.warm_python import python

pytestmark = pytest.mark.slow

SMALL = """
archives: {simulated: {}}
simulate: {pairs: 60, countries: [Austria], unpaired: 0.0}
model: {width: 8, projection: 16}
train: {seeds: [1], methods: [mf], size: 16, rounds: 3, batch: 16}
evaluate: {rates: [0, 100]}
"""


def start(project: Project, interpreter: str = sys.executable, **env: str) -> subprocess.Popen[str]:
    """A Snakemake run in a process group of its own."""
    return subprocess.Popen(
        [interpreter, "-m", "snakemake", "--cores", "1"],
        cwd=project.folder, env=os.environ | env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(path: Path, run: subprocess.Popen[str]) -> None:
    """Until a file is there, which a run makes."""
    while not path.exists():
        assert run.poll() is None, f"{path} did not appear"
        time.sleep(0.05)


def mmfl(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command in a copy of the project."""
    return subprocess.run(
        [python(), "-m", "mmfl.cli", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder / "src")} | env,
        text=True, capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture
def stub(fresh: Project, tmp_path: Path) -> Project:
    return fresh.copy(tmp_path / "project")


def test_a_killed_run_leaves_no_lock(stub: Project) -> None:
    run = start(stub, STUB_WAITS="go on")
    wait_for(stub.folder / "calls.txt", run)
    assert list((stub.folder / ".snakemake/locks").iterdir())
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    said = stub.snakemake()
    assert "mmfl: a run that was killed left locks, removed: no other process runs here" in said
    assert stub.wanted() == {}
    assert "left locks" not in stub.snakemake()


def test_two_users_in_one_copy(stub: Project) -> None:
    first = start(stub, STUB_WAITS="go on")
    wait_for(stub.folder / "calls.txt", first)
    second = stub.run("snakemake", "--cores", "1")
    assert second.returncode == 1
    who = rf"mmfl: this copy is in use by \w+ \(process {first.pid} on .*\); wait for it"
    assert re.search(who, second.stdout), second.stdout
    assert "LockException" in second.stdout
    stage = [python(), "workflow/scripts/stage.py"]
    subprocess.run([*stage, "start", "all"], cwd=stub.folder, check=True)
    dvc = [*stage, "download", "simulated"]
    third = subprocess.run(dvc, cwd=stub.folder, capture_output=True, text=True, check=False)
    assert third.returncode != 0 and "in use by" in third.stdout + third.stderr
    (stub.folder / "go on").touch()
    assert first.wait() == 0, "the first run is not disturbed"
    assert len(stub.calls()) == len(set((stub.folder / "calls.txt").read_text().splitlines()))


def test_a_dry_run_beside_a_run_may_look(stub: Project) -> None:
    first = start(stub, python(), STUB_WAITS="go on")
    wait_for(stub.folder / "calls.txt", first)
    assert stub.run("snakemake", "--dry-run").returncode == 0
    (stub.folder / "go on").touch()
    assert first.wait() == 0


def test_a_failed_rule_says_why_and_how_to_run_it_alone(stub: Project) -> None:
    done = stub.run("snakemake", "--cores", "1", STUB_FAILS="evaluate")
    assert done.returncode == 1
    assert "mmfl evaluate: exit status 3; the end of logs/evaluate/simulated/" in done.stdout
    assert "    the last line of evaluate" in done.stdout
    assert "line 5 of evaluate" not in done.stdout, "the end only"
    line = re.search(r"To run it alone: (mmfl evaluate .*)", done.stdout)
    assert line, done.stdout
    assert not list((stub.folder / "scores").rglob("*.csv")), "nothing half-written"
    alone = line[1].replace("mmfl", "mmfl.cli", 1).split()
    assert stub.run(*alone, PYTHONPATH=str(stub.folder / "src")).returncode == 0
    assert list((stub.folder / "scores").rglob("*.csv"))


def test_a_job_killed_by_a_signal_names_it(stub: Project) -> None:
    done = stub.run("snakemake", "--cores", "1", STUB_FAILS="train", STUB_SIGNAL="9")
    assert "mmfl train: signal KILL; the end of logs/train/" in done.stdout
    assert not list((stub.folder / "runs").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real project, ready to train."""
    project = copy_project(tmp_path_factory.mktemp("failures"))
    (project / "params.yaml").write_text(SMALL)
    for step in ("simulate", "download", "split", "partition"):
        done = mmfl(project, step, "--archive", "simulated")
        assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root: full disks are not tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


TRAIN = ("train", "--archive", "simulated", "--method", "mf")


def test_a_full_disk_is_one_line_and_training_goes_on_later(partitioned: Path, disk: Path) -> None:
    done = mmfl(partitioned, *TRAIN, MMFL_CACHE=str(disk))
    assert done.returncode == 2, done.stderr
    assert re.search(rf"^mmfl: {disk}.*: .*No space left on device", done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert not list(partitioned.glob("runs/**/*.safetensors"))
    assert not list(disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert mmfl(partitioned, *TRAIN, MMFL_CACHE=str(disk)).returncode == 0
    there = next(partitioned.glob("runs/**/model.safetensors")).read_bytes()
    mmfl(partitioned, *TRAIN, MMFL_CACHE=str(disk.parent / "other"))
    assert next(partitioned.glob("runs/**/model.safetensors")).read_bytes() == there


def test_a_read_only_cache_gives_what_it_has_and_takes_nothing(
    partitioned: Path, disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert mmfl(partitioned, *TRAIN, MMFL_CACHE=str(disk)).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = mmfl(partitioned, *TRAIN, MMFL_CACHE=str(disk))
    assert done.returncode == 0 and "finished before" in done.stderr
    (partitioned / "other.yaml").write_text(SMALL.replace("rounds: 3", "rounds: 2"))
    done = mmfl(partitioned, *TRAIN, "--params", "other.yaml", MMFL_CACHE=str(disk))
    assert done.returncode == 2
    assert re.search(rf"^mmfl: {disk}/.*: Read-only file system; expected one", done.stderr, re.M)


def test_two_jobs_never_train_one_unit(partitioned: Path, tmp_path: Path) -> None:
    """The job of a killed run may still live when the next one starts."""
    env = os.environ | {"PYTHONPATH": str(partitioned / "src"), "MMFL_CACHE": str(tmp_path / "c")}
    command = [sys.executable, "-m", "mmfl.cli", *TRAIN]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=partitioned, env=env, stderr=subprocess.PIPE, text=True
        )

    first = start()
    while not list((tmp_path / "c/train").glob("[!.]*")):  # the lock is held
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    second = start()
    assert second.stderr
    said = ""
    while "waiting for another process that works on" not in said:
        line = second.stderr.readline()
        assert line, said
        said += line
    first.send_signal(signal.SIGCONT)
    ended = [job.communicate()[1] for job in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ended
    assert "waiting" not in ended[0] and "finished before" in ended[1]
    assert len(list((tmp_path / "c/train").glob("*/run.json"))) == 1


def test_the_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    """They would wait for work for ever, and hold the lock of the unit."""
    (tmp_path / "work.py").write_text(
        "import os, time\ndef pid(_):\n    time.sleep(0.2)\n    return os.getpid()\n"
    )
    code = (
        "import time\nfrom work import pid\nfrom mmfl.processes import pool\n"
        "with pool(2) as processes:\n"
        "    print(*set(processes.map(pid, range(8))), flush=True)\n"
        "    time.sleep(60)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):  # for ever, if one stays
        time.sleep(0.05)
