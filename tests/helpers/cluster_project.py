"""A copy of the project on the one-node cluster, and what happens in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from helpers.project_copy import ROOT, copy_project
from helpers.warm_python import python
from mmfl.errors import DamagedFile
from mmfl.federation import checkpoint

HERE = Path(__file__).parents[1] / "cluster"
PATIENCE = 600  # seconds that anything here may take
STARTED: list[subprocess.Popen] = []
BODIES: list[Path] = []  # of each site; its jobs inherit the name


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of a condition; an assertion error after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {patience} s in vain: {what}")


class Site:
    """A copy of the project whose profile polls soon; every mmfl process in it is recorded."""

    def __init__(self, folder: Path, params: dict | None = None, **train: str) -> None:
        self.folder = copy_project(folder)
        self.python = sys.executable  # another one where nothing is killed
        self.bodies_file = folder / "bodies.jsonl"
        self.methods: dict[Path, str] = {}  # of the units in which a run is in progress
        BODIES.append(self.bodies_file)
        self.profile = folder / "profiles/slurm/profile.yaml"
        values = self.values() | {"slurm-init-seconds-before-status-checks": 1}
        values["set-resources"]["train"] |= train
        self.edit_profile(**values)
        if params is not None:
            (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def values(self) -> dict[str, Any]:
        return yaml.safe_load(self.profile.read_text())

    def edit_profile(self, **values: Any) -> None:
        self.profile.write_text(yaml.safe_dump(self.values() | values, sort_keys=False))

    def start(self, *command: str, log: str, **env: str) -> subprocess.Popen:
        """Start `python -m <command>` in the folder; what it prints goes to a file."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "MMFL"))}
        clean |= {
            "MMFL_TEST_BODIES": str(self.bodies_file),
            "PYTHONPATH": str(HERE / "recorder"),
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}:/usr/sbin",
        }
        with (self.folder / log).open("w") as out:
            process = subprocess.Popen(
                [self.python, "-m", *command], cwd=self.folder, env=clean | env,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        STARTED.append(process)
        return process

    def snakemake(self, *arguments: str, log: str = "run.txt") -> subprocess.Popen:
        return self.start("snakemake", "--profile", "profiles/slurm", *arguments, log=log)

    def said(self, log: str = "run.txt") -> str:
        return (self.folder / log).read_text()

    def bodies(self, step: str = "", event: str = "start", method: str = "") -> list[dict]:
        """What the processes (of a step, of a method) noted at their start or regular end."""
        if not self.bodies_file.exists():
            return []
        lines = [json.loads(line) for line in self.bodies_file.read_text().splitlines()]
        lines = [line for line in lines if line["event"] == event]
        lines = [line for line in lines if step in ("", line["arguments"][0])]
        return [line for line in lines if not method or option(line, "--method") == method]

    def rounds(self) -> dict[str, int]:
        """Method -> last round of which its run in progress has a checkpoint."""
        found = {}
        for file in sorted(self.folder.glob(".cache/train/*/.work/round-*.safetensors")):
            if file.parent not in self.methods:
                with suppress(DamagedFile):  # deleted meanwhile
                    self.methods[file.parent] = checkpoint.read(file)[1]["identity"]["method"]
            if file.parent in self.methods:
                found[self.methods[file.parent]] = int(file.stem.removeprefix("round-"))
        return found


def end_all() -> None:
    """Kill what the sites of this process started and what is left of their jobs."""
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if any(f"MMFL_TEST_BODIES={file}".encode() in environment for file in BODIES):
                os.kill(int(folder.name), signal.SIGKILL)


def option(body: dict, name: str) -> str:
    """The value of an option of a recorded process."""
    return body["arguments"][body["arguments"].index(name) + 1]


def record(job: str) -> dict[str, str]:
    """SLURM's own record of a job."""
    done = subprocess.run(
        ["scontrol", "show", "job", job, "--oneliner"], capture_output=True, text=True, check=True
    )
    return dict(re.findall(r"(\S+?)=(\S*)", done.stdout))


def lab() -> Path:
    """The folder of the cluster that is up."""
    return Path("/etc/slurm/slurm.conf").resolve().parents[1]


def kill_controller() -> None:
    os.kill(int((lab() / "run/slurmctld.pid").read_text()), signal.SIGKILL)


def start_controller() -> None:
    env = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    subprocess.run(["slurmctld"], env=env, check=True)


def hasty() -> str:
    """A configuration with which commands give up a silent controller sooner, for SLURM_CONF."""
    file = lab() / "etc/hasty.conf"
    file.write_text((lab() / "etc/slurm.conf").read_text() + "MessageTimeout=2\n")
    return str(file)


def local(project: Path, params: Path, *targets: str) -> subprocess.Popen:
    """Start Snakemake in the folder without a cluster."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "MMFL"))}
    line = [python(), "-m", "snakemake", "--cores", "1", *targets, "--configfile", params]
    with (project / "local.txt").open("a") as out:
        process = subprocess.Popen(
            line, cwd=project, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    STARTED.append(process)
    return process


def git_copy(source: Path) -> None:
    """Make a folder a git repository with DVC, as a clone has it."""
    for name in (".gitignore", ".dvcignore", "dvc.yaml"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(
        ROOT / ".dvc", source / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local")
    )
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=source, check=True)
