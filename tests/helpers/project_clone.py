"""A copy of the project at some path: its steps, git, DVC and `mmfl verify` there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from helpers.project_copy import run
from mmfl import cli
from mmfl.errors import UserError

SMALL = {
    "simulate": {"pairs": 40, "tiles": 20, "tile_size": 32, "countries": ["Austria", "Finland"]},
    "model": {"width": 4, "projection": 8},
    "train": {"seeds": [1, 2], "methods": ["mf", "mf+fw"], "size": 16, "rounds": 2, "batch": 8},
    "evaluate": {"rates": [0, 100]},
}
ARCHIVES = {"simulated": {}, "simulated-tiles": {"evaluate": {"batch": 8}}}
STEPS = """
from mmfl import cli
from mmfl.params import load
params = load("params.yaml")
for archive in params.archives:
    cli.simulate(archive=archive)
    for step in (cli.download, cli.split, cli.partition):
        step(archive=archive)
    for method in ("mf", "mf+fw"):
        cli.train(archive=archive, method=method, device="cpu")
        cli.evaluate(archive=archive, method=method, device="cpu")
    cli.report(archive=archive)
"""


class Clone:
    """A copy of the project at some path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `python <command>` with the folder's own sources; both streams come together."""
        return run(self.folder, *command, PYTHONPATH=str(self.folder / "src"), **env)

    def git(self, *command: str) -> None:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *who, *command], cwd=self.folder, check=True, capture_output=True)

    def steps(self, **env: str) -> None:
        """Every step, as the rules call them."""
        for command in (["workflow/scripts/stage.py", "start", "all"], ["-c", STEPS]):
            done = self.run(*command, **env)
            assert done.returncode == 0, done.stdout[-3000:]

    def report(self) -> None:
        """Tables of the runs and scores that lie there."""
        done = self.run("-m", "mmfl.cli", "report", "--archive", "simulated")
        assert done.returncode == 0, done.stdout

    def dvc(self, *command: str) -> str:
        done = self.run("-m", "dvc", *command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def verify(self, *options: str) -> tuple[int, str]:
        """Exit status and what is printed, by a call in this process."""
        place = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(cli.app, ["verify", *options])
        finally:
            os.chdir(place)
        if isinstance(done.exception, UserError):  # as `cli.main` does
            return 2, f"mmfl: {done.exception}"
        assert isinstance(done.exception, SystemExit | None), done.exception
        return done.exit_code, done.output

    def verdicts(self, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """Exit status, and by artifact its verdict and note, without those equal to the bit."""
        status, text = self.verify(*options)
        lines = [line.split(maxsplit=4) for line in text.splitlines() if " data/" in line
                 or " runs/" in line or " scores/" in line or " results/" in line]  # fmt: skip
        rows = {line[2]: (line[3], line[4] if len(line) > 4 else "") for line in lines}
        assert len(rows) >= 28, text
        return status, {name: row for name, row in rows.items() if row[0] != "bit"}

    def copy(self, folder: Path) -> Clone:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone(folder)
