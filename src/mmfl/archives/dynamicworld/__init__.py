"""Dynamic World's expert tiles (docs/dynamicworld.md).

`archive` is what the steps see; `table` reads the workbook, `location` dates, places and splits the
label tiles, `blocks` keeps neighbours together, `files` reads rasters and their grids.
"""

from mmfl.archives.dynamicworld.archive import MODALITIES, DynamicWorld

__all__ = ["MODALITIES", "DynamicWorld"]
