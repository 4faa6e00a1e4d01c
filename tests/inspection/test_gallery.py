"""Which test locations a page shows: real stores, any modalities, tiles with their maps."""

import json
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import rasterio

from helpers.store_digests import seal
from mmfl.archives.base import MASK, Band, Mask, Modality, pixels_only
from mmfl.errors import UserError
from mmfl.files import write_json
from mmfl.inspection.gallery import load_gallery
from mmfl.intact import digests
from mmfl.patches.writer import encode, write_labels
from mmfl.reporting.gallery import Location, Tile
from mmfl.sealed import EVALUATION, Sealed

PAIRS = [f"p{i}" for i in range(5)]
SHAPES = {pair: (12, 16) if pair == "p2" else (20, 20) for pair in PAIRS}


class Stub:
    """An archive in memory: height above and two bands of a radar; p0 has no radar."""

    name, task, classes, colours = "stub", "pixel", ("water", "land"), ("#0000ff", "#00ff00")
    modalities = MappingProxyType({
        "elevation": Modality("elevation", (Band("height", 30, None, "int16", nodata=-99),),
                              ("height",)),
        "sar": Modality("sar", (Band("HH", 10, None, "float32"), Band("HV", 10, None, "float32")),
                        show=("HV", "HH")),
    })  # fmt: skip

    def modality(self, name):
        return MASK if name == "mask" else self.modalities[name]

    def packed(self, root, modality):
        return None

    def shape(self, root, modality, patch):
        return SHAPES[patch]

    def mask(self, root, patch):
        classes = np.full(SHAPES[patch], PAIRS.index(patch) % 2, np.uint8)
        classes[0, 0] = 255
        return Mask(classes)

    def read_patch(self, root, modality, patch, resolution):
        number, shape = PAIRS.index(patch), SHAPES[patch]
        if modality == "mask":
            return self.mask(root, patch).classes[None]
        if modality == "elevation":
            height = np.full((1, *shape), number, np.int16)
            height[0, -1, -1] = -99
            return height
        radar = np.stack([np.full(shape, number), np.full(shape, -number)]).astype(np.float32)
        radar[:, 0, 0] += 1  # an image of one value is none
        return radar


@pytest.fixture
def made(tmp_path):
    table = pd.DataFrame({"pair": PAIRS, "split": "test", "labels": [[0]] * 5})
    table[["height", "width"]] = [SHAPES[pair] for pair in PAIRS]
    for name in ("elevation", "sar", "mask"):
        table[name] = PAIRS
    table.loc[0, "sar"] = None
    for name in ("elevation", "sar", "mask"):
        encode(Stub(), tmp_path, tmp_path / "store", modality=name, metadata=table)
    write_labels(tmp_path / "store/labels", table, Stub())
    seal(tmp_path / "store")
    maps = tmp_path / "scores/predictions"
    maps.mkdir(parents=True)
    for pair, (height, width) in SHAPES.items():
        shape = {"height": height, "width": width, "count": 1, "dtype": "uint8"}
        with (
            pixels_only(),
            rasterio.open(maps / f"{pair}.tif", "w", driver="GTiff", **shape) as target,
        ):
            target.write(np.full((1, height, width), 1, np.uint8))
    pd.DataFrame(
        {"model": "all", "state": "", "pair": PAIRS,
         "file": [f"{p}.tif" for p in PAIRS], "labels": [[0]] * 5,
         "probabilities": [[0.7, 0.5]] * 5}
    ).to_parquet(tmp_path / "scores/predictions.parquet")  # fmt: skip
    list_scores(tmp_path / "scores")
    return tmp_path


def list_scores(folder):
    maps = [f"predictions/{pair}.tif" for pair in PAIRS]
    write_json(folder / EVALUATION, {"files": digests(folder, ["predictions.parquet", *maps])})


def load(made, count=3):
    predictions = Sealed(made / "scores", EVALUATION, "evaluate")
    return load_gallery(made / "store", count, predictions=predictions, run="mf, seed 1")


def test_tiles_with_every_modality_at_equal_steps(made):
    found = load(made)
    assert [tile.pair for tile in found.places] == ["p1", "p3", "p4"]
    tile = found.places[1]
    assert isinstance(tile, Tile) and found.bands == {"sar": ["HV", "HH"], "elevation": ["height"]}
    assert (
        tile.mask.shape == (20, 20)
        and tile.mask[0, 0] == 255
        and (tile.mask.ravel()[1:] == 1).all()
    )
    assert (tile.predicted == 1).all()
    sar = tile.images["sar"].reshape(2, -1)
    assert (sar[0, 1:] == -3).all() and (sar[1, 1:] == 3).all() and (sar[:, 0] == (-2, 4)).all()
    height = tile.images["elevation"][0]
    assert np.isnan(height[-1, -1]) and height[0, 0] == 3
    assert found.classes == ("water", "land") and list(found.colours) == ["#0000ff", "#00ff00"]
    assert found.png() and "HV, HH, HV − HH" in found.caption()


def test_a_tile_of_another_shape_has_its_own(made):
    tile = next(t for t in load(made, 4).places if t.pair == "p2")
    assert tile.mask.shape == tile.predicted.shape == tile.images["sar"].shape[1:] == (12, 16)


def test_without_a_complete_tile_those_that_there_are(made):
    path = made / "scores/predictions.parquet"
    pd.read_parquet(path).head(1).to_parquet(path)
    list_scores(path.parent)
    (tile,) = load(made).places
    assert tile.pair == "p0" and tile.images["sar"] is None and load(made).png()


def test_labels_of_other_archives(made):
    """The same stores without masks: names of the classes in words."""
    (made / "store/labels/classes.json").write_text(
        '{"task": "multilabel", "classes": ["water", "land"], "colours": null}'
    )
    seal(made / "store")
    place = load(made, 1).places[0]
    assert isinstance(place, Location) and list(place.images) == ["sar", "elevation"]
    assert place.labels == ("water",) and place.predicted == ("water", "land")


def test_nothing_asked_and_nothing_there(made, tmp_path):
    assert load(made, 0) is None
    assert load_gallery(tmp_path / "nothing", 3) is None
    (made / "scores/predictions/p3.tif").write_bytes(b"II*\0")
    with pytest.raises(UserError, match=r"p3\.tif: damaged: found .*; run evaluate again"):
        load(made)
    list_scores(made / "scores")
    with pytest.raises(UserError, match=r"p3\.tif: not readable .* run evaluate again"):
        load(made)
    (made / "scores/predictions/p3.tif").unlink()
    with pytest.raises(UserError, match=r"p3\.tif: is missing; run evaluate again"):
        load(made)


def test_without_predictions_some_locations(made):
    found = load_gallery(made / "store", 9, pairs={"p0", "p2", "p4"})
    assert [tile.pair for tile in found.places] == ["p2", "p4"]
    assert all(tile.predicted is None for tile in found.places) and found.png()


def test_a_modality_that_names_no_band_is_not_shown(made):
    path = made / "store/sar/modality.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"show": []}))
    seal(made / "store")
    assert load(made).bands == {"elevation": ["height"]}
