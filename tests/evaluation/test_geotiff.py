"""Class maps as files: read back with rasterio; names that any file system takes."""

import re

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Compression
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from mmfl.evaluation.geotiff import file_names, whole_folder, write_class_map
from mmfl.facts.tasks import IGNORED

NAMES = ["water", "trees", "built area"]
COLOURS = ["#419BDF", "#397D49", "#C4281B"]


@pytest.fixture
def classes() -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 3, (30, 47)).astype(np.uint8)
    drawn[0, :5] = IGNORED
    return drawn


def test_a_map_lies_where_its_tile_does(classes, tmp_path):
    place = from_origin(399960, 5800020, 10, 10)
    write_class_map(tmp_path / "a.tif", classes, NAMES, COLOURS, ("EPSG:32633", place))
    with rasterio.open(tmp_path / "a.tif") as found:
        np.testing.assert_array_equal(found.read(1), classes)
        assert found.dtypes == ("uint8",) and found.nodata == 255
        assert found.compression == Compression.deflate
        assert found.crs.to_epsg() == 32633 and found.transform == place
        assert tuple(found.bounds) == (399960, 5800020 - 300, 399960 + 470, 5800020)
        west, south, east, north = transform_bounds(found.crs, "EPSG:4326", *found.bounds)
        assert 13.5 < west < east < 13.6 and 52.3 < south < north < 52.4  # east of Berlin
        assert found.colorinterp == (ColorInterp.palette,)
        table = found.colormap(1)
        assert [table[i][:3] for i in range(3)] == [(65, 155, 223), (57, 125, 73), (196, 40, 27)]
        tags = found.tags(1)
        assert [tags[f"class_{i}"] for i in range(3)] == NAMES
        assert found.descriptions == ("class",)
        np.testing.assert_array_equal(found.read_masks(1) == 0, classes == IGNORED)


def test_a_turned_grid_stays_turned(classes, tmp_path):
    turned = from_origin(10, 50, 0.1, 0.1) @ rasterio.Affine.rotation(30)
    write_class_map(tmp_path / "a.tif", classes, NAMES, COLOURS, ("EPSG:4326", turned))
    with rasterio.open(tmp_path / "a.tif") as found:
        assert found.transform.almost_equals(turned)


def test_without_a_place_and_without_colours(classes, tmp_path, recwarn):
    write_class_map(tmp_path / "a.tif", classes, NAMES)
    assert not list(recwarn)
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / "a.tif") as found:
        assert found.crs is None and found.colorinterp == (ColorInterp.gray,)
        np.testing.assert_array_equal(found.read(1), classes)


def test_the_same_map_gives_the_same_bytes(classes, tmp_path):
    for name in ("a.tif", "b.tif"):
        write_class_map(tmp_path / name, classes, NAMES, COLOURS)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


HOSTILE = [
    "tile-1", "Tile-1", "a/b", "a_b", "a\\b", "../../etc/passwd", "..", "", " ", ".hidden", "-rf",
    "ä", "ö", "日本", "x" * 300, "x" * 300 + "y", "con:1", "new\nline", "nul\0", "dw_12.5_-3.25",
]  # fmt: skip


def test_names_are_safe_and_unique():
    names = file_names(HOSTILE)
    assert len({name.lower() for name in names}) == len(HOSTILE)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tif", name) and len(name) < 130
    assert names[HOSTILE.index("dw_12.5_-3.25")] == "dw_12.5_-3.25.tif"
    assert file_names(HOSTILE[::-1]) == names[::-1]


def test_an_id_that_looks_like_the_name_of_another():
    taken = file_names(["a/b"])[0].removesuffix(".tif")
    assert len(set(file_names(["a/b", taken]))) == 2


def test_a_folder_appears_whole(tmp_path):
    place = tmp_path / "run" / "predictions"
    with whole_folder(place) as folder:
        (folder / "old").touch()
        assert not place.exists()
    with pytest.raises(RuntimeError), whole_folder(place) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert [file.name for file in place.iterdir()] == ["old"]
    with whole_folder(place) as folder:
        (folder / "new").touch()
    assert [file.name for file in place.iterdir()] == ["new"]
    assert [file.name for file in place.parent.iterdir()] == ["predictions"]
