"""A small archive in the published layout of Dynamic World's expert tiles."""

from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform

from mmfl.archives import get
from mmfl.archives.dynamicworld import MODALITIES
from mmfl.archives.dynamicworld.table import XLSX

ARCHIVE = get("dynamicworld-expert")

SIZE = 40


def upper_left(lon, lat, size):
    """EPSG code and upper left corner, on the 10 m grid, of a tile around a point."""
    epsg = (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1
    (east,), (north,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])
    return epsg, round(east, -1) - 5 * size, round(north, -1) + 5 * size


def write(path, pixels, lon, lat, names=(), shift=0, **options):
    """A GeoTIFF of (bands, H, W) around a point."""
    epsg, east, north = upper_left(lon, lat, pixels.shape[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": bands,
        "dtype": pixels.dtype, "crs": f"EPSG:{epsg}", "compress": "lzw",
        "transform": from_origin(east + shift, north, 10, 10),
    } | options  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
        for number, name in enumerate(names, 1):
            target.set_band_description(number, name)


class Mini:
    """A small archive: tiles by name, and the rows of its table."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows, self.at = root, [], {}

    def tile(self, lon, lat, date, folder="Experts/WH/4", size=SIZE, codes=None, listed=True):
        name = f"dw_{lon}_{lat}-{date}"
        rng = np.random.default_rng(len(self.at))
        codes = rng.integers(0, 11, (size, size)) if codes is None else codes
        write(self.root / folder / f"{name}.tif", codes.astype(np.uint8)[None], lon, lat)
        self.at[name] = (lon, lat, codes)
        if listed:
            _, *region = folder.split("/") if folder.startswith("Experts") else ("", "WH", 4)
            self.rows.append(
                {
                    "dw_id": name, "date": pd.Timestamp(date).to_pydatetime(), "lon": lon,
                    "lat": lat, "hemisphere": region[0], "biome": int(region[1]),
                    "S2_PRODUCT_ID": f"S2A_MSIL2A_{date}T101031_N0211_R022_T33UUP_{date}T150000",
                }
            )  # fmt: skip
        return name

    def image(self, name, q, size=SIZE, **options):
        lon, lat, _ = self.at[name]
        rng = np.random.default_rng([len(name), len(q)])
        bands = [band.name for band in MODALITIES[q].bands]
        pixels = rng.normal(-12, 3, (len(bands), size, size)).astype(np.float32)
        if q == "s2":
            pixels = rng.integers(0, 9000, pixels.shape).astype(np.uint16)
        write(self.root / f"imagery/{q}/{name}.tif", pixels, lon, lat, bands, **options)
        return pixels

    def table(self, sheet="expert", **changes):
        frame = pd.DataFrame(self.rows).assign(**changes)
        frame.to_excel(self.root / XLSX, sheet_name=sheet, index=False)
