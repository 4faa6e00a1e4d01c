"""The committed configurations hold what the committed tuning chose."""

from pathlib import Path

import pandas as pd
import yaml

from mmfl.params import entries, load, trials

ROOT = Path(__file__).parents[1]
TUNED = ROOT / "results/tuning/simulated/region-duplicate-p0"
CHOSEN = yaml.safe_load((TUNED / "chosen.yaml").read_text())
COMPARISON = ROOT / "configs/comparison.yaml"


def test_the_comparison_uses_the_chosen_values():
    """Methods that were not tuned (prior; mf with other inputs) have mf's rate."""
    params = load(COMPARISON)
    assert params.train.learning_rate == CHOSEN["mf"]["train.learning_rate"]
    seen = set()
    for item in entries(params):
        own = {"train.learning_rate": params.train.learning_rate} | item.set
        own.pop("train.normalisation", None)
        if item.method in CHOSEN:
            assert own == {"train.learning_rate": params.train.learning_rate} | CHOSEN[item.method]
            seen.add(item.method)
        else:
            assert item.method == "prior"
    assert seen == set(CHOSEN)


def test_the_committed_trials_are_those_of_the_configuration():
    params = load(ROOT / "configs/tune.yaml")
    table = pd.read_csv(TUNED / "trials.csv")
    expected = [
        (item.method, ", ".join(f"{key}={value}" for key, value in item.set.items()))
        for item in trials(params)
    ]
    assert list(zip(table["method"], table["values"], strict=True)) == expected
    best = table.loc[table.groupby("method")["validation"].idxmax()]
    for method, values in zip(best["method"], best["values"], strict=True):
        assert values == ", ".join(f"{key}={value}" for key, value in CHOSEN[method].items())


def test_tuning_and_comparison_differ_in_seeds_only():
    tune, comparison = load(ROOT / "configs/tune.yaml"), load(COMPARISON)
    assert not set(tune.train.seeds) & set(comparison.train.seeds)
    same = {"methods", "seeds", "learning_rate"}
    assert tune.train.model_dump(exclude=same) == comparison.train.model_dump(exclude=same)
    for section in ("simulate", "split", "partition", "model", "participation"):
        assert getattr(tune, section) == getattr(comparison, section)
