"""Simulate: write the simulated archive, in the layout of BigEarthNet v2, into the cache.

A helper of the download step, which then treats the archive like a published one (file:// urls).
"""

from __future__ import annotations

from pathlib import Path

from mmfl import code
from mmfl.cache import Unit
from mmfl.files import digest
from mmfl.params import Params, step_values


def unit(params: Params) -> Unit:
    """The cache entry of the archive that these parameters describe."""
    values = step_values(params, "simulate", "simulated")
    return Unit("simulate", digest({"values": values, "code": code.digest("simulate")}))


def manifest_path(params: Params) -> Path:
    """Where `run` leaves the manifest."""
    return unit(params).path / "manifest.yaml"


def run(params: Params, *, fresh: bool = False) -> None:
    """Write the archive where it is not in the cache yet."""
    entry = unit(params)
    if fresh or not entry.done:
        entry.discard()  # also what a killed run left
        from mmfl.archives.simulated import generate

        s = params.simulate
        generate(
            entry.folder, pairs=s.pairs, seed=s.seed, countries=s.countries, unpaired=s.unpaired
        )
        entry.complete()
