"""An archive of one's own as a description, a table and GeoTIFFs."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from mmfl.archives import get


def tif(path: Path, pixels, *, corner=(500_000, 5_000_000), metres=10, crs="EPSG:32633", **more):
    """A GeoTIFF of (C, H, W) or (H, W); `names`: descriptions of its bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.atleast_3d(np.asarray(pixels).T).T
    names = more.pop("names", None)
    place = {} if crs is None else {"crs": crs, "transform": from_origin(*corner, metres, metres)}
    with rasterio.open(path, "w", driver=more.pop("driver", "GTiff"), height=pixels.shape[1],
                       width=pixels.shape[2], count=len(pixels), dtype=pixels.dtype, **place,
                       **more) as target:  # fmt: skip
        target.write(pixels)
        for band, name in enumerate(names or (), 1):
            target.set_band_description(band, name)


def made(folder: Path, description: str, table: str):
    """The archive, and its root."""
    (folder / "my.yaml").write_text(description)
    (folder / "locations.csv").write_text(table)
    return get("my", folder / "my.yaml"), folder / "my.yaml"
