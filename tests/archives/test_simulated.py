"""The simulated archive: its layout, its determinism, and the statistics its model states."""

import datetime
import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import yaml
from scipy.special import digamma, polygamma

from mmfl.archives import get
from mmfl.archives.simulation import facts, pixels
from mmfl.archives.simulation.locations import PIXELS, draw_locations, stream, tile_corner
from mmfl.archives.simulation.simulated import generate
from mmfl.params import archives as known

ARCHIVE = get("simulated")
COUNTRIES = ["Austria", "Finland", "Ireland", "Portugal"]


def test_layout_is_readable(unpacked):
    rows = ARCHIVE.metadata(unpacked, snow=True, cloud_or_shadow=True)
    assert rows.s1.isna().any() and rows.s2.isna().any()
    assert not (rows.s1.isna() & rows.s2.isna()).any()
    files = 0
    for row in rows.itertuples():
        for modality in ARCHIVE.modalities.values():
            patch = getattr(row, modality.name)
            for band in modality.bands if patch else ():
                ARCHIVE.read(unpacked, modality.name, patch, band.name)
                files += 1
    assert files == len(list(unpacked.rglob("*.tif")))


def test_georeferencing(unpacked):
    """Rasterio finds the grid and the reference system; all bands of a pair cover one square."""
    row = next(r for r in ARCHIVE.metadata(unpacked).itertuples() if r.s1 and r.s2)
    column, line = map(int, row.pair.split("_")[-2:])
    east, north = tile_corner(row.tile)
    east, north = east + 1200 * column, north - 1200 * line
    for modality in ARCHIVE.modalities.values():
        for band in modality.bands:
            path = ARCHIVE.band_path(
                unpacked, modality.name, getattr(row, modality.name), band.name
            )
            with rasterio.open(path) as source:
                assert source.crs.to_epsg() == 32600 + int(row.tile[1:3])
                assert source.bounds == (east, north - 1200, east + 1200, north)
                assert source.res == (band.resolution, band.resolution)
                assert source.profile["driver"] == "GTiff"
                assert source.compression is None and source.dtypes == (band.dtype,)


def test_tile_corners_are_those_of_real_patches(sample):
    v2 = get("bigearthnet-v2")
    for row in v2.metadata(sample, snow=True, cloud_or_shadow=True).itertuples():
        column, line = map(int, row.pair.split("_")[-2:])
        east, north = tile_corner(row.tile)
        with rasterio.open(v2.band_path(sample, "s2", row.s2, "B02")) as source:
            assert source.bounds.left == east + 1200 * column
            assert source.bounds.top == north - 1200 * line


def test_manifest(simulated):
    manifest = yaml.safe_load((simulated / "manifest.yaml").read_text())
    assert manifest["archive"] == "simulated"
    assert [f["name"] for f in manifest["files"] if f["unpack"]] == [
        "BigEarthNet-S2.tar.zst",
        "BigEarthNet-S1.tar.zst",
    ]
    for file in manifest["files"]:
        path = simulated / file["name"]
        assert file["url"] == path.as_uri() and file["bytes"] == path.stat().st_size
        assert file["checksum"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_bytes_twice_and_with_two_processes(simulated, tmp_path):
    generate(tmp_path, pairs=80, seed=3, unpaired=0.2, workers=2)
    names = sorted(p.name for p in simulated.iterdir())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        if name != "manifest.yaml":  # holds the folder's name
            assert (simulated / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_seed_matters(simulated, tmp_path):
    generate(tmp_path, pairs=80, seed=4, unpaired=0.2, workers=1)
    assert (simulated / "pixels.json").read_bytes() != (tmp_path / "pixels.json").read_bytes()


def test_locations():
    clean, excluded = draw_locations(2400, 7, COUNTRIES, 0.05)
    assert len(clean) == 2400 and len(excluded) == 48
    assert all(x.snow or x.cloud for x in excluded) and not any(x.snow or x.cloud for x in clean)
    assert {x.index for x in clean + excluded} == set(range(2448))
    for country in COUNTRIES:
        mine = [x for x in clean if x.country == country]
        for split, share in facts.SPLIT_SHARES.items():
            assert sum(x.split == split for x in mine) == pytest.approx(share * len(mine), abs=3)
    lacking = sum(not (x.has_s1 and x.has_s2) for x in clean)
    assert 0.03 < lacking / 2400 < 0.07
    assert len({x.patch_id for x in clean + excluded}) == 2448


def test_no_place_lies_in_two_splits():
    clean, excluded = draw_locations(2400, 7, sorted(facts.TILES), 0.0)
    splits = {}
    for x in clean + excluded:
        splits.setdefault(x.tile, set()).add(x.split)
    assert all(len(found) == 1 for found in splits.values())
    tiles = [tile for found in facts.TILES.values() for tile in found]
    assert len(set(tiles)) == len(tiles)
    for zone in {tile[:3] for tile in tiles}:  # patches stay within squares that do not overlap
        corners = [tile_corner(tile) for tile in tiles if tile[:3] == zone]
        for i, a in enumerate(corners):
            for b in corners[:i]:
                assert max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 83 * 1200
    assert max(max(x.column, x.row) for x in clean) <= 82


def test_names_carry_the_padding_trap():
    clean, _ = draw_locations(400, 1, COUNTRIES, 0.0)
    single = [x for x in clean if x.column < 10 or x.row < 10]
    assert single
    for x in single:
        assert x.patch_id.split("_")[-2:] == [f"{x.column:02d}", f"{x.row:02d}"]
        assert x.s1_name.split("_")[-3:] == [x.tile[1:], str(x.column), str(x.row)]
        assert x.patch_id.split("_")[-2:] != x.s1_name.split("_")[-2:]


def test_sentinel_1_is_at_most_six_days_apart():
    def day(name, part):
        return datetime.datetime.strptime(name.split("_")[part][:8], "%Y%m%d")

    for x in draw_locations(400, 1, COUNTRIES, 0.0)[0]:
        assert abs(day(x.s2_product, 2) - day(x.s1_scene, 4)).days <= 6


def test_the_parameters_know_every_country():
    assert tuple(sorted(facts.TILES)) == known.COUNTRIES


def test_speckle_has_the_stated_distribution():
    """Of 10 log10 G, G ~ Gamma(L, 1/L): mean and variance by digamma and trigamma functions."""
    looks, scale = facts.LOOKS, 10 / np.log(10)
    values = pixels.speckle(stream(0, PIXELS, 0), (1000, 1000)).astype(float)
    assert values.mean() == pytest.approx(scale * (digamma(looks) - np.log(looks)), abs=0.01)
    assert values.std() == pytest.approx(scale * np.sqrt(polygamma(1, looks)), rel=0.005)
    intensity = 10 ** (values / 10)
    assert intensity.mean() == pytest.approx(1, abs=0.005)
    assert intensity.mean() ** 2 / intensity.var() == pytest.approx(looks, rel=0.01)


def test_values_are_quantised():
    location = draw_locations(40, 0, ["Portugal"], 0.0)[0][0]
    bands, labels = pixels.draw(location, 0)
    assert labels and labels == sorted(set(labels))
    for name in ("VV", "VH"):
        assert bands[name].dtype == np.float32
        assert (bands[name] * 256 == np.rint(bands[name] * 256)).all()
    for band in ARCHIVE.modality("s2").bands:
        assert bands[band.name].dtype == np.uint16 and bands[band.name].min() >= 1


def test_pixels_depend_on_seed_and_index_only():
    location = draw_locations(40, 0, ["Portugal"], 0.0)[0][5]
    first, _ = pixels.draw(location, 0)
    pixels.draw(replace(location, index=99), 0)
    again, _ = pixels.draw(location, 0)
    other, _ = pixels.draw(location, 1)
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["B02"] == other["B02"]).all()


def test_cover_map_is_smooth():
    cover = pixels.cover_map(stream(0, PIXELS, 1), 4, 120)
    assert cover.shape == (120, 120) and set(np.unique(cover)) <= set(range(4))
    assert (cover[:, 1:] != cover[:, :-1]).mean() < 0.05


def test_smooth_fields_have_unit_variance():
    rng = stream(0, PIXELS, 2)
    assert np.mean([pixels.smooth(rng, 120) ** 2 for _ in range(500)]) == pytest.approx(1, abs=0.1)


def test_labels_are_the_classes_that_cover_enough():
    """Recomputed from the same stream: classes, then the cover map."""
    for location in draw_locations(40, 0, ["Austria"], 0.0)[0]:
        _, labels = pixels.draw(location, 0)
        rng = stream(0, PIXELS, location.index)
        classes = pixels._classes(rng, "Austria")
        cover = pixels.cover_map(rng, len(classes), 120)
        expected = [c for i, c in enumerate(classes) if (cover == i).mean() >= 0.03]
        assert labels == sorted(expected)
        assert all(facts.CLASS_SHARES["Austria"][c] > 0 for c in labels)


def test_class_pairs_that_one_modality_separates():
    radar = np.array(facts.BACKSCATTER)
    for season in facts.GREENNESS:
        spectra = facts.spectra(season)
        for a, b in facts.ONLY_RADAR:
            assert (spectra[a] == spectra[b]).all() and facts.TEXTURE[a] == facts.TEXTURE[b]
            assert abs(radar[a, :2] - radar[b, :2]).max() >= 2  # dB
        for a, b in facts.ONLY_OPTICAL:
            assert (radar[a] == radar[b]).all()
            assert abs(spectra[a] - spectra[b]).max() > 0.01


def test_facts_are_consistent(published):
    for table in (facts.COMPOSITION, facts.BACKSCATTER, facts.TEXTURE):
        assert len(table) == 19
    for summer, winter in facts.COMPOSITION:
        assert sum(summer.values()) == pytest.approx(1)
        assert sum(winter.values()) == pytest.approx(1)
    rows = get("bigearthnet-v2").metadata(published)
    for country, shares in facts.CLASS_SHARES.items():
        mine = rows[rows.country == country]
        assert len(mine) == facts.SIZES[country]
        counts = np.bincount(np.concatenate(mine.labels.tolist()), minlength=19)
        assert shares == tuple(np.rint(100 * counts / len(mine)).astype(int))
        seasons = mine.season.value_counts(normalize=True)
        found = tuple(round(100 * seasons.get(s, 0)) for s in ("DJF", "MAM", "JJA", "SON"))
        assert facts.SEASON_SHARES[country] == found
    lengths = rows.labels.map(len).clip(upper=5).value_counts(normalize=True).sort_index()
    assert tuple(lengths.round(2)) == facts.COUNT_SHARES


def test_countries_differ_and_do_not_depend_on_each_other():
    a, b = pixels.country("Austria", 0), pixels.country("Finland", 0)
    assert not np.allclose(a.mixing, b.mixing)
    assert (pixels.country("Austria", 0).mixing == a.mixing).all()
    assert (pixels.country("Austria", 1).mixing != a.mixing).any()


def test_band_means_are_of_the_real_archive_s_order():
    """Not tuned to it: only within one published standard deviation, band by band."""
    locations = draw_locations(120, 5, COUNTRIES, 0.0)[0]
    images = [pixels.draw(x, 5)[0] for x in locations]
    for modality in ARCHIVE.modalities.values():
        for band in modality.bands:
            mean = np.mean([image[band.name].mean() for image in images])
            assert abs(mean - band.mean) < band.std, band.name


def test_snow_and_cloud_brighten():
    clean, excluded = draw_locations(100, 2, ["Austria"], 0.0)
    dark = np.mean([pixels.draw(x, 2)[0]["B02"].mean() for x in clean])
    for x in excluded:
        assert pixels.draw(x, 2)[0]["B02"].mean() > 2 * dark
    assert {x.snow for x in excluded} == {True, False}
    assert all(x.season == "DJF" for x in excluded if x.snow)


def test_default_generator_is_one_per_location():
    draws = [stream(1, PIXELS, i).standard_normal(3).tolist() for i in range(4)]
    assert all(a != b for a, b in pairwise(draws))
