"""Archives of one's own: a table, files anywhere, a short yaml (docs/your-own-archive.md).

`archive` is what the steps see, `table` reads the table of locations, `files` the images, `record`
says what is there, so that a change is noticed.
"""

from mmfl.archives.folder.archive import Folder, metres
from mmfl.archives.folder.record import state, verify
from mmfl.archives.folder.table import base_folder

__all__ = ["Folder", "base_folder", "metres", "state", "verify"]
