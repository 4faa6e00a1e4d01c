"""Evaluate: a trained run and the test patches in, scores out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mmfl import sealed
from mmfl.clients.manifest import content_hash, read_manifest
from mmfl.errors import UserError
from mmfl.evaluation.geotiff import file_names, whole_folder, write_class_map
from mmfl.evaluation.labels import LabelBench
from mmfl.evaluation.pixels import PixelBench
from mmfl.evaluation.protocol import (
    COLUMNS,
    DIVERGED,
    Bench,
    client_rows,
    own_rows,
    union_rows,
)
from mmfl.federation import checkpoint
from mmfl.federation.bench import build_bench
from mmfl.federation.data import Data, Normaliser, Statistics
from mmfl.federation.devices import devices
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import shown_policy
from mmfl.federation.tiles import TileData, open_data
from mmfl.files import atomic, write_json
from mmfl.intact import digests
from mmfl.models.ensemble import Ensemble
from mmfl.params import Params, RunSpec, find_entry, parts, resolve, runs_of
from mmfl.strategies.base import POLICIES, Server, Strategy

log = logging.getLogger(__name__)
MAPS = "predictions"  # the folder of the GeoTIFFs
WHOLE = "all"  # the model of all clients, in `predictions.parquet`
UNSEEN = "unseen"  # state of a prediction where a model sees nothing of a location


def run(
    params: Params,
    archive: str,
    method: str,
    variant: str,
    *,
    patches: Path,
    manifest: Path,
    trained: Path,
    out: Path,
    device: str = "auto",
    gpus: int = 1,
) -> None:
    """Score every seed of a method. `trained` and `out` are the folders runs/ and scores/."""
    torch.set_num_threads(1)
    item = find_entry(params, method, variant)
    own = resolve(params, item)
    frame = read_manifest(manifest)
    data = open_data(patches, frame, own.train.bands, own.train.size)
    data.store.of(archive)
    data.preload()
    for spec in runs_of(params, archive, item):
        found = sealed.trained(trained / spec.path, asdict(spec))
        if found.described.get("patches_digest") != data.store.sha256:
            raise UserError(
                f"{trained / spec.path}: trained on other patches than those in {patches}; "
                "run train again"
            )
        if found.described.get("partition_sha256") != content_hash(frame):
            raise UserError(
                f"{trained / spec.path}: trained on another partition than {manifest}; "
                "run train again"
            )
        with devices(device, gpus) as chosen:
            evaluate_one(spec, own, data, found, out, chosen[0])


def evaluate_one(
    spec: RunSpec,
    params: Params,
    data: Data,
    run: sealed.Sealed,
    out: Path,
    device: torch.device,
) -> None:
    """Score one seed: union test set under both shared policies, own patches under all three."""
    name = "model" if params.evaluate.round == "last" else "best"
    server, _ = checkpoint.read(run.check(f"{name}.safetensors"))
    network = build_network(spec.method, params, len(data.classes), data.task).to(device)
    strategy = build_strategy(spec.method, params, network, data)
    normaliser = Normaliser(_statistics(run.described), data)
    overlap = params.evaluate.overlap
    bench = build_bench(network, data, normaliser, params, device, overlap)
    test = data.splits.get("test", np.empty(0, np.int64))
    if not len(test):
        raise UserError(
            f"{spec.path}: the partition has no test location, expected at least one; "
            "check partition.countries and partition.months"
        )
    validation = data.splits.get("validation", np.empty(0, np.int64))
    shown = shown_policy(params)
    rows = []
    answers: list[np.ndarray] = []
    for policy in _policies(strategy, shown):
        found, given = union_rows(
            bench, strategy.evaluation_view(server, policy), policy, test, validation,
            params.evaluate.rates, detailed=policy == shown,
        )  # fmt: skip
        rows += found
        if policy == shown:
            answers = given
    union = strategy.evaluation_view(server, shown)
    if parts(spec.method)[0] == "local":
        experts = [expert for ensemble in union for expert in ensemble]
        rows += client_rows(bench, experts, test, validation, shown)
    rows += own_rows(bench, _own_experts(strategy, server, data), _own_test(data), validation)
    for q in data.bands:
        lonely = normaliser.without_client(q, test[data.present[q][test]])
        if lonely:
            log.info(
                "%s: %d test patches of %s have no client in their group", spec.path, lonely, q
            )
            rows.append({"kind": "pooled_statistics", "modalities": q, "patches": lonely})
    names = _names(union, data)
    if isinstance(bench, LabelBench):
        tables = [_probabilities(bench, a, test, n) for a, n in zip(answers, names, strict=True)]
    else:
        assert isinstance(data, TileData)
        models = dict(zip(names, union, strict=True))
        tables = _class_maps(out / spec.path, bench, models, test, data)
    predictions = pd.concat(tables, ignore_index=True)
    if (predictions["state"] == DIVERGED).any():
        log.warning(
            "%s: the model has diverged: answers that are not finite get no score, and "
            "scores.csv says diverged", spec.path,
        )  # fmt: skip
    data.unchanged()
    run.watch.unchanged()
    _write(out / spec.path, run, rows, predictions)


def _names(ensembles: Sequence[Ensemble], data: Data) -> list[str]:
    """What each ensemble is called in the predictions: `all`, or the group whose clients it has."""
    if len(ensembles) == 1:
        return [WHOLE]
    groups = {client.id: client.group for client in data.clients}
    return [groups[ensemble[0].name] for ensemble in ensembles]


def _policies(strategy: Strategy, shown: str) -> list[str]:
    """The policies that differ on the union test set; none do where nothing is exchanged."""
    return [shown] if not strategy.exchanges else ["modality", "average"]


def _own_experts(strategy: Strategy, server: Server, data: Data) -> dict:
    if not strategy.exchanges:
        return {}
    return {
        policy: {c.id: strategy.expert(server, c, policy) for c in data.clients}
        for policy in POLICIES
    }


def _own_test(data: Data) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for held in data.held.values():
        for client, part in held[held["split"] == "test"].groupby("client"):
            found.setdefault(str(client), []).append(part["location"].to_numpy())
    return {client: np.unique(np.concatenate(parts)) for client, parts in found.items()}


def _statistics(described: dict) -> Statistics:
    return {
        q: {owner: (np.array(mean), np.array(std)) for owner, (mean, std) in entries.items()}
        for q, entries in described["statistics"].items()
    }


def _probabilities(
    bench: LabelBench, answer: np.ndarray, test: np.ndarray, model: str
) -> pd.DataFrame:
    """A row per test patch: model, pair, state, its labels and a model's probabilities.

    The state is empty, or `unseen` or `diverged` (see `_states`): then they are NaN.
    """
    states = _states(bench, answer)
    given = np.where((states == "")[:, None], answer, np.nan).astype(np.float32)
    return pd.DataFrame(
        {
            "model": model,
            "pair": bench.pairs[test],
            "state": states,
            "labels": [np.flatnonzero(row).astype(np.int8) for row in bench.labels[test]],
            "probabilities": list(given),
        }
    )


def _states(bench: Bench, answer: np.ndarray) -> np.ndarray:
    """(N,) text: `unseen` where the model sees nothing, `diverged` where it is not finite."""
    states = np.where(bench.finite(answer), "", DIVERGED)
    return np.where(bench.seen(answer), states, UNSEEN).astype(object)


def _class_maps(
    folder: Path,
    bench: PixelBench,
    models: dict[str, Ensemble],
    test: np.ndarray,
    data: TileData,
) -> list[pd.DataFrame]:
    """Write predictions/, a GeoTIFF per model and test tile; for each model a row per tile.

    A row: model, pair, state (empty, or see `_states`), file below predictions/, the confusion
    matrix. With several models each has a folder of its own. The matrix is flat, (P·P,) int64, row
    by row; a row is a true class. With a state it is 0 everywhere, and the map 255. `complete`: the
    tile holds every modality.
    """
    names = file_names(bench.pairs[test].tolist())
    complete = np.all([held[test] for held in data.present.values()], axis=0)
    tables = []
    with whole_folder(folder / MAPS) as temporary:
        for model, ensemble in models.items():
            files = names if len(models) == 1 else [f"{model}/{name}" for name in names]
            (temporary / files[0]).parent.mkdir(exist_ok=True)
            counts = np.empty((len(test), len(data.classes), len(data.classes)), np.int64)
            for row, classes, matrix in bench.class_maps(ensemble, test):
                place = data.georeference(int(test[row]))
                write_class_map(temporary / files[row], classes, data.classes, data.colours, place)
                counts[row] = matrix
            table = {
                "model": model,
                "pair": bench.pairs[test],
                "state": _states(bench, counts),
                "file": files,
                "complete": complete,
                "confusion": list(counts.clip(0).reshape(len(test), -1)),
            }
            tables.append(pd.DataFrame(table))
        data.unchanged()
    return tables


def _write(folder: Path, run: sealed.Sealed, rows: list[dict], predictions: pd.DataFrame) -> None:
    """scores.csv, predictions.parquet, and last the digests of all files and of the run."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in ("rate", "patches", "classes", "models", "models_asked"):
        frame[column] = frame[column].astype("Int64")
    with atomic(folder / "scores.csv") as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    with atomic(folder / "predictions.parquet") as temporary:
        predictions.to_parquet(temporary, index=False)
    maps = [f"{MAPS}/{name}" for name in predictions.get("file", ())]
    listed = digests(folder, ["scores.csv", "predictions.parquet", *maps])
    write_json(folder / sealed.EVALUATION, {"run": run.sha256, "files": listed})
