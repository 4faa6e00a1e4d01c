"""What a file says of itself is used, or contradicted aloud: bands, scale, unit, nodata."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from helpers.own_archive import made, tif
from mmfl.archives.folder import naming
from mmfl.errors import DamagedFile, UserError
from mmfl.inspection.check import check
from mmfl.patches.faults import sift
from mmfl.steps import split

SPLITS = ("train", "train", "val", "test", "train", "train")


def archive(folder, images, write, table=None, columns=""):
    """Six locations; `write(i, path)` makes the image of one."""
    for i in range(6):
        (folder / "q").mkdir(parents=True, exist_ok=True)
        write(i, folder / f"q/p{i}.tif")
    rows = [f"p{i},{s},{'ab'[i % 2]}{'' if table is None else ',' + table(i)}"
            for i, s in enumerate(SPLITS)]  # fmt: skip
    text = ("table: locations.csv\nlabels: {classes: [a, b]}\n"
            f'modalities: {{s1: {{path: "q/{{id}}.tif", {images}}}}}\n')  # fmt: skip
    return made(folder, text, "\n".join(["id,split,labels" + columns, *rows]))


def radar(i: int, count: int = 2) -> np.ndarray:
    """VV, VH, … in decibels, each darker than the one before."""
    rng = np.random.default_rng(i)
    return (rng.normal(-10, 1, (count, 8, 8)) - 6 * np.arange(count)[:, None, None]).astype("f4")


def plain(i: int, path, names=None, **more) -> None:
    tif(path, radar(i), corner=place(i), names=names, **more)


def place(i: int) -> tuple[int, int]:
    return 500_000 + 5000 * i, 5_000_000


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("B2", "b02"), ("B02", "b02"), ("blue", "b02"), ("Sentinel-2 B02", "b02"), ("Rot", "b04"),
        ("rouge", "b04"), ("vert", "b03"), ("grün", "b03"), ("gru\u0308n", "b03"), ("azul", "b02"),
        ("B4 (Red)", "b04"), ("B2, central wavelength 490 nm", "b02"), ("band 8A", "b8a"),
        ("B8A", "b8a"), ("nir", "b08"), ("nir08", "b8a"), ("SWIR 1", "b11"), ("Band 11", "b11"),
        ("Gamma0_VV", "vv"), ("sigma0-vh", "vh"), ("VH_dB", "vh"), ("S1 HH", "hh"),
        ("红波段", "b04"),
        ("VV/VH", None), ("B04_std", None), ("QA60", None), ("4", None), ("Landsat 8 B4", None),
        ("Landsat 8 red", "b04"), ("elevation", None), ("cloud mask", None),
    ],
)  # fmt: skip
def test_names_that_are_known(name, band):
    assert naming.known(name) == band


@pytest.mark.parametrize(
    ("bands", "names", "order"),
    [
        ("[VV, VH]", ("vh", "vv"), [1, 0]),
        ("[VV, VH]", ("Gamma0_VH", "Gamma0_VV"), [1, 0]),
        ("[VH, VV]", ("Sentinel-1 sigma0 VV (dB)", "Sentinel-1 sigma0 VH (dB)"), [1, 0]),
        ("[B02, B03, B04]", ("B4", "B3", "B2"), [2, 1, 0]),
        ("[B02, B03, B04]", ("red", "green", "blue"), [2, 1, 0]),
        ("[B02, B03, B04]", ("rouge", "vert", "bleu"), [2, 1, 0]),
        ("[blue, green, red]", ("B04 rot", "B03 grün", "B02 blau"), [2, 1, 0]),
        ("[B02, B03, B04]", ("Bande rouge", "Bande verte", "Bande bleue"), [2, 1, 0]),
        ("[B02, B03, B04]", ("красный", "зеленый", "синий"), [2, 1, 0]),  # without the dots of ё
        ("[B02, B03, B04]", ("Banda 4 - Roja", "Banda 3 - Verde", "Banda 2 - Azul"), [2, 1, 0]),
        ("[B02, B03, B04]", ("röd", "grön", "blå"), [2, 1, 0]),
        ("[B02, B03, B04]", ("rød", "grønn", "bla\u030a"), [2, 1, 0]),  # an accent apart
        ("[B02, B03, B04]", ("červená", "zelena", "modrá"), [2, 1, 0]),
        ("[B02, B03, B04]", ("赤バンド", "緑バンド", "青バンド"), [2, 1, 0]),
        ("[B02, B03, B04]", ("红色波段", "绿色波段", "蓝色波段"), [2, 1, 0]),
        ("[B02, B03, B04]", ("빨강", "초록", "파랑"), [2, 1, 0]),
        ("[rouge, vert, bleu]", ("kırmızı", "yeşil", "mavi"), [0, 1, 2]),
        ("[B04, B08]", ("Blue", "Green", "Red", "NIR"), [2, 3]),
        ("[elevation, SLOPE]", ("slope", "Elevation"), [1, 0]),
        ("[VV, VH]", ("Band 1", "Band 2"), [0, 1]),
        ("[VV, VH]", ("", "VH"), [0, 1]),
        ("{VV: 1, VH: 2}", ("vh", "vv"), [0, 1]),
    ],
)
def test_bands_by_their_names(tmp_path, bands, names, order):
    """Without case, and by their usual names; what is given by place is by place."""
    array = np.arange(len(names) * 64).reshape(-1, 8, 8).astype(np.uint16)
    tif(tmp_path / "q.tif", array, names=[name or None for name in names])
    text = (f"table: locations.csv\nmodalities: {{q: {{path: q, bands: {bands}}}}}\n"
            "labels: {classes: [a, b]}\n")  # fmt: skip
    described, root = made(tmp_path, text, "id,split,labels,q\na,train,a,q.tif\n")
    assert np.array_equal(described.read_patch(root, "q", "a", 10), array[order])


@pytest.mark.parametrize(
    ("bands", "names"),
    [
        ("[VV, VH]", ("B02", "B03")),
        ("[VV, VH]", ("VV", "VV")),
        ("[VV, VH]", ("VH", "angle")),
        ("[B04]", ("B08",)),
        ("[B02, B03, B04]", ("B03", "B04", "B08")),
        ("[B04, B08, B12]", ("B04", "B08", "QA60")),
        ("[VV, VH]", ("VV_dB", "VV_linear")),
    ],
)
def test_a_file_of_other_bands(tmp_path, bands, names):
    """For check and for split: one line that names the file, what it says, what is expected."""
    count = len(names)

    def write(i, path):
        tif(path, radar(i, count), corner=place(i), names=names if i == 3 else None)

    _, root = archive(tmp_path, f"bands: {bands}", write)
    said = [line for line in check(root).damage if "p3.tif" in line]
    assert len(said) == 1 and f"names its bands {', '.join(names)}, expected" in said[0]
    with pytest.raises(UserError, match=r"p3\.tif: names its bands .* give the place"):
        split.run("my", root=root, out=tmp_path / "o", store=tmp_path / "s", shard_size=4,
                  snow=False, cloud_or_shadow=False)  # fmt: skip
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("order", ["red green blue", "blue green red"])
def test_colours_that_a_geotiff_states(tmp_path, order):
    """Bands in another order than their colours are told, as those of a PNG are."""

    def write(i, path):
        tif(path, (radar(i, 3) * -10).astype(np.uint8), corner=place(i))
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp[name] for name in order.split()]

    _, root = archive(tmp_path, "bands: [B02, B03, B04]", write)
    told = [note for note in warnings_of(check(root)) if "colours" in note]
    right = order == "blue green red"
    assert bool(told) != right
    assert right or "s1: the files' colours are red, green, blue, and the order of" in told[0]


def warnings_of(found) -> list[str]:
    return [note for note in found.notes if note.startswith("Warning: ")]


def test_how_bands_were_found_is_told(tmp_path):
    cases = [
        (("vh", "vv"), "s1: by the names in the files, VV is vv, VH is vh", 0),
        (None, "s1: the files do not name their bands; the order of the description is taken", 0),
        (("uno", "dos"), "the files call their bands uno, dos, of which nothing is known", 1),
        (("VV", "VH"), None, 0),
    ]
    for k, (names, text, warned) in enumerate(cases):
        _, root = archive(tmp_path / str(k), "bands: [VV, VH]",
                          lambda i, p, n=names: plain(i, p, n))  # fmt: skip
        found = check(root)
        assert not found.damage and len(warnings_of(found)) == warned
        told = [note for note in found.notes if "s1: " in note]
        assert len(told) == (text is not None) and all(text in note for note in told)
    _, root = archive(tmp_path / "p", "bands: {VV: 1, VH: 2}",
                      lambda i, p: plain(i, p, ("vh", "vv")))  # fmt: skip
    assert "VV is band 1 by the description, and the files call that vh" in check(root).text()


def agree(folder, root, match) -> None:
    """check and sift refuse alike, in one line with counts and examples."""
    (line,) = check(root).damage
    assert all(part in line for part in match), line
    with pytest.raises(UserError) as caught:
        described = made(folder, root.read_text(), (folder / "locations.csv").read_text())[0]
        sift(described, root, described.metadata(root))
    assert str(caught.value) == f"{root}: {line}"


@pytest.mark.parametrize("others", [None, ("VV", "VH"), ("gamma0_vv", "gamma0_vh")])
def test_files_that_disagree_in_their_order(tmp_path, others):
    """Two say VH, VV and four nothing, or the contrary."""
    _, root = archive(tmp_path, "bands: [VV, VH]", lambda i, p: tif(
        p, radar(i), corner=place(i), names=("VH", "VV") if i in (1, 4) else others))  # fmt: skip
    agree(tmp_path, root, ("VV, VH in 4 files, e.g. ", "p0.tif", "VH, VV by their names in 2 files",
                           "p1.tif", "bands: {VV: 1}"))  # fmt: skip


def test_named_and_unnamed_in_one_order_agree(tmp_path):
    described, root = archive(tmp_path, "bands: [VV, VH]", lambda i, p: tif(
        p, radar(i), corner=place(i), names=("VV", "VH") if i % 2 else None))  # fmt: skip
    assert not check(root).damage and sift(described, root, described.metadata(root))[1] == []


def tagged(path, pixels, i, scale=None, offset=None, unit=None, nodata=None):
    tif(path, pixels, corner=place(i), nodata=nodata)
    with rasterio.open(path, "r+") as target:
        if scale is not None:
            target.scales, target.offsets = (scale,) * target.count, (offset,) * target.count
        if unit is not None:
            target.units = (unit,) * target.count


def test_scale_and_unit_that_files_state(tmp_path):
    """Differing: refused, unless they are applied; alike: told; applied: by hand."""
    numbers = np.random.default_rng(0).integers(1000, 3000, (2, 8, 8)).astype(np.uint16)

    def differ(i, path):
        moved = i % 3 > 0
        tagged(path, numbers + i + 1000 * moved, i, 1e-4, -0.1 * moved)

    _, root = archive(tmp_path / "a", "bands: [B02, B03]", differ)
    agree(tmp_path / "a", root, ("the scale 0.0001 and the offset -0.1 in 4 files", "p1.tif",
                                 "the scale 0.0001 and the offset 0 in 2 files",
                                 "scale: file"))  # fmt: skip
    described, root = archive(
        tmp_path / "b", "bands: [B02, B03], scale: file, offset: file", differ
    )
    assert not check(root).damage and not warnings_of(check(root))
    for i in (0, 1):
        found = described.read_patch(root, "s1", f"p{i}", 10)
        assert found.dtype == np.float32
        assert np.allclose(found, (numbers + i) / 10_000, atol=1e-6)
    _, root = archive(tmp_path / "c", "bands: [B02, B03]",
                      lambda i, p: tagged(p, numbers + i, i, 1e-4, 0.0))  # fmt: skip
    assert "state the scale 0.0001 and the offset 0, which is not applied" in check(root).text()
    _, root = archive(tmp_path / "d", "bands: [VV, VH]",
                      lambda i, p: tagged(p, radar(i), i, unit="dB" if i % 2 else "1"))  # fmt: skip
    agree(tmp_path / "d", root, ("units that differ", "dB in 3 files", "1 in 3 files"))


def test_nodata_that_files_state(tmp_path):
    _, root = archive(tmp_path / "a", "bands: [VV, VH]",
                      lambda i, p: plain(i, p, nodata=-99 if i % 2 else None))  # fmt: skip
    assert "values of no data: none in 3 files" in warnings_of(check(root))[0]
    _, root = archive(tmp_path / "b", "bands: [VV, VH], nodata: -50",
                      lambda i, p: tagged(p, radar(i), i, nodata=-99))  # fmt: skip
    (text,) = warnings_of(check(root))
    assert "state the no data -99 and the description -50; both are gaps" in text
    _, root = archive(tmp_path / "c", "bands: [VV, VH]",
                      lambda i, p: tagged(p, radar(i), i, nodata=np.nan))  # fmt: skip
    assert not warnings_of(check(root))


def test_a_scale_and_offset_per_row(tmp_path):
    """Linear, hundredths and plain decibels in one archive: value = number x scale + offset."""
    rows = {0: ("1", "0"), 1: ("0.01", "0"), 2: ("0.5", "-3")}
    numbers = [np.arange(128).reshape(2, 8, 8).astype(np.int16) - 2000 - i for i in range(6)]
    numbers = [array if i else np.where(array == -2000, -999, array).astype(np.int16)
               for i, array in enumerate(numbers)]  # fmt: skip
    described, root = archive(
        tmp_path, "bands: [VV, VH], scale: {column: gain}, offset: {column: bias}, nodata: -999",
        lambda i, p: tif(p, numbers[i], corner=place(i)),
        lambda i: ",".join(rows[i % 3]), ",gain,bias",
    )  # fmt: skip
    for i in range(6):
        gain, bias = map(float, rows[i % 3])
        expected = np.where(numbers[i] == -999, np.nan, numbers[i] * gain + bias)
        found = described.read_patch(root, "s1", f"p{i}", 10)
        assert np.array_equal(found, expected.astype(np.float32), equal_nan=True)
    assert np.isnan(described.read_patch(root, "s1", "p0", 10)).sum() == 1
    text = (tmp_path / "locations.csv").read_text()
    for old, new, match in (("0.01,0", ",0", "found nothing in column gain, expected a number"),
                            ("0.01,0", "0,0", "found '0' in column gain, expected a number other"),
                            ("0.5,-3", '0.5,"-3,5"', "found '-3,5' in column bias")):  # fmt: skip
        (tmp_path / "locations.csv").write_text(text.replace(old, new, 1))
        assert any(match in line for line in check(root).damage)
        with pytest.raises(UserError, match=match):
            described.metadata(root)


def test_one_scale_for_all_files_and_a_type(tmp_path):
    numbers = np.arange(1000, 1128).reshape(2, 8, 8).astype(np.uint16)
    described, root = archive(tmp_path / "a", "bands: [B02, B03], offset: -1000, dtype: int16",
                              lambda i, p: tif(p, numbers + i, corner=place(i)))  # fmt: skip
    found = described.read_patch(root, "s1", "p2", 10)
    assert found.dtype == np.int16 and np.array_equal(found, numbers.astype(int) + 2 - 1000)
    described, root = archive(tmp_path / "b", "bands: [B02, B03], scale: 0.3, dtype: int16",
                              lambda i, p: tif(p, numbers, corner=place(i)))  # fmt: skip
    with pytest.raises(DamagedFile, match="values, scaled, that int16 cannot"):
        described.read_patch(root, "s1", "p0", 10)
    for wrong, match in (("scale: 0", "scale: found 0, expected a number other than 0"),
                         ("scale: true", "scale: found True"),
                         ("offset: .inf", "offset: found inf"),
                         ("scale: {columns: x}", "scale: found"),
                         ("scale: {column: gain}", "no column gain")):  # fmt: skip
        with pytest.raises(UserError, match=match) as caught:
            archive(tmp_path / "c", f"bands: [B02, B03], {wrong}", lambda i, p: None)
        assert "\n" not in str(caught.value)
