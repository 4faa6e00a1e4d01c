"""What a faster setting does to the scores of the default experiment, over seeds.

    make reproduce                                        # once: patches and clients to train on
    python benchmarks/precision.py

Every setting trains the same seeds as the default one. Printed for each method: its macro average
precision on the test locations (its mean intersection over union, of tiles) in percent, and the
mean difference of a setting to the default at the same seed, with a 95 % t-interval over the seeds.
What the settings save is measured by benchmarks/whitening.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from mmfl.clients.manifest import read_manifest
from mmfl.evaluation.protocol import validation_score
from mmfl.federation.bench import build_bench
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.loop import Federation, federate
from mmfl.federation.task import shown_policy
from mmfl.federation.tiles import open_data
from mmfl.federation.workers import deterministic
from mmfl.params import MethodEntry, Params, RunSpec, clients_name, load, resolve
from mmfl.steps.train import parts_of

DEFAULT = "default"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "bfloat16": {"train.precision": "bfloat16"},
    "compile": {"train.compile": True},
    "whitening.stride 2": {"whitening.stride": 2},
}


def train(params: Params, data: Data, method: str, changes: dict, seed: int) -> float:
    """Score of one run on the test locations, in percent."""
    own = resolve(params, MethodEntry(method=method, set=changes))
    spec = RunSpec("", "", method, "default", seed, method)
    device = torch.device("cpu")
    task, strategy, statistics = parts_of(spec, own, data, device)
    task.validate = lambda ensembles: None  # type: ignore[method-assign]
    initial = {k: v.detach().clone() for k, v in task.network.state_dict().items()}
    with tempfile.TemporaryDirectory() as work:
        fed = Federation(
            task, strategy, own, seed, lambda m: 0.0, lambda q: 0.0, Path(work), f"{method} {seed}"
        )
        server, _ = federate(fed, initial)
    bench = build_bench(task.network, data, Normaliser(statistics, data), own, device)
    models = strategy.evaluation_view(server, shown_policy(own))
    return 100 * (validation_score(bench, models, data.splits["test"]) or 0.0)


def line(method: str, setting: str, found: dict[str, np.ndarray]) -> str:
    """A row of the table; `found[setting]` are the scores (seeds,)."""
    scores = found[setting]
    text = f"| `{method}` | {setting} | {scores.mean():.2f} |"
    if setting == DEFAULT:
        return f"{text} |"
    change = scores - found[DEFAULT]
    half = stats.t.ppf(0.975, len(change) - 1) * stats.sem(change)
    return f"{text} {change.mean():+.2f} ± {half:.2f} |"


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description="Effect of faster settings on scores.")
    parser.add_argument("--archive", default="simulated")
    parser.add_argument("--methods", nargs="+", default=["mf", "mf+fw"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    given = parser.parse_args()
    deterministic()
    params = load("params.yaml").of(given.archive)
    name = clients_name(params)
    frame = read_manifest(Path(f"data/clients/{given.archive}/{name}.parquet"))
    patches = Path("data/patches", given.archive)
    data = open_data(patches, frame, params.train.bands, params.train.size)
    data.preload()
    print("| method | setting | score | difference |\n|---|---|---:|---:|")
    for method in given.methods:
        found: dict[str, list] = {setting: [] for setting in SETTINGS}
        chosen = [s for s in SETTINGS if "+fw" in method or not s.startswith("whitening")]
        for seed in given.seeds:
            for setting in chosen:
                found[setting].append(train(params, data, method, SETTINGS[setting], seed))
                print(method, setting, seed, found[setting][-1], file=sys.stderr)
        for setting in chosen:
            print(line(method, setting, {s: np.array(v) for s, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
