"""The names of finished work in the cache: one place for the steps and for `make sync`."""

from __future__ import annotations

from pathlib import Path

from mmfl.cache import Unit
from mmfl.files import digest, file_sha256
from mmfl.params import Params, RunSpec, step_values, train_values
from mmfl.pipeline.jobs import source


def split_unit(params: Params, archive: str, raw: Path) -> Unit:
    """An encoded archive; `raw` is the folder of the tables that `download` wrote."""
    key = {
        "archive": archive,
        "values": step_values(params, "split", archive),
        "code": source("split", params, archive),
        "files": file_sha256(raw / "files.csv"),
        "scenes": file_sha256(raw / "scenes.csv"),
    }
    return Unit("split", digest(key))


def train_unit(params: Params, spec: RunSpec, inputs: dict[str, str]) -> Unit:
    """A trained run; `inputs` are the digests of its patches and of its partition."""
    values = train_values(params, spec.method, spec.variant)
    values["train"].pop("seeds")
    key = {
        "spec": [spec.archive, spec.method, spec.seed],
        "values": values,
        "code": source("train", params, spec.archive, spec.method, spec.variant),
        "inputs": inputs,
    }
    return Unit("train", digest(key))
