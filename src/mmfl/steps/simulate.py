"""Simulate: write a simulated archive, in the layout of a published one, into the cache.

A helper of the download step, which then treats the archive like a published one (file:// urls).
"""

from __future__ import annotations

from pathlib import Path

from mmfl import chosen
from mmfl.cache import Unit
from mmfl.errors import UserError
from mmfl.files import digest
from mmfl.params import Params, step_values
from mmfl.params.archives import SIMULATED
from mmfl.pipeline.jobs import source


def unit(params: Params, archive: str) -> Unit:
    """The cache entry of the archive that these parameters describe.

    Raises:
        UserError: it is no simulated archive.
    """
    if archive not in SIMULATED:
        raise UserError(f"simulate: found {archive}, expected one of {', '.join(SIMULATED)}")
    values = step_values(params, "simulate", archive)
    described = {
        "archive": archive, "values": values, "code": source("simulate", params, archive),
    }  # fmt: skip
    return Unit("simulate", digest(described))


def manifest_path(params: Params, archive: str) -> Path:
    """Where `run` leaves the manifest."""
    return unit(params, archive).path / "manifest.yaml"


def run(params: Params, archive: str, *, fresh: bool = False) -> None:
    """Write the archive where it is not in the cache yet."""
    entry = unit(params, archive)
    if fresh:
        entry.discard()
    with entry.alone():
        if entry.done:
            return
        entry.discard()  # what a killed run left
        drawn = step_values(params, "simulate", archive)["simulate"]
        chosen.load("archives.simulation", archive).generate(entry.folder, **drawn)
        entry.complete()
