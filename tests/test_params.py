"""Parameters: the committed files are valid, faults are one line that names the nearest key."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from mmfl import params as p
from mmfl.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_files_are_valid_by_model_and_schema(path):
    schema = json.loads((ROOT / "workflow/schemas/params.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    assert p.load(path).archives


def test_schema_has_not_drifted():
    exported = json.loads((ROOT / "workflow/schemas/params.json").read_text())
    assert exported == p.Params.model_json_schema(), "run: mmfl schema"


def test_default_file_names_every_key():
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    dumped = p.load(ROOT / "params.yaml").model_dump(mode="json")
    assert {k: sorted(v) for k, v in data.items() if isinstance(v, dict)} == {
        k: sorted(v) for k, v in dumped.items() if isinstance(v, dict)
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"trian": {}}, "unknown key trian; did you mean train?"),
        ({"train": {"rouns": 3}}, "unknown key train.rouns; did you mean rounds?"),
        ({"train": {"rounds": "a"}}, "train.rounds: found 'a'"),
        ({"train": {"rounds": 0}}, "train.rounds: found 0"),
        ({"archives": ["simulatd"]}, "did you mean simulated?"),
        ({"train": {"methods": ["mf+fv"]}}, "unknown module 'fv'"),
        ({"train": {"methods": ["mf+mim+fw", "mf"]}}, "write it as mf+fw+mim"),
        (
            {"train": {"methods": ["mf", "late-fusion+mim"]}},
            "nothing of one reaches the other for mim",
        ),
        ({"train": {"methods": ["mf", "mf"]}}, "listed twice"),
        ({"train": {"seeds": [1, 1]}}, "distinct"),
        ({"train": {"bands": {"s2": ["B10"]}}}, "unknown band 'B10'"),
        ({"train": {"methods": ["mf+fw"]}}, "report.baseline: mf is not trained"),
        ({"partition": {"scenario": "contry"}}, "did you mean country?"),
        (
            {"train": {"methods": ["mf", "mf+mim"]}, "partition": {"assignment": "disjoint"}},
            "no shared pair",
        ),
        (
            {"train": {"methods": ["mf", {"method": "mf", "set": {"train.lr": 1}}]}},
            "unknown key 'train.lr'",
        ),
        ({"train": {"methods": ["mf", "local+mim"]}}, "mim needs clients that exchange"),
        ({"train": {"methods": ["mf", "local+prototypes"]}}, "averaged by a server"),
        ({"train": {"methods": ["mf", "prototypes+prototypes"]}}, "named twice"),
        ({"train": {"methods": ["mf", "prior+fw"]}}, "has no network for fw"),
        (
            {"train": {"methods": ["mf", "scaffold+fw"], "momentum": 0.9}},
            "scaffold+fw: train.momentum: found 0.9, expected 0; it needs plain SGD",
        ),
        (
            {"train": {"methods": ["mf", "fednova"], "optimiser": "adam"}},
            "fednova: train.optimiser: found adam; it needs SGD",
        ),
        (
            {"train": {"methods": ["mf", {"method": "feddc", "set": {"train.momentum": 0.5}}]}},
            "feddc: train.momentum",
        ),
        (
            {"train": {"methods": ["mf", "local+mim"]}, "mim": {"bank": "prototype"}},
            "needs a server that averages",
        ),
        ({"algorithms": {"fedprox": {"nu": 1}}}, "unknown key algorithms.fedprox.nu"),
        ({"algorithms": {"feddyn": {"alpha": 0}}}, "algorithms.feddyn.alpha: found 0"),
        ({"participation": {"fraction": 0}}, "participation.fraction: found 0"),
        ({"participation": {"fails": 0.6, "late": 0.6}}, "their sum exceeds 1"),
        (
            {"participation": {"schedule": [{"round": 1, "client": "a", "what": "dies"}]}},
            "participation.schedule.0.what: found 'dies'",
        ),
        ({"tune": {"trials": {"mg": {}}}}, "unknown method 'mg'"),
        (
            {
                "tune": {
                    "trials": {
                        "mf": {"train.learning_rate": [0.1, 0.3]},
                        "fedprox": {"train.learning_rate": [0.1]},
                    }
                }
            },
            "found mf 2, fedprox 1; expected as many for every method",
        ),
        ({"model": {"width": 10}, "train": {"methods": ["mf", "mf+fw"]}}, "does not divide"),
    ],
)
def test_faults_are_refused_in_one_line(data, expected):
    with pytest.raises(UserError) as caught:
        p.validate(data)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "train: [", "", "a: b: c"])
def test_files_that_are_no_parameters(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        p.load(path)


def test_runs_have_distinct_places_and_variants():
    params = p.load(ROOT / "params.yaml")
    runs = p.runs(params, "simulated")
    assert len({run.path for run in runs}) == len(runs) == 30
    variants = {run.variant for run in runs if run.method == "mf"}
    assert "default" in variants and len(variants) == 2


def test_train_values_hold_only_what_changes_a_result():
    params = p.load(ROOT / "params.yaml")
    data = params.model_dump()
    data["mim"]["weight"] = 0.9
    other = p.Params.model_validate(data)
    assert p.step_values(params, "train", "simulated", "mf") == p.step_values(
        other, "train", "simulated", "mf"
    )
    assert p.step_values(params, "train", "simulated", "mf+mim") != p.step_values(
        other, "train", "simulated", "mf+mim"
    )
