"""What the images are: one file per archive, all with the same few functions.

To add an archive: a file with `ARCHIVE`, an instance of a subclass of `base.Archive`, and its row
in `mmfl.params.archives`.
"""

from __future__ import annotations

from pathlib import Path

from mmfl import chosen
from mmfl.archives.base import Archive, Band, Fault, Mask, Modality
from mmfl.errors import UserError
from mmfl.params import ARCHIVES


def get(name: str, root: Path | None = None) -> Archive:
    """The archive of this name; one of your own is described by the file `root`.

    Raises:
        UserError: unknown (names the known ones), or its description is wrong.
    """
    if name in ARCHIVES:
        found = chosen.load("archives", name).ARCHIVE
    elif root is not None and root.suffix in (".yaml", ".yml"):
        found = chosen.load("archives", "folder").Folder.described_by(name, root)
    else:
        raise UserError(f"archive {name}: unknown, expected one of {', '.join(ARCHIVES)}")
    assert isinstance(found, Archive)
    return found


__all__ = ["Archive", "Band", "Fault", "Mask", "Modality", "get"]
