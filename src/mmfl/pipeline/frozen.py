"""What a run started with: its parameters, descriptions and code, kept until it has ended.

A run takes hours, and its jobs read the parameter file when they start. So the file is copied when
a run starts, and jobs read the copy: what is edited meanwhile belongs to the next run. The copy
lies in a folder named by its content, beside `start.json` with the digests of what else decides
the values of a job: the descriptions of archives of one's own, the rules and the code of each step.
A job that finds another of them stops before it writes anything.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmfl.errors import UserError
from mmfl.facts.reading import read_bytes
from mmfl.files import atomic, digest, file_sha256, write_text
from mmfl.params import SIMULATED, Params, entries, load, trials
from mmfl.params.loading import WHAT
from mmfl.pipeline import code
from mmfl.pipeline.jobs import STAGES, modules

FOLDER = Path(".snakemake/frozen")
START = "start.json"
NAME = "params.yaml"
AGAIN = "what was finished stays; start the run again"


def freeze(path: Path | str, folder: Path = FOLDER) -> tuple[Path, Params]:
    """Copy a parameter file and note what else a run starts with; the copy and its parameters.

    A copy is returned as it is: the jobs of a run that DVC froze belong to that run.

    Raises:
        UserError: the parameters are wrong, or `path` is a copy that was changed.
    """
    path = Path(path)
    if (path.parent / START).is_file():
        return path, check(path)
    data = read_bytes(path, WHAT)
    params = load(path, data)
    start = json.dumps(_start(path, params), indent=1, sort_keys=True) + "\n"
    own = folder / _name(data, start)
    if not (own / START).is_file():
        with atomic(own / NAME) as temporary:
            temporary.write_bytes(data)
        write_text(own / START, start)
    return own / NAME, params


def check(
    path: Path,
    step: str | None = None,
    archive: str = "",
    method: str | None = None,
    kind: str = "default",
) -> Params:
    """The parameters of a copy that `freeze` made, if all is as it was then.

    Args:
        step, archive, method, kind: the job whose code has to be that of the start; without a
            step, the rules have to be.

    Raises:
        UserError: the copy was changed, or what else decides the step.
    """
    try:
        data = path.read_bytes()
        text = (path.parent / START).read_text(encoding="utf-8")
        start = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: the parameters of the run cannot be read ({error}); {AGAIN}"
        ) from None
    if _name(data, text) != path.parent.name:
        raise UserError(
            f"{path}: found other parameters than the run started with; remove its folder; {AGAIN}"
        )
    for file, sha256 in start["descriptions"].items():
        if not Path(file).is_file() or file_sha256(file) != sha256:
            raise UserError(f"{file}: edited or removed since the run started; {AGAIN}")
    if step is None and rules() != start["rules"]:
        raise UserError(f"workflow/rules: edited since the run started; {AGAIN}")
    params = load(start["file"], data)
    if step is not None and archive in params.archives:
        chosen = modules(step, params, archive, method, kind)
        if code.digest(step, chosen) != start["code"][step][" ".join(chosen)]:
            raise UserError(
                f"src/mmfl: the code of {step} was edited since the run started; {AGAIN}"
            )
    return params


def is_frozen(path: Path) -> bool:
    """Whether a parameter file is such a copy."""
    return (path.parent / START).is_file()


def rules() -> str:
    """Digest of the workflow's own files."""
    root = code.SOURCE.parent
    found = [root / "Snakefile", *sorted((root / "workflow/rules").glob("*.smk"))]
    return digest({file.name: file_sha256(file) for file in found if file.is_file()}, 16)


def _start(path: Path, params: Params) -> dict[str, Any]:
    described = [Path(folder).expanduser() for folder in params.folders.values()]
    return {
        "file": str(path),
        "descriptions": {str(file): file_sha256(file) for file in described},
        "code": {step: _codes(step, params) for step in (*STAGES, "simulate", "tune", "page")},
        "rules": rules(),
    }


def _codes(step: str, params: Params) -> dict[str, str]:
    """Chosen modules -> digest of the code of the jobs that choose them."""
    found = {}
    for archive in params.archives:
        if step == "simulate" and archive not in SIMULATED:
            continue
        own = params.of(archive)
        items = [*entries(own), *trials(own)] if step in ("train", "evaluate") else [None]
        for item in items:
            named = () if item is None else (item.method, item.variant)
            chosen = modules(step, params, archive, *named)
            found[" ".join(chosen)] = code.digest(step, chosen)
    return found


def _name(data: bytes, start: str) -> str:
    return hashlib.sha256(data + start.encode()).hexdigest()[:16]
