"""The archive `simulated`: drawn from a stated model, written in BigEarthNet v2.0's layout.

`generate` writes the two .tar.zst, the two parquet tables and a manifest; from there on the
archive goes the way of a published one, and `bigearthnet_v2` reads it. The model is described in
docs/simulated.md. Two things differ from the published layout: `s1_name` may be null (no
Sentinel-1), and a column `has_s2` says whether a location has Sentinel-2 files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from mmfl import files
from mmfl.archives.bigearthnet_v2 import CLASSES, EXCLUDED, METADATA, MODALITIES, BigEarthNetV2
from mmfl.archives.simulation.files import BLOCK, geotiff, in_order, member, write_manifest
from mmfl.archives.simulation.locations import Location, draw_locations
from mmfl.archives.simulation.pixels import draw

DEFAULT_COUNTRIES = ("Austria", "Finland", "Ireland", "Portugal")
TARS = {"s1": "BigEarthNet-S1.tar.zst", "s2": "BigEarthNet-S2.tar.zst"}
CHUNK = 20  # locations a process draws at a time: about 6 MB
LAYOUT = BigEarthNetV2(name="simulated")

Chunk = tuple[dict[str, bytes], list[list[int]]]


def generate(
    out: Path,
    *,
    pairs: int,
    seed: int,
    countries: Sequence[str] = DEFAULT_COUNTRIES,
    unpaired: float = 0.05,
    workers: int | None = None,
) -> Path:
    """Write the archive into `out` and return its manifest, `out/manifest.yaml`, written last.

    Args:
        out: folder of the files; names as published.
        pairs: clean locations; a fiftieth as many with snow or cloud come on top.
        seed: seed of everything drawn.
        countries: names as in BigEarthNet.
        unpaired: share of locations that lack one of their two modalities.
        workers: processes; default: those this process may use. They change no byte.
    """
    out = Path(out).resolve()
    clean, excluded = draw_locations(pairs, seed, list(countries), unpaired)
    labels = _write_images(out, clean + excluded, seed, workers)
    _write_table(out / METADATA, clean, labels[: len(clean)])
    _write_table(out / EXCLUDED, excluded, labels[len(clean) :])
    return write_manifest(out, "simulated", (METADATA, EXCLUDED, TARS["s2"], TARS["s1"]))


def _write_images(
    out: Path, locations: list[Location], seed: int, workers: int | None
) -> list[list[int]]:
    """Both .tar.zst and `pixels.json` (digests of what they hold, however compressed); labels."""
    digests = {modality: hashlib.sha256() for modality in TARS}
    labels: list[list[int]] = []
    with ExitStack() as stack:
        streams = {}
        for modality, name in TARS.items():
            path = stack.enter_context(files.atomic(out / name))
            handle = stack.enter_context(path.open("wb"))
            compressor = zstandard.ZstdCompressor(level=1)
            streams[modality] = stack.enter_context(compressor.stream_writer(handle, closefd=False))
        end: Chunk = ({modality: bytes(2 * BLOCK) for modality in TARS}, [])
        parts = [locations[i : i + CHUNK] for i in range(0, len(locations), CHUNK)]
        for blocks, found in chain(in_order(partial(draw_chunk, seed=seed), parts, workers), [end]):
            labels += found
            for modality, data in blocks.items():
                digests[modality].update(data)
                streams[modality].write(data)
    values = {modality: value.hexdigest() for modality, value in digests.items()}
    files.write_json(out / "pixels.json", values)
    return labels


def draw_chunk(locations: list[Location], seed: int) -> Chunk:
    """Tar blocks per modality of some locations, and their labels."""
    blocks: dict[str, list[bytes]] = {modality: [] for modality in TARS}
    labels = []
    for location in locations:
        pixels, found = draw(location, seed)
        labels.append(found)
        epsg = 32600 + int(location.tile[1:3])
        names = {
            "s1": location.s1_name if location.has_s1 else None,
            "s2": location.patch_id if location.has_s2 else None,
        }
        for modality in MODALITIES.values():
            name = names[modality.name]
            if name is None:
                continue
            for band in modality.bands:
                path = LAYOUT.band_path(Path(), modality.name, name, band.name)
                image = geotiff(pixels[band.name], location.corner, band.resolution, epsg)
                blocks[modality.name].append(member(path.as_posix(), image))
    return {modality: b"".join(data) for modality, data in blocks.items()}, labels


def _write_table(path: Path, locations: list[Location], labels: list[list[int]]) -> None:
    table = pa.table(
        {
            "patch_id": [x.patch_id for x in locations],
            "labels": pa.array(
                [sorted(CLASSES[i] for i in found) for found in labels], pa.list_(pa.string())
            ),
            "split": [x.split for x in locations],
            "country": [x.country for x in locations],
            "s1_name": pa.array([x.s1_name if x.has_s1 else None for x in locations], pa.string()),
            "s2v1_name": [x.s2v1_name for x in locations],
            "contains_seasonal_snow": [x.snow for x in locations],
            "contains_cloud_or_shadow": [x.cloud for x in locations],
            "has_s2": [x.has_s2 for x in locations],
        }
    )
    with files.atomic(path) as temporary:
        pq.write_table(table, temporary)
