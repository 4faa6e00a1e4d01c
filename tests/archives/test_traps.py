"""What has misled readers of BigEarthNet before, each on the real metadata or real files."""

import numpy as np
import pandas as pd
import pytest
import rasterio

from mmfl.archives import get
from mmfl.archives.bigearthnet_v1 import S2_NAME
from mmfl.clients.manifest import build

ARCHIVE = get("bigearthnet-v2")
EXCLUDED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


@pytest.fixture(scope="module")
def rows(published):
    return ARCHIVE.metadata(published)


def test_names_are_joined_by_the_table(rows):
    """S2 pads column and row, S1 does not: a fifth of the pairs differ as text."""
    s2 = rows.pair.str.extract(r"(\d+_\d+)$")[0]
    s1 = rows.s1.str.extract(r"(\d+_\d+)$")[0]
    assert 0.21 < (s1 != s2).mean() < 0.22
    numbers = [x.str.split("_", expand=True).astype(int) for x in (s1, s2)]
    assert numbers[0].equals(numbers[1])


def test_v1_names_have_times_of_five_digits(published):
    """The v1 reader's pattern takes every v1 name that v2 points to."""
    tables = [published / "metadata.parquet", published / EXCLUDED]
    names = pd.concat([pd.read_parquet(path)["s2v1_name"] for path in tables])
    assert names.str.match(S2_NAME).all()
    assert (names.str.extract(r"T(\d+)_")[0].str.len() == 5).sum() == 69_214


def test_days_apart_and_satellites(rows):
    """A pair's two acquisitions are 0 to 6 days apart, by any two of the four satellites."""
    days = {q: pd.to_datetime(rows[q].str.extract(r"_(\d{8})T")[0]) for q in ("s1", "s2")}
    apart = (days["s1"] - days["s2"]).dt.days.abs()
    assert apart.min() == 0 and apart.max() == 6
    assert len(set(zip(rows["s1"].str[:3], rows["s2"].str[:3], strict=True))) == 4
    assert (rows["month"] == days["s2"].dt.month).all()


def test_the_split_is_called_validation_and_labels_are_arrays(rows):
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert all(isinstance(x, np.ndarray) and x.dtype == np.int8 for x in rows["labels"][:1000])


def test_decibels_keep_their_fractions_and_vv_comes_first(sample):
    """A common reader casts Sentinel-1 to int32 and puts VH first."""
    patch = ARCHIVE.metadata(sample).s1.iloc[0]
    assert [band.name for band in ARCHIVE.modality("s1").bands] == ["VV", "VH"]
    vv, vh = (ARCHIVE.read(sample, "s1", patch, name) for name in ("VV", "VH"))
    assert vv.dtype == np.float32 and (vv != np.rint(vv)).mean() > 0.9
    assert vv.mean() > vh.mean()  # co-polarised backscatter is the stronger


def test_clamped_sea_is_not_missing(sample, tmp_path):
    """Water can be 1 everywhere in a band: values as any other."""
    patch = ARCHIVE.metadata(sample).s2.iloc[0]
    with rasterio.open(ARCHIVE.band_path(sample, "s2", patch, "B04")) as source:
        profile = source.profile
    path = ARCHIVE.band_path(tmp_path, "s2", patch, "B04")
    path.parent.mkdir(parents=True)
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.ones((1, 120, 120), np.uint16))
    assert (ARCHIVE.read(tmp_path, "s2", patch, "B04") == 1).all()


def test_tiles_hold_several_splits_and_countries(rows):
    """So a tile can be a client of its own, and must not stand for a country or a split."""
    by_tile = rows.groupby("tile")
    assert len(by_tile) == 54
    assert (by_tile["split"].nunique() == 3).sum() == 46
    assert (by_tile["country"].nunique() == 2).sum() == 2


def test_a_pair_is_a_patch_and_not_a_place(rows):
    """480,038 patches lie on 233,966 places: several dates, all of one place in one split."""
    place = rows["pair"].str.extract(r"_(T\w{5}_\d+_\d+)$")[0]
    assert place.nunique() == 233_966
    assert rows.groupby(place)["split"].nunique().max() == 1


def test_every_partition_of_the_real_table_keeps_a_pair_once_per_modality(rows):
    manifest = build(rows, scenario="country", assignment="duplicate")
    assert not manifest.frame.duplicated(["pair", "modality"]).any()
    assert len(manifest.frame) == 2 * 480_038
