"""Synthetic scores, rounds and descriptions of runs in the files' real form.

The numbers are drawn, not computed by any model: they only have the shape of results.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.clients.table import client_table
from mmfl.files import digest, file_sha256
from mmfl.intact import digests

CLASSES = [
    "Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas", "Broad-leaved forest", "Coniferous forest", "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub", "Beaches, dunes, sands", "Inland wetlands", "Coastal wetlands",
    "Inland waters", "Marine waters",
]  # fmt: skip
COLUMNS = ["kind", "policy", "modalities", "removed", "rate", "client", "class", "metric", "value",
           "patches", "classes", "models", "models_asked", "state"]  # fmt: skip
COVERS = ["Water", "Trees", "Grass", "Flooded vegetation", "Crops", "Shrub and scrub", "Built area",
          "Bare ground", "Snow and ice"]  # fmt: skip
TASKS = {  # archive, classes, scores and by how much they differ from the first, scores per class
    "multilabel": ("simulated", CLASSES, {"ap_macro": 0, "ap_micro": 0.09, "f1_macro": -0.04,
                   "f1_micro": 0.12, "f1_weighted": 0.08}, ("ap", "f1")),
    "pixel": ("simulated-tiles", COVERS, {"iou_macro": 0, "f1_macro": 0.1, "accuracy": 0.22,
              "f1_weighted": 0.18}, ("iou", "f1")),
}  # fmt: skip
TILES = 40
GROUPS = ("austria", "finland", "ireland", "portugal")
CLIENTS = [f"{group}-{q}" for group in GROUPS for q in ("s1", "s2")]
METHODS = [  # method, variant, label, level
    ("prior", "default", "prior", 0.16),
    ("local", "default", "local", 0.41),
    ("centralised-steps", "default", "centralised-steps", 0.53),
    ("centralised-epochs", "default", "centralised-epochs", 0.60),
    ("late-fusion", "default", "late-fusion", 0.46),
    ("mf", "default", "mf", 0.47),
    ("mf", "1f2e3d4c", "mf, inputs standardised per client", 0.515),
    ("mf+fw", "default", "mf+fw", 0.475),
    ("mf+mim", "default", "mf+mim", 0.468),
    ("mf+fw+mim", "default", "mf+fw+mim", 0.472),
]


def generator(*words: Any) -> np.random.Generator:
    """Independent numbers for each name."""
    text = "/".join(map(str, words)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "big"))


def write_runs(
    root: Path,
    seeds: tuple[int, ...] = (1, 2, 3),
    task: str = "multilabel",
    clients: str = "region-duplicate-p0",
    methods: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Write scores/, runs/ and measured/; return them as the step wants them.

    `methods`: these with their defaults; else all, and their variants.
    """
    found = []
    for method, variant, label, level in METHODS:
        if methods and (variant != "default" or method not in methods):
            continue
        for seed in seeds:
            named: dict[str, Any] = {
                "archive": TASKS[task][0], "clients": clients,
                "method": method, "variant": variant,
            }  # fmt: skip
            place = Path(*named.values(), f"seed-{seed}")
            paths = {
                "scores": root / "scores" / place / "scores.csv",
                "predictions": root / "scores" / place / "predictions.parquet",
                "rounds": root / "runs" / place / "rounds.csv",
                "run": root / "runs" / place / "run.json",
                "measured": (root / "measured" / place).with_suffix(".json"),
            }
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            _write_scores(paths, method, variant, seed, level, task)
            _write_predictions(paths["predictions"], generator(method, variant, seed, "p"), task)
            named["seed"] = seed
            _write_run(paths, named, level, task)
            folders = {"scores": paths["scores"].parent, "run": paths["run"].parent}
            found.append(named | {"label": label, "measured": paths["measured"]} | folders)
    seal_runs(found)
    return found


def seal_runs(runs: list[dict[str, Any]]) -> None:
    """List the digests of the files that are there now, as train and evaluate would."""
    for item in runs:
        path = item["run"] / "run.json"
        described = json.loads(path.read_text())
        described["files"] = digests(item["run"], ["rounds.csv"])
        path.write_text(json.dumps(described))
        listed = digests(item["scores"], ["scores.csv", "predictions.parquet"])
        sealed = {"run": file_sha256(path), "files": listed}
        (item["scores"] / "evaluation.json").write_text(json.dumps(sealed))


def write_partition(
    root: Path, task: str = "multilabel", name: str = "region-duplicate-p0"
) -> Path:
    """Write the manifest, its summary and table; return their path without its end."""
    archive, classes, _, _ = TASKS[task]
    folder = root / "data" / "clients" / archive
    folder.mkdir(parents=True)
    rng, rows, clients = generator("clients"), [], {}
    for group in GROUPS:
        sizes = {"train": int(rng.integers(180, 420)), "validation": 60, "test": 150}
        for q in ("s1", "s2"):
            entry: dict[str, Any] = {
                "group": group, "counts": {q: sizes}, "locations": sizes, "partners": 7,
            }  # fmt: skip
            share = rng.beta(0.5, 2.5, len(classes))
            entry["labels"] = {str(i): int(s * sizes["train"]) for i, s in enumerate(share)}
            clients[f"{group}-{q}"] = entry
            for split, count in sizes.items():
                rows += [
                    (f"{group}-{q}", group, q, f"{group}-{split}-{i}", split) for i in range(count)
                ]
    frame = pd.DataFrame(rows, columns=["client", "group", "modality", "pair", "split"])
    path = folder / f"{name}.parquet"
    frame.to_parquet(path, index=False)
    summary = {
        "sha256": "0f" * 32,
        "clients": clients,
        "empty_clients": ["belgium-s1"],
        "without_partner": {"s1": 31, "s2": 44},
        "shared_training_pairs": 1105,
        "without_holder": 3,
        "classes": list(classes),
        "pooled_labels": {str(i): 100 + i for i in range(len(classes))},
    }
    table = client_table(summary, ("s1", "s2"))
    table.to_csv(path.with_suffix(".csv"), index=False)
    summary["files"] = digests(folder, [path.with_suffix(".csv").name])
    sealed = summary | {"digest": digest(summary)}
    path.with_suffix(".json").write_text(json.dumps(sealed))
    return path.with_suffix("")


def _write_scores(
    paths: dict, method: str, variant: str, seed: int, level: float, task: str
) -> None:
    _, classes, metrics, of_class = TASKS[task]
    rng = generator(method, variant, seed)
    own = level + (0 if method == "prior" else 0.008 * rng.normal())
    rows: list[dict[str, Any]] = []

    def add(value: float, **head: Any) -> None:
        for metric, shift in metrics.items():
            rows.append(
                head
                | {
                    "metric": metric,
                    "value": value + shift,
                    "classes": len(classes[:18]),
                    "models": 1,
                    "models_asked": 1,
                }
            )

    loss = {"s1+s2": 0.0, "s1": 0.11, "s2": 0.04}
    exchanges = method not in ("prior", "local", "centralised-steps", "centralised-epochs")
    for policy in ("modality", "average") if exchanges else ("modality",):
        shift = -0.03 if policy == "average" else 0.0
        for modalities, lost in loss.items():
            add(
                own + shift - lost, kind="subset", policy=policy, modalities=modalities, patches=561
            )
        add(own + shift - 0.05, kind="incomplete", policy=policy, modalities="fewer", patches=39)
    for removed, rest in (("s1", "s2"), ("s2", "s1")):
        for rate in (0, 25, 50, 75, 100):
            add(own - loss[rest] * rate / 100, kind="missing", policy="modality", removed=removed,
                rate=rate, modalities="mixed", patches=561)  # fmt: skip
    add(own + 0.01, kind="validation", policy="modality", modalities="s1+s2", patches=240)
    if method == "local":
        for client in CLIENTS:
            add(own - 0.1 - 0.05 * rng.random(), kind="client", policy="modality", client=client,
                modalities=client[-2:], patches=580)  # fmt: skip
    for policy, shift in (
        (("modality", 0), ("average", -0.02), ("local", 0.015)) if exchanges else ()
    ):
        for client in CLIENTS:
            add(own + shift + 0.01 * rng.normal(), kind="own", policy=policy, client=client,
                modalities=client[-2:], patches=150)  # fmt: skip
    for index, name in enumerate(classes[:18]):
        for metric in of_class:
            value = float(np.clip(own + 0.3 * np.cos(index) + 0.02 * rng.normal(), 0.02, 0.98))
            rows.append({"kind": "class", "policy": "modality", "modalities": "s1+s2",
                         "class": name, "metric": metric, "value": value,
                         "patches": 561})  # fmt: skip
    rows.append({"kind": "pooled_statistics", "modalities": "s1", "patches": 12})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in ("rate", "patches", "classes", "models", "models_asked"):
        frame[column] = frame[column].astype("Int64")
    frame.to_csv(paths["scores"], index=False)


def _write_predictions(path: Path, rng: np.random.Generator, task: str) -> None:
    if task == "pixel":
        _write_confusions(path, rng)
        return
    labels = [
        np.flatnonzero(generator("labels", i).random(18) < 0.15).astype(np.int8) for i in range(60)
    ]
    pd.DataFrame(
        {
            "model": "all",
            "state": "",
            "pair": [f"pair-{i:03d}" for i in range(60)],
            "labels": labels,
            "probabilities": list(rng.random((60, len(CLASSES)), dtype=np.float32)),
        }
    ).to_parquet(path, index=False)


def _write_confusions(path: Path, rng: np.random.Generator) -> None:
    """The truth of a tile is the same for all runs; the last class has no pixel."""
    rows = []
    for tile in range(TILES):
        shares = generator("tile", tile).dirichlet(np.full(len(COVERS) - 1, 0.4))
        truth = (shares * 64**2).astype(int)
        matrix = np.zeros((len(COVERS), len(COVERS)), np.int64)
        for place, count in enumerate(truth):
            chance = rng.dirichlet(np.where(np.arange(len(COVERS)) == place, 4.0, 0.3))
            matrix[place] = rng.multinomial(count, chance)
        name = f"tile-{tile:03d}"
        rows.append({"model": "all", "state": "", "pair": name, "file": f"{name}.tif",
                     "complete": tile % 8 != 0, "confusion": matrix.ravel()})  # fmt: skip
    pd.DataFrame(rows).to_parquet(path, index=False)


def _write_run(paths: dict, named: dict[str, Any], level: float, task: str) -> None:
    method, variant, seed = named["method"], named["variant"], named["seed"]
    rng = generator("rounds", method, variant, seed)
    trains, exchanges = (
        method != "prior",
        method not in ("prior", "local") and "central" not in method,
    )
    rows = []
    for number in range(1, 13) if trains else ():
        for client in ["all"] if "central" in method else CLIENTS:
            rows.append({"round": number, "client": client, "modality": client[-2:],
                         "state": "trained", "samples": 300,
                         "steps": 10, "loss": 1 / number, "bytes_up": 400_000 * exchanges,
                         "bytes_down": 400_000 * exchanges, "flops": 3e9})  # fmt: skip
        value = level * (1 - 0.6 * np.exp(-number / 3)) + 0.012 * rng.normal()
        rows.append({"round": number, "client": "server", "val_score": value})
    columns = ["round", "client", "modality", "state", "samples", "steps", "loss", "loss_terms",
               "bytes_up", "bytes_down", "flops", "val_score"]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_csv(paths["rounds"], index=False)
    count = 12 * len(CLIENTS) * 400_000 * exchanges
    described = {
        "partition_sha256": "0f" * 32,
        **named, "task": task, "classes": TASKS[task][1],
        "parameters": {"train": {"statistics": "modality",
                                 "normalisation": "global" if variant == "default" else "client"}},
        "flops_per_sample": 9.7e6 * trains * (1.08 if "fw" in method else 1),
        "flops": 2.9e11 * trains,
        "parameters_count": 181_203 if trains else 19, "bytes_up": count, "bytes_down": count,
        "rounds": 12 * trains, "diverged": None, "train_locations": 1180,
    }  # fmt: skip
    paths["run"].write_text(json.dumps(described))
    measured = {"seconds": 20 + 5 * rng.random(), "seconds_per_round": 1.8, "peak_memory_mb": 640.2,
                "device": "cpu", "started": "2026-01-05T10:00:00+00:00"}  # fmt: skip
    paths["measured"].write_text(json.dumps(measured))
