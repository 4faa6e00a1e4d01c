"""Write dvc.yaml: one stage per step, with the modules that the step imports as dependencies.

    python workflow/scripts/dvc_yaml.py [--check]

Run it after a change of imports; `--check` only says whether dvc.yaml is up to date (exit 1).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

from mmfl import code  # noqa: E402
from mmfl.workflow import STORE  # noqa: E402

HEAD = """\
# Written by workflow/scripts/dvc_yaml.py from the imports of src/mmfl/steps; do not edit.
# A stage calls Snakemake, which owns jobs, resources and environments; DVC owns the versions.
"""
CLIENTS = "${partition.scenario}-${partition.assignment}-p${partition.seed}"
OWN = "archives.${key}"  # the values in which the archive's experiment differs
RAW = "data/raw/${key}"
PATCHES = "data/patches/${key}"
HELD = f"data/clients/${{key}}/{CLIENTS}"
PLACE = f"${{key}}/{CLIENTS}"
SHARED = ("seeds", "size", "bands", "normalisation", "statistics")  # train.*, used by evaluate


def persistent(out: str | dict[str, dict]) -> dict[str, dict]:
    """DVC leaves it in place; stage.py removes what is outdated."""
    path, more = next(iter(out.items())) if isinstance(out, dict) else (out, {})
    return {path: {**more, "persist": True}}


def stage(step: str, deps: list[str], params: list[str], outs: list[Any], **more: Any) -> dict:
    """One stage, repeated for each archive in params.yaml."""
    steps = ["simulate", step] if step == "download" else [step]
    modules = sorted({f"src/{name}" for item in steps for name in code.modules(item)})
    body = {
        "cmd": f"python workflow/scripts/stage.py {step} ${{key}}",
        "deps": [*deps, *modules],
        "params": params,
        "outs": [persistent(out) for out in outs],
        **more,
    }
    return {"foreach": "${archives}", "do": body}


def stages() -> dict[str, dict]:
    """The six stages."""
    indices = [f"{PATCHES}/{n}" for n in ("labels/index.parquet", "labels/classes.json", STORE)]
    results = f"results/{PLACE}"
    return {
        "download": stage(
            "download",
            ["data/manifests"],
            ["simulate", "download", "folders", "imagery"],
            [f"{RAW}/{name}" for name in ("files.csv", "root.json", "scenes.csv")],
        ),
        "split": stage(
            "split",
            [f"{RAW}/{name}" for name in ("files.csv", "root.json", "scenes.csv")],
            ["split", OWN],
            [PATCHES],
        ),
        "partition": stage(
            "partition",
            indices,
            ["partition", OWN],
            [f"{HELD}.{end}" for end in ("parquet", "json", "csv", "svg")],
        ),
        "train": stage(
            "train",
            [PATCHES, f"{HELD}.parquet"],
            ["train", "model", "whitening", "mim", "algorithms", "participation", OWN],
            [f"runs/{PLACE}"],
        ),
        "evaluate": stage(
            "evaluate",
            [PATCHES, f"{HELD}.parquet", f"runs/{PLACE}"],
            ["evaluate", *(f"train.{key}" for key in SHARED), OWN],
            [f"scores/{PLACE}"],
        ),
        "report": stage(
            "report",
            [f"runs/{PLACE}", f"scores/{PLACE}"],
            ["report", "train.methods", "train.seeds", OWN],
            [{f"{results}/tables": {"cache": False}}],
            plots=[persistent(f"{results}/figures")],
            metrics=[persistent({f"{results}/metrics.json": {"cache": False}})],
        ),
    }


def text() -> str:
    """The whole file."""
    return HEAD + yaml.safe_dump({"stages": stages()}, sort_keys=False, width=120)


def main() -> int:
    """Write the file, or check it."""
    target = ROOT / "dvc.yaml"
    wanted = text()
    if target.is_file() and target.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print("dvc.yaml: out of date; run python workflow/scripts/dvc_yaml.py", file=sys.stderr)
        return 1
    target.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
