"""Archives of one's own: a table, files anywhere, a short yaml (docs/your-own-archive.md).

`archive` is what the steps see, `table` reads the table of locations, `files` the images.
"""

from mmfl.archives.folder.archive import Folder, base_folder, metres, verify

__all__ = ["Folder", "base_folder", "metres", "verify"]
