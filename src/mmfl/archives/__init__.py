"""What the images are: one file per archive, all with the same few functions.

To add an archive: a file with a subclass of `base.Archive`, and a line in `ARCHIVES`.
"""

from __future__ import annotations

from pathlib import Path

from mmfl.archives.base import Archive, Band, Fault, Mask, Modality
from mmfl.archives.bigearthnet_v1 import BigEarthNetV1
from mmfl.archives.bigearthnet_v2 import BigEarthNetV2
from mmfl.archives.dynamicworld import DynamicWorld
from mmfl.errors import UserError

ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (
        BigEarthNetV1(),
        BigEarthNetV2(),
        DynamicWorld(),
        BigEarthNetV2(name="simulated", licence="CC0-1.0"),
        DynamicWorld(name="simulated-tiles", licence="CC0-1.0", complete=True),
    )
}


def get(name: str, root: Path | None = None) -> Archive:
    """The archive of this name; one of your own is described by the file `root`.

    Raises:
        UserError: unknown (names the known ones), or its description is wrong.
    """
    if name in ARCHIVES:
        return ARCHIVES[name]
    if root is not None and root.suffix in (".yaml", ".yml"):
        from mmfl.archives.folder import Folder

        return Folder.described_by(name, root)
    raise UserError(f"archive {name}: unknown, expected one of {', '.join(ARCHIVES)}")


__all__ = ["ARCHIVES", "Archive", "Band", "Fault", "Mask", "Modality", "get"]
