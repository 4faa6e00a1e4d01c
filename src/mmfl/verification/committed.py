"""What a revision of the repository promises: its lock, and the tables that git keeps."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmfl.errors import UserError
from mmfl.fetch.unpack import FILTER
from mmfl.params import Params
from mmfl.pipeline.code import LOCK as LOCKED
from mmfl.pipeline.jobs import STAGES, start

LOCK = "dvc.lock"
PARAMS = "params.yaml"


@dataclass(frozen=True)
class Entry:
    """A file or folder in dvc.lock; `files` counts a folder's files, None for a file."""

    md5: str
    files: int | None = None


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.lock, `<step>@<archive>`, by paths; `params`: file -> key -> value."""

    step: str
    archive: str
    deps: dict[str, Entry]
    outs: dict[str, Entry]
    params: dict[str, dict[str, Any]]


class Revision:
    """A commit of the repository around the working directory.

    Raises:
        UserError: no git, no repository, or no such revision.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        if _git("rev-parse", "--git-dir") is None:
            raise UserError(
                "git: found no repository here, expected a clone of the project; verify compares "
                "with what is committed"
            )
        found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if found is None:
            raise UserError(f"--against: found {name}, expected a revision, e.g. HEAD or a tag")
        self.commit = found.decode().strip()

    def __str__(self) -> str:
        short = self.commit[:10]
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None if the revision has no such file."""
        return _git("show", f"{self.commit}:./{path}")

    def start(self, params: Params, archive: str) -> dict[str, Any]:
        """What decides each job of an archive with the code of the revision."""
        pinned = [LOCKED] if self.read(LOCKED) is not None else []
        data = _git("archive", self.commit, "src", *pinned) or b""
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.extractall(folder, **FILTER)
            return start(params, archive, Path(folder, "src"))

    def files(self, folder: str) -> list[str]:
        """The files below a folder, or the file itself."""
        listed = _git("ls-tree", "-r", "-z", "--name-only", self.commit, "--", folder) or b""
        return [name for name in listed.decode().split("\0") if name]

    def yaml(self, path: str) -> dict[str, Any]:
        """The mapping in a yaml file.

        Raises:
            UserError: there is none.
        """
        content = self.read(path)
        if content is None:
            raise UserError(
                f"{path}: not found in {self}, expected the file that dvc repro writes and git "
                "keeps; name another revision with --against"
            )
        return mapping(content, f"{path} in {self}")

    def stages(self) -> list[Stage]:
        """The stages of the lock that belong to the archives of the revision's parameters.

        Raises:
            UserError: no lock, or one that is damaged, lacks a stage or mixes several runs.
        """
        lock = self.yaml(LOCK).get("stages") or {}
        archives = self.yaml(PARAMS).get("archives") or {}
        again = "run dvc repro there and commit dvc.lock with results/"
        try:
            stages = [
                _stage(step, archive, lock[f"{step}@{archive}"])
                for archive in archives
                for step in STAGES
            ]
        except KeyError as error:
            raise UserError(f"{LOCK} in {self}: {error} is missing; {again}") from None
        except (AttributeError, TypeError) as error:
            raise UserError(f"{LOCK} in {self}: not a lock of DVC ({error}); {again}") from None
        made: dict[str, Entry] = {}
        for stage in stages:
            for path, entry in stage.deps.items():
                if made.get(path, entry) != entry:
                    raise UserError(
                        f"{LOCK} in {self}: {stage.step}@{stage.archive} read another {path} than "
                        f"is listed as made, expected the lock of one run; {again}"
                    )
            made |= stage.outs
        return stages


def mapping(content: bytes, where: str) -> dict[str, Any]:
    """What yaml text holds.

    Raises:
        UserError: no yaml, or no mapping.
    """
    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{where}: not readable as yaml ({line})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: found {type(value).__name__}, expected a mapping")
    return value


def _stage(step: str, archive: str, found: dict[str, Any]) -> Stage:
    def entries(key: str) -> dict[str, Entry]:
        return {item["path"]: Entry(item["md5"], item.get("nfiles")) for item in found.get(key, [])}

    return Stage(step, archive, entries("deps"), entries("outs"), found.get("params", {}))


def _git(*command: str) -> bytes | None:
    """What git prints, or None if it refuses."""
    try:
        done = subprocess.run(["git", *command], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("git: not found, expected it on the PATH; install git") from None
    return done.stdout if done.returncode == 0 else None
