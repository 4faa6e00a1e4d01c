"""The archive `simulated`, drawn in BigEarthNet v2.0's layout (docs/simulated.md)."""

from mmfl.archives.bigearthnet_v2 import BigEarthNetV2

ARCHIVE = BigEarthNetV2(name="simulated", licence="CC0-1.0")
