"""Pictures of locations and tiles, and what the text calls modalities."""

import base64
import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from mmfl.facts.tasks import TASKS
from mmfl.reporting import gallery, texts

COLOURS = ["#ff0000", "#00ff00", "#0000ff"]
NAMES = ("water", "trees", "crops")


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def test_stretch_and_composite():
    rng = np.random.default_rng(0)
    image = gallery.picture(rng.gamma(2, 500, (3, 9, 9)))
    assert image.shape == (9, 9, 3) and image.min() == 0 and image.max() == 1
    a, b = rng.normal(-12, 3, (2, 40, 40))
    found = gallery.picture(np.stack([a, b]))
    for channel, values in enumerate((a, b, a - b)):
        low, high = np.percentile(values, (2, 98))
        expected = np.clip((values - low) / (high - low), 0, 1)
        assert found[..., channel] == pytest.approx(expected)
    grey = gallery.picture(rng.random((1, 9, 9)))
    assert (grey == grey[..., :1]).all()
    assert np.isfinite(gallery.picture(np.full((3, 4, 4), 7.0))).all()
    assert gallery.picture(None) is None


def test_gaps_are_grey_and_do_not_stretch():
    image = np.random.default_rng(0).random((3, 20, 20))
    whole = gallery.picture(image)
    image[1, :5, :5] = np.nan
    shown = gallery.picture(image)
    assert (shown[:5, :5] == gallery.GAP).all()
    assert shown[5:] == pytest.approx(whole[5:], abs=0.05)
    assert (gallery.picture(np.full((2, 4, 4), np.nan)) == gallery.GAP).all()


def test_large_tiles_are_reduced_to_means_of_squares():
    side = 2 * gallery.SIDE
    image = np.arange(side, dtype=float)[None, :, None] * np.ones((1, 1, side))
    shown = gallery.picture(image)
    assert shown.shape == (gallery.SIDE, gallery.SIDE, 3)
    assert (np.diff(shown[:, 0, 0]) >= 0).all()
    assert gallery.coloured(np.zeros((side, side // 4), np.uint8), COLOURS).shape[0] == gallery.SIDE


def test_classes_have_their_colours_and_ignored_pixels_none():
    mask = np.repeat(np.array([0, 1, 2, 255], np.uint8), 8)[None].repeat(8, axis=0)
    found = gallery.coloured(mask, COLOURS)
    for index, colour in enumerate(COLOURS):
        assert (found[:, 8 * index : 8 * index + 8] == to_rgb(colour)).all()
    ignored = found[:, 24:]
    assert (ignored == ignored[..., :1]).all() and len(np.unique(ignored)) == 2  # white and grey


def test_a_gallery_of_tiles_shows_label_and_prediction():
    mask = np.zeros((30, 30), np.uint8)
    tile = gallery.Tile("t", {"s2": np.zeros((3, 30, 30)), "dem": None}, mask, mask + 1)
    shown = pixels(gallery.png_tiles([tile], NAMES, COLOURS))
    red, green, blue = ((shown == np.array(to_rgb(c)) * 255).all(-1).sum() for c in COLOURS)
    assert red == pytest.approx(green, rel=0.02) and red > 20_000
    assert blue == 0  # neither drawn nor in the legend
    assert gallery.png_tiles([tile], NAMES) != gallery.png_tiles([tile], NAMES, COLOURS)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_modalities(count):
    images = {f"m{i}": np.random.default_rng(i).random((1 + i % 3, 8, 8)) for i in range(count)}
    places = [gallery.Location(f"p{i}", images, NAMES[:2], NAMES[1:]) for i in range(3)]
    one = gallery.png(places)
    assert one == gallery.png(places)
    width, height = Image.open(io.BytesIO(base64.b64decode(one))).size
    assert 300 < width < 1400 and 300 < height < 1400


def test_a_missing_modality_is_said():
    images = {"s2": None, "s1": np.ones((2, 5, 5))}
    place = gallery.Location("pair", images, ("Pastures",), ("Inland waters",))
    assert gallery.png([place]) == gallery.png([place])


def test_a_palette_for_any_number_of_classes():
    for count in (1, 9, 20, 45):
        assert len(set(gallery.qualitative(count))) == count


def test_names_in_text():
    assert texts.modality_names("s1+s2") == "S1 + S2"
    assert texts.modality_names("s2l2a+dem+elevation") == "S2L2A + DEM + Elevation"
    pixel = TASKS["pixel"]
    assert texts.lead(pixel, "dem+s1+s2").endswith("from DEM, Sentinel-1 and Sentinel-2")
    assert texts.lead(pixel, "s2") == "Pixel-based classification from Sentinel-2"
    assert texts.title("simulated", True) == "simulated data"
    assert texts.title("my-floods", False) == "my-floods"
