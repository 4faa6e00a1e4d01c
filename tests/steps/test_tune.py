"""Tuning: the validation score decides, ties go to the first, edges are named."""

from dataclasses import asdict

import pandas as pd
import pytest
import yaml

from mmfl.errors import UserError
from mmfl.files import read_json, write_json
from mmfl.intact import digests
from mmfl.params import Params, runs_of, trials
from mmfl.steps import tune

GRID = {
    "mf": {"train.learning_rate": [0.1, 0.2, 0.3, 0.4]},
    "fedprox": {"train.learning_rate": [0.1, 0.3], "algorithms.fedprox.mu": [0.01, 0.1]},
}


def write_runs(folder, params, score):
    for item in trials(params):
        for spec in runs_of(params, "simulated", item):
            target = folder / spec.path
            target.mkdir(parents=True)
            last = score(item, spec.seed)
            state = "diverged" if last == "diverged" else None
            pd.DataFrame(
                {"round": [1, 1, 2, 2], "client": ["a", "server"] * 2,
                 "state": ["trained", None, "trained", state],
                 "val_score": [None, 0.9, None, None if state else last]}
            ).to_csv(target / "rounds.csv", index=False)  # fmt: skip
            write_json(target / "run.json", asdict(spec) | {"files": listed(target)})


def listed(folder):
    return digests(folder, ["rounds.csv"])


def params_with(grid):
    return Params.model_validate({"train": {"seeds": [5, 6]}, "tune": {"trials": grid}})


def test_the_best_mean_after_the_last_round_is_chosen(tmp_path):
    params = params_with(GRID)

    def score(item, seed):
        rate = item.set["train.learning_rate"]
        if item.method == "mf":  # 0.2 has the best mean, 0.4 the best seed
            return {0.1: 0.3, 0.2: 0.5, 0.3: 0.4, 0.4: 0.6 if seed == 5 else 0.1}[rate]
        return 0.5  # all equal: the first

    write_runs(tmp_path / "runs", params, score)
    tune.run(params, "simulated", trained=tmp_path / "runs", out=tmp_path / "out")
    chosen = yaml.safe_load((tmp_path / "out/chosen.yaml").read_text())
    assert chosen == {
        "mf": {"train.learning_rate": 0.2},
        "fedprox": {"train.learning_rate": 0.1, "algorithms.fedprox.mu": 0.01},
    }
    table = pd.read_csv(tmp_path / "out/trials.csv")
    assert len(table) == 8 and table["chosen"].sum() == 2
    edges = table[table["chosen"]].set_index("method")["at_edge"]
    assert pd.isna(edges["mf"]) and "algorithms.fedprox.mu" in edges["fedprox"]


def test_a_trial_that_diverged_is_not_chosen(tmp_path, caplog):
    """Not even if its other seed is the best of all, and it is said."""
    params = params_with({"mf": GRID["mf"]})

    def score(item, seed):
        rate = item.set["train.learning_rate"]
        return {0.1: 0.2, 0.2: "diverged" if seed == 6 else 0.9, 0.3: None, 0.4: "diverged"}[rate]

    write_runs(tmp_path / "runs", params, score)
    tune.run(params, "simulated", trained=tmp_path / "runs", out=tmp_path / "out")
    chosen = yaml.safe_load((tmp_path / "out/chosen.yaml").read_text())
    assert chosen == {"mf": {"train.learning_rate": 0.1}}
    found = pd.read_csv(tmp_path / "out/trials.csv")
    assert found["diverged"].fillna("").tolist() == [
        "", "seed 6 in round 2", "", "seed 5 in round 2, seed 6 in round 2",
    ]  # fmt: skip
    assert found["validation"].notna().tolist() == [True, False, False, False]
    assert "train.learning_rate=0.2: diverged, so not chosen: seed 6 in round 2" in caplog.text


def test_a_score_in_the_last_round_does_not_hide_that_a_seed_diverged(tmp_path):
    params = params_with({"mf": {"train.learning_rate": [0.1, 0.2]}})
    write_runs(tmp_path / "runs", params, lambda item, seed: item.set["train.learning_rate"])
    for path in (tmp_path / "runs").rglob("rounds.csv"):
        frame = pd.read_csv(path).astype({"state": object})
        if frame["val_score"].iloc[-1] == 0.2:
            frame.loc[1, "state"] = "diverged"
            frame.to_csv(path, index=False)
            run = path.with_name("run.json")
            write_json(run, read_json(run, "train") | {"files": listed(path.parent)})
    tune.run(params, "simulated", trained=tmp_path / "runs", out=tmp_path / "out")
    chosen = yaml.safe_load((tmp_path / "out/chosen.yaml").read_text())
    assert chosen == {"mf": {"train.learning_rate": 0.1}}


def test_nothing_to_choose_from_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"tune\.trials: found none"):
        tune.run(params_with({}), "simulated", trained=tmp_path, out=tmp_path)
    with pytest.raises(UserError, match=r"run\.json: not found; run train first"):
        tune.run(params_with(GRID), "simulated", trained=tmp_path, out=tmp_path)
    params = params_with(GRID)
    write_runs(tmp_path / "runs", params, lambda item, seed: None)
    with pytest.raises(UserError, match="fedprox: found no validation score in any trial"):
        tune.run(params, "simulated", trained=tmp_path / "runs", out=tmp_path)
    params = params_with({"fedprox": {"train.learning_rate": [0.1, 0.2]}})
    write_runs(tmp_path / "lost", params, lambda item, seed: "diverged")
    with pytest.raises(UserError, match=r"in any trial \(2 of 2 trials diverged\), expected"):
        tune.run(params, "simulated", trained=tmp_path / "lost", out=tmp_path)
