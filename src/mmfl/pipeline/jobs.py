"""What every step reads and writes and which code it is: one table for all who have to know.

The rules, the stages of DVC, the cache, a run's start and `mmfl verify` ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfl import chosen
from mmfl.files import digest, file_sha256
from mmfl.params import (
    ARCHIVES,
    SCENARIOS,
    SIMULATED,
    MethodEntry,
    Params,
    clients_name,
    entries,
    find_entry,
    parts,
    resolve,
    step_values,
    trials,
    variant,
)
from mmfl.pipeline import code

STORE = "store.json"  # of a folder of patches, written last: what it holds, by digest
RUN_FILES = ("model.safetensors", "best.safetensors", "run.json", "rounds.csv")
SCORE_FILES = ("scores.csv", "predictions.parquet", "evaluation.json")
TABLES = ("comparison", "ablation", "missing", "policies", "cost")
FIGURES = ("clients", "differences", "learning", "missing", "classes", "confusion")
STAGES = ("download", "split", "partition", "train", "evaluate", "report")  # those of dvc.yaml
RUN = "{archive}/{clients}/{method}/{variant}"
FILES: dict[str, tuple[str, ...]] = {  # path templates, `seed` filled in by `outputs`
    "download": tuple(
        f"data/raw/{{archive}}/{n}" for n in ("files.csv", "root.json", "scenes.csv")
    ),
    # shards and modalities are not listed, as an archive of one's own may hold any: `store.json`,
    # written last, has the digests of what describes them
    "split": tuple(
        f"data/patches/{{archive}}/{n}"
        for n in ("labels/index.parquet", "labels/classes.json", "labels/skipped.csv", STORE)
    ),
    "partition": tuple(
        f"data/clients/{{archive}}/{{clients}}.{end}" for end in ("parquet", "json", "csv")
    ),
    "train": tuple(f"runs/{RUN}/seed-{{seed}}/{name}" for name in RUN_FILES),
    "evaluate": tuple(f"scores/{RUN}/seed-{{seed}}/{name}" for name in SCORE_FILES),
    "tune": tuple(
        f"results/tuning/{{archive}}/{{clients}}/{n}" for n in ("trials.csv", "chosen.yaml")
    ),
    "report": tuple(
        f"results/{{archive}}/{{clients}}/{name}"
        for name in (
            *(f"tables/{table}.{end}" for table in TABLES for end in ("csv", "md", "tex")),
            *(f"figures/{figure}.{end}" for figure in FIGURES for end in ("svg", "csv")),
            "metrics.json",
        )
    ),
    "page": ("page/{archive}.html",),
}
READS: dict[str, tuple[str, ...]] = {  # step -> steps whose outputs it reads; of the same method:
    "download": (),
    "split": ("download",),
    "partition": ("split",),
    "train": ("split", "partition"),
    "evaluate": ("split", "partition", "train"),
    "tune": ("train",),
    "report": ("partition", "train", "evaluate"),
    "page": ("download", "split", "partition", "train", "evaluate", "report"),
}
READ_OF = {  # where it is not all of a step's files: what they end in
    ("page", "download"): ("root.json", "scenes.csv"),
    ("partition", "split"): (".parquet", ".json"),
    ("train", "partition"): (".parquet",),
    ("evaluate", "partition"): (".parquet",),
}


@dataclass(frozen=True)
class Job:
    """What one job of a step reads and writes, and what decides it."""

    name: str
    values: Any
    code: str
    inputs: list[str]
    outputs: list[str]
    folders: list[Path]  # with all that belongs to the outputs, declared or not

    def key(self) -> str:
        """Digest of everything that decides the outputs; an input that is missing has none."""
        found = {p: file_sha256(p) if Path(p).is_file() else None for p in self.inputs}
        return digest({"values": self.values, "code": self.code, "inputs": found})


def published(archive: str) -> Path:
    """The manifest of a published archive: the working folder's own, else the project's.

    The second one is for other workflows that use this one as a module, from a folder of theirs.
    """
    own = Path("data/manifests", f"{archive}.yaml")
    ours = code.SOURCE.parent / own
    return ours if ours.is_file() and not own.exists() else own


def outputs(step: str, params: Params) -> list[str]:
    """Path templates of a step's outputs; fields: archive, clients, method, variant.

    Raises:
        ValueError: no such step.
    """
    if step not in FILES:
        raise ValueError(f"unknown step {step}")
    if step not in ("train", "evaluate"):
        return list(FILES[step])
    return [
        path.replace("{seed}", str(seed)) for seed in params.train.seeds for path in FILES[step]
    ]


def every(step: str, params: Params, archive: str) -> list[str]:
    """The outputs of a step for one archive and all methods of the parameters, each once."""
    params = params.of(archive)
    return files_of(step, params, archive, entries(params))


def files_of(step: str, params: Params, archive: str, items: list[MethodEntry]) -> list[str]:
    """The outputs of a step for one archive and some methods, each once."""
    fields = {"archive": archive, "clients": clients_name(params)}
    return list(
        dict.fromkeys(
            path.format(method=item.method, variant=variant(item), **fields)
            for item in items
            for path in outputs(step, params)
        )
    )


def inputs(
    step: str, params: Params, archive: str, method: str | None = None, kind: str = "default"
) -> list[str]:
    """The outputs of other steps that a job reads, those of a method where it has one."""
    own = params.of(archive)
    found: list[str] = []
    for read in READS[step]:
        items = trials(own) if step == "tune" else entries(own)
        if method is not None:
            items = [find_entry(own, method, kind)]
        ends = READ_OF.get((step, read), ("",))
        found += [f for f in files_of(read, own, archive, items) if f.endswith(ends)]
    return found


def modules(
    step: str, params: Params, archive: str, method: str | None = None, kind: str = "default"
) -> tuple[str, ...]:
    """The modules that a job imports by names in its parameters (`mmfl.chosen`)."""
    own = params.of(archive)
    if step == "simulate":
        return (chosen.module("archives.simulation", archive),)
    if step in ("download", "split"):
        name = archive if archive in ARCHIVES else "folder"
        found = [chosen.module("archives", name)]
        if step == "download" and archive == "dynamicworld-expert":
            found.append(chosen.module("fetch.stac", "imagery"))
        return tuple(found)
    if step == "partition":
        scenario = own.partition.scenario
        return (chosen.module("clients.scenarios", scenario),) if scenario in SCENARIOS else ()
    if step in ("train", "evaluate") and method is not None:
        item = find_entry(own, method, kind)
        base, names = parts(method)
        found = [chosen.module("strategies", base)]
        found.append(chosen.module("models.backbones", resolve(own, item).model.backbone))
        found += [
            chosen.module("models", "whitening")
            if name == "fw"
            else chosen.module("strategies.modules", name)
            for name in names
        ]
        return tuple(found)
    return ()


def source(
    step: str,
    params: Params,
    archive: str,
    method: str | None = None,
    kind: str = "default",
    folder: Path = code.SOURCE,
) -> str:
    """Digest of the code of a job; that of a simulated archive decides its files, too."""
    found = code.digest(step, modules(step, params, archive, method, kind), folder)
    if step == "download" and archive in SIMULATED:
        found += code.digest("simulate", modules("simulate", params, archive), folder)
    return found


def jobs_of(step: str, params: Params, archive: str, folder: Path = code.SOURCE) -> list[Job]:
    """The jobs of a step.

    Raises:
        ValueError: no such step.
    """
    own = params.of(archive)
    if step in ("train", "evaluate"):
        asked = {(item.method, variant(item)): item for item in entries(own)}
        found = []
        for (method, kind), item in asked.items():
            written = files_of(step, own, archive, [item])
            found.append(
                Job(
                    f"{method}/{kind}",
                    step_values(params, step, archive, method, kind),
                    source(step, params, archive, method, kind, folder),
                    inputs(step, params, archive, method, kind),
                    written,
                    [Path(written[0]).parents[1]],
                )
            )
        return found
    written = every(step, params, archive)
    read = inputs(step, params, archive)
    if step == "download":
        read = [f"data/manifests/{archive}.yaml"]
    whole = {
        "download": [f"data/raw/{archive}"],
        "split": [f"data/patches/{archive}"],
        "report": list({str(Path(path).parent): 0 for path in written[:-1]}) + written[-1:],
    }.get(step, written)
    values = step_values(params, step, archive)
    digested = source(step, params, archive, folder=folder)
    return [Job(step, values, digested, read, written, [Path(name) for name in whole])]


def code_files(step: str, params: Params, archive: str, folder: Path = code.SOURCE) -> set[str]:
    """Source files that decide some job of a step, relative to the folder."""
    own = params.of(archive)
    chosen_by = [modules(step, params, archive)]
    if step in ("train", "evaluate"):
        chosen_by = [modules(step, params, archive, i.method, i.variant) for i in entries(own)]
    return {name for item in chosen_by for name in code.modules(step, item, folder)}


def start(
    params: Params, archive: str, folder: Path = code.SOURCE
) -> dict[str, dict[str, dict[str, str]]]:
    """What decides each job of an archive when a run starts: digests of its values and its code.

    The parameters of the stages of dvc.yaml: step -> a job's name -> values, code. The values of an
    archive of one's own are known from its description; its files are not listed.
    """
    return {
        step: {
            job.name: {"values": digest(job.values), "code": job.code}
            for job in jobs_of(step, params, archive, folder)
        }
        for step in STAGES
    }
