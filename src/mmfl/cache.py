"""Finished units and work in progress, in `.cache/<step>/<key>`.

Snakemake and DVC delete a step's outputs before they run it again. What took long (a downloaded
file, an encoded archive, a trained run) therefore lives here, under the digest of everything that
decides it, and a step materialises its outputs from here.

`MMFL_CACHE` names another folder. `MMFL_FRESH` (set by `--fresh`) holds a name for an attempt:
units of other attempts are thrown away and computed again, those of the same attempt are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfl import files

MARKER = ".done"
ATTEMPT = ".attempt"


def root() -> Path:
    """The cache's folder: `MMFL_CACHE`, or `.cache` in the working directory."""
    return Path(os.environ.get("MMFL_CACHE") or ".cache")


def key(step: str, values: Any, inputs: Any = None, code: str = "") -> str:
    """Digest of a unit's parameter values, its inputs' hashes and its step's code."""
    return files.digest({"step": step, "values": values, "inputs": inputs, "code": code})


class Unit:
    """One piece of work: a folder that is marked when it is whole.

    Example:
        unit = Unit("train", key("train", values, inputs, code.digest("train")))
        with unit.alone():
            if not unit.done:
                work_in(unit.folder)      # may hold a checkpoint of an interrupted attempt
                unit.complete()
            unit.materialise("runs/...")

    Args:
        step: name of the step, the folder's parent.
        key: digest of what decides the unit, or its url and checksum.
        keep: do not throw the unit away for `MMFL_FRESH` (verified downloads).
    """

    def __init__(self, step: str, key: str, keep: bool = False) -> None:
        self.step = step
        self.key = key
        self.path = root() / step / key
        attempt = os.environ.get("MMFL_FRESH", "")
        if attempt and not keep and _read(self.path / ATTEMPT) != attempt:
            shutil.rmtree(self.path, ignore_errors=True)
            files.write_text(self.path / ATTEMPT, attempt)

    @property
    def folder(self) -> Path:
        """The unit's folder, made if needed."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from the unit: the job of a run that was killed may still live.

        Where another has it, waits, and often finds the unit done then. A finished unit needs no
        lock, so that a cache may be read-only.
        """
        if self.done:
            yield
            return
        with files.locked(root() / self.step / f".{self.key}.lock", f"works on {self.key}"):
            yield

    @property
    def done(self) -> bool:
        """True if the unit was completed."""
        return (self.path / MARKER).is_file()

    def complete(self) -> None:
        """Mark the unit as whole. Call it last."""
        files.write_text(self.folder / MARKER, "")

    def discard(self) -> None:
        """Throw the unit away."""
        shutil.rmtree(self.path, ignore_errors=True)

    def materialise(self, out: Path | str, name: str | None = None) -> None:
        """Make `out` a copy of the unit's folder, or of the file or folder `name` in it.

        Later writes to `out` do not reach the unit. The marker is not copied.

        Raises:
            RuntimeError: the unit is not complete.
        """
        if not self.done:
            raise RuntimeError(f"{self.path}: not complete")
        out = Path(out)
        if name is not None:
            files.materialise(self.path / name, out)
            return
        for item in sorted(self.path.iterdir()):
            if not item.name.startswith("."):
                files.materialise(item, out / item.name)

    def restore(self, out: Path | str, names: list[str]) -> bool:
        """Fill the unit from outputs that came from elsewhere; True if it is complete then.

        Does nothing if the unit is complete already or `out` lacks one of `names`.
        """
        out = Path(out)
        if not self.done and all((out / name).exists() for name in names):
            for name in names:
                files.materialise(out / name, self.folder / name)
            self.complete()
        return self.done


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
