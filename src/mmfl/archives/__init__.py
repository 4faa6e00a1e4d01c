"""What the images are: one file per archive, all with the same few functions.

To add an archive: a file with a subclass of `base.Archive`, and a line in `ARCHIVES`.
"""

from __future__ import annotations

from mmfl.archives.base import Archive, Band, Fault, Modality
from mmfl.archives.bigearthnet_v1 import BigEarthNetV1
from mmfl.archives.bigearthnet_v2 import BigEarthNetV2
from mmfl.errors import UserError

ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (BigEarthNetV1(), BigEarthNetV2(), BigEarthNetV2(name="simulated"))
}


def get(name: str) -> Archive:
    """The archive of this name; `UserError` names the known ones."""
    if name not in ARCHIVES:
        raise UserError(f"archive {name}: unknown, expected one of {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


__all__ = ["ARCHIVES", "Archive", "Band", "Fault", "Modality", "get"]
