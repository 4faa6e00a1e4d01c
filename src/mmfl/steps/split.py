"""Split: an archive in, one folder of shards per modality out, labels apart."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.files import materialise
from mmfl.patches.labels import write_labels
from mmfl.patches.writer import encode


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
    """Encode the archive below `root` into `out`; finished shards are kept in `store`.

    Args:
        archive: its name in the registry.
        root: folder of the extracted archive.
        out: gets a folder per modality, and `labels`.
        store: folder of this archive and these choices alone; a killed run goes on from it.
        shard_size: patches in a shard.
        snow, cloud_or_shadow: keep patches with seasonal snow; with cloud or cloud shadow.
        workers: processes that decode; they change no byte.

    Raises:
        UserError: no patch is left; bands are damaged or missing, named by file.
    """
    described = get(archive)
    metadata = described.metadata(root, snow=snow, cloud_or_shadow=cloud_or_shadow)
    if metadata.empty:
        raise UserError(
            f"{root}: found no patch after the exclusions, expected some; "
            "set split.snow or split.cloud_or_shadow to true"
        )
    total = sum(int(metadata[modality].notna().sum()) for modality in described.modalities)
    with tqdm(total=total, desc=f"split {archive}", unit="patch") as bar:
        folders = [
            encode(
                described,
                root,
                store,
                modality=modality,
                metadata=metadata,
                shard_size=shard_size,
                workers=workers,
                progress=bar.update,
            )
            for modality in described.modalities
        ]
    for folder in folders:
        materialise(folder, out / folder.name)
    write_labels(out / "labels", metadata, described.classes, described.task)
