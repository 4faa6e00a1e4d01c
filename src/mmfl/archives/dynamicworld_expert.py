"""Dynamic World's expert tiles; `mmfl/archives/dynamicworld/` reads them."""

from mmfl.archives.dynamicworld import DynamicWorld

ARCHIVE = DynamicWorld()
