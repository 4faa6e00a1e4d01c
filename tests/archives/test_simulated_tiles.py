"""The archive simulated-tiles: its layout, its determinism, and what its model states."""

import zipfile
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.warp import transform

from mmfl.archives import get
from mmfl.archives.dynamicworld import MODALITIES
from mmfl.archives.dynamicworld.table import XLSX
from mmfl.archives.simulation import facts, pixels, tile_facts, tiles
from mmfl.archives.simulation.files import geotiff
from mmfl.archives.simulation.locations import TILE_PIXELS, stream, tile_corner
from mmfl.archives.simulation.simulated_tiles import COLUMNS, generate
from mmfl.errors import UserError
from mmfl.fetch.unpack import unpack
from mmfl.params import Params
from mmfl.params.archives import SIMULATED
from mmfl.patches.reader import Patches
from mmfl.steps import download, simulate, split

ARCHIVE = get("simulated-tiles")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a generated archive of 30 tiles, as downloaded."""
    out = tmp_path_factory.mktemp("tiles")
    generate(out, tiles=30, tile_size=45, seed=3, unpaired=0.3, workers=1)
    return out


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    """The same archive, unpacked as the download step does."""
    root = tmp_path_factory.mktemp("tiles-root")
    (root / XLSX).write_bytes((made / XLSX).read_bytes())
    for name in ("Experts_tiles.zip", "validation_set_tiles.zip", "imagery.tar.zst"):
        folder = made.parent / f"{made.name}-{name}"
        unpack(made / name, folder)
        for item in folder.iterdir():
            (root / item.name).symlink_to(item)
    return root


@pytest.fixture(scope="module")
def default():
    """The tiles of the default parameters."""
    s = Params(archives={"simulated-tiles": {}}).simulate
    return tiles.draw_tiles(s.tiles, s.tile_size, s.seed, s.unpaired), s


def test_layout_is_readable(root):
    rows = ARCHIVE.metadata(root)
    whole, faults = ARCHIVE.labelled(root, rows)
    assert len(rows) == len(whole) == 30 and not faults
    assert rows["s1"].isna().any() and rows["s2"].isna().any()
    assert not (rows["s1"].isna() & rows["s2"].isna()).any()
    count = 0
    for row in whole.itertuples():
        for q, modality in ARCHIVE.modalities.items():
            if getattr(row, q) is not None:
                image = ARCHIVE.read_patch(root, q, row.pair, 10)
                assert image.shape == (len(modality.bands), row.height, row.width)
                count += 1
    assert count == len(list((root / "imagery").rglob("*.tif")))
    assert ARCHIVE.tiles(root) is None
    assert len(get("dynamicworld-expert").tiles(root)) == 30
    assert set(rows["region"]) == {" ".join(region) for region in tile_facts.REGIONS}


def test_georeferencing(root):
    """Rasterio finds the point of the name in the middle, on the grid of 10 m."""
    for row in ARCHIVE.metadata(root).itertuples():
        lon, lat = map(float, row.place.split("_"))
        path = ARCHIVE.patch_folder(root, "mask", row.pair)
        with rasterio.open(path) as source:
            assert source.crs.to_epsg() == 32601 + int((lon + 180) // 6)
            assert source.res == (10, 10) and not np.remainder(source.bounds, 10).any()
            (x,), (y,) = transform("EPSG:4326", source.crs, [lon], [lat])
            middle = source.xy((source.height - 1) / 2, (source.width - 1) / 2)
            assert np.abs(np.subtract(middle, (x, y))).max() < 11
            assert source.shape == ((47, 47) if row.split == "test" else (45, 45))


def test_default_splits_and_classes(default):
    """Test a fifth, validation about 15 %, in every region, by the reader's own rule."""
    drawn, s = default
    assert (s.tiles, s.tile_size) == (120, 96)
    for region in tile_facts.REGIONS:
        mine = [x for x in drawn if (x.hemisphere, x.biome) == region]
        assert len(mine) == 20 and sum(x.test for x in mine) == 4
    lacking = sum(not (x.has_s1 and x.has_s2) for x in drawn)
    assert 0.02 < lacking / 120 < 0.1
    assert 0.04 < sum(x.cloud for x in drawn) / 120 < 0.2
    assert {x.season for x in drawn} == set(facts.GREENNESS)


def test_default_is_drawn_with_every_class_in_every_split(default, tmp_path):
    s = default[1]
    generate(
        tmp_path, tiles=s.tiles, tile_size=s.tile_size, seed=s.seed, unpaired=s.unpaired, workers=1
    )
    for name in ("Experts_tiles.zip", "validation_set_tiles.zip"):
        with zipfile.ZipFile(tmp_path / name) as source:
            source.extractall(tmp_path / "root")
    (tmp_path / XLSX).rename(tmp_path / "root" / XLSX)
    rows = ARCHIVE.labelled(tmp_path / "root", ARCHIVE.metadata(tmp_path / "root"))[0]
    counts = rows.groupby(["region", "split"]).size()
    assert counts.xs("test", level=1).tolist() == [4] * 6
    assert counts.xs("validation", level=1).tolist() == [3] * 6
    assert counts.xs("train", level=1).tolist() == [13] * 6
    for _, mine in rows.groupby("split"):
        assert set(np.concatenate(mine["labels"].tolist())) == set(range(9))


def test_each_tile_has_a_block_of_its_own():
    drawn = tiles.draw_tiles(1500, 510, 0, 0.0)
    blocks = {(np.floor(x.lon), np.floor(x.lat)) for x in drawn}
    assert len(blocks) == 1500 == len({x.name for x in drawn})
    for x in drawn[::50]:  # of 5.1 km, and not over the block's edge
        corners = [(dx, dy) for dx in (0, 10 * x.size) for dy in (0, -10 * x.size)]
        xs, ys = zip(*((x.corner[0] + dx, x.corner[1] + dy) for dx, dy in corners), strict=True)
        lon, lat = transform(f"EPSG:{x.epsg}", "EPSG:4326", xs, ys)
        assert {np.floor(v) for v in lon} == {np.floor(x.lon)}
        assert {np.floor(v) for v in lat} == {np.floor(x.lat)}


def test_squares_are_those_of_the_grid_reference_system(default):
    """The square's corner by the inverse rule, which real patches confirm, is within 100 km."""
    for x in default[0]:
        name = x.product.split("_")[5]
        east, north = tile_corner(name)
        assert 0 <= x.corner[0] + 10 * (x.size // 2) - east < 100_070
        assert 0 <= north - (x.corner[1] - 10 * (x.size // 2)) < 100_070
    assert tiles.square(32633, 48.2, 399_960 + 5000, 5_395_000) == "T33UVP"


def test_same_bytes_twice_and_with_two_processes(made, tmp_path):
    generate(tmp_path, tiles=30, tile_size=45, seed=3, unpaired=0.3, workers=2)
    names = sorted(path.name for path in made.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        if name != "manifest.yaml":  # holds the folder's name
            assert (made / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_no_date_of_writing(made):
    for name in ("Experts_tiles.zip", "validation_set_tiles.zip", XLSX):
        with zipfile.ZipFile(made / name) as source:
            assert source.testzip() is None
            assert {info.date_time for info in source.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with zipfile.ZipFile(made / XLSX) as source:
        core = source.read("docProps/core.xml").decode()
        assert core.count("2019-01-01T00:00:00Z") == 2 and core.count("T00:00:00Z") == 2


def test_seed_matters(made, tmp_path):
    generate(tmp_path, tiles=30, tile_size=45, seed=4, unpaired=0.3, workers=1)
    assert (made / "pixels.json").read_bytes() != (tmp_path / "pixels.json").read_bytes()


def test_workbook_and_manifest(made, root):
    table = pd.read_excel(made / XLSX)
    assert tuple(table.columns) == COLUMNS and len(table) == 30
    row = table.iloc[4]
    with rasterio.open(ARCHIVE.patch_folder(root, "mask", row["dw_id"])) as source:
        assert row["crs"] == source.crs.to_string()
        assert (row["bound1"], row["bound2"], row["bound3"], row["bound4"]) == source.bounds
    manifest = yaml.safe_load((made / "manifest.yaml").read_text())
    assert manifest["archive"] == "simulated-tiles"
    assert [file["unpack"] for file in manifest["files"]] == [False, True, True, True]


def cover_of(tile, seed):
    """The land cover again, from the start of the tile's stream: classes, then the map."""
    rng = stream(seed, TILE_PIXELS, tile.index)
    classes = pixels.some_classes(rng, tile_facts.CLASS_SHARES[tile.biome])
    cover = pixels.cover_map(rng, len(classes), tile.size + tile.size % 2)
    return classes[cover][: tile.size, : tile.size]


def test_labels_are_the_land_cover(default):
    for tile in default[0][:40]:
        codes, images = tiles.draw(tile, 7)
        cover = cover_of(tile, 7)
        marked = (codes != 0) & (codes != 10)
        assert codes.shape == images["s1"].shape[1:] == images["s2"].shape[1:] == cover.shape
        assert (codes[marked] == cover[marked] + 1).all()
        assert 0.4 < marked.mean() < 1
        assert (codes == 10).any() <= tile.cloud
        assert all(tile_facts.CLASS_SHARES[tile.biome][c] > 0 for c in np.unique(cover))


def test_pixels_follow_the_labels(default):
    """Without the generator's own maps: in a tile, classes differ by far more than chance."""
    share = []
    for tile in default[0][:40]:
        codes, images = tiles.draw(tile, 7)
        if tile.cloud or len(np.unique(codes[codes > 0])) < 2:
            continue
        found = {}
        for q, image in images.items():
            x = image.reshape(len(image), -1)[:, (codes > 0).ravel()].astype(float)
            y = codes[codes > 0]
            keep = np.isfinite(x).all(axis=0) & (x != 0).all(axis=0)
            x, y = x[:, keep], y[keep]
            between = sum((y == c).sum() * (x[:, y == c].mean(1) - x.mean(1)) ** 2 for c in set(y))
            found[q] = (between / ((x - x.mean(1, keepdims=True)) ** 2).sum(1)).max()
        share.append(max(found.values()))
    assert np.median(share) > 0.5 and min(share) > 0.02


def test_class_pairs_that_one_modality_separates():
    radar, texture = tile_facts.BACKSCATTER, tile_facts.TEXTURE
    for season in facts.GREENNESS:
        spectra = facts.spectra(season, tile_facts.COMPOSITION)
        assert spectra.shape == (9, 12)
        for a, b in tile_facts.ONLY_RADAR:
            assert (spectra[a] == spectra[b]).all() and texture[a] == texture[b]
            assert abs(radar[a, :2] - radar[b, :2]).max() >= 2  # dB
        for a, b in tile_facts.ONLY_OPTICAL:
            assert (radar[a] == radar[b]).all()
            assert abs(spectra[a] - spectra[b]).max() > 0.01
        for a, b in pairwise(range(9)):
            alike = (spectra[a] == spectra[b]).all() and (radar[a] == radar[b]).all()
            assert not alike


def test_facts_are_consistent():
    for table in (tile_facts.COMPOSITION, tile_facts.BACKSCATTER, tile_facts.TEXTURE):
        assert len(table) == 9
    for summer, winter in tile_facts.COMPOSITION:
        assert sum(summer.values()) == pytest.approx(1) == sum(winter.values())
    assert list(tile_facts.OPTICAL_LIKE) == list(range(7))
    assert list(tile_facts.RADAR_LIKE) == list(range(9))
    assert {biome for _, biome in tile_facts.REGIONS} == set(tile_facts.CLASS_SHARES)
    for shares in tile_facts.CLASS_SHARES.values():
        assert len(shares) == 9 and min(shares) > 0


def test_values_are_quantised_and_gaps_are_at_an_edge(default):
    cut = {"s1": 0, "s2": 0}
    for tile in default[0]:
        _, images = tiles.draw(tile, 7)
        s1, s2 = images["s1"], images["s2"]
        gap = {"s1": np.isnan(s1), "s2": s2 == 0}
        assert s1.dtype == np.float32 and s2.dtype == np.uint16
        assert (s1[~gap["s1"]] * 256 == np.rint(s1[~gap["s1"]] * 256)).all()
        for q, mine in gap.items():
            assert (mine == mine[:1]).all()  # the same in all bands
            cut[q] += mine.any()
            if mine.any():  # a gap has no hole: it ends at one column of each row
                assert (np.diff(mine[0].astype(int), axis=1) >= 0).all()
    assert all(0 < count < 20 for count in cut.values())


def test_coarse_bands_repeat_their_pixels(default):
    drawn = (tiles.draw(tile, 7)[1] for tile in default[0] if tile.test)
    images = next(images for images in drawn if images["s2"].all())  # one without a gap
    for number, band in enumerate(MODALITIES["s2"].bands):
        blocks = images["s2"][number].reshape(49, 2, 49, 2)
        alike = (blocks == blocks[:, :1, :, :1]).all()
        assert alike == (band.name in ("B05", "B06", "B07", "B8A", "B11", "B12"))


def test_clouds_are_bright(default):
    seen = 0
    for tile in default[0]:
        codes, images = tiles.draw(tile, 7)
        if tile.cloud and (codes == 10).sum() > 50:
            clear = images["s2"][0][(codes > 0) & (codes < 9)]
            assert images["s2"][0][codes == 10].mean() > 1.5 * clear.mean()
            seen += 1
    assert seen > 2


def test_regions_differ_and_do_not_depend_on_each_other():
    found = [tiles.region(name, 0) for name in tile_facts.REGIONS]
    for a, b in pairwise(found):
        assert not np.allclose(a.mixing, b.mixing)
    assert (tiles.region(("EH", "6"), 0).mixing == found[1].mixing).all()
    austria = pixels.country("Austria", 0)
    assert not any((x.mixing == austria.mixing).all() for x in found)


@pytest.mark.parametrize("count", [17, 1501])
def test_refused(tmp_path, count):
    with pytest.raises(UserError, match=f"simulate.tiles: found {count}, expected 18 to 1500"):
        generate(tmp_path, tiles=count, tile_size=32, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_geotiff_of_several_bands(tmp_path, dtype):
    values = (np.random.default_rng(0).random((3, 7, 5)) * 200).astype(dtype)
    data = geotiff(values, (300_000, 5_000_000), 10, 32633, names=("a", "b", "c9"), nodata=0)
    (tmp_path / "a.tif").write_bytes(data)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert np.array_equal(source.read(), values) and source.dtypes == (dtype,) * 3
        assert source.descriptions == ("a", "b", "c9") and source.nodata == 0
        assert source.crs.to_epsg() == 32633 and source.bounds.top == 5_000_000


def test_through_simulate_download_and_split(tmp_path, monkeypatch):
    """What the split stores is to the bit what the archive's files hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMFL_CACHE", str(tmp_path / "cache"))
    params = Params(archives={a: {} for a in SIMULATED}, simulate={"tiles": 20, "tile_size": 33})
    simulate.run(params, "simulated-tiles")
    manifest = simulate.manifest_path(params, "simulated-tiles")
    before = manifest.stat().st_mtime_ns
    simulate.run(params, "simulated-tiles")
    assert manifest.stat().st_mtime_ns == before  # from the cache
    assert simulate.unit(params, "simulated").path != simulate.unit(params, "simulated-tiles").path
    with pytest.raises(UserError, match="expected one of simulated, simulated-tiles"):
        simulate.run(params, "bigearthnet-v2")

    download.run("simulated-tiles", manifest=manifest, local=None, store=tmp_path / "store",
                 out=tmp_path / "raw")  # fmt: skip
    root = next(path for path in (tmp_path / "store").iterdir() if path.name.startswith("simulat"))
    out = tmp_path / "patches"
    split.run("simulated-tiles", root=root, out=out, store=tmp_path / "work", shard_size=6,
              snow=False, cloud_or_shadow=False, workers=2)  # fmt: skip
    rows = ARCHIVE.metadata(root)
    for q in ("s1", "s2", "mask"):
        patches = Patches(out / q)
        held = rows["pair"] if q == "mask" else rows[q].dropna()
        assert sorted(patches.pairs) == sorted(held)
        for n, pair in enumerate(patches.pairs):
            expected = ARCHIVE.read_patch(root, q, pair, 10)
            (found,) = patches.read(np.array([n]), 10, range(len(expected)))
            assert np.array_equal(found, expected, equal_nan=q == "s1")
    index = pd.read_parquet(out / "labels/index.parquet")
    assert index["pair"].tolist() == rows["pair"].tolist()
    assert set(index["height"]) == {33, 35} and index["crs"].str.startswith("EPSG:326").all()
