"""Encoding: from one GeoTIFF per band to shards that are read by memory map.

A shard holds up to `shard_size` patches of one modality, in one `.npy` file per resolution:
`<resolution>m-<shard>.npy`, (N, bands, size, size), native values and type. Shards are written
with plain writes, so memory does not grow with the archive, and appear whole (rename), so an
interrupted encoding goes on at the last whole shard. No torch in this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from mmfl.archives import Archive, Modality, get
from mmfl.files import atomic, write_json

GROUPS = ["pair", "split", "country", "month", "season", "tile"]


@dataclass(frozen=True)
class Task:
    """One shard to write: patches by name, in order."""

    archive: str
    root: Path
    modality: str
    shard: int
    patches: tuple[str, ...]
    folder: Path


def shard_files(modality: Modality, shard: int) -> dict[int, str]:
    """resolution -> file name."""
    return {r: f"{r}m-{shard:05d}.npy" for r in modality.resolutions}


def tasks(
    archive: Archive,
    root: Path,
    modality: str,
    metadata: pd.DataFrame,
    shard_size: int,
    store: Path,
) -> list[Task]:
    """The shards of a modality; patches in order of their pair."""
    names = metadata.loc[metadata[modality].notna(), modality].tolist()
    return [
        Task(
            archive.name,
            root,
            modality,
            k,
            tuple(names[start : start + shard_size]),
            store / modality,
        )
        for k, start in enumerate(range(0, len(names), shard_size))
    ]


def write_shard(task: Task) -> int:
    """Write a shard's files unless they are there already; the number of patches read.

    Raises:
        UserError: a band is missing or damaged; the message names the file.
    """
    archive = get(task.archive)
    modality = archive.modality(task.modality)
    files = shard_files(modality, task.shard)
    if all((task.folder / name).exists() for name in files.values()):
        return 0
    with ExitStack() as stack:
        handles = {}
        for resolution, name in files.items():
            handle = (stack.enter_context(atomic(task.folder / name))).open("wb")
            stack.callback(handle.close)
            bands = modality.at(resolution)
            shape = (len(task.patches), len(bands), bands[0].size, bands[0].size)
            descr = npy.dtype_to_descr(np.dtype(bands[0].dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(handle, header)
            handles[resolution] = handle
        for patch in task.patches:
            for band in modality.bands:
                handles[band.resolution].write(
                    archive.read(task.root, task.modality, patch, band.name).tobytes()
                )
        for handle in handles.values():
            handle.flush()
            os.fsync(handle.fileno())
    return len(task.patches)


def encode(todo: list[Task], workers: int = 1) -> Iterator[int]:
    """Write shards, the same bytes for any number of workers; yields patches done per shard."""
    if workers <= 1 or len(todo) <= 1:
        yield from map(write_shard, todo)
        return
    with ProcessPoolExecutor(min(workers, len(todo))) as pool:
        yield from pool.map(write_shard, todo)


def write_index(
    folder: Path, modality: Modality, metadata: pd.DataFrame, shard_size: int, source: str
) -> None:
    """`index.parquet` (pair, patch, shard, row and group columns) and `modality.json`."""
    held = metadata[metadata[modality.name].notna()].reset_index(drop=True)
    index = held[GROUPS].copy()
    index.insert(1, "patch", held[modality.name])
    number = np.arange(len(held))
    index.insert(2, "shard", number // shard_size)
    index.insert(3, "row", number % shard_size)
    write_parquet(folder / "index.parquet", index)
    write_json(
        folder / "modality.json",
        {
            "name": modality.name,
            "bands": [band.__dict__ for band in modality.bands],
            "patches": len(held),
            "shards": -(-len(held) // shard_size),
            "source": source,
        },
    )


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; equal tables give equal bytes with one version of pyarrow."""
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)
