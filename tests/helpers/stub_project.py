"""A copy of the project in which every step is a stub: the workflow itself runs in seconds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from helpers.project_copy import ROOT, run

COPIED = (
    "Snakefile",
    "workflow",
    "profiles",
    "src",
    "requirements.lock",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
)

SMALL = {
    "train.seeds": [1, 2],
    "train.methods": ["mf", "mf+fw"],
    "archives": {"simulated": {}},
}


class Project:
    """A folder with the whole workflow and stub commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m <command>` in the folder; stdout and stderr come together."""
        return run(self.folder, "-m", *command, **env)

    def snakemake(self, *arguments: str, **env: str) -> str:
        """Run Snakemake, expect success, return what it printed."""
        done = self.run("snakemake", "--cores", "2", *arguments, **env)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def wanted(self, *arguments: str) -> dict[str, int]:
        """Jobs that a dry run would run, by rule, without `all`."""
        text = self.snakemake("--dry-run", *arguments)
        table = text.partition("Job stats:")[2].partition("\n\n")[0]
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.M))
        return {rule: int(n) for rule, n in jobs.items() if rule not in ("all", "total")}

    def changed(self) -> list[str]:
        """Stages that DVC would run again."""
        lines = self.run("dvc", "status", "--json").stdout.splitlines()
        return list(json.loads(next(line for line in lines if line.startswith("{"))))

    def edit(self, **values: object) -> None:
        """Change values of params.yaml, e.g. train__rounds=3."""
        path = self.folder / "params.yaml"
        data = yaml.safe_load(path.read_text())
        for key, value in values.items():
            section, _, name = key.partition("__")
            if name:
                data[section][name] = value
            else:
                data[section] = value
        path.write_text(yaml.safe_dump(data, sort_keys=False))

    def calls(self) -> list[str]:
        """The steps that ran, in order."""
        path = self.folder / "calls.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def copy(self, folder: Path) -> Project:
        """A copy with the same file times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def create(folder: Path) -> Project:
    """Copy the workflow to a folder that does not exist yet."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)  # with what Python compiled
        else:
            shutil.copy2(source, folder / name)
    shutil.copytree(ROOT / "data/manifests", folder / "data/manifests")
    shutil.copytree(
        ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local")
    )
    shutil.copy2(Path(__file__).with_name("stub_cli.py"), folder / "src/mmfl/cli.py")
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in SMALL.items():
        section, _, name = key.partition(".")
        if name:
            data[section][name] = value
        else:
            data[section] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return Project(folder)
