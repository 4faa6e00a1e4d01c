"""The whole parameter file, what may stand together in it, and the runs that it asks for."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from mmfl.errors import UserError
from mmfl.facts.bands import stored
from mmfl.facts.faults import NOT_GIVEN, Fault, first, shown
from mmfl.facts.reading import Key
from mmfl.params.algorithms import ANCHORS, Algorithms, check_optimiser, parts
from mmfl.params.archives import ARCHIVES, SIMULATED, Known, known
from mmfl.params.imagery import Imagery
from mmfl.params.registry import ASSIGNMENTS, BACKBONES, SCENARIOS
from mmfl.params.sections import (
    Download,
    Evaluate,
    MethodEntry,
    Mim,
    Model,
    Participation,
    Partition,
    Report,
    Section,
    Simulate,
    Split,
    Train,
    Tune,
    Whitening,
    one_of,
)

T = TypeVar("T")


class Params(Section):
    """Everything that changes a result."""

    archives: dict[str, dict[str, Any]] = Field(
        {"simulated": {}},
        min_length=1,
        max_length=50,  # a page each
        description="archive -> values in which its experiment differs, e.g. {train: {size: 64}}",
    )
    folders: dict[str, str] = Field(
        {}, description="archives of your own: name -> description, docs/your-own-archive.md"
    )
    simulate: Simulate = Simulate()  # type: ignore[call-arg]
    download: Download = Download()  # type: ignore[call-arg]
    imagery: Imagery = Imagery()  # type: ignore[call-arg]
    split: Split = Split()  # type: ignore[call-arg]
    partition: Partition = Partition()  # type: ignore[call-arg]
    model: Model = Model()  # type: ignore[call-arg]
    whitening: Whitening = Whitening()  # type: ignore[call-arg]
    mim: Mim = Mim()  # type: ignore[call-arg]
    algorithms: Algorithms = Algorithms()  # type: ignore[call-arg]
    participation: Participation = Participation()  # type: ignore[call-arg]
    train: Train = Train()  # type: ignore[call-arg]
    evaluate: Evaluate = Evaluate()  # type: ignore[call-arg]
    report: Report = Report()  # type: ignore[call-arg]
    tune: Tune = Tune()  # type: ignore[call-arg]
    _found: dict[Any, Any] = PrivateAttr(default_factory=dict)  # worked out once, by `_once`

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Params:
        """A copy, which works its own lists out again."""
        copied = super().model_copy(update=update, deep=deep)
        copied._found = {}
        return copied

    @field_validator("archives", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError("found a list, expected a mapping such as {simulated: {}}")
        if isinstance(value, dict):  # `floods:` alone
            return {name: {} if own is None else own for name, own in value.items()}
        return value

    @model_validator(mode="after")
    def _combinations(self) -> Params:
        for name in self.folders:
            if name in ARCHIVES or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                raise Fault(
                    ("folders", name),
                    "expected a name of your own in lower case, such as my-floods",
                )
        for archive in self.archives:
            _one_of(archive, (*ARCHIVES, *self.folders), "archive", "archives", archive)
        for name in self.download.local:
            names = tuple(a for a in ARCHIVES if a not in SIMULATED)
            _one_of(name, names, "archive", "download", "local", name)
        if self._resolved():
            _check_all(self, known(next(iter(self.archives)), self.folders))
            return self
        for archive in self.archives:
            try:
                self.of(archive)
            except Fault as fault:
                raise self._seen(fault, archive) from None
        return self

    def of(self, archive: str) -> Params:
        """The parameters that hold for an archive: its own values, modalities and bands in place.

        Raises:
            Fault: its own values are wrong, or cannot be its own.
        """
        if self._resolved() and archive in self.archives:
            return self
        return _once(self, ("of", archive), lambda: self._of(archive))

    def _of(self, archive: str) -> Params:
        own = self.archives[archive]
        for section, values in own.items():
            if section not in OWN_OF_ARCHIVE:
                raise Fault(
                    (section,), f"found {section}, expected sections of {', '.join(OWN_OF_ARCHIVE)}"
                )
            if not isinstance(values, dict):
                found = "an empty section" if values is None else shown(values)
                raise Fault((section,), f"found {found}, expected values such as {{size: 64}}")
            for key in values:
                if f"{section}.{key}" in SAME_FOR_ALL:
                    raise Fault(
                        (section, key),
                        f"{section}.{key} names folders and is the same for all archives; use a "
                        "parameter file of its own",
                    )
        data = _merged(self.model_dump(exclude_unset=True), own)
        data["archives"] = {archive: {}}
        facts = known(archive, self.folders)
        given = data.setdefault("partition", {})
        given.setdefault("modalities", sorted(facts.bands))
        try:
            held = Partition.model_validate(given).modalities
        except ValidationError as error:
            raise first(error, Partition, given).below("partition") from None
        for name in held:
            _one_of(stored(name), tuple(facts.bands), "modality", "partition", "modalities")
        part = next((q for q in held if q != stored(q)), None)
        if part is not None and "bands" not in data.get("train", {}):
            raise Fault(
                ("train", "bands"), f"name the bands of {part}, which is part of a modality",
                also=[("partition", "modalities")],
            )  # fmt: skip
        bands = {q: list(facts.trained[stored(q)]) for q in held}
        data.setdefault("train", {}).setdefault("bands", bands)
        return validated(data)

    def _seen(self, fault: Fault, archive: str) -> Fault:
        """The fault of an archive, under the key that the file gives the value."""
        above = ("archives", archive)
        also = [*((*above, *key) for key in (fault.key, *fault.also)), *fault.also]
        own = self.archives[archive]
        missing = fault.message == NOT_GIVEN and _holds(own, fault.key[:-1])
        if missing or _holds(own, fault.key):
            return type(fault)((*above, *fault.key), fault.message, also)
        where = f" (archive {archive})" if len(self.archives) > 1 else ""
        return type(fault)(fault.key, fault.message + where, also)

    def _resolved(self) -> bool:
        """Whether these are the parameters of one archive, as `of` returns them."""
        explicit = {"modalities"} <= self.partition.model_fields_set
        explicit &= {"bands"} <= self.train.model_fields_set
        return explicit and list(self.archives.values()) == [{}]


# sections in which archives may differ, except for what names folders
OWN_OF_ARCHIVE = ("split", "partition", "model", "whitening", "mim", "algorithms", "participation",
                  "train", "evaluate", "report")  # fmt: skip
SAME_FOR_ALL = ("partition.scenario", "partition.assignment", "partition.seed", "train.seeds")


def validated(data: dict[str, Any]) -> Params:
    """The parameters of a mapping.

    Raises:
        Fault: the first one.
    """
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise first(error, Params, data) from None


def _holds(data: Any, key: Key) -> bool:
    for part in key:
        there = part in data if isinstance(data, dict) else (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )  # fmt: skip
        if not there:
            return False
        data = data[part]
    return True


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own` in place; sections are merged, other values replaced."""
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key, {})
        section = isinstance(value, dict) and isinstance(old, dict) and key != "bands"
        merged[key] = _merged(old, value) if section else value
    return merged


def _check_all(params: Params, facts: Known) -> None:
    """Refuse what an archive does not have, and methods that cannot run."""
    held = tuple(params.partition.modalities)
    for name in held:
        _one_of(stored(name), tuple(facts.bands), "modality", "partition", "modalities")
    for name, bands in params.train.bands.items():
        _one_of(name, held, "modality", "train", "bands", name)
        for place, band in enumerate(bands):
            _one_of(band, facts.bands[stored(name)], "band", "train", "bands", name, place)
    _check_scenario(params.partition.scenario, facts)
    for key, column in (("countries", "country"), ("months", "month")):
        if getattr(params.partition, key) is not None and column not in facts.groups:
            raise Fault(("partition", key), f"the archive has no column {column}; set it to null")
    _check_methods(params, facts)
    _check_entries(params)


def _check_scenario(name: str, facts: Known) -> None:
    """Refuse a scenario that the archive's table of locations cannot give."""
    lacking = set(SCENARIOS.get(name, ())) - {*facts.groups}
    usable = {n for n, columns in SCENARIOS.items() if {*columns} <= {*facts.groups}}
    names = tuple(sorted(usable | {*facts.groups}))
    if lacking:
        raise Fault(
            ("partition", "scenario"),
            f"found {name}, which needs the column {min(lacking)}; the archive has "
            f"{', '.join(facts.groups) or 'none'}; known: {', '.join(names)}",
        )
    _one_of(name, names, "scenario", "partition", "scenario")


def _check_methods(params: Params, facts: Known) -> None:
    """Refuse a method, or values of its own, that cannot run; the key is that of the file."""
    for number, item in enumerate(entries(params)):
        place: Key = ("train", "methods", number)
        fault = _fault(params, item, facts)
        if fault is not None:
            own = fault.name in item.set
            key = (*place, "set", fault.name) if own else fault.key or place
            raise type(fault)(key, fault.message, also=[place])
    tried = trials(params)
    for item in tried:
        place = ("tune", "trials", item.method)
        fault = _fault(params, item, facts)
        if fault is not None:
            key = fault.key or place
            if fault.name in item.set:
                values = params.tune.trials[item.method][fault.name]
                value = item.set[fault.name]
                key = (*place, fault.name, next(k for k, v in enumerate(values) if v is value))
            raise type(fault)(key, fault.message, also=[place])
    counts = {method: len(own) for method, own in _by_method(tried).items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise Fault(("tune", "trials"), f"found {found}; expected as many for every method")


def _fault(params: Params, item: MethodEntry, facts: Known) -> Fault | None:
    """Why a method cannot run; the key is that of a value, or empty."""
    try:
        _check(item.method, resolve(params, item), facts)
    except Fault as fault:
        return fault
    return None


def _check_entries(params: Params) -> None:
    """Refuse rows of one name, a baseline and absences that are not there."""
    seen: set[tuple[str, str]] = set()
    labels: set[str] = set()
    for place, item in enumerate(entries(params)):
        key = ("train", "methods", place)
        if (item.method, variant(item)) in seen:
            raise Fault(key, f"{item.method} is listed twice")
        if label_of(item) in labels:
            raise Fault(key, f"found a second row called {label_of(item)!r}, expected a label "
                             "of its own")  # fmt: skip
        seen.add((item.method, variant(item)))
        labels.add(label_of(item))
    if not any(item.method == params.report.baseline and not item.set for item in entries(params)):
        names = ", ".join(item.method for item in entries(params))
        raise Fault(
            ("report", "baseline"), f"{params.report.baseline} is not trained ({names})",
            also=[("train", "methods")],
        )  # fmt: skip
    last = max(
        [params.train.rounds, *(item.set.get("train.rounds", 0) for item in entries(params))]
    )
    for place, absence in enumerate(params.participation.schedule):
        if absence.round > last:
            raise Fault(
                ("participation", "schedule", place, "round"),
                f"found {absence.round}, expected at most {last}, the last of train.rounds",
            )


def _one_of(value: str, names: tuple[str, ...], what: str, *key: str | int) -> None:
    try:
        one_of(value, names, what)
    except ValueError as error:
        raise Fault(key, str(error)) from None


def _once(params: Params, name: Any, work: Callable[[], T]) -> T:
    """What `work` finds, worked out once: the graph of n jobs asks for each list n times."""
    if name not in params._found:
        params._found[name] = work()
    return params._found[name]


def entries(params: Params) -> list[MethodEntry]:
    """The rows of `train.methods` in their long form."""
    return _once(
        params,
        "entries",
        lambda: [
            item if isinstance(item, MethodEntry) else MethodEntry.model_validate({"method": item})
            for item in params.train.methods
        ],
    )


def variant(item: MethodEntry) -> str:
    """`default`, or a short digest of the hyper-parameters that differ."""
    return item.variant


def _check(method: str, params: Params, facts: Known) -> None:
    """Refuse a method that these parameters cannot run, saying why."""
    try:
        base, modules = parts(method)
    except ValueError as error:
        raise Fault((), str(error)) from None
    if params.mim.features == "cells" and facts.task != "pixel":
        raise Fault(("mim", "features"), "found cells, expected pooled: only tiles have cells")
    stages = BACKBONES[params.model.backbone].stages
    if (params.model.share_from_stage or 0) > stages:
        raise Fault(
            ("model", "share_from_stage"),
            f"found {params.model.share_from_stage}, expected at most {stages}, the stages of "
            f"{params.model.backbone}",
        )
    name = params.partition.assignment
    assignment = ASSIGNMENTS[name]
    if {"mim", "prototypes"} & set(modules) and len(params.train.bands) < 2:
        raise Fault(("train", "bands"), f"{method} needs two modalities in train.bands")
    if "mim" in modules and params.mim.bank != "prototype":
        if not assignment.shared and not base.startswith("centralised"):
            usable = " or ".join(f"`{n}`" for n, found in ASSIGNMENTS.items() if found.shared)
            raise Fault(
                (),
                f"{method}: the assignment `{name}` leaves no shared pair for the feature bank; "
                f"use {usable}, or mim.bank: prototype, or drop mim",
            )
        if base == "local" and assignment.holds != "all":
            raise Fault(
                (),
                f"{method}: mim needs clients that exchange features, and local ones do not; with "
                "the assignment `both` each has its own pairs",
            )
    elif "mim" in modules and base in ANCHORS:
        raise Fault(
            (),
            f"{method}: mim.bank: prototype needs a server that averages over clients, and {base} "
            "has none; use mf+mim",
        )
    if base == "late-fusion" and assignment.holds != "one":
        raise Fault(
            (),
            f"{method}: needs clients with one modality each; drop it from train.methods with the "
            f"assignment `{name}`",
        )
    width = BACKBONES[params.model.backbone].channels or params.model.width
    if "fw" in modules and width % params.whitening.group:
        raise Fault(
            ("whitening", "group"),
            f"{params.whitening.group} does not divide the {width} channels of the first stage "
            "(model.width)",
        )
    decoder = min(width, 128)  # channels of a U-Net's last scale, where they are fewer
    decoded = "fw" in modules and params.whitening.where == "all" and facts.task == "pixel"
    if decoded and decoder % params.whitening.group:
        raise Fault(
            ("whitening", "group"),
            f"{params.whitening.group} does not divide the {decoder} channels of the decoder",
        )
    if params.train.optimiser == "adam" and params.train.momentum:
        raise Fault(("train", "momentum"), "belongs to sgd; set it to 0 with adam")
    check_optimiser(method, params.train.optimiser, params.train.momentum)


def trials(params: Params) -> list[MethodEntry]:
    """Every combination of `tune.trials`, in order."""
    return _once(
        params,
        "trials",
        lambda: [
            MethodEntry(method=method, set=dict(zip(grid, values, strict=True)))
            for method, grid in params.tune.trials.items()
            for values in itertools.product(*grid.values())
        ],
    )


def _by_method(items: list[MethodEntry]) -> dict[str, list[MethodEntry]]:
    return {m: [item for item in items if item.method == m] for m in {i.method: 0 for i in items}}


OWN = ("train", "model", "whitening", "mim", "algorithms")  # sections in which methods may differ


def resolve(params: Params, item: MethodEntry) -> Params:
    """The parameters with an entry's own values in place; only in the sections `OWN`.

    The method is the only one of theirs, and absences after its last round are left out. Other
    sections without a value of its own are the same objects.

    Raises:
        Fault: one of its keys is not known or may not differ, or a value is wrong.
    """
    known = _once(params, "keys", lambda: _settable(params))
    sections: dict[str, Any] = {"train": params.train.model_dump(exclude={"methods"})}
    for key, value in item.set.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Fault((key,), f"{item.method} sets unknown key {key!r}{hint}")
        if key in ("train.methods", "train.seeds", "train.bands"):
            raise Fault((key,), "cannot differ between methods")
        section, *path, name = key.split(".")
        if section not in sections:
            sections[section] = getattr(params, section).model_dump()
        functools.reduce(dict.__getitem__, path, sections[section])[name] = value
    sections["train"]["methods"] = [item.method]
    update: dict[str, Any] = {}
    for section, data in sections.items():
        model = type(getattr(params, section))
        try:
            update[section] = model.model_validate(data)
        except ValidationError as error:
            raise first(error, model, data).below(section) from None
    last, schedule = update["train"].rounds, params.participation.schedule
    if any(absence.round > last for absence in schedule):
        planned = [absence for absence in schedule if absence.round <= last]
        update["participation"] = params.participation.model_copy(update={"schedule": planned})
    return params.model_copy(update=update)


def _settable(params: Params) -> list[str]:
    return [key for name in OWN for key in _keys(getattr(params, name).model_dump(), name)]


def _keys(section: dict[str, Any], prefix: str) -> list[str]:
    """Dotted names of a section's values; a mapping of values (train.bands) is one."""
    if prefix != "train.bands" and isinstance(section, dict):
        return [k for name, value in section.items() for k in _keys(value, f"{prefix}.{name}")]
    return [prefix]


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
    params = params.of(archive)
    return [spec for item in entries(params) for spec in runs_of(params, archive, item)]


def runs_of(params: Params, archive: str, item: MethodEntry) -> list[RunSpec]:
    """The runs of one entry, a seed each."""
    return [
        RunSpec(archive, clients_name(params), item.method, variant(item), seed, label_of(item))
        for seed in params.train.seeds
    ]


def label_of(item: MethodEntry) -> str:
    """The name of a row in tables and figures."""
    if item.label:
        return item.label
    own = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in sorted(item.set.items()))
    return f"{item.method} ({own})" if own else item.method


def find_entry(params: Params, method: str, variant_name: str = "default") -> MethodEntry:
    """The entry of `train.methods`, or the trial of `tune.trials`, with this name and variant."""
    items = _once(
        params,
        "names",
        lambda: {
            (item.method, variant(item)): item
            for item in reversed([*entries(params), *trials(params)])  # a row before a trial
        },
    )
    if (method, variant_name) not in items:
        known = ", ".join(f"{name}/{kind}" for name, kind in reversed(items))
        raise UserError(f"train.methods: no {method}/{variant_name}; known: {known}")
    return items[method, variant_name]


DRAWN = {  # values of `simulate` that decide an archive
    "simulated": ("pairs", "seed", "countries", "unpaired"),
    "simulated-tiles": ("tiles", "tile_size", "seed", "unpaired"),
}


def step_values(
    params: Params, step: str, archive: str, method: str | None = None, variant: str = "default"
) -> dict[str, Any]:
    """Exactly the values that change the result of a step (of one method for train, evaluate)."""
    params = params.of(archive)

    def dump(section: str) -> dict[str, Any]:
        exclude = {"methods"} if section == "train" else None
        return getattr(params, section).model_dump(mode="json", exclude=exclude)

    if step in ("simulate", "download"):
        if archive in SIMULATED:
            simulate = dump("simulate")
            drawn = {key: simulate[key] for key in DRAWN[archive]}
            return {"simulate": drawn, "extract": params.download.extract}
        if archive in params.folders:
            return {"folder": params.folders[archive]}
        values = {
            "local": dump("download")["local"].get(archive),
            "extract": params.download.extract,
        }
        found_by_stac = archive == "dynamicworld-expert"
        return values | ({"imagery": params.imagery.choice()} if found_by_stac else {})
    if step in ("split", "partition"):
        return dump(step)
    if step == "train":
        return train_values(params, method, variant)
    if step == "evaluate":
        train, own = dump("train"), dump("evaluate")
        own.pop("threshold" if known(archive, params.folders).task == "pixel" else "overlap")
        keys = ("seeds", "size", "bands", "normalisation", "statistics")
        return own | {key: train[key] for key in keys}
    if step == "tune":
        return dump("tune") | {"seeds": params.train.seeds}
    if step in ("report", "page"):
        methods = [f"{s.method}/{s.variant}/{s.seed}/{s.label}" for s in runs(params, archive)]
        return dump("report") | {"runs": methods}
    raise ValueError(f"unknown step {step}")


def train_values(params: Params, method: str | None, variant_name: str) -> dict[str, Any]:
    """What decides the weights of a method's runs, seeds included."""
    if method is None:
        return {
            f"{item.method}/{variant(item)}": train_values(params, item.method, variant(item))
            for item in entries(params)
        }
    own = resolve(params, find_entry(params, method, variant_name))
    base, modules = parts(method)
    names = ("model", "participation", *(("whitening",) if "fw" in modules else ()))
    names += ("mim",) if "mim" in modules else ()
    values = {name: getattr(own, name).model_dump(mode="json") for name in names}
    values["train"] = own.train.model_dump(mode="json", exclude={"methods"})
    hyper = own.algorithms.model_dump(mode="json", include={base, *modules})
    return values | ({"algorithms": hyper} if hyper else {})
