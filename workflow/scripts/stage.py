"""Run one step of the pipeline for one archive: what every DVC stage calls.

    python workflow/scripts/stage.py start all          # what a run starts with, the first stage
    python workflow/scripts/stage.py <step> <archive>
    python workflow/scripts/stage.py page all           # no DVC stage: pages are not versioned

A run of DVC belongs to the values it started with: `start` copies params.yaml and notes digests of
values and code, the other stages read those, and refuse code that was edited meanwhile.

DVC decided that the stage must run. Outputs that are outdated go (`mmfl.pipeline.outdated`; all of
them at `dvc repro --force`), and Snakemake makes what is missing. It may use the rules of this step
only, so a missing input is an error and never a silent rebuild of another stage's outputs; file
times do not count, as DVC writes files in any order. Cores: MMFL_CORES, else all.
SNAKEMAKE_PROFILE sends the jobs to a cluster.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

from mmfl.errors import UserError  # noqa: E402
from mmfl.files import atomic, read_json, write_json  # noqa: E402
from mmfl.params import Params  # noqa: E402
from mmfl.pipeline import frozen, outdated, running  # noqa: E402
from mmfl.pipeline.jobs import STAGES, every, start  # noqa: E402

START = Path("data/start")
NAMED = ((None, "archives"), *(("partition", key) for key in ("scenario", "assignment", "seed")))
HELPERS = {"download": ["simulate"]}
TRIGGERS = ["params", "input", "software-env"]


def command(step: str, archive: str, path: str, params: Params) -> list[str]:
    """The Snakemake command line of a stage."""
    if step == "page":
        targets = [f"page/{name}.html" for name in params.archives]
    else:
        targets = every(step, params, archive)
    rules = [*HELPERS.get(step, []), step]
    triggers = [*TRIGGERS, "mtime"] if step == "page" else TRIGGERS
    line = [sys.executable, "-m", "snakemake", "--configfile", path]
    if not os.environ.get("SNAKEMAKE_PROFILE"):
        line += ["--cores", os.environ.get("MMFL_CORES") or str(len(os.sched_getaffinity(0)))]
    line += ["--quiet", "reason", "--rerun-triggers", *triggers, "--allowed-rules", *rules]
    return [*line, "--", *targets]


def forced() -> bool:
    """Whether a `dvc repro` or `dvc exp run` above this process has --force; DVC tells no stage."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        names = [Path(word).name for word in words[:3]]  # python [-m] dvc
        if "dvc" in names:
            options = words[names.index("dvc") + 1 :]
            return any(re.fullmatch(r"--force|-[fimpqsvPR]*f[fimpqsvPR]*", o) for o in options)
    return False


def keep_start() -> None:
    """Write what a run starts with; other archives of an earlier one go.

    Raises:
        UserError: the parameters are wrong, or do not say what DVC names its outputs by.
    """
    copy, params = frozen.freeze("params.yaml")
    for section, key in NAMED:
        values = params if section is None else getattr(params, section)
        if key not in values.model_fields_set:
            name = key if section is None else f"{section}.{key}"
            raise UserError(
                f"params.yaml: {name} is not written out, and DVC names its outputs by it; add its "
                f"default, {getattr(values, key)!r}, or use snakemake --cores 2"
            )
    for old in START.glob("*.json"):
        if old.stem not in params.archives:
            old.unlink()
    for archive in params.archives:
        write_json(START / f"{archive}.json", start(params, archive))
    with atomic(START / frozen.NAME) as temporary:
        temporary.write_bytes(copy.read_bytes())


def started(step: str, archive: str) -> tuple[Path, Params]:
    """The parameters that the run started with.

    Raises:
        UserError: there is no start, or the code or a description was edited since.
    """
    if not (START / frozen.NAME).is_file():
        raise UserError(
            f"{START / frozen.NAME}: not found; run dvc repro, whose first stage writes it"
        )
    copy, params = frozen.freeze(START / frozen.NAME)
    if step in STAGES:
        then, now = read_json(START / f"{archive}.json", "dvc repro"), start(params, archive)
        if then.get(step) != now[step]:
            before = then.get(step, {})
            values = all(
                job["values"] == before.get(n, {}).get("values") for n, job in now[step].items()
            )
            what = "code" if values and before.keys() == now[step].keys() else "values"
            raise UserError(
                f"{step} of {archive}: not the {what} that the run started with, edited since; run "
                "dvc repro again"
            )
    return copy, params


def main() -> int:
    """Run the stage; Snakemake's exit status is ours."""
    if len(sys.argv) != 3:
        print("usage: python workflow/scripts/stage.py <step> <archive>", file=sys.stderr)
        return 2
    step, archive = sys.argv[1:]
    try:
        if step == "start":
            keep_start()
            return 0
        path, params = started(step, archive)
        line = command(step, archive, str(path), params)
    except (UserError, ValueError) as error:
        print(f"mmfl: {error}", file=sys.stderr)
        return 2
    if step not in STAGES:
        return subprocess.run(line, check=False).returncode
    if who := running.busy():
        print(f"mmfl: {who}", file=sys.stderr)
        return 1
    outdated.prune(step, params, archive, everything=forced())
    status = subprocess.run(line, check=False).returncode  # a job that fails leaves no output
    outdated.record(step, params, archive)
    return status


if __name__ == "__main__":
    sys.exit(main())
