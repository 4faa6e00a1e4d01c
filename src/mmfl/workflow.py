"""The files that each step writes: one list for the rules, the DVC stages and their tests."""

from __future__ import annotations

from pathlib import Path

from mmfl.params import MethodEntry, Params, clients_name, entries, variant

STORE = "store.json"  # of a folder of patches, written last: what it holds, by digest
RUN_FILES = ("model.safetensors", "best.safetensors", "run.json", "rounds.csv")
SCORE_FILES = ("scores.csv", "predictions.parquet", "evaluation.json")
TABLES = ("comparison", "ablation", "missing", "policies", "cost")
FIGURES = ("differences", "learning", "missing", "classes", "confusion")
RUN = "{archive}/{clients}/{method}/{variant}"


def published(archive: str) -> Path:
    """The manifest of a published archive: the working folder's own, else the project's.

    The second one is for other workflows that use this one as a module, from a folder of theirs.
    """
    own = Path("data/manifests", f"{archive}.yaml")
    ours = Path(__file__).resolve().parents[2] / own
    return ours if ours.is_file() and not own.exists() else own


def outputs(step: str, params: Params) -> list[str]:
    """Path templates of a step's outputs; fields: archive, clients, method, variant.

    Shards and modalities are not listed, as an archive of one's own may hold any: `store.json`,
    written last, has the digests of what describes them.
    """
    seeds = params.train.seeds
    if step == "download":
        return [f"data/raw/{{archive}}/{n}" for n in ("files.csv", "root.json", "scenes.csv")]
    if step == "split":
        names = [f"labels/{file}" for file in ("index.parquet", "classes.json", "skipped.csv")]
        names.append(STORE)
        return [f"data/patches/{{archive}}/{name}" for name in names]
    if step == "partition":
        ends = ("parquet", "json", "csv", "svg")
        return [f"data/clients/{{archive}}/{{clients}}.{end}" for end in ends]
    if step == "train":
        return [f"runs/{RUN}/seed-{seed}/{file}" for seed in seeds for file in RUN_FILES]
    if step == "evaluate":
        return [f"scores/{RUN}/seed-{seed}/{file}" for seed in seeds for file in SCORE_FILES]
    if step == "tune":
        return [
            f"results/tuning/{{archive}}/{{clients}}/{n}" for n in ("trials.csv", "chosen.yaml")
        ]
    if step == "report":
        names = [f"tables/{table}.{end}" for table in TABLES for end in ("csv", "md", "tex")]
        names += [f"figures/{figure}.{end}" for figure in FIGURES for end in ("svg", "csv")]
        return [f"results/{{archive}}/{{clients}}/{name}" for name in [*names, "metrics.json"]]
    raise ValueError(f"unknown step {step}")


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
