"""The pixel task from files to scores: by commands, by Snakemake, on real tiles.

The scores are computed again by `numpy_pixel_model.py` and scikit-learn.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score
from typer.testing import CliRunner

from helpers.numpy_pixel_model import Model
from helpers.project_copy import copy_project, snakemake
from mmfl import cli

S2 = [f"B{i:02d}" for i in range(1, 14)]
SHAPES = [(48, 48), (40, 56), (64, 33), (24, 40)]
SIZE = 32
DESCRIPTION = """
table: chips.csv
groups: [country]
modalities:
  s1: {path: "S1Hand/{id}_S1Hand.tif", bands: [VV, VH]}
  s2:
    path: s2
    bands: [B01, B02, B03, B04, B05, B06, B07, B08, B09, B10, B11, B12, B13]
    nodata: 0
mask: {path: "LabelHand/{id}_LabelHand.tif", classes: {0: land, 1: water, 2: ice}, ignore: [-1, 9]}
"""
PARAMS = {
    "folders": {"chips": "chips.yaml"},
    "archives": {"chips": {}},
    "partition": {"scenario": "country", "assignment": "duplicate"},
    "model": {"width": 8, "projection": 16},
    "train": {
        "size": SIZE, "rounds": 2, "epochs": 5, "batch": 4, "seeds": [1], "methods": ["mf"],
        "optimiser": "adam", "learning_rate": 0.01,
    },
    "evaluate": {"rates": [50]},
}  # fmt: skip


def write_tif(path: Path, pixels: np.ndarray, left: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
        crs="EPSG:32633", transform=from_origin(left, 5_000_000, 10, 10),
    ) as target:  # fmt: skip
        target.write(pixels)


def write_chips(folder: Path, *, ignored: int) -> None:
    """18 chips of several sizes, in the manner of Sen1Floods11; `ignored` is a code of no class."""
    rows = []
    for i in range(18):
        rng = np.random.default_rng(i)
        name, left = f"chip_{i:02d}", 400_000 + 5000 * i
        height, width = SHAPES[i % 4]
        codes = rng.integers(0, 3, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
        codes = codes[:height, :width].astype(np.int16)
        radar = rng.normal(-12 + 2 * codes, 2, (2, height, width)).astype(np.float32)
        radar[:, :2, :7] = np.nan
        optical = rng.normal(1500 - 300 * codes, 200, (13, height, width)).clip(1).astype(np.int16)
        optical[:, -3:, -2:] = 0
        unknown = rng.random(codes.shape) < 0.2
        unknown[: i % 3 * 8] = True
        codes[unknown] = ignored
        write_tif(folder / f"S1Hand/{name}_S1Hand.tif", radar, left)
        write_tif(folder / f"LabelHand/{name}_LabelHand.tif", codes[None], left)
        there = i not in (4, 17)
        if there:
            write_tif(folder / f"S2Hand/{name}_S2Hand.tif", optical, left)
        rows.append({
            "id": name,
            "split": ["train", "train", "train", "validation", "test", "test"][i % 6],
            "country": ["Ghana", "India", "Spain"][i // 6],
            "s2": f"S2Hand/{name}_S2Hand.tif" if there else "",
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "chips.csv", index=False)
    (folder / "chips.yaml").write_text(DESCRIPTION)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))


def run(folder: Path, archive: str, *commands: str, methods: list[str]) -> Path:
    """The commands one by one in a folder with params.yaml and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MMFL_CACHE", str(folder / ".cache"))
        for command in commands:
            apart = command in ("train", "evaluate")
            for method in methods if apart else [""]:
                more = ["--method", method, "--device", "cpu"] if apart else []
                result = CliRunner().invoke(cli.app, [command, "--archive", archive, *more])
                assert result.exit_code == 0, (command, result.output, result.exception)
    return folder


STEPS = ("download", "split", "partition", "train", "evaluate")


@pytest.fixture(scope="module")
def chips(tmp_path_factory) -> Path:
    """The folder after the steps up to the scores."""
    folder = tmp_path_factory.mktemp("chips")
    write_chips(folder, ignored=-1)
    return run(folder, "chips", *STEPS, methods=["mf"])


def files_of(folder: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images (C, H, W) with gaps as NaN, and the codes of the mask."""
    images = {}
    for q, part in (("s1", "S1Hand"), ("s2", "S2Hand")):
        path = folder / part / f"{name}_{part}.tif"
        if path.exists():
            with rasterio.open(path) as source:
                pixels = source.read().astype(np.float64)
            images[q] = np.where(pixels == 0, np.nan, pixels) if q == "s2" else pixels
    with rasterio.open(folder / f"LabelHand/{name}_LabelHand.tif") as source:
        return images, source.read(1)


def scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    labels = np.unique(truth)
    means = {"labels": labels, "average": "macro", "zero_division": 0}
    return {
        "accuracy": accuracy_score(truth, found),
        "f1_macro": f1_score(truth, found, **means),
        "f1_weighted": f1_score(truth, found, **means | {"average": "weighted"}),
        "iou_macro": jaccard_score(truth, found, **means),
    }


@pytest.fixture(scope="module")
def recomputed(chips) -> dict:
    """(policy, subset) -> name -> (codes, classes, near-ties) of every test and validation chip."""
    table = pd.read_csv(chips / "chips.csv").set_index("id")
    names = table.index[table["split"] != "train"]
    trained = next(chips.glob("runs/chips/*/mf/default/seed-1"))
    found = {}
    for policy in ("modality", "average"):
        model = Model(trained, policy)
        for name in names:
            images, codes = files_of(chips, name)
            for size in range(1, len(images) + 1):
                for subset in itertools.combinations(sorted(images), size):
                    p = model.tile({q: images[q] for q in subset}, SIZE, 0.5)
                    best = np.sort(p, axis=0)[-2:]
                    found[policy, subset, name] = codes, p.argmax(axis=0), best[1] - best[0] < 1e-5
    return found


def chosen(recomputed, policy, names, subset=None):
    """Truth, prediction and number of near-ties of some chips; None: all that a chip has."""
    parts = []
    for name in names:
        kinds = [s for p, s, n in recomputed if p == policy and n == name]
        kind = max(kinds, key=len) if subset is None else subset
        codes, classes, near = recomputed[policy, kind, name]
        parts.append((codes[codes != -1], classes[codes != -1], near[codes != -1]))
    truth, found, near = (np.concatenate(x) for x in zip(*parts, strict=True))
    return truth, found, int(near.sum())


def test_scores_of_every_subset_are_those_of_an_independent_implementation(chips, recomputed):
    table = pd.read_csv(chips / "chips.csv").set_index("id")
    test = table.index[table["split"] == "test"]
    complete = [name for name in test if isinstance(table["s2"][name], str)]
    assert len(test) == 6 and len(complete) == 4
    validation = table.index[table["split"] == "validation"]
    folder = next(chips.glob("scores/chips/*/mf/default/seed-1"))
    rows = pd.read_csv(folder / "scores.csv")
    compared = 0
    asked = [("subset", complete, s) for s in (("s1",), ("s2",), ("s1", "s2"))]
    asked += [("incomplete", [n for n in test if n not in complete], None)]
    asked += [("validation", list(validation), None)]
    for policy, (kind, names, subset) in itertools.product(("modality", "average"), asked):
        if (kind, policy) == ("validation", "average"):
            continue
        truth, predicted, near = chosen(recomputed, policy, names, subset)
        expected = scores(truth, predicted)
        own = rows[(rows["kind"] == kind) & (rows["policy"] == policy)]
        if kind == "subset":
            own = own[own["modalities"] == "+".join(subset)]
        assert set(own["patches"]) == {len(names)}
        tolerance = 1e-6 + 3 * near / np.bincount(truth).min()
        assert near < 5
        assert dict(zip(own["metric"], own["value"], strict=True)) == pytest.approx(
            expected, abs=tolerance
        )
        compared += len(own)
    assert compared == 4 * 9
    truth, predicted, near = chosen(recomputed, "modality", complete, ("s1", "s2"))
    for metric, function in (("iou", jaccard_score), ("f1", f1_score)):
        own = rows[(rows["kind"] == "class") & (rows["metric"] == metric)].set_index("class")
        expected = function(truth, predicted, average=None, labels=[0, 1, 2])
        tolerance = 1e-6 + 3 * near / np.bincount(truth).min()
        np.testing.assert_allclose(own.loc[["land", "water", "ice"], "value"], expected,
                                   rtol=0, atol=tolerance)  # fmt: skip
    assert scores(truth, predicted)["iou_macro"] > 0.5  # it has learned


def test_maps_and_confusion_matrices_are_those_of_an_independent_implementation(chips, recomputed):
    folder = next(chips.glob("scores/chips/*/mf/default/seed-1"))
    table = pd.read_parquet(folder / "predictions.parquet").set_index("pair")
    assert len(table) == 6 and table["complete"].sum() == 4
    for name, row in table.iterrows():
        images, codes = files_of(chips, name)
        _, classes, near = recomputed["modality", tuple(sorted(images)), name]
        with (
            rasterio.open(folder / "predictions" / row["file"]) as source,
            rasterio.open(chips / f"LabelHand/{name}_LabelHand.tif") as label,
        ):
            found = source.read(1)
            assert (source.bounds, source.crs) == (label.bounds, label.crs)
            assert source.transform == label.transform and source.shape == label.shape
        assert not ((found != classes) & ~near).any() and near.sum() < 5
        counted = confusion_matrix(codes[codes != -1], found[codes != -1], labels=[0, 1, 2])
        np.testing.assert_array_equal(row["confusion"].reshape(3, 3), counted)


def covering(length: int) -> np.ndarray:
    """Where the fewest windows that cover a side begin, evenly spaced."""
    return np.rint(np.linspace(0, max(length - SIZE, 0), -(-length // SIZE))).astype(int)


def test_normalisation_is_numpys(chips):
    """run.json's statistics from the files: the windows of training chips as the network gets them.

    A window counts as often as it is trained on, once; a chip that is smaller is mirrored.
    """
    table = pd.read_csv(chips / "chips.csv").set_index("id")
    described = json.loads(next(chips.glob("runs/chips/*/mf/default/seed-1/run.json")).read_text())
    for q in ("s1", "s2"):
        pixels = []
        for name in table.index[table["split"] == "train"]:
            images, _ = files_of(chips, name)
            if q in images:
                height, width = images[q].shape[1:]
                edges = ((0, 0), (0, max(0, SIZE - height)), (0, max(0, SIZE - width)))
                whole = np.pad(images[q], edges, mode="reflect")
                for top, left in itertools.product(covering(height), covering(width)):
                    window = whole[:, top : top + SIZE, left : left + SIZE]
                    pixels.append(window.reshape(len(window), -1))
        flat = np.concatenate(pixels, axis=1)
        mean, std = described["statistics"][q]["all"]
        np.testing.assert_allclose(mean, np.nanmean(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(std, np.nanstd(flat, axis=1), rtol=1e-5)


@pytest.mark.slow
def test_what_lies_under_ignored_pixels_changes_no_bit(chips, tmp_path):
    """From files of other codes there, with a cache of its own: weights, validation, scores."""
    write_chips(tmp_path, ignored=9)
    run(tmp_path, "chips", *STEPS, methods=["mf"])
    changed = [
        path for path in sorted(tmp_path.glob("LabelHand/*.tif"))
        if path.read_bytes() != (chips / "LabelHand" / path.name).read_bytes()
    ]  # fmt: skip
    assert len(changed) == 18
    assert list((tmp_path / ".cache/train").iterdir())  # trained again, not taken over
    names = [
        "data/patches/chips/mask/*.npy", "data/patches/chips/labels/index.parquet",
        "runs/**/model.safetensors", "runs/**/best.safetensors", "runs/**/rounds.csv",
        "runs/**/run.json", "scores/**/scores.csv", "scores/**/predictions.parquet",
        "scores/**/*.tif",
    ]  # fmt: skip
    for name in names:
        found = sorted(path.relative_to(tmp_path) for path in tmp_path.glob(name))
        assert found and found == sorted(path.relative_to(chips) for path in chips.glob(name))
        for path in found:
            assert (tmp_path / path).read_bytes() == (chips / path).read_bytes(), path
    masks = [np.load(path) for path in tmp_path.glob("data/patches/chips/mask/*.npy")]
    assert {code for mask in masks for code in np.unique(mask).tolist()} == {0, 1, 2, 255}


# ---- real tiles, and Snakemake -----------------------------------------------------------------

LAND = {1: "water", 2: "trees", 3: "flooded vegetation", 4: "crops", 5: "built", 6: "bare",
        9: "rangeland"}  # fmt: skip


@pytest.mark.slow
def test_real_tiles_go_through_all_six_steps(samples, tmp_path):
    """TerraMesh: Sentinel-2, Sentinel-1 and elevation of three places, one for each split."""
    source = samples / "terramesh-sample"
    names = sorted(path.stem for path in (source / "LULC").iterdir())
    splits = dict(zip(names, ("train", "val", "test"), strict=True))
    pd.DataFrame(splits.items(), columns=["id", "split"]).to_csv(tmp_path / "t.csv", index=False)
    description = {
        "table": "t.csv",
        "root": str(source),
        "modalities": {
            "s2": {"path": "S2L2A/{id}.tif", "bands": S2[:12]},
            "s1": {"path": "S1RTC/{id}.tif", "bands": ["VV", "VH"]},
            "dem": {"path": "DEM/{id}.tif", "bands": ["elevation"]},
        },
        "mask": {"path": "LULC/{id}.tif", "classes": LAND},
    }
    (tmp_path / "terramesh.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    methods = ["mf", "mf+fw+mim"]
    choice = {
        "folders": {"terramesh": "terramesh.yaml"},
        "archives": {"terramesh": {}},
        "model": {"width": 4, "projection": 8},
        "train": {"size": 64, "rounds": 2, "batch": 8, "seeds": [1], "methods": methods},
        "evaluate": {"rates": [0, 100]},
        "report": {"gallery": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(choice))
    run(tmp_path, "terramesh", *STEPS, "report", "page", methods=methods)
    (test,) = [name for name, split in splits.items() if split == "test"]
    for method in methods:
        folder = next(tmp_path.glob(f"scores/terramesh/*/{method}/default/seed-1"))
        rows = pd.read_csv(folder / "scores.csv")
        subsets = rows[(rows["kind"] == "subset") & (rows["metric"] == "accuracy")]
        assert set(subsets["modalities"]) == {
            "dem", "s1", "s2", "dem+s1", "dem+s2", "s1+s2", "dem+s1+s2",
        }  # fmt: skip
        (row,) = pd.read_parquet(folder / "predictions.parquet").to_dict("records")
        assert row["pair"] == test
        with (
            rasterio.open(folder / "predictions" / row["file"]) as found,
            rasterio.open(source / "LULC" / f"{test}.tif") as label,
        ):
            assert (found.bounds, found.crs) == (label.bounds, label.crs)
            classes, codes = found.read(1), label.read(1)
        truth = np.select([codes == code for code in LAND], range(7))
        accuracy = accuracy_score(truth.ravel(), classes.ravel())
        whole = subsets[(subsets["modalities"] == "dem+s1+s2") & (subsets["policy"] == "modality")]
        assert whole["value"].item() == pytest.approx(accuracy, abs=1e-12)
    run_json = json.loads(
        next(tmp_path.glob("runs/terramesh/*/mf/default/seed-1/run.json")).read_text()
    )
    assert run_json["train_samples"] == 16 and len(run_json["statistics"]) == 3
    page = (tmp_path / "page/terramesh.html").read_text()
    assert "data:image/png" in page and "flooded vegetation" in page


def jobs(project: Path, params: Path) -> set[str]:
    """The rules that a dry run would run."""
    text = snakemake(project, params, "--dry-run")
    table = text.partition("Job stats:")[2].partition("\n\n")[0]
    return set(re.findall(r"^(\w+) +\d+$", table, flags=re.M)) - {"all", "total"}


@pytest.mark.slow
def test_snakemake_runs_the_pixel_task_once(tmp_path, monkeypatch):
    """An archive of one's own, by a path below the home folder; test_pipeline.py has tiles."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_chips(tmp_path / "chips", ignored=-1)
    project = copy_project(tmp_path / "tiles")
    choice = {
        "archives": {"chips": {}},
        "folders": {"chips": "~/chips/chips.yaml"},
        "model": {"width": 4, "projection": 8},
        "train": {"seeds": [1], "methods": ["mf"], "rounds": 1, "size": 32, "batch": 8},
        "evaluate": {"rates": [50]},
        "report": {"gallery": 1},
    }
    params = project / "tiles.yaml"
    params.write_text(yaml.safe_dump(choice))
    snakemake(project, params)
    described = json.loads(next(project.glob("runs/chips/**/run.json")).read_text())
    assert described["task"] == "pixel" and described["rounds"] == 1
    folder = next(project.glob("scores/chips/*/mf/default/seed-1"))
    table = pd.read_parquet(folder / "predictions.parquet")
    assert sorted(table["file"]) == sorted(p.name for p in (folder / "predictions").iterdir())
    page = (project / "page/chips.html").read_text()
    assert "mean IoU" in page and "<svg" in page
    assert "Nothing to be done" in snakemake(project, params)
    table = tmp_path / "chips/chips.csv"
    text = table.read_text()
    table.write_text(text.replace("chip_00,train", "chip_00,test"))
    assert "download" in jobs(project, params)
    table.write_text(text)
    assert not jobs(project, params)
    image = tmp_path / "chips/S1Hand/chip_00_S1Hand.tif"
    image.write_bytes(image.read_bytes())  # exported again
    assert "download" in jobs(project, params)
