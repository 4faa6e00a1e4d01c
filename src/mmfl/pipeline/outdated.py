"""Which outputs of a DVC stage are already what it would make.

DVC would delete the outputs of a stage before it runs, and then every job of the stage would run,
also those that nothing has changed for. So the outs of dvc.yaml persist, and what is outdated is
removed here instead, job by job. An output stays if it is as it was recorded, made from inputs of
the same content with the same values by the same code. Without a record it goes: never a doubt.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmfl.files import file_sha256, write_json
from mmfl.params import Params
from mmfl.pipeline.jobs import STAGES, Job, jobs_of

RECORDS = Path(".snakemake/made")  # belongs to this copy of the project: it holds file times


def prune(step: str, params: Params, archive: str, *, everything: bool = False) -> None:
    """Remove outdated outputs, or all of them, and what no job of the stage writes."""
    known = _read(step, archive)
    wanted = jobs_of(step, params, archive)
    for job in wanted:
        made = known.get(job.name, {})
        checked = step != "download" or archive not in params.folders  # its files are not listed
        state = _state(job) or {}
        before = made.get("outputs", {})
        same = {path: sha for path, (sha, _) in state.items()} == {
            path: sha for path, (sha, _) in before.items()
        }
        if not everything and checked and state and same and made["key"] == job.key():
            _restore_times(before)
            continue
        for folder in job.folders:
            _remove(folder)
    if step in ("train", "evaluate"):
        seeds = {f"seed-{seed}" for seed in params.train.seeds}
        _keep_only([job.folders[0] for job in wanted], seeds)


def record(step: str, params: Params, archive: str) -> None:
    """Remember every job whose outputs are there.

    An output with the content that it had before gets its time back, so that Snakemake does not
    take it for a new one.
    """
    known = _read(step, archive)
    found = {}
    for job in jobs_of(step, params, archive):
        _restore_times(known.get(job.name, {}).get("outputs", {}))
        state = _state(job)
        if state is not None:
            found[job.name] = {"key": job.key(), "outputs": state}
    write_json(_file(step, archive), found)


def forget(archive: str, steps: Iterable[str] = STAGES) -> None:
    """Remember nothing of these steps."""
    for step in steps:
        _file(step, archive).unlink(missing_ok=True)


def _state(job: Job) -> dict[str, tuple[str, int]] | None:
    """Output -> its digest and time; None if one is missing."""
    if not all(Path(path).is_file() for path in job.outputs):
        return None
    return {path: (file_sha256(path), os.stat(path).st_mtime_ns) for path in job.outputs}


def _restore_times(known: dict[str, Any]) -> None:
    """Give files whose content is known the time that they had with it."""
    for path, (sha256, time) in known.items():
        file = Path(path)
        if file.is_file() and not file.is_symlink() and file_sha256(file) == sha256:
            os.utime(file, ns=(time, time))


def _file(step: str, archive: str) -> Path:
    return RECORDS / f"{step}-{archive}.json"


def _read(step: str, archive: str) -> dict[str, Any]:
    try:
        found = json.loads(_file(step, archive).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep_only(folders: list[Path], seeds: set[str]) -> None:
    """Of runs/<archive>/<clients>/<method>/<variant>/<seed>: what the parameters ask for."""
    top = folders[0].parents[1]
    for folder in top.glob("*/*"):
        if folder not in folders:
            _remove(folder)
    for folder in top.glob("*/*/*"):
        if folder.name not in seeds:
            _remove(folder)
    for folder in top.glob("*"):
        if folder not in {item.parent for item in folders}:
            _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
