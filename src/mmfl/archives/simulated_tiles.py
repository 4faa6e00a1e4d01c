"""The archive `simulated-tiles`, drawn in the layout of Dynamic World's expert tiles."""

from mmfl.archives.dynamicworld import DynamicWorld

ARCHIVE = DynamicWorld(name="simulated-tiles", licence="CC0-1.0", complete=True)
