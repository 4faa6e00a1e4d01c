"""The schema of `params.yaml` and the only reader of it.

Every value that changes a result is here; runtime settings (cores, partitions, memory) live in
Snakemake profiles. An unknown key, a wrong type or an impossible combination is refused in one
line before anything runs.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmfl.errors import UserError
from mmfl.files import digest

ARCHIVES = ("simulated", "bigearthnet-v1", "bigearthnet-v2")
SCENARIOS = ("random", "country", "country-season", "tile", "dirichlet")
ASSIGNMENTS = ("duplicate", "disjoint", "alternate", "both", "mixed")
BASES = ("prior", "local", "centralised-steps", "centralised-epochs", "late-fusion", "mf")
MODULES = ("fw", "mim")
S1_BANDS = ("VV", "VH")
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

Policy = Literal["modality", "average", "local"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Simulate(Section):
    """The simulated archive (docs/simulated.md)."""

    pairs: int = Field(1200, ge=40, description="locations to draw")
    seed: int = Field(7, ge=0, description="seed of the generator")
    countries: list[str] = Field(
        ["Austria", "Finland", "Ireland", "Portugal"], min_length=1, description="countries drawn"
    )
    unpaired: float = Field(
        0.05, ge=0, lt=1, description="share of locations that lack one of the two modalities"
    )


class Download(Section):
    """Where an archive's bytes come from."""

    local: dict[str, str] = Field(
        {}, description="archive name -> folder of an extracted copy, used in place"
    )


class Split(Section):
    """Encoding of the patches."""

    snow: bool = Field(False, description="keep patches with seasonal snow")
    cloud_or_shadow: bool = Field(False, description="keep patches with cloud or cloud shadow")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="a patch that cannot be used: stop, or skip it and list it"
    )
    shard_size: int = Field(4096, ge=1, description="patches in a shard")


class Partition(Section):
    """Who holds what."""

    scenario: str = Field("country", description=" | ".join(SCENARIOS))
    assignment: str = Field("duplicate", description=" | ".join(ASSIGNMENTS))
    clients: int = Field(4, ge=1, description="groups of the scenarios `random` and `dirichlet`")
    alpha: float = Field(
        0.5, gt=0, le=1e6, description="concentration of the scenario `dirichlet`: small is skewed"
    )
    seed: int = Field(0, ge=0, description="seed of the partition")
    countries: list[str] | None = Field(None, description="only these countries; null: all")
    months: list[int] | None = Field(None, description="only these months (1-12); null: all")

    @field_validator("scenario")
    @classmethod
    def _scenario(cls, value: str) -> str:
        return one_of(value, SCENARIOS, "scenario")

    @field_validator("assignment")
    @classmethod
    def _assignment(cls, value: str) -> str:
        return one_of(value, ASSIGNMENTS, "assignment")

    @field_validator("months")
    @classmethod
    def _months(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not all(1 <= month <= 12 for month in value):
            raise ValueError("months are 1 to 12")
        return value


class Model(Section):
    """The network."""

    backbone: Literal["compact", "resnet18", "resnet50"] = "compact"
    width: int = Field(16, ge=4, description="channels of the compact network's first stage")
    fusion: Literal["mean", "concat", "logit", "probability"] = "mean"
    projection: int = Field(128, ge=1, description="outputs of the projection head")
    share_from_stage: int | None = Field(
        None, ge=1, le=4, description="stages from this one on are shared by all modalities"
    )


class Whitening(Section):
    """FW, used by methods with `+fw`."""

    where: Literal["stem", "stem+layer1", "all"] = "stem+layer1"
    group: int = Field(4, ge=1)
    epsilon: float = Field(1e-3, gt=0, lt=1)
    shrinkage: Literal["relative", "absolute"] = "relative"
    momentum: float = Field(0.1, gt=0, le=1)
    stride: int = Field(1, ge=1, description="statistics from every stride-th pixel")
    method: Literal["cholesky", "zca"] = "cholesky"


class Mim(Section):
    """MIM, used by methods with `+mim`."""

    weight: float = Field(0.1, ge=0, description="lambda")
    temperature: float = Field(0.5, gt=0, description="tau")
    negatives: Literal["all", "cross"] = "all"
    bank: Literal["harvest", "fresh"] = Field(
        "harvest", description="features of the last local epoch, or of an extra forward pass"
    )


class MethodEntry(Section):
    """A row of the comparison: a method and the parameters in which it departs from the rest."""

    method: str
    label: str | None = None
    set: dict[str, Any] = Field({}, description="dotted key -> value, e.g. train.normalisation")


class Train(Section):
    """Federated training."""

    seeds: list[int] = Field([1, 2, 3], min_length=1)
    methods: list[str | MethodEntry] = Field(["mf"], min_length=1)
    size: int = Field(32, ge=8, description="pixels of a training image's side")
    bands: dict[str, list[str]] = Field(
        {"s1": ["VV", "VH"], "s2": [b for b in S2_BANDS if b not in ("B01", "B09")]}
    )
    rounds: int = Field(10, ge=1)
    epochs: int = Field(1, ge=1, description="local epochs of a round")
    batch: int = Field(32, ge=2)
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    weights: Literal["size", "uniform"] = "size"
    statistics: Policy = "modality"
    normalisation: Literal["global", "archive", "client"] = "global"
    augment: bool = Field(True, description="flips and quarter turns")
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("bands")
    @classmethod
    def _bands(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        known = {"s1": S1_BANDS, "s2": S2_BANDS}
        if not value:
            raise ValueError("name at least one modality")
        for modality, bands in value.items():
            one_of(modality, tuple(known), "modality")
            if not bands or len(set(bands)) != len(bands):
                raise ValueError(f"{modality}: bands must be distinct and at least one")
            for band in bands:
                one_of(band, known[modality], "band")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("seeds must be distinct")
        return value


class Evaluate(Section):
    """What is measured on the test set."""

    round: Literal["last", "best"] = Field(
        "last", description="best: by validation macro average precision on all modalities"
    )
    threshold: Literal["half", "validation"] = Field(
        "half", description="0.5, or per class from the validation split"
    )
    rates: list[int] = Field([0, 25, 50, 75, 100], description="missing rates in percent")
    batch: int = Field(256, ge=1)

    @field_validator("rates")
    @classmethod
    def _rates(cls, value: list[int]) -> list[int]:
        if not all(0 <= rate <= 100 for rate in value):
            raise ValueError("rates are percentages, 0 to 100")
        return sorted(set(value))


class Report(Section):
    """Tables and the page."""

    baseline: str = Field("mf", description="method that the differences are taken to")
    gallery: int = Field(6, ge=0, description="test locations shown as pictures")


class Params(Section):
    """Everything that changes a result."""

    archives: list[str] = Field(["simulated"], min_length=1)
    simulate: Simulate = Simulate()  # type: ignore[call-arg]
    download: Download = Download()  # type: ignore[call-arg]
    split: Split = Split()  # type: ignore[call-arg]
    partition: Partition = Partition()  # type: ignore[call-arg]
    model: Model = Model()  # type: ignore[call-arg]
    whitening: Whitening = Whitening()  # type: ignore[call-arg]
    mim: Mim = Mim()  # type: ignore[call-arg]
    train: Train = Train()  # type: ignore[call-arg]
    evaluate: Evaluate = Evaluate()  # type: ignore[call-arg]
    report: Report = Report()  # type: ignore[call-arg]

    @field_validator("archives")
    @classmethod
    def _archives(cls, value: list[str]) -> list[str]:
        for archive in value:
            one_of(archive, ARCHIVES, "archive")
        if len(set(value)) != len(value):
            raise ValueError("archives must be distinct")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> Params:
        for name in self.download.local:
            one_of(name, tuple(a for a in ARCHIVES if a != "simulated"), "archive")
        entries = [entry(item) for item in self.train.methods]
        seen = set()
        for item in entries:
            _, modules = parse_method(item.method)
            if (item.method, variant(item)) in seen:
                raise ValueError(f"train.methods: {item.method} is listed twice")
            seen.add((item.method, variant(item)))
            section = resolve(self, item) if item.set else self
            if "mim" in modules and len(section.train.bands) < 2:
                raise ValueError(f"{item.method} needs two modalities in train.bands")
            if "mim" in modules and self.partition.assignment in ("disjoint", "alternate"):
                raise ValueError(
                    f"{item.method}: the assignment `{self.partition.assignment}` leaves no shared "
                    "pair for the feature bank; use `duplicate`, `both` or `mixed`, or drop mim"
                )
            if item.method.startswith("late-fusion") and self.partition.assignment in (
                "both",
                "mixed",
            ):
                raise ValueError(
                    f"{item.method}: needs clients with one modality each; drop it from "
                    f"train.methods with the assignment `{self.partition.assignment}`"
                )
            width = section.model.width if section.model.backbone == "compact" else 64
            if "fw" in modules and width % section.whitening.group:
                raise ValueError(
                    f"whitening.group: {section.whitening.group} does not divide the {width} "
                    "channels of the first stage (model.width)"
                )
            if section.train.optimiser == "adam" and section.train.momentum:
                raise ValueError("train.momentum belongs to sgd; set it to 0 with adam")
        if self.model.share_from_stage is not None:
            stages = 3 if self.model.backbone == "compact" else 4
            if self.model.share_from_stage > stages:
                raise ValueError(
                    f"model.share_from_stage: {self.model.backbone} has {stages} stages"
                )
        if not any(item.method == self.report.baseline and not item.set for item in entries):
            names = ", ".join(item.method for item in entries)
            raise ValueError(f"report.baseline: {self.report.baseline} is not trained ({names})")
        return self


def one_of(value: str, known: tuple[str, ...], what: str) -> str:
    """Return `value` if it is known, else raise ValueError with the nearest valid name."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown {what} {value!r}; {hint}known: {', '.join(known)}")


def parse_method(name: str) -> tuple[str, tuple[str, ...]]:
    """Split `mf+fw+mim` into the base algorithm and its modules; refuse what does not exist."""
    base, *modules = name.split("+")
    one_of(base, BASES, "method")
    for module in modules:
        one_of(module, MODULES, "module")
    if len(set(modules)) != len(modules):
        raise ValueError(f"method {name}: a module is named twice")
    if modules != [m for m in MODULES if m in modules]:
        order = "+".join([base, *(m for m in MODULES if m in modules)])
        raise ValueError(f"method {name}: write it as {order}")
    if "mim" in modules and base != "mf":
        raise ValueError(f"method {name}: mim needs clients that exchange features (base mf)")
    if base == "prior" and modules:
        raise ValueError(f"method {name}: prior has no network for {modules[0]}")
    return base, tuple(modules)


def entry(item: str | MethodEntry) -> MethodEntry:
    """The long form of an item of `train.methods`."""
    return item if isinstance(item, MethodEntry) else MethodEntry.model_validate({"method": item})


def variant(item: MethodEntry) -> str:
    """`default`, or a short digest of the hyper-parameters that differ."""
    return digest(item.set, 8) if item.set else "default"


def resolve(params: Params, item: MethodEntry) -> Params:
    """The parameters with an entry's own values in place; only train, model, whitening, mim."""
    data = params.model_dump()
    for key, value in item.set.items():
        section, _, name = key.partition(".")
        if section not in ("train", "model", "whitening", "mim") or name not in data[section]:
            valid = [f"{s}.{n}" for s in ("train", "model", "whitening", "mim") for n in data[s]]
            near = difflib.get_close_matches(key, valid, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"train.methods: {item.method} sets unknown key {key!r}{hint}")
        if key in ("train.methods", "train.seeds", "train.bands"):
            raise ValueError(f"train.methods: {key} cannot differ between methods")
        data[section][name] = value
    data["train"]["methods"] = ["mf"]
    data["report"]["baseline"] = "mf"
    return Params.model_validate(data)


@dataclass(frozen=True)
class RunSpec:
    """One trained model: its directory and its cache key derive from this."""

    archive: str
    clients: str
    method: str
    variant: str
    seed: int
    label: str

    @property
    def path(self) -> Path:
        """`<archive>/<clients>/<method>/<variant>/seed-<n>`, below runs/, scores/, measured/."""
        return Path(self.archive, self.clients, self.method, self.variant, f"seed-{self.seed}")


def clients_name(params: Params) -> str:
    """`<scenario>-<assignment>-p<seed>`: name of the partition's files."""
    p = params.partition
    return f"{p.scenario}-{p.assignment}-p{p.seed}"


def runs(params: Params, archive: str) -> list[RunSpec]:
    """Every run of an archive, in the order of `train.methods` and `train.seeds`."""
    return [
        RunSpec(archive, clients_name(params), item.method, variant(item), seed, label_of(item))
        for item in map(entry, params.train.methods)
        for seed in params.train.seeds
    ]


def label_of(item: MethodEntry) -> str:
    """The name of a row in tables and figures."""
    if item.label:
        return item.label
    own = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in sorted(item.set.items()))
    return f"{item.method} ({own})" if own else item.method


def find_entry(params: Params, method: str, variant_name: str = "default") -> MethodEntry:
    """The entry of `train.methods` with this name and variant."""
    items = [entry(item) for item in params.train.methods]
    for item in items:
        if (item.method, variant(item)) == (method, variant_name):
            return item
    known = ", ".join(f"{item.method}/{variant(item)}" for item in items)
    raise UserError(f"train.methods: no {method}/{variant_name}; known: {known}")


def step_values(
    params: Params, step: str, archive: str, method: str | None = None, variant: str = "default"
) -> dict[str, Any]:
    """Exactly the values that change the result of a step (of one method for train, evaluate)."""
    dump = params.model_dump(mode="json")
    if step in ("simulate", "download"):
        if archive == "simulated":
            return {"simulate": dump["simulate"]}
        return {"local": dump["download"]["local"].get(archive)}
    if step == "split":
        return dump["split"]
    if step == "partition":
        return dump["partition"]
    if step == "train":
        return train_values(params, method, variant)
    if step == "evaluate":
        train = dump["train"]
        keys = ("seeds", "size", "bands", "normalisation", "statistics")
        return dump["evaluate"] | {key: train[key] for key in keys}
    if step == "report":
        methods = [f"{s.method}/{s.variant}/{s.seed}/{s.label}" for s in runs(params, archive)]
        return dump["report"] | {"runs": methods}
    raise ValueError(f"unknown step {step}")


def train_values(params: Params, method: str | None, variant_name: str) -> dict[str, Any]:
    """What decides the weights of a method's runs, seeds included."""
    if method is None:
        entries = [entry(item) for item in params.train.methods]
        return {
            f"{e.method}/{variant(e)}": train_values(params, e.method, variant(e)) for e in entries
        }
    item = find_entry(params, method, variant_name)
    own = resolve(params, item).model_dump(mode="json")
    _, modules = parse_method(method)
    values = {"train": own["train"] | {"seeds": params.train.seeds}, "model": own["model"]}
    values["train"].pop("methods")
    if "fw" in modules:
        values["whitening"] = own["whitening"]
    if "mim" in modules:
        values["mim"] = own["mim"]
    return values


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate a parameter file.

    Raises:
        UserError: one line that names the key, what was found and what is expected.
    """
    path = Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found; expected a parameter file such as params.yaml"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a parameter file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML: {text}") from None
    if not isinstance(data, dict):
        what = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{path}: found {what}, expected sections such as train:")
    return validate(data, str(path))


def validate(data: dict[str, Any], where: str = "params") -> Params:
    """Validate a mapping; the first fault becomes one line."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(
        str(part) for part in fault["loc"] if part not in ("str", "MethodEntry", "list[int]")
    )
    if fault["type"] == "extra_forbidden":
        names = _names(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        return f"unknown key {key}; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {fault['input']!r}; {message[0].lower()}{message[1:]}"


def _names(location: tuple[Any, ...]) -> list[str]:
    model: Any = Params
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return list(MethodEntry.model_fields)
        model = annotation
    return list(model.model_fields)
