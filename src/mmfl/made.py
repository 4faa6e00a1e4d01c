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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfl import code
from mmfl.files import digest, file_sha256, write_json
from mmfl.params import SIMULATED, Params, clients_name, entries, step_values, variant
from mmfl.workflow import every, files_of

RECORDS = Path(".snakemake/made")  # belongs to this copy of the project: it holds file times
STAGES = ("download", "split", "partition", "train", "evaluate", "report")


@dataclass(frozen=True)
class Job:
    """What one job of a stage reads and writes."""

    name: str
    values: Any
    code: str
    inputs: list[str]
    outputs: list[str]
    folders: list[Path]  # with all that belongs to the outputs, declared or not

    def key(self) -> str:
        """Digest of everything that decides the outputs; an input that is missing has none."""
        found = {p: file_sha256(p) if Path(p).is_file() else None for p in self.inputs}
        return digest({"values": self.values, "code": self.code, "inputs": found})

    def state(self) -> dict[str, tuple[str, int]] | None:
        """Output -> its digest and time; None if one is missing."""
        if not all(Path(path).is_file() for path in self.outputs):
            return None
        return {path: (file_sha256(path), os.stat(path).st_mtime_ns) for path in self.outputs}


def jobs(step: str, params: Params, archive: str) -> list[Job]:
    """The jobs of a stage.

    Raises:
        ValueError: no such step.
    """
    own = params.of(archive)
    where = f"{archive}/{clients_name(own)}"
    patches = every("split", params, archive)
    clients = every("partition", params, archive)
    if step in ("train", "evaluate"):
        top = Path("runs" if step == "train" else "scores", where)
        found = []
        for item in entries(own):
            method, kind = item.method, variant(item)
            runs = files_of("train", own, archive, [item]) if step == "evaluate" else []
            values = step_values(params, step, archive, method, kind)
            inputs = [*patches, clients[0], *runs]
            outputs = files_of(step, own, archive, [item])
            name, folders = f"{method}/{kind}", [top / method / kind]
            found.append(Job(name, values, code.digest(step), inputs, outputs, folders))
        return list({job.name: job for job in found}.values())
    inputs, names = {
        "download": ([f"data/manifests/{archive}.yaml"], [f"data/raw/{archive}"]),
        "split": (every("download", params, archive), [f"data/patches/{archive}"]),
        "partition": ([path for path in patches if not path.endswith(".csv")], clients),
        "report": (
            every("train", params, archive) + every("evaluate", params, archive),
            [f"results/{where}/{name}" for name in ("tables", "figures", "metrics.json")],
        ),
    }[step]
    values, outputs = step_values(params, step, archive), every(step, params, archive)
    source = code_of(step, archive)
    return [Job(step, values, source, inputs, outputs, [Path(name) for name in names])]


def code_of(step: str, archive: str, source: Path = code.SOURCE) -> str:
    """Digest of the code of a step; that of a simulated archive decides its files, too."""
    drawn = step == "download" and archive in SIMULATED
    return code.digest(step, source) + (code.digest("simulate", source) if drawn else "")


def start(params: Params, archive: str) -> dict[str, dict[str, str]]:
    """What decides each step of an archive when a run starts: digests of code and of values.

    The parameters of the stages of dvc.yaml: step -> `code`, and a job's name -> its values. The
    values of an archive of one's own are known from its description; its files are not listed.
    """
    return {
        step: {job.name: digest(job.values) for job in found} | {"code": found[0].code}
        for step in STAGES
        if (found := jobs(step, params, archive))
    }


def prune(step: str, params: Params, archive: str, *, everything: bool = False) -> None:
    """Remove outdated outputs, or all of them, and what no job of the stage writes."""
    known = _read(step, archive)
    wanted = jobs(step, params, archive)
    for job in wanted:
        made = known.get(job.name, {})
        checked = step != "download" or archive not in params.folders  # its files are not listed
        state = job.state() or {}
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
    for job in jobs(step, params, archive):
        _restore_times(known.get(job.name, {}).get("outputs", {}))
        state = job.state()
        if state is not None:
            found[job.name] = {"key": job.key(), "outputs": state}
    write_json(_file(step, archive), found)


def _restore_times(known: dict[str, Any]) -> None:
    """Give files whose content is known the time that they had with it."""
    for path, (sha256, time) in known.items():
        file = Path(path)
        if file.is_file() and not file.is_symlink() and file_sha256(file) == sha256:
            os.utime(file, ns=(time, time))


def forget(archive: str, steps: Iterable[str] = STAGES) -> None:
    """Remember nothing of these steps."""
    for step in steps:
        _file(step, archive).unlink(missing_ok=True)


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
