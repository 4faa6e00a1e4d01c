"""Bands of the sensors, by the names that the agencies use."""

S1_BANDS = ("VV", "VH")
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S2_TRAINED = tuple(band for band in S2_BANDS if band not in ("B01", "B09"))  # 10 m and 20 m
IMAGERY = {"s1": S1_BANDS, "s2": S2_TRAINED}  # of images found by search, in this order


def stored(modality: str) -> str:
    """The modality of the archive that a client's modality is read from: `s2-20m` is part of s2."""
    return modality.partition("-")[0]
