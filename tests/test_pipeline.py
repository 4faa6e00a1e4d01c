"""The whole pipeline, from nothing to the page, on simulated data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import average_precision_score, f1_score

from helpers.project_copy import ROOT, copy_project, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ci(tmp_path_factory) -> Path:
    """A copy of the project with `configs/ci.yaml` run to the end."""
    project = copy_project(tmp_path_factory.mktemp("ci"))
    snakemake(project, project / "configs/ci.yaml")
    return project


def test_everything_is_written(ci):
    params = yaml.safe_load((ci / "configs/ci.yaml").read_text())
    runs = list(ci.glob("runs/simulated/*/*/*/seed-*/model.safetensors"))
    assert len(runs) == len(params["train"]["methods"]) * len(params["train"]["seeds"])
    results = next((ci / "results/simulated").iterdir())
    for table in ("comparison", "ablation", "missing", "policies", "cost"):
        for suffix in ("csv", "md", "tex"):
            assert (results / "tables" / f"{table}.{suffix}").stat().st_size > 100
    page = (ci / "page/simulated.html").read_text()
    assert "simulated" in page[:3000]
    assert "<svg" in page and 'src="http' not in page and "<link" not in page
    tiles = json.loads(next(ci.glob("runs/simulated-tiles/**/run.json")).read_text())
    assert tiles["task"] == "pixel"
    folder = next(ci.glob("scores/simulated-tiles/*/mf/default/seed-1"))
    table = pd.read_parquet(folder / "predictions.parquet")
    assert sorted(table["file"]) == sorted(p.name for p in (folder / "predictions").iterdir())
    page = (ci / "page/simulated-tiles.html").read_text()
    assert "mean IoU" in page and "<svg" in page


def test_second_run_has_nothing_to_do(ci):
    assert "Nothing to be done" in snakemake(ci, ci / "configs/ci.yaml")


def test_scores_are_scikit_learns(ci):
    """The table's numbers again, from the predictions, for the locations with every modality."""
    for folder in ci.glob("scores/simulated/*/mf*/default/seed-1"):
        rows = pd.read_csv(folder / "scores.csv")
        whole = rows[(rows["kind"] == "subset") & (rows["modalities"] == "s1+s2")]
        whole = whole[whole["policy"] == "modality"].set_index("metric")["value"]
        table = pd.read_parquet(folder / "predictions.parquet").set_index("pair")
        patches = ci / "data/patches/simulated"
        held = [set(pd.read_parquet(patches / q / "index.parquet")["pair"]) for q in ("s1", "s2")]
        table = table[[pair in held[0] & held[1] for pair in table.index]]
        truth = np.zeros((len(table), 19), int)
        for row, labels in enumerate(table["labels"]):
            truth[row, labels] = 1
        values = np.stack(table["probabilities"].to_list())
        seen = truth.any(axis=0)
        expected = average_precision_score(truth[:, seen], values[:, seen], average="macro")
        assert whole["ap_macro"] == pytest.approx(expected, abs=1e-12)
        expected = f1_score(truth, values >= 0.5, average="micro", zero_division=0)
        assert whole["f1_micro"] == pytest.approx(expected, abs=1e-12)


def test_curve_ends_at_the_subset_row(ci):
    for folder in ci.glob("scores/simulated/*/mf*/default/seed-1"):
        rows = pd.read_csv(folder / "scores.csv")
        for removed, left in (("s1", "s2"), ("s2", "s1")):
            curve = rows[(rows["kind"] == "missing") & (rows["removed"] == removed)]
            end = curve[curve["rate"] == 100].set_index("metric")["value"]
            start = curve[curve["rate"] == 0].set_index("metric")["value"]
            subset = rows[(rows["kind"] == "subset") & (rows["policy"] == "modality")]
            for rate, name in ((end, left), (start, "s1+s2")):
                expected = subset[subset["modalities"] == name].set_index("metric")["value"]
                assert (rate == expected[rate.index]).all()


def test_one_more_seed_trains_only_that_seed(ci):
    params = yaml.safe_load((ci / "configs/ci.yaml").read_text())
    params["archives"] = {"simulated": {}}
    params["train"]["seeds"].append(3)
    params["train"]["methods"] = ["mf"]
    changed = ci / "configs/more.yaml"
    changed.write_text(yaml.safe_dump(params))
    before = {p.parent.name for p in (ci / ".cache/train").glob("*/run.json")}
    snakemake(ci, changed, "--until", "train")
    after = {p.parent.name for p in (ci / ".cache/train").glob("*/run.json")}
    new = [json.loads((ci / ".cache/train" / n / "run.json").read_text()) for n in after - before]
    assert [(run["method"], run["seed"]) for run in new] == [("mf", 3)]


def test_three_modalities_absent_clients_workers_and_tuning(tmp_path):
    """Sentinel-2's 10 m and 20 m bands as modalities of their own, by configuration alone."""
    project = copy_project(tmp_path / "three")
    choice = yaml.safe_load((ROOT / "configs/ci.yaml").read_text())
    choice["archives"] = {"simulated": {}}
    choice["simulate"]["countries"] = ["Austria", "Finland", "Ireland", "Portugal"]
    choice["partition"] = {"modalities": ["s1", "s2-10m", "s2-20m"], "assignment": "mixed"}
    choice["participation"] = {
        "schedule": [{"round": 1, "client": "austria-s1", "what": "late"}],
        "fraction": 0.99,
    }
    choice["train"] |= {
        "seeds": [1],
        "methods": ["mf", "scaffold+fw+mim"],
        "bands": {"s1": ["VV"], "s2-10m": ["B02", "B08"], "s2-20m": ["B05", "B11"]},
    }
    choice["tune"] = {"trials": {"mf": {"train.learning_rate": [0.1, 0.3]}}}
    params = project / "three.yaml"
    params.write_text(yaml.safe_dump(choice))
    snakemake(project, params, "--set-threads", "train=2", "--", "all", "tuned")
    rounds = pd.read_csv(next(project.glob("runs/simulated/*/mf/default/seed-1/rounds.csv")))
    states = rounds.set_index(["round", "client"])["state"]
    assert states[1, "austria-s1"] == "late" and states[2, "austria-s1"] == "trained"
    scores = pd.read_csv(next(project.glob("scores/simulated/*/scaffold*/*/seed-1/scores.csv")))
    subsets = set(scores[scores["kind"] == "subset"]["modalities"])
    assert len(subsets) == 7 and "s1+s2-10m+s2-20m" in subsets
    page = (project / "page/simulated.html").read_text()
    assert "Who took part" in page and "S2-20M" in page
    chosen = yaml.safe_load(
        next(project.glob("results/tuning/simulated/*/chosen.yaml")).read_text()
    )
    assert chosen["mf"]["train.learning_rate"] in (0.1, 0.3)
