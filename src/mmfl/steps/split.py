"""Split: an archive in, one folder of shards per modality out, labels apart."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from mmfl.archives import Archive, Fault, get
from mmfl.archives.base import MASK
from mmfl.archives.recorded import Guard, Row
from mmfl.errors import UserError
from mmfl.files import materialise
from mmfl.patches.faults import SKIPPED, held, refuse, sift, write_skipped
from mmfl.patches.labels import write_store
from mmfl.patches.shards import shown
from mmfl.patches.streaming import missing, read_told
from mmfl.patches.writer import encode, write_labels

log = logging.getLogger(__name__)


def run(
    archive: str,
    *,
    root: Path,
    out: Path,
    store: Path,
    shard_size: int,
    snow: bool,
    cloud_or_shadow: bool,
    on_error: str = "stop",
    workers: int = 1,
    recorded: Iterable[Row] | None = None,
) -> None:
    """Encode the archive below `root` into `out`; finished shards are kept in `store`.

    Args:
        archive: its name in the registry.
        root: folder of the archive, extracted or with the tars of its images.
        out: gets a folder per modality, and `labels`, with a table of what was skipped.
        store: folder of this archive and these choices alone; a killed run goes on from it.
        shard_size: patches in a shard.
        snow, cloud_or_shadow: keep patches with seasonal snow; with cloud or cloud shadow.
        on_error: "stop" at a patch that cannot be used, or "skip" it.
        workers: processes that decode; they change no byte.
        recorded: what `download` wrote down of the archive, the rows of files.csv; None: the
            archive may be as it is.

    Raises:
        UserError: no patch is left; patches that cannot be used, named by file; the archive was
            edited since it was written down, or while it was read.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # arrow's own keeps 50 MB that it does not need
    guard = None if recorded is None else Guard(archive, root, recorded)
    described = get(archive, root)
    metadata = described.metadata(root, snow=snow, cloud_or_shadow=cloud_or_shadow)
    if metadata.empty:
        raise UserError(
            f"{root}: found no patch after the exclusions, expected some; "
            "set split.snow or split.cloud_or_shadow to true"
        )
    _complete(metadata, root)
    skip = on_error == "skip"
    stores = [*([MASK.name] if described.task == "pixel" else []), *described.modalities]

    def sifted() -> tuple[pd.DataFrame, list[Fault]]:
        rows, faults = sift(described, root, metadata, workers, store)
        if not skip:
            refuse(faults)
        if described.task == "pixel":
            rows[MASK.name] = rows["pair"]
        return rows, faults

    for left in store.glob(".*.tmp"):  # by a process that was killed
        left.unlink()
    rows, faults = sifted()
    folders, damaged = _encoded(described, root, store, rows, shard_size, workers, skip)
    while any(described.packed(root, q) for q in described.modalities):
        before = rows
        rows, faults = sifted()  # a tar says at its end what it lacks
        if rows[["pair", *stores]].equals(before[["pair", *stores]]):
            break
        folders, damaged = _encoded(described, root, store, rows, shard_size, workers, skip)
    try:
        if guard is not None:
            guard.unchanged()
    except UserError:
        shutil.rmtree(store)  # its shards may be of either state
        raise
    faults = [*faults, *damaged]
    rows = held(described, _less(rows, stores, damaged))
    if rows.empty:
        raise UserError(f"{root}: found no patch that can be used, expected some; see {faults[0]}")
    _complete(rows, root)
    if faults:
        log.warning("%d patches are skipped, listed in %s", len(faults), out / "labels" / SKIPPED)
    for folder in folders:
        materialise(folder, out / folder.name)
    write_labels(out / "labels", rows, described)
    write_skipped(out / "labels" / SKIPPED, faults, lambda file: shown(file, root))
    for folder in out.iterdir():  # of another description of the archive
        if folder.is_dir() and folder.name not in (*stores, "labels"):
            shutil.rmtree(folder)
    write_store(out, archive)


def _complete(rows: pd.DataFrame, root: Path) -> None:
    """Refuse locations of which nothing can be trained, or nothing evaluated."""
    for split in ("train", "test"):
        if not (rows["split"] == split).any():
            counts = ", ".join(f"{n:,} {name}" for name, n in rows["split"].value_counts().items())
            raise UserError(f"{root}: found no location of the split {split} that can be used, "
                            f"expected some (found {counts})")  # fmt: skip


def _encoded(
    archive: Archive,
    root: Path,
    store: Path,
    rows: pd.DataFrame,
    shard_size: int,
    workers: int,
    skip: bool,
) -> tuple[list[Path], list[Fault]]:
    """The folders of all modalities (and of the masks first), and the patches left out."""
    stores = [*([MASK.name] if archive.task == "pixel" else []), *archive.modalities]
    total = sum(int(rows[name].notna().sum()) for name in stores)
    folders: list[Path] = []
    faults: list[Fault] = []
    with tqdm(total=total, desc=f"split {archive.name}", unit="patch") as bar:
        for modality in stores:
            folder, damaged = encode(
                archive,
                root,
                store,
                modality=modality,
                metadata=_less(rows, stores, faults),
                shard_size=shard_size,
                workers=workers,
                skip=skip,
                progress=bar.update,
            )
            folders.append(folder)
            faults += damaged
            packed = archive.packed(root, modality)
            told = None if packed is None or skip else read_told(store, modality, packed)
            if told is not None:  # before the next tar is read
                folder_of = partial(archive.patch_folder, root, modality)
                refuse([missing(modality, x, str(folder_of(x))) for x in sorted(told.lost)])
    return folders, faults


def _less(rows: pd.DataFrame, stores: list[str], faults: list[Fault]) -> pd.DataFrame:
    """The rows without damaged patches; a tile without its mask is none."""
    rows = rows.copy()
    for q in stores:
        lost = {fault.patch for fault in faults if fault.modality == q}
        rows[q] = rows[q].where(~rows[q].isin(lost), None)
    return rows[rows[MASK.name].notna()].reset_index(drop=True) if MASK.name in rows else rows
