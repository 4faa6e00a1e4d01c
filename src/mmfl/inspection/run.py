"""A trained run: what it is, how it went, and whether its weights can be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmfl.errors import UserError
from mmfl.facts.tasks import TASKS
from mmfl.files import read_json
from mmfl.inspection.findings import Findings
from mmfl.sealed import RUN, Sealed

WEIGHTS = ("model.safetensors", "best.safetensors")


def inspect_run(folder: Path) -> Findings:
    """See `inspect`."""
    found = Findings("Run", {"Folder": str(folder)})
    try:
        run = read_json(folder / "run.json", "train")
    except UserError as error:
        found.damage.append(str(error))
        run = {}
    if run:
        found.title = f"Run {run.get('method', '?')}, seed {run.get('seed', '?')}"
        plain = {k: v for k, v in run.items() if isinstance(v, str | int | float)}
        found.facts |= {
            key: f"{value:,}" if isinstance(value, int | float) else value
            for key, value in sorted(plain.items())
        }
    for name in WEIGHTS:
        _weights(found, folder / name, run.get("parameters_count"))
    _digests(found, folder)
    task = TASKS.get(str(run.get("task")), TASKS["multilabel"])
    _rounds(found, folder / "rounds.csv", run.get("rounds"), task.metrics[task.first])
    if isinstance(run.get("parameters"), dict):
        values = [
            {"parameter": f"{section}.{key}", "value": json.dumps(value)[:100]}
            for section, entries in run["parameters"].items()
            if isinstance(entries, dict)
            for key, value in entries.items()
        ]
        found.add("Parameters", pd.DataFrame(values))
    return found


def _digests(found: Findings, folder: Path) -> None:
    """Read every file that run.json lists."""
    try:
        listed = Sealed(folder, RUN, "train")
    except UserError as error:
        if str(error) not in found.damage:
            found.damage.append(str(error))
        return
    for name in listed.files:
        try:
            listed.content(name)
        except UserError as error:
            found.damage.append(str(error))


def _weights(found: Findings, path: Path, expected: int | None) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        found.damage.append(f"{path}: not readable ({text}); run train again")
        return
    size = sum(value.size for value in tensors.values())
    found.facts[path.name] = f"{len(tensors):,} tensors, {size:,} values"
    if expected and tensors and size < expected:
        found.damage.append(f"{path}: holds {size:,} values, expected at least {expected:,}")
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            found.damage.append(f"{path}: {name} holds NaN or infinity: the training diverged")


def _rounds(found: Findings, path: Path, expected: int | None, score: str) -> None:
    try:
        table = pd.read_csv(path)
        server = table[table["client"] == "server"][["round", "val_score"]]
        clients = table[table["client"] != "server"]
        by_round = clients.groupby("round").agg(
            clients=("client", "nunique"), loss=("loss", "mean"), up=("bytes_up", "sum"),
            down=("bytes_down", "sum"),
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        found.damage.append(f"{path}: not readable ({text}); run train again")
        return
    rounds = by_round.reset_index().merge(server, on="round", how="left")
    found.add("Rounds", rounds.rename(columns={"val_score": f"validation {score}"}))
    if expected is not None and len(table) and table["round"].max() < expected:
        found.damage.append(f"{path}: ends at round {table['round'].max()} of {expected}")
