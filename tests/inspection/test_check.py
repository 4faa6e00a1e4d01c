"""`mmfl check`: everything that is wrong with an archive of one's own is said, and nothing else."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from mmfl import cli
from mmfl.archives.folder import Folder
from mmfl.archives.folder.files import Grid
from mmfl.clients import manifest
from mmfl.errors import UserError
from mmfl.inspection import overlap
from mmfl.inspection.check import check
from mmfl.inspection.recognise import inspect
from mmfl.params import load
from mmfl.steps import split

SIDE = 32
DESCRIPTION = """
table: locations.csv
groups: [place]
modalities:
  s2: {path: "s2/{id}.tif", bands: [B02, B03, B04]}
  s1: {path: radar, bands: [VV, VH]}
mask: {path: "mask/{id}.tif", classes: {0: land, 1: water}, ignore: -1}
"""


def tif(path: Path, pixels: np.ndarray, corner: tuple[float, float], crs="EPSG:32633") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": crs, "transform": from_origin(*corner, 10, 10)} if crs else {}
    with rasterio.open(path, "w", driver="GTiff", height=SIDE, width=SIDE, count=len(pixels),
                       dtype=pixels.dtype, **place) as target:  # fmt: skip
        target.write(pixels)


def build(folder: Path, crs: str | None = "EPSG:32633") -> Path:
    """Nine locations 10 km apart, three of each split; the last has no radar."""
    rng = np.random.default_rng(2)
    rows = []
    for i in range(9):
        name, corner = f"p{i}", (400_000 + 10_000 * i, 5_000_000)
        tif(folder / f"s2/{name}.tif", rng.integers(1, 4000, (3, SIDE, SIDE)).astype("uint16"),
            corner, crs)  # fmt: skip
        radar = rng.normal(-12, 3, (2, SIDE, SIDE)).astype("float32")
        radar[:, :2] = np.nan
        tif(folder / f"s1/{name}.tif", radar, corner, crs)
        codes = rng.integers(-1, 2, (1, SIDE, SIDE)).astype("int16")
        tif(folder / f"mask/{name}.tif", codes, corner, crs)
        rows.append({"id": name, "split": ["train", "val", "test"][i % 3], "place": f"T{i // 3}",
                     "radar": f"s1/{name}.tif" if i < 8 else ""})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "locations.csv", index=False)
    (folder / "floods.yaml").write_text(DESCRIPTION)
    return folder / "floods.yaml"


@pytest.fixture
def floods(tmp_path) -> Path:
    return build(tmp_path)


def rows_of(found, title: str) -> dict[str, list[str]]:
    table = next(table for table in found.tables if table.title.startswith(title))
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def codes(folder: Path) -> np.ndarray:
    found = []
    for path in sorted((folder / "mask").iterdir()):
        with rasterio.open(path) as source:
            found.append(source.read(1))
    return np.stack(found)


def test_a_sound_archive(floods, tmp_path):
    found = check(floods, full=True)
    assert not found.damage and not [n for n in found.notes if n.startswith("Warning")]
    seen = codes(tmp_path)
    table = rows_of(found, "Classes")
    for name, code in (("land", 0), ("water", 1), ("ignored", -1)):
        assert table[name]["pixels"] == f"{(seen == code).sum():,}"
        assert table[name]["codes"] == str(code) and table[name]["tiles"] == "9"
    bands = rows_of(found, "Bands")
    with rasterio.open(tmp_path / "s1/p0.tif") as source:
        assert float(bands["VV"]["most"]) >= round(float(np.nanmax(source.read(1))), 2)
    assert bands["VH"]["gaps %"] == f"{100 * 2 / SIDE:.4g}" and bands["B02"]["gaps %"] == "0"
    kinds = rows_of(found, "Modalities")
    assert (kinds["s1"]["locations"], kinds["s1"]["without"]) == ("8", "1")
    assert kinds["s2"]["type"] == "uint16" and kinds["mask"]["pixels"] == "32 x 32"
    assert kinds["s2"]["metres"] == "10"
    places = rows_of(found, "Locations by place")
    assert places["T0"] == {"place": "T0", "train": "1", "validation": "1", "test": "1"}
    text = found.text()
    assert "No ground is shared by two splits (9 footprints)" in text
    assert "parameter file of its own, floods.params.yaml:\n  folders: {floods: " in text
    assert text.endswith("  snakemake --cores 2 --configfile floods.params.yaml")
    assert len(found.gallery.tiles) == 8
    found.write_page(tmp_path / "page.html")
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_a_sample_is_read_unless_all_is_asked_for(floods, monkeypatch):
    monkeypatch.setattr(sys.modules["mmfl.inspection.check"], "READ", 3)
    assert "3 of 9 s2, 3 of 8 s1, 3 of 9 mask" in check(floods).facts["Pixels read"]
    assert "9 of 9 s2, 8 of 8 s1" in check(floods, full=True).facts["Pixels read"]


def write(path: Path, change) -> None:
    """Change the pixels of a file."""
    with rasterio.open(path) as source:
        pixels, profile = source.read(), source.profile
    pixels = change(pixels)
    profile.update(count=len(pixels), dtype=pixels.dtype)
    path.unlink()
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)


def move(path: Path, corner: tuple[float, float], crs: str = "EPSG:32633") -> None:
    with rasterio.open(path) as source:
        pixels = source.read()
    tif(path, pixels, corner, crs)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda f: (f / "s2/p1.tif").unlink(), r"s2/p1.tif: is missing, the s2 of p1; correct"),
        (lambda f: (f / "s1/p2.tif").write_bytes(b"II*\0"), r"s1/p2.tif: cannot be read"),
        (lambda f: write(f / "s2/p3.tif", lambda x: x[:2]), r"s2/p3.tif: has 2 bands, expected"),
        (lambda f: write(f / "mask/p4.tif", lambda x: x + 5), r"mask/p4.tif: holds the code"),
        (lambda f: replace(f / "locations.csv", "p5,test", "p5,tset"), r"p5: found 'tset' in"),
        (lambda f: replace(f / "locations.csv", "p6,", "p7,"), r"csv: p7 stands in 2 rows"),
        (lambda f: replace(f / "locations.csv", "T1", ""), r"p3: nothing in column place"),
        (lambda f: move(f / "s1/p0.tif", (400_030, 5_000_000)), r"p0.tif: is off the mask by 3.0"),
        (lambda f: move(f / "s1/p0.tif", (600_000, 5_000_000)), r"s1/p0.tif: covers other ground"),
        (lambda f: write(f / "s2/p0.tif", lambda x: x * 0 + 7), r"s2/p0.tif: is constant"),
        (lambda f: write(f / "s1/p0.tif", lambda x: x * np.nan), r"s1/p0.tif: holds no value"),
        (lambda f: write(f / "s2/p8.tif", lambda x: x + np.float32(0.5)),
         r"s2/p8.tif: holds float32 values that uint16 cannot; set modalities.s2.dtype"),
        (lambda f: replace(f / "locations.csv", "train", "test"), r"no location for training"),
    ],
)  # fmt: skip
def test_what_is_wrong(floods, break_it, match):
    break_it(floods.parent)
    found = check(floods, full=True)
    assert any(re.search(match, line) for line in found.damage), found.damage
    assert "Wrong: " in found.text()


def test_only_the_broken_file_is_named(floods):
    write(floods.parent / "mask/p4.tif", lambda x: x + 5)
    (floods.parent / "s2/p1.tif").unlink()
    found = check(floods, full=True)
    assert len(found.damage) == 2


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda f: replace(f / "locations.csv", ",val", ",train"), "no location for validation"),
        (lambda f: write(f / "s2/p1.tif", lambda x: np.where(x > 3000, 65535, x)), "are 65535; if"),
        (lambda f: [write(f / f"s2/p{i}.tif", lambda x: x * (np.arange(SIDE) > 3)) for i in (1, 2)],
         "are 0 in all bands"),
        (lambda f: write(f / "s2/p2.tif", lambda x: x / 10_000), None),
        (lambda f: [write(p, lambda x: x * 0) for p in (f / "mask").iterdir()],
         "in the masks read there is no water"),
        (lambda f: write(f / "mask/p0.tif", lambda x: x * 0 - 1), "1 of 9 masks read have no"),
    ],
)  # fmt: skip
def test_what_looks_odd(floods, break_it, match):
    break_it(floods.parent)
    found = check(floods, full=True)
    warned = [note for note in found.notes if note.startswith("Warning")]
    if match is None:  # fractions in an archive of whole numbers
        assert any("p2.tif: holds float" in line for line in found.damage)
    else:
        assert any(match in note for note in warned) and not found.damage, (warned, found.damage)


def test_splits_on_the_same_ground(floods):
    """p1 (validation) comes to p0 (training): 31 pixels off, then 32, then 100 m away."""
    for east, shared, near in ((310, True, None), (320, False, 0), (420, False, 100)):
        for q in ("s2", "s1", "mask"):
            move(floods.parent / f"{q}/p1.tif", (400_000 + east, 5_000_000))
        found = check(floods)
        lines = [line for line in found.damage if "cover the same ground" in line]
        assert lines == ["p0 (train) and p1 (validation) cover the same ground"] * shared
        said = re.findall(r"(\d) of 3 validation locations lie within 3 .*nearest (\d+) m",
                          found.text())  # fmt: skip
        assert (near is None) or [(1, near)] == [(int(n), round(int(m), -1)) for n, m in said]


def grids(corners, crs, side=200, metres=10) -> dict[str, Grid]:
    system = rasterio.CRS.from_string(crs)
    return {
        f"{crs} {x} {y}": Grid(side, side, system, from_origin(x, y, metres, metres))
        for x, y in corners
    }


def test_overlap_on_a_grid_of_neighbours():
    """Tiles that touch do not overlap; shifted by 60 m, each overlaps those that it then meets."""
    corners = [(300_000 + 2000 * i, 6_900_000 + 2000 * j) for i in range(6) for j in range(6)]
    found = grids(corners, "EPSG:32633")
    splits = {name: ("train", "test")[k % 2] for k, name in enumerate(found)}
    assert overlap.overlapping(overlap.footprints(found, splits)) == []
    moved = grids([(x + 60, y + 60) for x, y in corners], "EPSG:32633")
    both = {**{name: "train" for name in found}, **{name: "test" for name in moved}}
    feet = overlap.footprints({**found, **moved}, both)
    expected = {
        (a, b) for a, one in found.items() for b, other in moved.items()
        if abs(one.transform.c - other.transform.c) < 2000
        and abs(one.transform.f - other.transform.f) < 2000
    }  # fmt: skip
    pairs = {tuple(sorted((feet.names[i], feet.names[j]))) for i, j in overlap.overlapping(feet)}
    assert pairs == {tuple(sorted(pair)) for pair in expected} and len(pairs) > 100


def test_overlap_across_zones_and_the_antimeridian():
    """The same place written in two systems overlaps; one tile's width further it does not."""
    from rasterio.warp import transform

    for lon, zones in ((12.0, ("EPSG:32632", "EPSG:32633")), (180.0, ("EPSG:32601", "EPSG:32660"))):
        made = {}
        for zone, shift in ((zones[0], 0), (zones[1], 0), (zones[1], 4000)):
            (x,), (y,) = transform("EPSG:4326", zone, [lon], [50.0])
            made |= {f"{shift}-{k}": v for k, v in grids([(x, y + shift)], zone).items()}
        splits = dict(zip(made, ("train", "test", "test"), strict=True))
        feet = overlap.footprints(made, splits)
        found = [{feet.names[i], feet.names[j]} for i, j in overlap.overlapping(feet)]
        assert found == [set(list(made)[:2])]


def test_same_files_without_a_georeference(tmp_path):
    path = build(tmp_path, crs=None)
    found = check(path)
    assert not found.damage and "9 locations have no georeference" in found.text()
    assert "3 of 3 values of place are both in train and test" in found.text()
    (tmp_path / "s2/p4.tif").write_bytes((tmp_path / "s2/p0.tif").read_bytes())
    (line,) = check(path).damage
    assert "p4.tif: of p4 (validation) is the same image as" in line and "p0 (train)" in line


def test_multilabel(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", rng.integers(1, 99, (8, 8)))
    rows = [f"{i},{s},{w}" for i, (s, w) in enumerate(zip(
        ["train", "test", "val"] * 2, ["a", "a;b", "", "b", "a", "a"], strict=True))]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["id,split,labels", *rows]))
    path = tmp_path / "ponds.yaml"
    path.write_text('table: t.csv\nmodalities: {q: {path: "{id}.npy", bands: [x]}}\n'
                    "labels: {classes: [a, b]}\n")  # fmt: skip
    found = check(path)
    table = rows_of(found, "Classes")
    assert (table["a"]["locations"], table["b"]["locations"]) == ("4", "2")
    assert not found.damage and "1 locations have no label at all" in found.text()
    replace(tmp_path / "t.csv", "a;b", "a;B")
    assert any("1: found the label 'B'" in line for line in check(path).damage)


def status(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mmfl", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("name", ["floods.yaml", "My, #1: floods.yaml"])
def test_what_it_says_to_write_is_a_parameter_file(floods, name):
    """With every modality of the archive, and the paths as they are."""
    path = floods.rename(floods.with_name(name))
    replace(path, "  s1: {path: radar", "  sar: {path: radar")
    lines = check(path).snippet.splitlines()
    file = floods.with_name(lines[0].split()[-1].rstrip(":"))
    file.write_text("\n".join(line for line in lines[1:-2]))
    (archive,) = load(file).archives
    params = load(file).of(archive)
    assert params.folders == {archive: str(path)} and file.name == f"{archive}.params.yaml"
    assert params.partition.modalities == ["s2", "sar"]
    assert params.train.bands == {"s2": ["B02", "B03", "B04"], "sar": ["VV", "VH"]}


def test_exit_status(floods, monkeypatch, capsys):
    page = floods.parent / "page.html"
    assert status(monkeypatch, str(floods), "--full", "--page", str(page)) == 0 and page.is_file()
    (floods.parent / "s2/p1.tif").unlink()
    assert status(monkeypatch, str(floods)) == 1
    capsys.readouterr()
    for old, new in (("table: loc", "tabel: loc"), ("table: loc", "table: none/loc"),
                     ("[place]", "[agency]")):  # fmt: skip
        floods.write_text(DESCRIPTION.replace(old, new))
        assert status(monkeypatch, str(floods)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(floods.parent) in error
    assert status(monkeypatch, str(floods.parent / "no.yaml")) == 2


def test_inspect_knows_a_description(floods, tmp_path):
    raw = tmp_path / "data/raw/floods"
    raw.mkdir(parents=True)
    (raw / "root.json").write_text(json.dumps({"root": str(floods)}))
    assert inspect(raw).title == inspect(floods).title == f"Archive described by {floods}"


def labelled(folder: Path, rows: list[str], head="id,split,place,labels", rest="") -> Path:
    """A multi-label archive of npy files with a table of such rows; its description."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for row in rows:
        (folder / "x").mkdir(exist_ok=True)
        np.save(folder / f"x/{row.split(',')[0]}.npy", rng.integers(1, 99, (8, 8)))
    (folder / "t.csv").write_text("\n".join([head, *rows]))
    path = folder / "a.yaml"
    path.write_text(f"table: t.csv\ngroups: [place]\n{rest or 'labels: {classes: [a, b]}'}\n"
                    "modalities: {q: {path: 'x/{id}.npy', bands: [x]}}\n")  # fmt: skip
    return path


FOUR = ["p0,train,{0},a", "p1,train,{1},b", "p2,val,{0},a", "p3,test,{1},b"]


@pytest.mark.parametrize(
    ("places", "clients"),
    [
        (("江苏", "浙江"), ["江苏-q", "浙江-q"]),
        (("Österreich", "Osterreich"), ["osterreich-q", "österreich-q"]),
        (("Åland", "Öland"), ["åland-q", "öland-q"]),
        (("Москва", "مصر"), ["москва-q", "مصر-q"]),
        (("हिन्दी", "Côte d'Ivoire"), ["côte-d-ivoire-q", "हिन्दी-q"]),
        (("?", "Peru"), "the group '?' has no letter and no digit"),
        (("North Land", "north-land"), "'North Land' and 'north-land' would both be called"),
    ],
)
def test_groups_of_any_script(tmp_path, places, clients):
    """What check calls right can be partitioned; what cannot is told by both."""
    path = labelled(tmp_path, [row.format(*places) for row in FOUR])
    damage = check(path).damage
    table = Folder.described_by("a", path).metadata(path)
    if isinstance(clients, str):
        assert len(damage) == 1 and clients in damage[0] and "column place" in damage[0]
        with pytest.raises(UserError, match=re.escape(clients)):
            manifest.build(table, scenario="place", assignment="duplicate", modalities=("q",))
        return
    assert not damage
    found = manifest.build(table, scenario="place", assignment="duplicate", modalities=("q",))
    assert sorted(set(found.frame["client"])) == sorted(clients)


@pytest.mark.parametrize("lost", ["train", "test"])
def test_a_table_that_lacks_a_split(tmp_path, lost):
    path = labelled(tmp_path, [row.format("Peru", "India").replace(lost, "val") for row in FOUR])
    (line,) = check(path).damage
    assert f"no location for {'training' if lost == 'train' else 'the test'}" in line
    with pytest.raises(UserError, match=f"found no location of the split {lost} that can be used"):
        split.run("a", root=path, out=tmp_path / "o", store=tmp_path / "s", shard_size=4,
                  snow=False, cloud_or_shadow=False)  # fmt: skip
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('"[\'a\', \'b\']"', [0, 1]), ('"[""a"", ""b""]"', [0, 1]), ("['a' 'b']", [0, 1]),
        ('"(\'b\',)"', [1]), ("[]", []), ("[a]", [0]), ('"{a, b}"', [0, 1]), ("a;b", [0, 1]),
        ('"a,b"', "labels.separator: ','"), ("a|b", "labels.separator: '|'"),
        ("A", "did you mean a?"), ("['c']", "found the label 'c'"), ("[a", "found the label '[a'"),
    ],
)  # fmt: skip
def test_labels_as_other_programs_write_them(tmp_path, cell, found):
    """Lists of Python, JSON and numpy; what is not clear gets a hint."""
    rows = [row.format("Peru", "India") for row in FOUR]
    path = labelled(tmp_path, [*rows, f"p4,train,Peru,{cell}"])
    damage = check(path).damage
    if isinstance(found, str):
        assert len(damage) == 1 and found in damage[0]
    else:
        rows = Folder.described_by("a", path).metadata(path).set_index("pair")
        assert not damage and rows["labels"]["p4"].tolist() == found


def test_numbers_after_a_gap(tmp_path):
    """One-hot 1.0, codes 3.0, folds 5.0, as pandas writes whole numbers beside a gap."""
    path = labelled(tmp_path / "a", ["p0,1.0,Peru,1.0,0.0", "p1,2.0,Peru,True,FALSE",
                                     "p2,5.0,India,0,1"], "id,fold,place,a,b",
                    "split: {column: fold, train: [1, 2], test: 5}\n"
                    "labels: {columns: [a, b]}")  # fmt: skip
    rows = Folder.described_by("a", path).metadata(path)
    assert rows["labels"].map(list).tolist() == [[0], [0], [1]] and not check(path).damage
    assert rows["split"].tolist() == ["train", "train", "test"]
    replace(tmp_path / "a/t.csv", "0,1", "0.5,1")
    assert "p2: found '0.5' in column a, expected 0 or 1" in check(path).damage[0]
    path = labelled(tmp_path / "b", ["p0,train,Peru,3.0", "p1,test,Peru,7"],
                    rest="labels: {classes: {3: a, 7: b}}")  # fmt: skip
    rows = Folder.described_by("a", path).metadata(path)
    assert rows["labels"].map(list).tolist() == [[0], [1]] and not check(path).damage


def test_paths(floods, tmp_path, monkeypatch):
    """Backslashes are slashes; what is missing comes with a remedy; the snippet runs elsewhere."""
    replace(tmp_path / "locations.csv", "s1/p", "s1\\p")
    assert not check(floods).damage
    (tmp_path / "s2/p1.tif").rename(tmp_path / "s2/p1.TIFF")
    (line,) = check(floods).damage
    assert "s2/p1.tif: is missing, the s2 of p1; did you mean p1.TIFF? Else correct" in line
    (tmp_path / "s2").rename(tmp_path / "optical")
    assert f"there is no folder {tmp_path / 's2'}, see path and root" in check(floods).damage[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optical").rename(tmp_path / "s2")
    folders = [line for line in check(Path("floods.yaml")).snippet.splitlines() if "yaml}" in line]
    assert folders == [f"  folders: {{floods: {tmp_path / 'floods.yaml'}}}"]


def test_files_in_the_folder_of_another_split(floods, tmp_path):
    (tmp_path / "train").mkdir()
    for i in (0, 1):  # p0 is of training, p1 of validation
        (tmp_path / f"s1/p{i}.tif").rename(tmp_path / f"train/p{i}.tif")
        replace(tmp_path / "locations.csv", f"s1/p{i}.tif", f"train/p{i}.tif")
    found = check(floods)
    (text,) = (note for note in found.notes if note.startswith("Warning") and "folder of" in note)
    assert "1 files lie in the folder of another split" in text and "p1, which" in text
    assert not found.damage


def test_a_table_that_is_not_in_utf_8(tmp_path):
    path = labelled(tmp_path, [row.format("Köln", "Bonn") for row in FOUR])
    (tmp_path / "t.csv").write_bytes((tmp_path / "t.csv").read_text().encode("latin-1"))
    with pytest.raises(UserError, match="is not in UTF-8, expected that; save it as CSV UTF-8"):
        check(path)
