"""A copy of the project in which Snakemake runs."""

import os
import shutil
import subprocess
from pathlib import Path

from helpers.warm_python import python

ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile",
    "workflow",
    "profiles",
    "configs",
    "src",
    "data/manifests",
    "params.yaml",
    "requirements.lock",
)


def copy_project(folder: Path) -> Path:
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)  # with what Python compiled
        else:
            shutil.copy(source, target)
    return folder


def environment() -> dict[str, str]:
    """That of a user: nothing is set here for mmfl or Snakemake."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MMFL", "SNAKEMAKE"))}
    return clean | {"PATH": f"{Path(python()).parent}:{clean['PATH']}"}


def run(
    folder: Path, *words: str, interpreter: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` in a folder, by a fork or another one; both streams come together."""
    return subprocess.run(
        [interpreter or python(), *words],
        cwd=folder,
        env=environment() | env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def snakemake(project: Path, configfile: Path, *more: str) -> str:
    """Run Snakemake in a copy of the project; its output."""
    command = ["-m", "snakemake", "--cores", "2", "--configfile", str(configfile)]
    done = run(project, *command, *more)
    assert done.returncode == 0, done.stdout[-9000:]
    return done.stdout
