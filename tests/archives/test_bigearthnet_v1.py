"""The reader of BigEarthNet v1.0, against the published tables and real patches."""

import bz2
import gzip
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from mmfl.archives import get
from mmfl.archives.bigearthnet import CLASSES, CORINE
from mmfl.archives.bigearthnet_v1 import TOP
from mmfl.clients.manifest import build
from mmfl.errors import UserError
from mmfl.patches import streaming
from mmfl.steps import split

ARCHIVE = get("bigearthnet-v1")
SUMMER = {  # June to August, training split, without snow, cloud or shadow
    "Finland": 19_638, "Portugal": 12_693, "Ireland": 8_197, "Lithuania": 8_174,
    "Serbia": 7_761, "Austria": 5_515, "Switzerland": 2_573, "Belgium": 1_048,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(published):
    return ARCHIVE.metadata(published)


def test_facts():
    assert ARCHIVE.classes == get("bigearthnet-v2").classes
    names = [name for name, _ in CORINE.values()]
    assert len(set(names)) == len(names) == 44
    assert ARCHIVE.modality("s1").band("VH").mean == -19.290
    assert ARCHIVE.modality("s2").band("B8A").std == 1356.14
    assert [b.name for b in ARCHIVE.modality("s1").bands] == ["VV", "VH"]


def test_counts(rows, published):
    assert len(rows) == 519_284 and rows["pair"].is_unique and rows["s1"].is_unique
    assert rows["pair"].is_monotonic_increasing
    assert rows["split"].value_counts().to_dict() == {
        "train": 269_695, "validation": 123_723, "test": 125_866,
    }  # fmt: skip
    names = ARCHIVE.names(published)
    assert len(names["s1"]) == len(names["s2"]) == 590_326


def test_published_counts_of_summer(rows):
    """The counts of the group's study come out with the months of the names, 2017 only."""
    table = rows.assign(labels=[np.empty(0, np.int8)] * len(rows))
    manifest = build(
        table, scenario="country", assignment="duplicate", months=[6, 7, 8],
        countries=list(SUMMER),
    )  # fmt: skip
    assert manifest.summary["locations"]["train"] == sum(SUMMER.values()) == 65_599
    by_group = manifest.summary["locations_by_group"]
    assert {k: by_group[k.lower()]["train"] for k in SUMMER} == SUMMER
    assert manifest.summary["locations"]["test"] == 30_836
    assert rows.loc[rows["month"].isin([6, 7, 8]), "pair"].str[11:15].unique().tolist() == ["2017"]


def test_season_is_the_month_s_and_not_the_table_s(rows, published):
    """115 patches of August are "Fall" in the published table."""
    table = pd.read_csv(published / "s1_s2_name_country_season.csv.bz2")
    fall = set(table["s2_name"][table["season"] == "Fall"])
    august = rows[(rows["month"] == 8) & rows["pair"].isin(fall)]
    assert len(august) > 0 and (august["season"] == "JJA").all()
    every = table["s2_name"].str.slice(15, 17) == "08"
    assert (every & (table["season"] == "Fall")).sum() == 115


def test_times_of_five_digits(rows):
    """`T93020` for half past nine: a strict pattern would lose these patches."""
    short = rows["pair"].str.extract(r"T(\d+)_")[0].str.len() == 5
    assert 50_000 < short.sum() < 70_000


def test_snow_has_no_split(published, caplog):
    assert len(ARCHIVE.metadata(published, snow=True, cloud_or_shadow=True)) == 519_284
    assert "70985 patches are in none of train.csv" in caplog.text


@pytest.fixture(scope="module")
def whole(samples, tmp_path_factory) -> Path:
    """Six real pairs with their rows of the tables; the snowy one is put into the test split."""
    source, tables = samples / "bigearthnet-v1-sample", samples / "bigearthnet-metadata"
    root = tmp_path_factory.mktemp("whole") / "v1"
    for name in ("BigEarthNet-S1-Example", "BigEarthNet-S2-Example"):
        shutil.copytree(source / name, root / name)
    names = {path.name for path in (root / "BigEarthNet-S2-Example").iterdir()}
    pairs = pd.read_csv(tables / "s1_s2_name_country_season.csv.bz2")
    pairs = pairs[pairs["s2_name"].isin(names)]
    pairs.to_csv(root / "s1_s2_name_country_season.csv", index=False)
    for table in ("train", "val", "test", "patches_with_seasonal_snow",
                  "patches_with_cloud_and_shadow", "patches_with_no_19_class_targets"):  # fmt: skip
        listed = pd.read_csv(tables / f"{table}.csv.bz2", header=None)[0]
        listed = listed[listed.isin(names)].tolist()
        if table == "test":
            listed.append("S2B_MSIL2A_20180204T94161_57_38")
        (root / f"{table}.csv").write_text("".join(f"{name}\n" for name in listed))
    return root


@pytest.fixture
def real(whole, tmp_path) -> Path:
    """A copy of these pairs and tables to change."""
    return shutil.copytree(whole, tmp_path / "v1")


def test_pixels_are_those_of_rasterio(real):
    found = ARCHIVE.metadata(real, snow=True)
    assert len(found) == 6 and found["country"].value_counts()["Finland"] == 2
    count = 0
    for q, top in (("s1", "BigEarthNet-S1-Example"), ("s2", "BigEarthNet-S2-Example")):
        for patch in found[q]:
            for band in ARCHIVE.modality(q).bands:
                path = real / top / patch / f"{patch}_{band.name}.tif"
                with rasterio.open(path) as source:
                    expected = source.read(1)
                pixels = ARCHIVE.read(real, q, patch, band.name)
                assert pixels.dtype == expected.dtype and pixels.tobytes() == expected.tobytes()
                count += 1
    assert count == 6 * 14


def test_labels_are_those_of_the_json(real):
    found, faults = ARCHIVE.labelled(real, ARCHIVE.metadata(real, snow=True))
    assert not faults and len(found) == 6
    for row in found.itertuples():
        path = real / "BigEarthNet-S2-Example" / row.s2 / f"{row.s2}_labels_metadata.json"
        names = set(json.loads(path.read_text())["labels"])
        classes = {CLASSES[i] for i in row.labels}
        assert row.labels.tolist() == sorted(set(row.labels.tolist()))
        direct = names & set(CLASSES)
        assert direct <= classes and len(classes) <= len(names)
        renamed = {"Peatbogs": "Inland wetlands", "Water bodies": "Inland waters",
                   "Transitional woodland/shrub": "Transitional woodland, shrub",
                   "Non-irrigated arable land": "Arable land"}  # fmt: skip
        assert {renamed[n] for n in names & renamed.keys()} <= classes


def test_labels_of_sentinel_1_where_sentinel_2_is_absent(real):
    expected = ARCHIVE.labelled(real, ARCHIVE.metadata(real))[0]["labels"].tolist()
    shutil.rmtree(real / "BigEarthNet-S2-Example")
    found = ARCHIVE.labelled(real, ARCHIVE.metadata(real))[0]["labels"].tolist()
    assert [list(x) for x in found] == [list(x) for x in expected]


def test_exclusions(real):
    """A list excludes also what a split of one's own names."""
    snowy = "S2B_MSIL2A_20180204T94161_57_38"
    assert snowy not in set(ARCHIVE.metadata(real)["pair"])
    assert snowy in set(ARCHIVE.metadata(real, snow=True)["pair"])
    other = ARCHIVE.metadata(real)["pair"].iloc[0]
    (real / "patches_with_cloud_and_shadow.csv").write_text(f"{other}\n")
    assert other not in set(ARCHIVE.metadata(real)["pair"])
    assert other in set(ARCHIVE.metadata(real, cloud_or_shadow=True)["pair"])
    (real / "patches_with_no_19_class_targets.csv").write_text(f"{other}\n")
    assert other not in set(ARCHIVE.metadata(real, cloud_or_shadow=True)["pair"])


def test_names_of_the_published_folders(real):
    (real / "BigEarthNet-S1-Example").rename(real / "BigEarthNet-S1-v1.0")
    (real / "BigEarthNet-S2-Example").rename(real / "BigEarthNet-v1.0")
    assert len(ARCHIVE.folders(real, "s1")) == len(ARCHIVE.folders(real, "s2")) == 6
    patch = ARCHIVE.metadata(real).s2.iloc[0]
    assert ARCHIVE.band_path(real, "s2", patch, "B02").is_file()


@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_tables(real, end, pack):
    expected = ARCHIVE.metadata(real)
    for path in list(real.glob("*.csv")):
        path.with_name(path.name + end).write_bytes(pack(path.read_bytes()))
        path.unlink()
    assert ARCHIVE.metadata(real).equals(expected)


def write(path, text):
    path.write_text(text)


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda r: (r / "val.csv").unlink(), r"val\.csv: not found \(nor \.gz, \.bz2\)"),
        (lambda r: write(r / "val.csv", "S2A_x\n"), r"val\.csv: row 1: found 'S2A_x', expected S"),
        (lambda r: shutil.copy(r / "train.csv", r / "val.csv"), r"is also in split train"),
        (lambda r: write(r / "s1_s2_name_country_season.csv", "a,b\n1,2\n"), "column s1_name is m"),
        (
            lambda r: write(
                r / "s1_s2_name_country_season.csv",
                "s1_name,s2_name,country\nS1,S2A_MSIL2A_20170613T101031_87_48,Austria\n",
            ),
            "s1_name 'S1' is no name of BigEarthNet v1.0",
        ),
        (
            lambda r: write(
                r / "s1_s2_name_country_season.csv", "s1_name,s2_name,country\na,,Austria\n"
            ),
            "row 2 has no s2_name",
        ),
        (lambda r: (r / "test.csv").write_bytes(b"\xff\xfe\x00"), r"test\.csv: "),
    ],
)
def test_malformed_tables(real, break_it, match):
    break_it(real)
    with pytest.raises(UserError, match=match) as caught:
        ARCHIVE.metadata(real)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "labels not readable"),
        ("[]", "labels not readable"),
        ('{"label": []}', "labels not readable"),
        ('{"labels": ["Pasture"]}', "found 'Pasture', expected one of the 43"),
        (None, "is missing, expected the labels"),
    ],
)
def test_damaged_labels_are_faults(real, text, match):
    rows = ARCHIVE.metadata(real)
    victim = rows.s2.iloc[1]
    for top, name in (("S2", victim), ("S1", rows.s1.iloc[1])):
        path = real / f"BigEarthNet-{top}-Example" / name / f"{name}_labels_metadata.json"
        path.unlink() if text is None else path.write_text(text)
    found, faults = ARCHIVE.labelled(real, rows)
    assert len(faults) == 1 and faults[0].patch == victim and victim in faults[0].file
    assert match in faults[0].reason
    assert set(found["pair"]) == set(rows["pair"]) - {victim}


def test_a_patch_without_any_of_the_classes_is_left_out(real, caplog):
    rows = ARCHIVE.metadata(real)
    victim = rows.s2.iloc[0]
    path = real / "BigEarthNet-S2-Example" / victim / f"{victim}_labels_metadata.json"
    path.write_text('{"labels": ["Airports", "Bare rock"]}')
    found, faults = ARCHIVE.labelled(real, rows)
    assert not faults and victim not in set(found["pair"]) and len(found) == len(rows) - 1
    assert "1 patches have none of the 19 classes" in caplog.text


def test_labels_in_a_tar_that_are_too_large(real, tmp_path, monkeypatch):
    """Refused by the size that the tar states: they are not read to find it out."""
    monkeypatch.setattr(streaming, "LARGEST", 100)
    for q, name in {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-S2-v1.0"}.items():
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", compresslevel=1) as tar:
            for path in sorted((real / TOP[q][-1]).rglob("*.json")):
                tar.add(path, f"{name}/{path.parent.name}/{path.name}")
    for item in real.iterdir():
        if not item.is_dir():
            shutil.copy(item, tmp_path)
    with pytest.raises(UserError, match=r"_labels_metadata\.json: has [\d,]+ bytes, expected at"):
        split.run(ARCHIVE.name, root=tmp_path, out=tmp_path / "out", store=tmp_path / "store",
                  snow=True, cloud_or_shadow=True, shard_size=2)  # fmt: skip


@pytest.mark.parametrize("lost", ["none", "labels", "class", "image"])
def test_from_tars_to_the_bit(real, tmp_path, lost):
    """As .tar.gz, labels in them: what is encoded is that of the extracted archive."""
    snow = {"snow": True, "cloud_or_shadow": False, "shard_size": 2, "on_error": "skip"}
    folder = real / "BigEarthNet-S2-Example" / ARCHIVE.metadata(real)["s2"].iloc[1]
    if lost == "image":
        shutil.rmtree(folder)
    elif lost != "none":
        content = {"labels": ["Airports"]} if lost == "class" else {}
        (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(content))
    packed = tmp_path / "packed"
    packed.mkdir()
    names = {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-S2-v1.0"}
    for item in real.iterdir():
        if not item.is_dir():
            shutil.copy(item, packed)
    for q, name in names.items():
        with tarfile.open(packed / f"{name}.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(real / TOP[q][-1], name)
    assert ARCHIVE.packs("BigEarthNet-S1-v1.0.tar.gz") and not ARCHIVE.packs("x.tar.gz")
    found = []
    for root in (real, packed):
        out = tmp_path / f"{root.name}-out"
        split.run(ARCHIVE.name, root=root, out=out, store=tmp_path / f"{root.name}-store", **snow)
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    labels = pd.read_parquet(tmp_path / "packed-out" / "labels" / "index.parquet")
    assert len(labels) == (5 if lost in ("labels", "class") else 6)
    for files in found:  # the list says where a patch lay, which store.json has the digest of
        del files[Path("labels/skipped.csv")]
        store = json.loads(files.pop(Path("store.json")))
        store["files"].pop("labels/skipped.csv", None)
        files[Path("store.json")] = store
    one, other = found
    assert one == other
    listed = [pd.read_csv(tmp_path / f"{n}-out/labels/skipped.csv") for n in (real.name, "packed")]
    assert listed[0][["patch", "reason"]].equals(listed[1][["patch", "reason"]])
