"""Split: an archive in, one folder of shards per modality out, labels apart."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from tqdm import tqdm

from mmfl.archives import get
from mmfl.archives.base import MASK
from mmfl.errors import UserError
from mmfl.files import materialise
from mmfl.patches.faults import SKIPPED, held, refuse, sift, write_skipped
from mmfl.patches.labels import write_store
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
) -> None:
    """Encode the archive below `root` into `out`; finished shards are kept in `store`.

    Args:
        archive: its name in the registry.
        root: folder of the extracted archive.
        out: gets a folder per modality, and `labels`, with a table of what was skipped.
        store: folder of this archive and these choices alone; a killed run goes on from it.
        shard_size: patches in a shard.
        snow, cloud_or_shadow: keep patches with seasonal snow; with cloud or cloud shadow.
        on_error: "stop" at a patch that cannot be used, or "skip" it.
        workers: processes that decode; they change no byte.

    Raises:
        UserError: no patch is left; patches that cannot be used, named by file.
    """
    described = get(archive, root)
    metadata = described.metadata(root, snow=snow, cloud_or_shadow=cloud_or_shadow)
    if metadata.empty:
        raise UserError(
            f"{root}: found no patch after the exclusions, expected some; "
            "set split.snow or split.cloud_or_shadow to true"
        )
    rows, faults = sift(described, root, metadata, workers)
    if on_error == "stop":
        refuse(faults)
    for left in store.glob(".*.tmp"):  # by a process that was killed
        left.unlink()
    stores = list(described.modalities)
    if described.task == "pixel":
        rows[MASK.name] = rows["pair"]
        stores.insert(0, MASK.name)
    total = sum(int(rows[name].notna().sum()) for name in stores)
    folders = []
    with tqdm(total=total, desc=f"split {archive}", unit="patch") as bar:
        for modality in stores:
            folder, damaged = encode(
                described,
                root,
                store,
                modality=modality,
                metadata=rows,
                shard_size=shard_size,
                workers=workers,
                skip=on_error == "skip",
                progress=bar.update,
            )
            folders.append(folder)
            faults += damaged
            lost = {fault.patch for fault in damaged}
            if modality == MASK.name:
                rows = rows[~rows[modality].isin(lost)].reset_index(drop=True)
            rows[modality] = rows[modality].where(~rows[modality].isin(lost), None)
    rows = held(described, rows)
    if rows.empty:
        raise UserError(f"{root}: found no patch that can be used, expected some; see {faults[0]}")
    if faults:
        log.warning("%d patches are skipped, listed in %s", len(faults), out / "labels" / SKIPPED)
    for folder in folders:
        materialise(folder, out / folder.name)
    write_labels(out / "labels", rows, described)
    write_skipped(out / "labels" / SKIPPED, faults, lambda file: _shown(file, root))
    for folder in out.iterdir():  # of another description of the archive
        if folder.is_dir() and folder.name not in (*stores, "labels"):
            shutil.rmtree(folder)
    write_store(out)


def _shown(file: str, root: Path) -> str:
    """A file's name below the archive's root, so that the table does not depend on the machine."""
    path, root = Path(file), root if root.is_dir() else root.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file
