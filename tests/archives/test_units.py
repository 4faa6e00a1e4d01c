"""Images of several units in one archive are told; unlike images of one unit are not."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from helpers.own_archive import made, tif
from mmfl.archives.folder import units
from mmfl.errors import UserError
from mmfl.facts.description_parts import Images
from mmfl.inspection.check import check
from mmfl.patches.faults import sift

RADAR = Images.model_validate({"bands": ["VV", "VH"]})
RGB = Images.model_validate({"bands": ["B02", "B03", "B04"]})


def told(name, part, images, dtypes=None):
    """(wrong, odd) of some images."""
    dtypes = dtypes or [image.dtype.name for image in images]
    seen = [units.seen(Path(f"{i:02d}.tif"), name, part, image, dtype)
            for i, (image, dtype) in enumerate(zip(images, dtypes, strict=True))]  # fmt: skip
    return units.disagreement(name, [item for item in seen if item], list(part.bands))


def decibels(i: int, level: float = -10) -> np.ndarray:
    """Speckled radar, VH 7 dB below VV, of other brightness in each image."""
    rng = np.random.default_rng(i)
    power = rng.gamma(4, 0.25, (2, 16, 16)) * 10 ** ((level - 2 * (i % 4)) / 10)
    return (10 * np.log10(power) - np.array([0, 7])[:, None, None]).astype(np.float32)


def reflectance(i: int, level: float = 400) -> np.ndarray:
    """Three bands x 10,000 of land, in which brightness differs from image to image."""
    rng = np.random.default_rng(i)
    bright = level * np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.4, (1, 16, 16)))
    return (bright * np.array([0.8, 1.2, 1])[:, None, None] + 50).astype(np.uint16)


MIXED = {
    "linear": lambda x: 10 ** (x / 10),
    "amplitude": lambda x: np.rint(300 * 10 ** (x / 20)).astype(np.uint16),
    "hundredths": lambda x: np.rint(100 * x).astype(np.int16),
    "tenths": lambda x: 10 * x,
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("which", [range(0, 24, 3), range(0, 24, 2), [5]])
def test_radar_of_two_units(name, which):
    images = [MIXED[name](decibels(i)) if i in which else decibels(i) for i in range(24)]
    (line,), _ = told("s1", RADAR, images)
    assert f"{24 - len(which)} decibels, e.g. " in line and f" {len(which)} " in line
    assert f"{min(which):02d}.tif" in line
    assert told("s1", RADAR, [MIXED[name](decibels(i)) for i in range(24)]) == ([], [])


def test_radar_of_one_unit_is_right():
    """Calm water, forest, a port above 0 dB; with and without gaps."""
    water, forest, port = ([decibels(i, level) for i in range(8)] for level in (-24.0, -9.0, 4.0))
    water[0][:, :3] = np.nan
    assert told("s1", RADAR, [*water, *forest, *port]) == ([], [])
    linear = [10 ** (image / 10) for image in (*water, *forest, *port)]
    linear[4][0, 0, 0] = -1e-5  # what the removal of thermal noise leaves
    assert told("s1", RADAR, linear) == ([], [])


def test_reflectance_of_two_scales():
    whole = [reflectance(i) for i in range(24)]
    mixed = [x if i % 4 else (x / 1e4).astype(np.float32) for i, x in enumerate(whole)]
    (line,), _ = told("s2", RGB, mixed)
    assert "18 16-bit numbers, e.g. 01.tif; 6 fractions, e.g. 00.tif" in line
    eight = [np.clip(x / 8, 0, 255).astype(np.uint8) for x in whole]
    mixed = [x if i % 4 else eight[i] for i, x in enumerate(whole)]
    (line,), _ = told("s2", RGB, mixed)
    assert "6 eight bits" in line
    stretched = [np.clip(x.astype(float) / 2, 0, 255).astype(np.uint16) for x in whole]
    mixed = [x if i % 4 else stretched[i] for i, x in enumerate(whole)]
    assert "6 eight bits" in told("s2", RGB, mixed)[0][0]
    for alike in (eight, [x / 1e4 for x in whole], whole):
        assert told("s2", RGB, alike) == ([], [])


def test_per_cent_beside_other_scales():
    whole = [reflectance(i) for i in range(24)]
    for scale, name in ((1, "16-bit numbers"), (1e-4, "fractions")):
        mixed = [(x / 100 if i % 4 == 0 else x * scale).astype(np.float32)
                 for i, x in enumerate(whole)]  # fmt: skip
        (line,), _ = told("s2", RGB, mixed)
        assert f"18 {name}, e.g. 01.tif; 6 per cent, e.g. 00.tif" in line
    assert told("s2", RGB, [(x / 100).astype(np.float32) for x in whole]) == ([], [])


def test_tenths_beside_hundredths_of_decibels():
    mixed = [np.rint(decibels(i) * (10 if i % 3 == 0 else 100)).astype(np.int16) for i in range(24)]
    (line,), _ = told("s1", RADAR, mixed)
    assert "16 hundredths of decibels, e.g. 01.tif; 8 tenths of decibels, e.g. 00.tif" in line


def test_one_band_of_another_unit():
    """VH linear beside VV in decibels is wrong; a band of fractions may be dark, so is told."""
    radar = [decibels(i) for i in range(24)]
    mixed = [np.stack([x[0], 10 ** (x[1] / 10)]) if i % 3 == 0 else x for i, x in enumerate(radar)]
    (line,), odd = told("s1", RADAR, mixed)
    assert "the band VH alone: of 24 files read, 16 decibels" in line and not odd
    whole = [reflectance(i).astype(np.float32) for i in range(24)]
    mixed = [x * [[[1]], [[1]], [[1e-4]]] if i % 3 == 0 else x for i, x in enumerate(whole)]
    wrong, (line,) = told("s2", RGB, mixed, ["float32"] * 24)
    assert "the band B04 alone: of 24 files read, 16 16-bit numbers" in line and not wrong


def test_water_beside_snow_is_right():
    """Reflectance of 0.01 beside that of 0.9, also where water is 1 in all of a band."""
    water, snow = ([reflectance(i, level) for i in range(12)] for level in (60, 7000))
    water[3][2] = 1
    for images in ([*water, *snow], [x / 1e4 for x in (*water, *snow)],
                   [*water, *(reflectance(i, 1200) for i in range(12)), *snow]):  # fmt: skip
        assert told("s2", RGB, images) == ([], [])


@pytest.mark.parametrize("by", [1, 1e-4])
def test_the_offset_of_baseline_4(by):
    land = [reflectance(i) for i in range(30)]
    assert told("s2", RGB, [x * by for x in land]) == ([], [])
    mixed = [(x + 1000 * (i % 3 == 0)) * by for i, x in enumerate(land)]
    wrong, (line,) = told("s2", RGB, mixed)
    moved = units.offset([units.seen(Path(f"{i:02d}"), "s2", RGB, x, "float32")
                          for i, x in enumerate(mixed)])  # fmt: skip
    assert not wrong and f"just {1000 * by:g} above" in line
    assert len(moved) >= 8 and {int(path.name) % 3 for path in moved} == {0}
    for other in (300, 500, 800, 1400):
        assert told("s2", RGB, [x + other * (i % 3 == 0) for i, x in enumerate(land)]) == ([], [])


def test_elevation_of_sea_and_mountains_is_right():
    rng = np.random.default_rng(0)
    part = Images.model_validate({"bands": ["height"]})
    heights = [rng.uniform(0, 0.9, (1, 8, 8)), rng.normal(-3, 1, (1, 8, 8)),
               rng.normal(2500, 300, (1, 8, 8)), np.zeros((1, 8, 8))] * 4  # fmt: skip
    assert told("dem", part, heights) == ([], [])
    assert told("dem", part, [x.round().astype(np.int16) for x in heights]) == ([], [])


def test_scaled_by_the_description_it_is_one_unit(tmp_path):
    """check and split refuse a mixture alike; with a scale per row it is none."""
    for i in range(8):
        image = decibels(i)
        tif(tmp_path / f"q/p{i}.tif", image * (100 if i % 2 else 1),
            corner=(500_000 + 5000 * i, 5_000_000))  # fmt: skip
    rows = [f"p{i},{s},a,{'0.01' if i % 2 else 1}" for i, s in
            enumerate(("train", "val", "test", "train") * 2)]  # fmt: skip
    text = ("table: locations.csv\nlabels: {classes: [a, b]}\n"
            'modalities: {s1: {path: "q/{id}.tif", bands: [VV, VH]}}\n')  # fmt: skip
    table = "\n".join(["id,split,labels,gain", *rows])
    described, root = made(tmp_path, text, table)
    (line,) = check(root).damage
    assert "s1: of 8 files read, 4 decibels, e.g. " in line and "p1.tif" in line
    with pytest.raises(UserError, match="4 hundredths of decibels"):
        sift(described, root, described.metadata(root))
    described, root = made(tmp_path, text.replace("VH]", "VH], scale: {column: gain}"), table)
    assert not check(root).damage
    assert sift(described, root, described.metadata(root))[1] == []


def test_an_offset_is_a_warning_for_check_and_split(tmp_path, caplog):
    for i in range(24):
        tif(tmp_path / f"q/p{i:02d}.tif", reflectance(i) + np.uint16(1000 * (i % 2)),
            corner=(500_000 + 5000 * i, 5_000_000))  # fmt: skip
    rows = [f"p{i:02d},{('train', 'train', 'val', 'test')[i % 4]},a" for i in range(24)]
    described, root = made(
        tmp_path, "table: locations.csv\nlabels: {classes: [a, b]}\n"
        'modalities: {s2: {path: "q/{id}.tif", bands: [B02, B03, B04]}}\n',
        "\n".join(["id,split,labels", *rows]),
    )  # fmt: skip
    found = check(root)
    assert not found.damage and "as with the offset of Sentinel-2" in found.text()
    assert "Nothing is wrong; 1 warning above." in found.text()
    sift(described, root, described.metadata(root))
    assert sum("as with the offset of Sentinel-2" in text for text in caplog.messages) == 1


def test_real_images_are_of_one_unit(sample):
    """BigEarthNet: nothing is said of them; moved, scaled or made linear in part it is."""
    s1, s2 = [], []
    for folder in sorted((sample / "BigEarthNet-S2").glob("*/*")):
        files = [folder / f"{folder.name}_{band}.tif" for band in ("B02", "B03", "B04", "B08")]
        s2.append(np.stack([rasterio.open(path).read(1) for path in files]))
    for folder in sorted((sample / "BigEarthNet-S1").glob("*/*")):
        files = [folder / f"{folder.name}_{band}.tif" for band in ("VV", "VH")]
        s1.append(np.stack([rasterio.open(path).read(1) for path in files]))
    assert len(s1) == len(s2) == 24
    four = Images.model_validate({"bands": ["B02", "B03", "B04", "B08"]})
    assert told("s1", RADAR, s1) == told("s2", four, s2) == ([], [])
    third = range(0, 24, 3)
    assert told("s2", four, [x + np.uint16(1000 * (i in third)) for i, x in enumerate(s2)])[1]
    assert told("s2", four, [x / 1e4 if i in third else x for i, x in enumerate(s2)])[0]
    assert told("s1", RADAR, [10 ** (x / 10) if i in third else x for i, x in enumerate(s1)])[0]
    assert told("s1", RADAR, [100 * x if i in third else x for i, x in enumerate(s1)])[0]
