"""Encoding: from one GeoTIFF per band to shards that are read by memory map.

The bands come from folders, or from the stream of a tar (`streaming`); the bytes are the same. The
masks of tiles are such a store, too. An interrupted encoding goes on after the last whole shard,
and a damaged one is written again. A patch that cannot be read stops the encoding, or is skipped:
its row is then zeros that no index names. No torch in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mmfl.archives.base import MASK, REMEDY, Archive, Fault, Modality, pixels_only
from mmfl.archives.content import varies, worthless
from mmfl.errors import DamagedFile
from mmfl.facts.tasks import MASK_COLUMNS
from mmfl.files import write_json
from mmfl.patches import streaming
from mmfl.patches.shards import (
    Note,
    Shape,
    Shard,
    Target,
    Targets,
    Writing,
    as_json,
    band_shape,
    cut,
    patch_bytes,
    read_notes,
    whole,
)
from mmfl.patches.tables import group_columns, write_parquet
from mmfl.processes import Map, ahead

LARGEST = 4 << 30  # bytes of an image
CHUNK, CHUNK_BYTES = 32, 6 << 20  # patches that a worker holds at a time, at most


@dataclass(frozen=True)
class Chunk:
    """Patches start to start + len(patches) of a shard, and the files that they go to."""

    start: int
    patches: tuple[str, ...]
    shape: Shape | None
    targets: Targets


def encode(
    archive: Archive,
    root: Path,
    store: Path,
    *,
    modality: str,
    metadata: pd.DataFrame,
    shard_size: int = 4096,
    workers: int = 1,
    skip: bool = False,
    progress: Callable[[int], object] = lambda patches: None,
) -> tuple[Path, list[Fault]]:
    """Write a modality's patches: shards, `index.parquet`, `modality.json`.

    Args:
        archive, root: what is read, and where it lies.
        store: folder of finished shards and work in progress; the result is in `store/modality`.
        metadata: as `Archive.metadata` returns it, sorted by pair.
        shard_size: patches in a shard.
        workers: processes; they change no byte.
        skip: leave out patches with a missing or damaged band instead of stopping.
        progress: called with the number of patches done since the last call.

    Returns:
        The folder, and the patches that were left out. Of a tar, patches that are not in it at all
        are told by `streaming.read_told` afterwards.

    Raises:
        UserError: a band is missing or damaged; the message names its file.
    """
    described = archive.modality(modality)
    folder = store / modality
    folder.mkdir(parents=True, exist_ok=True)
    names = metadata.loc[metadata[modality].notna(), modality].tolist()
    notes = store / f".{modality}.json"
    packed = archive.packed(root, modality)
    with ahead(min(workers, -(-len(names) // CHUNK))) as run:
        if modality == MASK.name:  # known since their labels were read
            sizes = metadata[["height", "width"]].itertuples(index=False, name=None)
            shapes: dict[str, Shape | None] = dict(zip(names, sizes, strict=True))
            faults: list[Fault] = []
        else:
            shapes, faults = _shapes(archive, root, described, names, skip, run)
        shards = [
            Shard(number, tuple(part), shape, described, folder)
            for number, (part, shape) in enumerate(cut(described, shapes, shard_size))
        ]
        known = read_notes(notes) or read_notes(folder / "modality.json")
        if packed is not None and not streaming.known_notes(store, modality, packed):
            known = {}
        _remove_strangers(folder, {file.name for shard in shards for file in shard.files.values()})
        looked = run(whole, ((shard, known.get(shard.number)) for shard in shards))
        found = {
            shard.number: note
            for shard, note in zip(shards, looked, strict=True)
            if note is not None
        }
        lacking = [shard for shard in shards if shard.number not in found]
        progress(len(shapes) - sum(len(shard.patches) for shard in lacking))
        with Writing(notes, found, root, apart=workers > 1) as writing:
            if packed is None:
                done = _from_folders(archive, root, lacking, writing, skip, run)
            else:
                pack = streaming.Pack(archive, root, modality, packed, store)
                done = streaming.encode(pack, lacking, writing, skip, run)
            for shard, count, damaged in done:
                writing.add(shard, count, damaged)
                progress(count)
    faults += [fault for number in sorted(found) for fault in found[number].skipped]
    write_index(
        folder, described, metadata, shard_size, archive.name, found,
        shapes=shapes, groups=group_columns(metadata, list(archive.modalities)),
    )  # fmt: skip
    return folder, faults


def _shapes(
    archive: Archive, root: Path, modality: Modality, names: list[str], skip: bool, run: Map
) -> tuple[dict[str, Shape | None], list[Fault]]:
    """patch -> its shape (None where the archive's bands all have one size), in order."""
    if all(band.size is not None for band in modality.bands):
        return dict.fromkeys(names), []
    found: dict[str, Shape | None] = {}
    faults = []
    looked = run(partial(_shape, archive, root, modality), names)
    for name, shape in zip(names, looked, strict=True):
        if not isinstance(shape, DamagedFile):
            found[name] = shape
        elif skip:
            faults.append(Fault(modality.name, name, shape.path, shape.reason))
        else:
            raise shape
    return found, faults


def _shape(archive: Archive, root: Path, modality: Modality, patch: str) -> Shape | DamagedFile:
    """By the header alone: a file of a few bytes may claim any size."""
    try:
        shape = archive.shape(root, modality.name, patch)
        size = patch_bytes(modality, shape)
        if size > LARGEST:
            path = archive.patch_folder(root, modality.name, patch)
            raise DamagedFile(
                path, f"is {shape[0]:,} x {shape[1]:,} pixels, {size / 1e9:,.0f} GB in "
                f"{len(modality.bands)} bands, expected at most {LARGEST / 1e9:.0f} GB; cut it "
                f"into tiles, or leave it out with split.on_error: skip"
            )  # fmt: skip
        return shape
    except DamagedFile as error:
        return error


def _from_folders(
    archive: Archive,
    root: Path,
    shards: Sequence[Shard],
    writing: Writing,
    skip: bool,
    run: Map,
) -> Iterator[tuple[Shard, int, list[Fault]]]:
    """Write shards one after another: how many patches of which one are done, and the faults."""
    order: list[tuple[Shard, int]] = []

    def chunks() -> Iterator[Chunk]:
        for shard in shards:
            step = min(CHUNK, max(1, CHUNK_BYTES // patch_bytes(shard.modality, shard.shape)))
            for start in range(0, len(shard.patches), step):
                patches = shard.patches[start : start + step]
                order.append((shard, len(patches)))
                yield Chunk(start, patches, shard.shape, writing.begin(shard))

    if shards:
        work = partial(write_chunk, archive, root, shards[0].modality, skip)
        for number, damaged in enumerate(run(work, chunks())):
            yield (*order[number], damaged)


def write_chunk(
    archive: Archive, root: Path, modality: Modality, skip: bool, chunk: Chunk
) -> list[Fault]:
    """Decode the chunk's patches and write them at their place; what was skipped."""
    pixels = {}
    for resolution in chunk.targets:
        shape = (len(chunk.patches), *band_shape(modality, resolution, chunk.shape))
        pixels[resolution] = np.zeros(shape, modality.at(resolution)[0].dtype)
    faults = []
    with pixels_only():
        for row, patch in enumerate(chunk.patches):
            try:
                for resolution, part in pixels.items():
                    part[row] = archive.read_patch(root, modality.name, patch, resolution)
                reason = worthless(
                    varies(pixels[r][row, place], band.nodata)
                    for r in modality.resolutions
                    for place, band in enumerate(modality.at(r))
                )
                if reason is not None and modality.name != MASK.name:
                    path = archive.patch_folder(root, modality.name, patch)
                    raise DamagedFile(path, f"{reason}; {REMEDY}")
            except DamagedFile as error:
                if not skip:
                    raise
                faults.append(Fault(modality.name, patch, error.path, error.reason))
    for resolution, target in chunk.targets.items():
        _write(target, chunk.start, pixels[resolution])
    return faults


def _write(target: Target, row: int, pixels: np.ndarray) -> None:
    with target.path.open("r+b") as handle:
        handle.seek(target.offset + row * target.size)
        handle.write(pixels.data)


def write_index(
    folder: Path,
    modality: Modality,
    metadata: pd.DataFrame,
    shard_size: int,
    source: str,
    notes: Mapping[int, Note] | None = None,
    *,
    groups: list[str],
    shapes: Mapping[str, Shape | None] | None = None,
) -> None:
    """`index.parquet` (pair, patch, shard, row and group columns) and, last, `modality.json`.

    `shapes`: those of the patches that the shards hold; by default all that `metadata` names.
    """
    held = metadata[metadata[modality.name].notna()].reset_index(drop=True)
    shapes = dict.fromkeys(held[modality.name]) if shapes is None else shapes
    parts = cut(modality, shapes, shard_size)
    place = {
        patch: (number, row) for number, (names, _) in enumerate(parts)
        for row, patch in enumerate(names)
    }  # fmt: skip
    skipped = {fault.patch for note in (notes or {}).values() for fault in note.skipped}
    held = held[held[modality.name].isin(place.keys() - skipped)].reset_index(drop=True)
    index = held[groups].copy()
    index.insert(1, "patch", held[modality.name])
    where = np.array([place[name] for name in held[modality.name]], np.int64).reshape(-1, 2)
    index.insert(2, "shard", where[:, 0])
    index.insert(3, "row", where[:, 1])
    write_parquet(folder / "index.parquet", index)
    write_json(
        folder / "modality.json",
        {
            "name": modality.name,
            "bands": [asdict(band) for band in modality.bands],
            "show": list(modality.show),
            "patches": len(index),
            "rows": [len(names) for names, _ in parts],
            "shapes": {
                str(r): [list(band_shape(modality, r, shape)[1:]) for _, shape in parts]
                for r in modality.resolutions
            },
            "source": source,
            "shards": as_json(notes or {}),
        },
    )


def write_labels(folder: Path, metadata: pd.DataFrame, archive: Archive) -> None:
    """`index.parquet` (pair, groups, labels as class indices) and `classes.json`.

    For tiles the labels are the classes that occur; height, width, crs and transform come beside.
    """
    own = [column for column in MASK_COLUMNS if column in metadata]
    columns = [*group_columns(metadata, list(archive.modalities)), *own]
    write_parquet(folder / "index.parquet", metadata[columns].reset_index(drop=True))
    described = {"task": archive.task, "classes": list(archive.classes)}
    write_json(folder / "classes.json", described | {"colours": list(archive.colours) or None})


def _remove_strangers(folder: Path, expected: set[str]) -> None:
    """Remove what a killed run or another choice of `shard_size` left."""
    for path in folder.iterdir():
        if path.name not in expected:
            path.unlink()
