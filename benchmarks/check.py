"""`mmfl check` of many small tiles on both sides of 180 degrees: time and memory.

    python benchmarks/check.py                  # 25,000 tiles, about 100 MB in a temporary folder
    python benchmarks/check.py --tiles 6000 --folder /tmp/tiles

A block of tiles of 80 m in UTM zones 60 and 1 south meets at 180 degrees, the splits in turn by
columns that lie apart; one more tile lies across the line. Printed are
the overlaps found, seconds and peak memory, of the footprints alone and of the whole command in a
process of its own. The folder is kept where it is given, and used again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform
from tqdm import tqdm

SIDE, METRES = 8, 10
PLACES = ((32760, 818_000, -1), (32701, 182_000, 1))  # zone, easting beside 180 degrees, direction
DESCRIPTION = """table: t.csv
modalities: {q: {path: "{id}.tif", bands: [x]}}
labels: {classes: [a, b]}
"""


def write(path: Path, crs: int, corner: tuple[float, float], pixel: float) -> None:
    """A tile of one band, its name in its pixels."""
    rng = np.random.default_rng(int(path.stem))
    pixels = rng.integers(1, 255, (1, SIDE, SIDE), dtype=np.uint8)
    place = {"crs": f"EPSG:{crs}", "transform": from_origin(*corner, pixel, pixel)}
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, count=1, dtype="uint8", **place
    ) as target:
        target.write(pixels)


def build(folder: Path, tiles: int) -> Path:
    """The archive's description; nothing is made twice."""
    path = folder / "a.yaml"
    if path.exists():
        return path
    rows = ["id,split,labels"]
    across = int(np.sqrt(tiles / 2)) + 1
    for i in tqdm(range(tiles - 1), desc="write tiles"):
        crs, east, way = PLACES[i % 2]
        row, column = divmod(i // 2, across)
        step = SIDE * METRES
        write(
            folder / f"{i}.tif",
            crs,
            (east + way * step * 10 * column, 8_100_000 - step * 10 * row),
            METRES,
        )
        rows.append(f"{i},{('train', 'train', 'val', 'test')[i // 2 % 4]},{'ab'[i % 2]}")
    (east,), _ = transform("EPSG:4326", "EPSG:32760", [180.0], [-16.99])
    write(folder / f"{tiles - 1}.tif", 32760, (east - 40, 8_120_000), METRES)
    rows.append(f"{tiles - 1},test,a")
    (folder / "t.csv").write_text("\n".join(rows))
    path.write_text(DESCRIPTION)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tiles", type=int, default=25_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = build(folder, arguments.tiles)
        start = time.perf_counter()
        done = subprocess.run(["mmfl", "check", str(path)], capture_output=True,
                              text=True)  # fmt: skip
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout[-1500:] + done.stderr[-500:])
    processor = used.ru_utime + used.ru_stime
    print(
        f"{arguments.tiles:,} tiles: status {done.returncode}, {seconds:.1f} s, of the processor "
        f"{processor:.1f} s, at most {used.ru_maxrss / 1024:,.0f} MB"
    )


if __name__ == "__main__":
    main()
