"""Split: an archive in, one folder of shards per modality out, labels apart."""

from __future__ import annotations

import shutil
from pathlib import Path

from tqdm import tqdm

from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.files import materialise
from mmfl.patches.labels import write_labels
from mmfl.patches.writer import encode, tasks, write_index


def run(
    archive: str,
    *,
    root: Path,
    out: Path,
    store: Path,
    shard_size: int,
    snow: bool,
    cloud_or_shadow: bool,
    workers: int = 1,
) -> None:
    """Encode the archive below `root` into `out`; shards in progress stay in `store`.

    Raises:
        UserError: damaged or missing bands, named by file.
    """
    described = get(archive)
    metadata = described.metadata(root, snow=snow, cloud_or_shadow=cloud_or_shadow)
    if metadata.empty:
        raise UserError(
            f"{root}: found no patch after the exclusions, expected some; see split.snow"
        )
    todo = [
        task
        for modality in described.modalities
        for task in tasks(described, root, modality, metadata, shard_size, store)
    ]
    total = sum(len(task.patches) for task in todo)
    with tqdm(total=total, desc=f"split {archive}", unit="patch") as bar:
        for task, _ in zip(todo, encode(todo, workers), strict=True):
            bar.update(len(task.patches))
    for name, modality in described.modalities.items():
        source = store / name
        source.mkdir(parents=True, exist_ok=True)
        for stale in source.glob(".*.tmp"):
            stale.unlink()
        write_index(source, modality, metadata, shard_size, archive)
        materialise(source, out / name)
    shutil.rmtree(out / "labels", ignore_errors=True)
    write_labels(out / "labels", metadata, described.classes, described.task)
