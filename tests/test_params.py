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
        ({"archives": {"simulatd": {}}}, "did you mean simulated?"),
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
            "train.momentum: found 0.9, expected 0: scaffold+fw needs plain SGD",
        ),
        (
            {"train": {"methods": ["mf", "fednova"], "optimiser": "adam"}},
            "train.optimiser: found adam, expected sgd: fednova needs SGD",
        ),
        (
            {"train": {"methods": ["mf", {"method": "feddc", "set": {"train.momentum": 0.5}}]}},
            "train.methods.1.set.train.momentum: found 0.5, expected 0: feddc needs",
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
        (
            {
                "archives": {"simulated-tiles": {}},
                "model": {"width": 192},
                "train": {"methods": ["mf", "mf+fw"]},
                "whitening": {"where": "all", "group": 96},
            },
            "whitening.group: 96 does not divide the 128 channels of the decoder",
        ),
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


# ---- values of an archive's own ------------------------------------------------------------------

TWO = {
    "archives": {
        "simulated": {},
        "simulated-tiles": {
            "train": {"size": 48, "methods": ["mf", {"method": "mf", "set": {"mim.weight": 0.5}}]},
            "algorithms": {"moon": {"mu": 5}},
        },
    },
    "algorithms": {"moon": {"mu": 2, "temperature": 0.2}},
    "train": {"size": 16, "methods": ["mf", "mf+fw"]},
}


def test_an_archive_has_its_own_values_and_the_rest_of_the_file():
    params = p.validate(TWO)
    one, two = params.of("simulated"), params.of("simulated-tiles")
    assert (one.train.size, two.train.size) == (16, 48)
    assert [m.method for m in p.entries(two)] == ["mf", "mf"]
    assert (two.algorithms.moon.mu, two.algorithms.moon.temperature) == (5, 0.2)
    assert (one.algorithms.moon.mu, one.algorithms.moon.temperature) == (2, 0.2)
    assert list(one.archives) == ["simulated"] and one.of("simulated") is one
    assert {s.method for s in p.runs(params, "simulated")} == {"mf", "mf+fw"}
    assert len(p.runs(params, "simulated-tiles")) == 2 * len(params.train.seeds)


def test_bands_and_modalities_are_the_archives_unless_given():
    own = {"train": {"bands": {"s2": ["B04"]}}}
    params = p.validate({"archives": {"simulated": own, "simulated-tiles": None}})
    assert params.of("simulated").train.bands == {"s2": ["B04"]}, "replaced as a whole"
    assert params.of("simulated-tiles").train.bands["s1"] == ["VV", "VH"]
    assert params.of("simulated-tiles").partition.modalities == ["s1", "s2"]


def test_only_what_concerns_an_archive_is_in_its_values():
    """So that nothing else trains or evaluates it again."""
    params = p.validate(TWO)
    more = p.validate(TWO | {"evaluate": {"overlap": 0.25, "threshold": "validation"}})
    for archive, key in (("simulated", "threshold"), ("simulated-tiles", "overlap")):
        before, after = (p.step_values(x, "evaluate", archive) for x in (params, more))
        assert {k for k in after if before[k] != after[k]} == {key}
    tiles = p.validate(TWO | {"simulate": {"tiles": 60}})
    assert p.step_values(tiles, "simulate", "simulated") == p.step_values(
        params, "simulate", "simulated"
    )
    assert p.step_values(tiles, "simulate", "simulated-tiles") != p.step_values(
        params, "simulate", "simulated-tiles"
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"archives": ["simulated"]}, "archives: found a list, expected a mapping such as"),
        ({"archives": [{"simulated": {}}]}, "archives: found a list, expected a mapping such as"),
        ({"archives": {}}, "archives: found 0 values, expected at least 1"),
        (
            {"archives": {"simulated": {"trian": {}}}},
            "archives.simulated.trian: found trian, expected sections of split, partition",
        ),
        (
            {"archives": {"simulated": {"train": {"sise": 3}}}},
            "unknown key archives.simulated.train.sise; did you mean size?",
        ),
        (
            {"archives": {"simulated": {"train": {"size": "x"}}}},
            "archives.simulated.train.size: found 'x'",
        ),
        (
            {"archives": {"simulated": {"train": {"seeds": [4]}}}},
            "train.seeds names folders and is the same for all archives",
        ),
        (
            {"archives": {"simulated": {}, "simulated-tiles": {"train": {"methods": ["mf+fw"]}}}},
            "report.baseline: mf is not trained (mf+fw) (archive simulated-tiles)",
        ),
        (
            {"archives": {"simulated": {}, "simulated-tiles": {}}, "train": {"size": 32},
             "partition": {"scenario": "country"}},
            "partition.scenario: found country, which needs the column country; the archive has",
        ),
        (
            {"archives": {"simulated-tiles": {}}, "partition": {"modalities": ["s3"]}},
            "partition.modalities: unknown modality 's3'; known: s1, s2",
        ),
        (
            {"partition": {"modalities": ["s1", "s2-10m"]}},
            "train.bands: name the bands of s2-10m, which is part of a modality",
        ),
        ({"mim": {"features": "cells"}}, "mim.features: found cells, expected pooled"),
        (
            {"imagery": {"catalogues": {"earth-search": {"paralel": 2}}}},
            "did you mean parallel?",
        ),
        ({"folders": {"simulated": "x.yaml"}}, "folders.simulated: expected a name of your own"),
        ({"folders": {"Floods": "x.yaml"}}, "folders.Floods: expected a name of your own"),
        (
            {"folders": {"floods": "nowhere.yaml"}, "archives": {"floods": {}}},
            "nowhere.yaml: not found",
        ),
    ],
)  # fmt: skip
def test_faults_of_archives_are_one_line(data, expected):
    with pytest.raises(UserError) as caught:
        p.validate(data)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scenario_of_ones_own_is_known_where_its_columns_are(monkeypatch):
    """The registry says what it reads; no part of its name does."""
    monkeypatch.setitem(p.SCENARIOS, "half-year", ("month",))
    monkeypatch.setitem(p.SCENARIOS, "country-size", ("equinox",))
    for archive in ("simulated", "simulated-tiles"):
        own = {"archives": {archive: {}}, "partition": {"scenario": "half-year"}}
        assert p.validate(own).of(archive).partition.scenario == "half-year"
    with pytest.raises(UserError, match="country-size, which needs the column equinox"):
        p.validate({"partition": {"scenario": "country-size"}})


def test_an_assignment_says_which_methods_it_refuses(monkeypatch):
    one, some = p.ASSIGNMENTS["alternate"], p.ASSIGNMENTS["mixed"]
    monkeypatch.setitem(p.ASSIGNMENTS, "own", one)
    for method, message in (("mf+mim", "no shared pair"), ("late-fusion", None)):
        data = {"partition": {"assignment": "own"}, "train": {"methods": ["mf", method]}}
        if message is None:
            assert p.validate(data).partition.assignment == "own"
            continue
        with pytest.raises(UserError, match=message):
            p.validate(data)
    monkeypatch.setitem(p.ASSIGNMENTS, "own", some)
    with pytest.raises(UserError, match="needs clients with one modality each"):
        p.validate(
            {"partition": {"assignment": "own"}, "train": {"methods": ["mf", "late-fusion"]}}
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_describes_a_run_names_its_own_method(path):
    """run.json, and so `mmfl inspect`, show these values."""
    params = p.load(path)
    for archive in params.archives:
        chosen = params.of(archive)
        for item in (*p.entries(chosen), *p.trials(chosen)):
            own = p.resolve(chosen, item)
            assert own.train.methods == [item.method]
            dumped = own.model_dump()
            for key, value in item.set.items():
                section, *inner = key.split(".")
                found = dumped[section]
                for part in inner:
                    found = found[part]
                assert found == value


def test_a_change_of_a_built_in_catalogue_survives_a_method_with_own_values():
    """`resolve` writes the parameters out and reads them again."""
    entry = {"method": "mf", "set": {"train.size": 24}}
    given = {"catalogues": {"planetary-computer": {"parallel": 2}}}
    data = {"archives": {"dynamicworld-expert": {}}, "imagery": given}
    params = p.validate(data | {"train": {"methods": ["mf", entry]}})
    item = p.MethodEntry.model_validate(entry)
    own = p.resolve(params.of("dynamicworld-expert"), item)
    catalogue = own.imagery.catalogue("s2")
    assert catalogue.parallel == 2 and catalogue.url.startswith("https://")
