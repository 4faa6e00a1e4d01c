"""Train: patches and clients in, one model per seed out."""

from __future__ import annotations

import csv
import io
import json
import logging
import resource
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfl import code
from mmfl.cache import Unit
from mmfl.clients.manifest import content_hash, read_manifest
from mmfl.federation import checkpoint
from mmfl.federation.data import Data, Normaliser, Statistics
from mmfl.federation.loop import Federation, Row, federate
from mmfl.federation.setup import build_network, build_strategy, choose_device
from mmfl.files import digest, file_sha256, write_json, write_text
from mmfl.models.flops import training_flops
from mmfl.models.network import initialise
from mmfl.params import Params, RunSpec, find_entry, resolve, runs
from mmfl.units import train_unit

WORK = ".work"  # checkpoints of a run in progress, within its cache unit
DESCRIBED = {"train", "model", "whitening", "mim"}
MEASURED = ".measured.json"
log = logging.getLogger(__name__)
ROUND_COLUMNS = (
    "round", "client", "modality", "samples", "steps", "loss", "loss_mim",
    "bytes_up", "bytes_down", "flops", "val_map",
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
    fresh: bool = False,
) -> None:
    """Train every seed of a method, or take finished ones from the cache.

    `out` and `measured` are the folders runs/ and measured/; a run's place in them is
    `RunSpec.path`.
    """
    own = resolve(params, find_entry(params, method, variant))
    chosen = [r for r in runs(params, archive) if (r.method, r.variant) == (method, variant)]
    frame = read_manifest(manifest)
    inputs = {"partition": content_hash(frame), "patches": patches_digest(patches)}
    data: Data | None = None
    for spec in chosen:
        unit = train_unit(params, spec, inputs)
        if fresh:
            unit.discard()
        if unit.done:
            log.info("%s: finished before, taken from %s", spec.path, unit.folder)
        else:
            if data is None:
                data = Data(patches, frame, own.train.bands, own.train.size)
                data.preload()
            train_one(spec, own, data, unit, inputs, choose_device(device))
        unit.materialise(out / spec.path)
        _publish_measured(unit, measured / spec.path.with_suffix(".json"))


def train_one(
    spec: RunSpec,
    params: Params,
    data: Data,
    unit: Unit,
    inputs: dict[str, str],
    device: torch.device,
) -> None:
    """Train one seed in the cache; its work in progress stays beside its results."""
    torch.set_num_threads(1)  # the same bits on every machine with one instruction set
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    network = build_network(spec.method, params, len(data.classes))
    initialise(network, spec.seed)
    initial = {key: value.detach().clone() for key, value in network.state_dict().items()}
    network.to(device)
    strategy = build_strategy(spec.method, params, network, data)
    statistics = data.statistics(params.train.normalisation)
    flops = {c.modalities: 0.0 for c in strategy.participants(data.clients)}
    for modalities in flops:
        flops[modalities] = training_flops(
            network, modalities, params.train.size, projected=bool(strategy.modules)
        )
    fed = Federation(
        network, strategy, data, Normaliser(statistics, data), params, spec.seed, device,
        lambda modalities: flops[modalities], unit.folder / WORK, f"{spec.label} seed {spec.seed}",
    )  # fmt: skip
    begun, started = time.perf_counter(), datetime.now(UTC)
    server, rows = federate(fed, initial)
    seconds = time.perf_counter() - begun

    out = unit.folder
    checkpoint.save(out / "model.safetensors", server, {})
    best = unit.folder / WORK / "best.safetensors"
    best_server = checkpoint.read(best)[0] if best.exists() else server
    checkpoint.save(out / "best.safetensors", best_server, {})
    write_text(out / "rounds.csv", rounds_csv(rows))
    write_json(
        out / "run.json", describe(spec, params, data, rows, flops, statistics, inputs, initial)
    )
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_json(
        unit.folder / MEASURED,
        {
            "seconds": seconds,
            "seconds_per_round": seconds / max(params.train.rounds, 1),
            "peak_memory_mb": usage,
            "device": str(device),
            "started": started.isoformat(timespec="seconds"),
        },
    )
    unit.complete()
    shutil.rmtree(unit.folder / WORK, ignore_errors=True)


def describe(
    spec: RunSpec,
    params: Params,
    data: Data,
    rows: list[Row],
    flops: dict[tuple[str, ...], float],
    statistics: Statistics,
    inputs: dict[str, str],
    initial: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """run.json: what was trained on what; deterministic."""
    clients = [row for row in rows if row["client"] != "server"]
    locations = np.unique(np.concatenate([c.locations for c in data.clients]))
    return {
        "archive": spec.archive,
        "clients": spec.clients,
        "method": spec.method,
        "variant": spec.variant,
        "seed": spec.seed,
        "parameters": params.model_dump(mode="json", include=DESCRIBED),
        "flops_per_sample": float(np.mean(list(flops.values()))) if flops else 0.0,
        "flops": float(sum(row["flops"] for row in clients)),
        "parameters_count": sum(
            value.numel() for key, value in initial.items() if "running" not in key
        ) if flops else len(data.classes),
        "bytes_up": int(sum(row["bytes_up"] for row in clients)),
        "bytes_down": int(sum(row["bytes_down"] for row in clients)),
        "rounds": params.train.rounds if clients else 0,
        "train_locations": len(locations),
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


def patches_digest(patches: Path) -> str:
    """Digest of everything that describes the patches (labels, indices, checksums of shards)."""
    files = sorted(p for p in patches.rglob("*") if p.suffix in (".json", ".parquet"))
    return digest({str(p.relative_to(patches)): file_sha256(p) for p in files})


def _publish_measured(unit: Unit, target: Path) -> None:
    source = unit.folder / MEASURED
    if source.exists():
        write_json(target, json.loads(source.read_text()))
