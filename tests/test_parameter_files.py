"""Parameter files as people write them: legal ones are taken, all others are one line.

A line names the file, the line in it, the key, what was found and what is expected.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mmfl import params as p
from mmfl.errors import UserError

ROOT = Path(__file__).parents[1]
FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
QUICK = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
FEW = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.yaml"


def refused(path: Path, content: str | bytes) -> tuple[int | None, str]:
    """Line number and message of a file that is refused."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        p.load(path)
    found = re.fullmatch(rf"{re.escape(str(path))}(?::(\d+))?: (.*)", str(caught.value))
    assert found is not None, f"not one line of this file: {caught.value}"
    return int(found[1]) if found[1] else None, found[2]


# ---- what a number is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["true", "1:30", "010", "0x10", "1_000", "yes", "2020-01-05", "1e3", "5.0", "'5'", ".inf",
     "", "~", "[5]", "{a: 5}", "0", "-1", "100001", "9" * 39, "9" * 4000],
)  # fmt: skip
def test_what_is_no_number_of_rounds(path, value):
    line, text = refused(path, f"train:\n  epochs: 2\n  rounds: {value}\n")
    assert line == 3 and text.startswith("train.rounds: found ")
    assert text.endswith(", expected a whole number, at least 1, at most 100,000")


@pytest.mark.parametrize("value", ["0.1", "1e-1", "1.0e-1", ".1", "+0.1", "1E-1"])
def test_a_number_is_written_as_in_json_or_nearly_so(path, value):
    """Both YAML 1.1 and 1.2 are about: `dvc exp run -S` writes 1e-05."""
    path.write_text(f"train: {{learning_rate: {value}}}")
    assert p.load(path).train.learning_rate == 0.1


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400", "1e31", "true", "0", "-1"])
def test_what_is_no_learning_rate(path, value):
    line, text = refused(path, f"train: {{learning_rate: {value}}}")
    assert line == 1 and text.startswith("train.learning_rate: found ")


def test_words_that_yaml_1_1_takes_for_truth_values_are_text(path):
    """Norway's code is a country as any other."""
    path.write_text("partition: {countries: [NO, on, 010]}")
    assert p.load(path).partition.countries == ["NO", "on", "010"]
    line, text = refused(path, "train:\n  augment: yes")
    assert (line, text) == (2, "train.augment: found 'yes', expected true or false")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "size", 1_000_000), ("model", "width", 10**8), ("partition", "clients", 10**9),
        ("train", "rounds", 10**9), ("train", "epochs", 10**9), ("train", "batch", 10**9),
        ("train", "seeds", list(range(1000))), ("train", "window", 10**9),
        ("model", "projection", 10**9), ("split", "shard_size", 10**12),
        ("simulate", "pairs", 10**9), ("simulate", "tiles", 10**9),
        ("evaluate", "rates", [101]), ("evaluate", "batch", 10**9), ("evaluate", "overlap", 0.999),
        ("report", "gallery", 10**9), ("mim", "cells", 10**6), ("mim", "weight", 1e30),
        ("mim", "temperature", 1e-9), ("whitening", "group", 10**6), ("whitening", "stride", 10**6),
        ("train", "methods", ["mf"] * 10_001),
    ],
)  # fmt: skip
def test_nothing_is_without_bounds(path, section, key, value):
    line, text = refused(path, f"# one\n{section}:\n  {key}: {value}\n")
    assert line == 3 and re.match(rf"{section}\.{key}(\.0)?: found .*, expected ", text)


def test_every_number_and_list_has_bounds():
    """Also those of fields that are added later."""

    def unbounded(schema: dict, name: str) -> list[str]:
        kinds = schema.get("type")
        found = []
        if kinds in ("integer", "number"):
            low = {"minimum", "exclusiveMinimum"} & set(schema)
            high = {"maximum", "exclusiveMaximum"} & set(schema)
            found += [name] if not (low and high) else []
        for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            found += unbounded(inner, name)
        if isinstance(schema.get("items"), dict):
            found += unbounded(schema["items"], f"{name}[]")
        for key, inner in schema.get("properties", {}).items():
            found += unbounded(inner, f"{name}.{key}")
        if isinstance(schema.get("additionalProperties"), dict):
            found += unbounded(schema["additionalProperties"], f"{name}.*")
        return found

    schema = p.Params.model_json_schema()
    sections = {"": schema, **schema["$defs"]}
    assert [x for name, part in sections.items() for x in unbounded(part, name)] == []


# ---- the file as a whole -------------------------------------------------------------------------

TENFOLD = "".join(
    f"{name}: &{name} [{', '.join([before] * 10)}]\n"
    for name, before in [
        ("a", "1"),
        ("b", "*a"),
        ("c", "*b"),
        ("d", "*c"),
        ("e", "*d"),
        ("f", "*e"),
    ]
)


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        ("", None, "found nothing, expected sections such as train:"),
        ("# only\n", None, "found nothing"),
        ("- train\n", None, "found a list"),
        ("train", None, "found a str"),
        ("train: {}\n---\ntrain: {}\n", 2, "found a second document (---), expected one"),
        ("train:\n  rounds: 3\n\tepochs: 3\n", 3, "the line begins with a tab, expected spaces"),
        ("train:\n  rounds: 5\n  epochs: 1\n  rounds: 5\n", 4,
         "the key rounds is given twice, first in line 2"),
        ("train: {}\nmodel: {}\ntrain: {}\n", 3, "the key train is given twice, first in line 1"),
        ("\ntrain: [\n", 3, "not readable as YAML"),
        ("train: {rounds: 3\nmodel: {}", 2, "not readable as YAML"),
        ("a: b: c", 1, "not readable as YAML"),
        ("train: *nowhere", 1, "found *nowhere, expected &nowhere before it"),
        ("train: &a {bands: *a}", 1, "found *a, expected &a before it"),
        ("train: !!python/object:os.system {}", 1, "found the tag"),
        ("true: {}", 1, "found the key true"),
        ("? [a]\n: {}", 1, "found the key a list"),
        ("5: {}", 1, "expected a key that is text"),
        ("a: " + "[" * 100_000, 1, "deep, expected at most 20"),
        ("a: " + "{a: " * 100_000, 1, "deep, expected at most 20"),
        (TENFOLD, 6, "found more than 200,000 values"),
        ("tune:\n  trials:\n    mf: &m\n      train.batch: [" + "2," * 300_000 + "]", 4,
         "found more than 200,000 values"),
        ("report: {baseline: " + "m" * 5000 + "}", 1, "found 5,000 characters"),
        ('report: {baseline: "m\\nf"}', 1, "expected text of one line"),
        ("train: {}\n" * 500_000, None, "found more than 4,194,304 bytes"),
        ("train: {rounds: 3}".encode("utf-16"), None, "found UTF-16, expected UTF-8"),
        (b"train: {}\n\xff\x80", 2, "not text in UTF-8"),
        (b"train: {}\n\x00\x01", 2, "no text"),
    ],
)  # fmt: skip
def test_files_that_are_no_parameters(path, content, line, expected):
    found, text = refused(path, content)
    assert found == line and expected in text


def test_a_mark_of_windows_editors_and_their_line_ends_are_read(path):
    path.write_bytes(b"\xef\xbb\xbftrain:\r\n  rounds: 3\r\n")
    assert p.load(path).train.rounds == 3


def test_anchors_are_read(path):
    path.write_text(
        "archives:\n  simulated: {train: &own {rounds: 3}}\n"
        "  simulated-tiles: {train: {<<: *own, size: 48, epochs: 2}}\n"
    )
    two = p.load(path).of("simulated-tiles").train
    assert (two.rounds, two.size, two.epochs) == (3, 48, 2)


def test_a_folder_and_a_file_that_may_not_be_read(tmp_path):
    for place in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UserError, match="expected a parameter file such as"):
            p.load(place)


# ---- sections and lines --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        ("split: {}\ntrain:\n", 2, "train: found an empty section, expected keys such as seeds"),
        ("archives: {simulated: {train: null}}", 1,
         "archives.simulated.train: found an empty section"),
        ("archives:\n  simulated:\n    train: 5", 3, "archives.simulated.train: found 5"),
        ("archives:\n  simulated:\n    algorithms:\n      moon:\n", 4,
         "archives.simulated.algorithms.moon: found an empty section"),
        ("train: {rounds: 3}\narchives:\n  simulated:\n    train:\n      rounds: {a: 1}", 5,
         "archives.simulated.train.rounds: found {'a': 1}, expected a whole number"),
        ("archives:\n  simulated:\n    partition: {modalities: 5}", 3,
         "archives.simulated.partition.modalities: found 5, expected a list"),
        ("archives:\n  simulated:\n    partition: {modalities: [5]}", 3,
         "archives.simulated.partition.modalities.0: found 5, expected text"),
        ("archives:\n  simulated: {}\n  simulatd: {}", 3, "archives.simulatd: unknown archive"),
        ("archives:\n  simulated: {}\n  simulated-tiles:\n    train: {methods: [mf+fw]}", 4,
         "report.baseline: mf is not trained (mf+fw) (archive simulated-tiles)"),
        ("train:\n  bands:\n    s1: [VV]\n    s2:\n    - B02\n    - B10", 6,
         "train.bands.s2.1: unknown band 'B10'"),
        ("train:\n  methods:\n  - mf\n  - mf+fv\n", 4, "train.methods.1: unknown module 'fv'"),
        ("train:\n  methods:\n  - mf\n  - {metod: mf}", 4, "unknown key train.methods.1.metod; "
         "did you mean method?"),
        ("train:\n  methods:\n  - mf\n  - method: mf\n    set:\n      train.rounds: .nan", 6,
         "train.methods.1.set.train.rounds: found nan, expected a whole number"),
        ("train:\n  methods:\n  - mf\n  - method: mf\n    set:\n      train.lr: 1", 6,
         "sets unknown key 'train.lr'"),
        ("train:\n  methods:\n  - mf\n  - mf+fw\nwhitening:\n  group: 5", 6,
         "whitening.group: 5 does not divide the 16 channels"),
        ("train:\n  methods:\n  - mf\n  - {method: mf, label: mf, set: {train.rounds: 3}}", 4,
         "found a second row called 'mf'"),
        ("participation:\n  schedule:\n  - {round: 3, client: a}\n  - {round: 11, client: a}", 4,
         "participation.schedule.1.round: found 11, expected at most 10, the last of train.rounds"),
        ("participation:\n  schedule:\n  - {round: 3, client: a}\n  - {round: 3, client: a}", 4,
         "participation.schedule.1: found a in round 3 a second time"),
        ("tune:\n  trials:\n    mf:\n      train.batch: []", 4,
         "tune.trials.mf.train.batch: found 0 values, expected at least 1"),
        ("tune:\n  trials:\n    mf:\n      train.batch: [2, x]", 4,
         "tune.trials.mf.train.batch.1: found 'x', expected a whole number"),
        (f"tune:\n  trials:\n    mf:\n      train.batch: &n {list(range(2, 102))}\n"
         "      train.size: *n\n      train.rounds: *n", 3,
         "tune.trials.mf: found 1,000,000 combinations, expected at most 1000"),
        ("model:\n  width: 16\n  backbone: resnet51", 3, "model.backbone: unknown backbone"),
        ("imagery:\n  days: 3\n  s2: earthsearch", 3,
         "imagery.s2: unknown catalogue of s2 'earthsearch'; did you mean earth-search?"),
        ("imagery:\n  days: 3\n  s1: copernicus", 3, "imagery.s1: copernicus cannot serve it"),
        ("imagery:\n  catalogues:\n    earth-search:\n      parallel: 3\n"
         "      assets: {B2: x}", 5, "imagery.catalogues.earth-search.assets.B2: unknown band"),
        ("imagery:\n  s2: own\n  catalogues:\n    own:\n      signing: query", 4,
         "imagery.catalogues.own: found no url"),
        ("archives:\n  simulated:\n    train:\n      methods:\n      - mf\n      - {}", 6,
         "archives.simulated.train.methods.1.method: not given"),
        ("simulate:\n  seed: 3\n  countries:\n  - Austria\n  - Norway", 5,
         "simulate.countries.1: unknown country 'Norway'; known: Austria"),
        ("simulate: {pairs: 40,\n  countries: [Serbia, Serbia]}", 2,
         "simulate.countries.1: found Serbia a second time"),
        ("simulate:\n  countries: [Austria, Belgium, Serbia, Kosovo, Finland]\n  pairs: 49", 3,
         "simulate.pairs: found 49, expected at least 50, 10 for each of 5 countries"),
        ("imagery:\n  catalogues:\n    own:\n      paralel: 3", 4,
         "unknown key imagery.catalogues.own.paralel; did you mean parallel?"),
    ],
)  # fmt: skip
def test_a_fault_names_its_own_line_and_key(path, content, line, expected):
    found, text = refused(path, content)
    assert (found, text[: len(expected)]) == (line, expected) or (
        found == line and expected in text
    )


def test_a_schedule_may_go_on_as_long_as_a_method_does(path):
    """And the other methods have no part in it."""
    longer = {"method": "mf", "set": {"train.rounds": 12}}
    data = {
        "train": {"methods": ["mf", longer]},
        "participation": {"schedule": [{"round": 11, "client": "a"}]},
    }
    params = p.validate(data).of("simulated")
    short, long = (p.resolve(params, item) for item in p.entries(params))
    assert [a.round for a in long.participation.schedule] == [11]
    assert short.participation.schedule == []


# ---- drawn files ---------------------------------------------------------------------------------

BASES = {
    path.name: json.loads(json.dumps(yaml.safe_load(path.read_text())))  # no value is shared
    for path in (ROOT / "params.yaml", ROOT / "configs/tune.yaml", ROOT / "configs/comparison.yaml")
}
# of these not every legal value goes with every other
TOGETHER = {
    "partition.scenario", "partition.assignment", "partition.modalities", "partition.countries",
    "partition.months", "model.width", "model.backbone", "model.share_from_stage",
    "whitening.group", "mim.bank", "mim.features", "participation.fails", "train.methods",
    "train.bands", "train.optimiser", "train.momentum", "report.baseline", "imagery.s1",
    "imagery.s2", "download.local", "participation.schedule", "tune.trials",
    "imagery.catalogues", "train.rounds", "simulate.countries", "simulate.pairs",
}  # fmt: skip


def legal(annotation: Any, metadata: Any) -> st.SearchStrategy | None:
    """Values of a field within its bounds, by its annotation."""
    if hasattr(annotation, "__metadata__"):
        return legal(annotation.__origin__, [*annotation.__metadata__, *metadata])
    bounds: dict[str, Any] = {}
    for item in metadata:
        for one in getattr(item, "metadata", [item]):
            for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
                if getattr(one, name, None) is not None:
                    bounds[name] = getattr(one, name)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(bounds["ge"], bounds["le"])
    if annotation is float:
        return st.floats(
            bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt")),
            exclude_min="gt" in bounds, exclude_max="lt" in bounds,
        )  # fmt: skip
    if str(get_origin(annotation)) == "typing.Literal":
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is list:
        inner = legal(get_args(annotation)[0], [])
        least = bounds.get("min_length", 0)
        if inner is not None:
            return st.lists(inner, min_size=least, max_size=4, unique=True)
    if annotation is str:
        return st.sampled_from(["Austria", "NO", "010", "1e", "Côte d'Ivoire", "true story"])
    return None


def fields() -> list[tuple[str, str, st.SearchStrategy]]:
    """Section, key and legal values of every field that stands alone."""
    found = []
    for section, field in p.Params.model_fields.items():
        model: Any = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for key, own in model.model_fields.items():
            values = legal(own.annotation, own.metadata)
            if values is not None and f"{section}.{key}" not in TOGETHER:
                found.append((section, key, values))
    assert len(found) > 45
    return found


@st.composite
def chosen(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    picked = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=8))
    return [(section, key, draw(values)) for section, key, values in picked]


FIELDS = fields()


@settings(FEW, max_examples=100)
@given(chosen())
def test_legal_values_are_taken_as_they_are(path, values):
    data: dict[str, dict[str, Any]] = {}
    for section, key, value in values:
        data.setdefault(section, {})[key] = value
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    found = p.load(path).model_dump()
    for section, own in data.items():
        for key, value in own.items():
            same = sorted(set(value)) if key == "rates" else value
            assert found[section][key] == same and type(found[section][key]) is type(same)


HUGE, TEXT = 10**31, "x y"
WRONG: dict[type, list[Any]] = {  # by what stands there
    bool: [None, 0, 1.0, "yes", TEXT, [], {}, [True]],
    int: [None, True, TEXT, "5", float("nan"), float("inf"), -float("inf"), HUGE, -HUGE, -1.5,
          1e300, [], {}, [1]],
    float: [None, True, TEXT, "0.5", float("nan"), float("inf"), -float("inf"), 1e300, -1e300, HUGE,
            [], {}, [0.5]],
    str: [None, True, 5, 1.5, float("nan"), [], {}, [TEXT], {"a": {}}, "x" * 300],
    list: [None, True, 5, float("inf"), TEXT, {}, {"a": 1}],
    dict: [None, True, 5, float("inf"), TEXT, [], [{}]],
    type(None): [True, 1.5, float("nan"), float("inf"), -HUGE, TEXT, {}, {"a": 1}, []],
}  # fmt: skip


def places(data: Any, at: tuple = ()) -> list[tuple]:
    """The places of all values in nested mappings and lists, but the whole."""
    inner: Any = enumerate(data) if isinstance(data, list) else ()
    inner = data.items() if isinstance(data, dict) else inner
    own = [at] if at else []
    return own + [place for key, value in inner for place in places(value, (*at, key))]


def line_of(text: str, place: tuple) -> int:
    """Where a key or item stands, by PyYAML's own marks."""
    node = yaml.compose(text, Loader=FAST)
    for part in place:
        if isinstance(node, yaml.SequenceNode):
            node = where = node.value[part]
        else:
            where, node = next((k, v) for k, v in node.value if k.value == str(part))
    return where.start_mark.line + 1


@st.composite
def corrupted(draw: st.DrawFn) -> tuple[dict, tuple, Any]:
    """A file in which one value is wrong, where, and the value."""
    data = copy.deepcopy(BASES[draw(st.sampled_from(sorted(BASES)))])
    place = draw(st.sampled_from(places(data)))
    *path, last = place
    section: Any = data
    for part in path:
        section = section[part]
    if isinstance(section[last], dict) and draw(st.booleans()):
        section[last]["zzz"] = draw(st.sampled_from([1, None, TEXT, {}, []]))
        return data, (*place, "zzz"), section[last]["zzz"]
    allowed_none = (place[0] == "archives" and len(place) == 2) or last == "label"
    wrong = [w for w in WRONG[type(section[last])] if not (w is None and allowed_none)]
    section[last] = draw(st.sampled_from(wrong))
    return data, place, section[last]


@settings(FEW, max_examples=200)
@given(corrupted())
def test_a_wrong_value_is_one_line_that_names_its_key(path, case):
    data, place, value = case
    content = yaml.dump(data, sort_keys=False, allow_unicode=True, Dumper=QUICK)
    line, text = refused(path, content)
    assert ".".join(map(str, place)) in text, (place, value, text)
    assert line == line_of(content, place), (place, value, text)


@settings(FEW, max_examples=150)
@given(st.data())
def test_a_file_with_something_typed_into_it_is_read_or_one_line(path, data):
    text = (ROOT / "configs/ci.yaml").read_text()
    place = data.draw(st.integers(0, len(text)))
    typed = data.draw(st.text("-:{}[]&*!|>#'\"%@`,?\t\n ~<.0\x00é", min_size=1, max_size=4))
    cut = data.draw(st.integers(0, 6))
    path.write_text(text[:place] + typed + text[place + cut :], encoding="utf-8")
    try:
        p.load(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
