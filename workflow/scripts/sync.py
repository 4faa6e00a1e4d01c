"""After a clone or a checkout: outputs from DVC, finished work back in the cache, both tools agree.

    python workflow/scripts/sync.py

1. `dvc pull` where a default remote is set, else `dvc checkout`;
2. runs and shards go back into `.cache` under their keys, so that a later run builds on them;
3. `snakemake --touch`: DVC writes files in any order, so their times say nothing;
4. the pages, which are not versioned, are written anew.

All this for outputs that `dvc status` calls up to date: others are left for `dvc repro`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

from mmfl import files  # noqa: E402
from mmfl.errors import UserError  # noqa: E402
from mmfl.params import Params, clients_name, load, runs  # noqa: E402
from mmfl.pipeline import outdated, running  # noqa: E402
from mmfl.pipeline.jobs import RUN_FILES, STAGES, every, start  # noqa: E402
from mmfl.pipeline.units import split_unit, train_unit  # noqa: E402


def fetch() -> int:
    """Outputs of the current commit, as far as they are at hand."""
    dvc = [sys.executable, "-m", "dvc"]
    remote = subprocess.run(
        [*dvc, "config", "core.remote"], capture_output=True, text=True, check=False
    )
    verb = "pull" if remote.stdout.strip() else "checkout"
    return subprocess.run([*dvc, verb, "--force"], check=False).returncode


def restore_split(params: Params, archive: str) -> bool:
    """Put the shards of an archive back; True if any had to be."""
    source = Path("data/patches", archive)
    raw = Path("data/raw", archive)
    if not all((raw / name).exists() for name in ("files.csv", "scenes.csv")):
        return False
    unit = split_unit(params, archive, raw)
    stores = [path.parent.name for path in sorted(source.glob("*/modality.json"))]
    missing = [name for name in stores if not (unit.path / name).exists()]
    for name in missing:
        files.materialise(source / name, unit.folder / name)
    return bool(missing)


def restore_runs(params: Params, archive: str) -> int:
    """Put trained runs back; how many."""
    from mmfl.clients.manifest import content_hash, read_manifest
    from mmfl.patches.labels import Store

    manifest = Path("data/clients", archive, clients_name(params) + ".parquet")
    patches = Path("data/patches", archive)
    if not (manifest.exists() and patches.is_dir()):
        return 0
    inputs = {
        "partition": content_hash(read_manifest(manifest)),
        "patches": Store(patches).sha256,
    }
    count = 0
    for spec in runs(params, archive):
        unit = train_unit(params, spec, inputs)
        count += not unit.done and unit.restore(Path("runs") / spec.path, list(RUN_FILES))
    return count


def main() -> int:
    """Fetch, restore, touch."""
    try:
        return sync(load("params.yaml"))
    except UserError as error:
        print(f"mmfl: {error}", file=sys.stderr)
        return 2


def clean_steps(params: Params) -> dict[str, list[str]]:
    """Archive -> its steps up to the first whose outputs are not those of this code and parameters.

    Raises:
        UserError: DVC cannot say.
    """
    dvc = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(dvc, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        raise UserError(f"dvc status: failed ({done.stderr.strip()[-300:]}); correct that first")
    changed = json.loads(found[-1])
    clean = {}
    for archive in params.archives:
        now, file = start(params, archive), Path(f"data/start/{archive}.json")
        then = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        same = [
            step for step in STAGES
            if f"{step}@{archive}" not in changed and then.get(step) == now[step]
        ]  # fmt: skip
        clean[archive] = list(takewhile(same.__contains__, STAGES))
    return clean


def sync(params: Params) -> int:
    """All parts; the exit status of the first that fails."""
    if who := running.busy():
        raise UserError(who)
    status = fetch()
    if status:
        return status
    targets: list[str] = []
    clean = clean_steps(params)
    for archive, steps in clean.items():
        own = params.of(archive)
        shards = "split" in steps and restore_split(own, archive)
        trained = restore_runs(own, archive) if "train" in steps else 0
        also = " and the shards" if shards else ""
        print(f"{archive}: {trained} runs{also} put back in the cache")
        if steps != list(STAGES):
            late = STAGES[len(steps)]
            print(f"{archive}: from {late} on, outputs are of other code or parameters: dvc repro")
        targets += [path for step in steps for path in every(step, params, archive)]
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    for archive in clean:
        outdated.forget(archive)  # the times of files that are gone
    if targets:
        touch = [sys.executable, "-m", "snakemake", "--touch", "--forceall", "--cores", "1"]
        line = [*touch, "--quiet", "all", "--", *targets]
        status = subprocess.run(line, env=environment, check=False).returncode
    for archive, steps in clean.items():
        for step in steps:
            outdated.record(step, params, archive)
    if status or any(steps != list(STAGES) for steps in clean.values()):
        return status
    page = [sys.executable, str(ROOT / "workflow/scripts/stage.py"), "page", "all"]
    return subprocess.run(page, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
