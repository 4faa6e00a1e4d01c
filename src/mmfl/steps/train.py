"""Train: patches and clients in, one model per seed out."""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import resource
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mmfl.cache import Unit
from mmfl.clients.manifest import content_hash, read_manifest
from mmfl.federation import checkpoint
from mmfl.federation.data import Data, Normaliser, Statistics
from mmfl.federation.devices import devices
from mmfl.federation.loop import Federation, federate
from mmfl.federation.outcome import Row, diverged
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import Classification, Segmentation, Task
from mmfl.federation.tiles import open_data
from mmfl.federation.workers import Build, deterministic
from mmfl.files import write_json, write_text
from mmfl.intact import digests
from mmfl.models.flops import forward_flops, training_flops
from mmfl.models.network import initialise
from mmfl.params import Params, RunSpec, find_entry, parts, resolve, runs_of
from mmfl.patches.labels import Store
from mmfl.pipeline import code
from mmfl.pipeline.units import train_unit
from mmfl.strategies.base import Server, Strategy, everyone

SEALED = ("model.safetensors", "best.safetensors", "rounds.csv")  # listed by digest in run.json
WORK = ".work"  # checkpoints of a run in progress, within its cache unit
DESCRIBED = {"train", "model", "whitening", "mim", "algorithms", "participation"}
MEASURED = ".measured.json"
log = logging.getLogger(__name__)
ROUND_COLUMNS = (
    "round", "client", "modality", "state", "samples", "steps", "loss", "loss_terms",
    "bytes_up", "bytes_down", "flops", "val_score",
)  # fmt: skip


def run(
    params: Params,
    archive: str,
    method: str,
    variant: str,
    *,
    patches: Path,
    manifest: Path,
    out: Path,
    measured: Path,
    device: str = "auto",
    gpus: int = 1,
    fresh: bool = False,
    workers: int = 1,
) -> None:
    """Train every seed of a method, or take finished ones from the cache.

    `out` and `measured` are the folders runs/ and measured/; a run's place in them is
    `RunSpec.path`. With `workers` > 1 the clients of a round run in that many processes, which
    share `gpus` CUDA devices in turn; on a processor the result is the same to the bit.
    """
    item = find_entry(params, method, variant)
    own = resolve(params, item)
    chosen = runs_of(params, archive, item)
    frame = read_manifest(manifest)
    inputs = {
        "partition": content_hash(frame),
        "patches": Store(patches).of(archive).sha256,
    }
    data: Data | None = None
    for spec in chosen:
        unit = train_unit(params, spec, inputs)
        if fresh:
            unit.discard()
        with unit.alone():
            if unit.done:
                log.info("%s: finished before, taken from %s", spec.path, unit.path)
            else:
                if data is None:
                    data = open_data(patches, frame, own.train.bands, own.train.size)
                    data.of(inputs["patches"])
                    data.preload()
                with devices(device, gpus) as used:
                    build = functools.partial(rebuild, spec, own, patches, manifest, used)
                    train_one(spec, own, data, unit, inputs, used, workers, build)
            unit.materialise(out / spec.path)
        _publish_measured(unit, measured / spec.path.with_suffix(".json"))


def train_one(
    spec: RunSpec,
    params: Params,
    data: Data,
    unit: Unit,
    inputs: dict[str, str],
    chosen: list[torch.device],
    workers: int = 1,
    build: Build | None = None,
) -> None:
    """Train one seed in the cache; its work in progress stays beside its results."""
    deterministic()
    task, strategy, statistics = parts_of(spec, params, data, chosen[0])
    state = task.network.state_dict()
    initial = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}

    negatives, cells = _pairs(spec.method, params)
    others = len(strategy.modules) - (negatives is not None) + (strategy.extra_forwards > 0)

    @functools.cache
    def flops(modalities: tuple[str, ...]) -> float:
        return training_flops(
            task.network, modalities, params.train.size,
            projections=others, extra_forwards=strategy.extra_forwards,
            negatives=negatives, cells=cells, batch=params.train.batch if negatives else 8,
        )  # fmt: skip

    @functools.cache
    def forward(modality: str) -> float:
        return forward_flops(task.network, modality, params.train.size, cells=cells)

    fed = Federation(
        task, strategy, params, spec.seed, flops, forward,
        unit.folder / WORK, f"{spec.label} seed {spec.seed}", identity(spec, params, inputs),
        workers, build if chosen[0].type == "cuda" else None, unchanged=data.unchanged,
    )  # fmt: skip
    begun, started = time.perf_counter(), datetime.now(UTC)
    server, rows = federate(fed, initial)
    seconds = time.perf_counter() - begun
    data.unchanged()

    out = unit.folder
    per_sample = [flops(kind) for kind in sorted({c.modalities for c in strategy.clients})]
    checkpoint.save(out / "model.safetensors", published(server), {})
    place = checkpoint.place(fed.work, fed.best.get("round", 0))
    best = checkpoint.read(place)[0] if fed.best else server
    checkpoint.save(out / "best.safetensors", published(best), {})
    write_text(out / "rounds.csv", rounds_csv(rows))
    found = describe(spec, params, data, strategy, rows, per_sample, statistics, inputs, initial)
    write_json(out / "run.json", found | {"files": digests(out, SEALED)})
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest worker
    write_json(
        unit.folder / MEASURED,
        {
            "seconds": seconds,
            "seconds_per_round": seconds / max(params.train.rounds, 1),
            "seconds_in_steps": fed.seconds.get("steps", 0.0),
            "seconds_waiting_for_data": fed.seconds.get("waiting", 0.0),
            "workers": workers,
            "peak_memory_mb": max(own, each),
            "device": ", ".join(map(str, chosen)),
            "started": started.isoformat(timespec="seconds"),
        },
    )
    unit.complete()
    shutil.rmtree(unit.folder / WORK, ignore_errors=True)


def _pairs(method: str, params: Params) -> tuple[Literal["all", "cross"] | None, int | None]:
    """The negatives of MIM and its cells along a side; None without it, None for whole samples."""
    if "mim" not in parts(method)[1] or params.mim.bank == "prototype":
        return None, None
    return params.mim.negatives, params.mim.cells if params.mim.features == "cells" else None


def published(server: Server) -> Server:
    """A trained model as a run keeps it: without what each client kept for the next round."""
    return replace(server, clients={})


def parts_of(
    spec: RunSpec, params: Params, data: Data, device: torch.device
) -> tuple[Classification, Strategy, Statistics]:
    """The task of a run, its strategy, and the statistics that standardise its inputs."""
    network = build_network(spec.method, params, len(data.classes), data.task)
    initialise(network, spec.seed)
    strategy = build_strategy(spec.method, params, network, data)
    statistics = data.statistics(params.train.normalisation)
    normaliser = Normaliser(statistics, data)
    kind = Segmentation if data.task == "pixel" else Classification
    task = kind(network, data, normaliser, params, spec.seed, device)
    return task, strategy, statistics


def rebuild(
    spec: RunSpec,
    params: Params,
    patches: Path,
    manifest: Path,
    chosen: list[torch.device],
    place: int,
) -> tuple[Task, Strategy]:
    """The task of a worker that could not be forked; workers share the devices in turn."""
    data = open_data(patches, read_manifest(manifest), params.train.bands, params.train.size)
    data.preload()
    return parts_of(spec, params, data, chosen[place % len(chosen)])[:2]


def identity(spec: RunSpec, params: Params, inputs: dict[str, str]) -> dict[str, Any]:
    """What decides the bits of a round; the number of rounds does not."""
    described = params.model_dump(mode="json", include=DESCRIBED)
    for key in ("methods", "seeds", "rounds"):
        described["train"].pop(key)
    return {
        "method": spec.method,
        "seed": spec.seed,
        "parameters": described,
        "inputs": inputs,
        "code": code.digest("train"),
    }


def describe(
    spec: RunSpec,
    params: Params,
    data: Data,
    strategy: Strategy,
    rows: list[Row],
    flops: list[float],
    statistics: Statistics,
    inputs: dict[str, str],
    initial: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """run.json: what was trained on what; deterministic."""
    clients = [row for row in rows if row["client"] != "server"]
    samples = np.unique(np.concatenate([c.locations for c in data.clients]))
    one = strategy.own(everyone(strategy.population))
    count = sum({t.name: initial[t.key].numel() for t in one if t.kind == "parameter"}.values())
    return {
        "archive": spec.archive,
        "task": data.task,
        "clients": spec.clients,
        "method": spec.method,
        "variant": spec.variant,
        "seed": spec.seed,
        "parameters": params.model_dump(mode="json", include=DESCRIBED),
        "flops_per_sample": float(np.mean(flops)) if flops else 0.0,
        "flops": float(sum(row["flops"] for row in clients)),
        "parameters_count": count if flops else len(data.classes),
        "bytes_up": int(sum(row["bytes_up"] for row in clients)),
        "bytes_down": int(sum(row["bytes_down"] for row in clients)),
        "rounds": params.train.rounds if clients else 0,
        "diverged": diverged(rows),
        "train_samples": len(samples),
        "classes": list(data.classes),
        "statistics": {
            q: {owner: [mean.tolist(), std.tolist()] for owner, (mean, std) in entries.items()}
            for q, entries in statistics.items()
        },
        "code": code.digest("train"),
        "partition_sha256": inputs["partition"],
        "patches_digest": inputs["patches"],
    }  # fmt: skip


def rounds_csv(rows: list[Row]) -> str:
    """A row per round and client as csv; floats with all their digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ROUND_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: ("" if v is None else v) for k, v in row.items()} for row in rows)
    return text.getvalue()


def _publish_measured(unit: Unit, target: Path) -> None:
    source = unit.folder / MEASURED
    if source.exists():
        write_json(target, json.loads(source.read_text()))
