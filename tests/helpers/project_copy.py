"""A copy of the project in which Snakemake runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "configs", "src", "data/manifests", "params.yaml")


def copy_project(folder: Path) -> Path:
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)  # with what Python compiled
        else:
            shutil.copy(source, target)
    return folder


def snakemake(project: Path, configfile: Path, *more: str) -> str:
    """Run Snakemake in a copy of the project; its output."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(configfile)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MMFL_CACHE", "SNAKEMAKE"))}
    result = subprocess.run([*command, *more], cwd=project, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr
