"""The evaluate step on tiles: its files against each other, plain torch and scikit-learn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from helpers.store_digests import seal
from mmfl.archives.base import MASK, Archive, Band, Mask, Modality
from mmfl.clients.manifest import build, write_manifest
from mmfl.facts.tasks import IGNORED
from mmfl.files import file_sha256
from mmfl.models.network import Network
from mmfl.params import Params
from mmfl.patches.writer import encode, write_labels
from mmfl.steps import evaluate, train

BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B03", "B08"]}
CLASSES, COLOURS = ("water", "trees", "built"), ("#419bdf", "#397d49", "#c4281b")
SIZE = 16
SHAPES = [(16, 16), (16, 16), (21, 16), (16, 33), (9, 12), (40, 24)]
TILES = 18


@dataclass(frozen=True)
class Drawn(Archive):
    """Tiles whose pixels have their class's level, drawn where they are asked for."""

    def metadata(self, root, **_):
        names = [f"tile/{i:02d}" for i in range(TILES)]
        return pd.DataFrame(
            {
                "pair": names,
                "s1": [None if i in (2, 5) else name for i, name in enumerate(names)],
                "s2": names,
                "split": [("train", "validation", "test")[i % 3] for i in range(TILES)],
                "country": [("A", "B")[i // 3 % 2] for i in range(TILES)],
                "month": 6,
                "season": "JJA",
                "tile": "T33UUP",
                "labels": None,
                "mask": names,
            }
        )

    def mask(self, root, pair):
        i = int(pair[-2:])
        rng = np.random.default_rng(i)
        height, width = self.shape(root, "mask", pair)
        coarse = rng.integers(0, 3, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
        classes = coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()
        classes[rng.random(classes.shape) < 0.1] = IGNORED
        place = from_origin(4e5 + 1000 * i, 58e5, 10, 10)
        return Mask(classes) if i == 8 else Mask(classes, "EPSG:32633", tuple(place)[:6])

    def shape(self, root, modality, patch):
        return SHAPES[int(patch[-2:]) // 3]

    def read(self, root, modality, patch, band):
        classes = self.mask(root, patch).classes
        rng = np.random.default_rng([int(patch[-2:]), sum(map(ord, band))])
        values = classes % 3 * 20 + rng.normal(100, 10, classes.shape)
        values[rng.random(classes.shape) < 0.02] = np.nan
        return values.astype(np.float32)

    def folders(self, root, modality):
        raise NotImplementedError

    def patch_folder(self, root, modality, patch):
        raise NotImplementedError


MODALITIES = {
    q: Modality(q, tuple(Band(name, 10, None, "float32", gaps=True) for name in names))
    for q, names in BANDS.items()
}
ARCHIVE = Drawn("drawn", "pixel", CLASSES, MODALITIES, (), colours=COLOURS)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict:
    """The store, the partition, and the models of some methods."""
    folder = tmp_path_factory.mktemp("pixels")
    table, _ = ARCHIVE.labelled(folder, ARCHIVE.metadata(folder))
    for name in (MASK.name, *BANDS):
        encode(ARCHIVE, folder, folder / "patches", modality=name, metadata=table)
    write_labels(folder / "patches" / "labels", table, ARCHIVE)
    seal(folder / "patches")
    frame = build(table, scenario="country", assignment="duplicate").frame
    write_manifest(folder / "clients.parquet", frame)
    found = {"patches": folder / "patches", "manifest": folder / "clients.parquet"}
    for method in ("mf", "local", "prior", "late-fusion"):
        train.run(
            parameters(), "bigearthnet-v2", method, "default", **found, device="cpu",
            out=folder / "runs", measured=folder / "measured",
        )  # fmt: skip
    return found | {"trained": folder / "runs", "device": "cpu"}


def parameters() -> Params:
    return Params.model_validate(
        {
            "archives": {"bigearthnet-v2": {}},
            "model": {"width": 4, "projection": 8},
            "train": {
                "seeds": [1], "methods": ["mf", "local", "prior", "late-fusion"], "size": SIZE,
                "rounds": 10, "batch": 4, "bands": BANDS, "optimiser": "adam",
                "learning_rate": 0.01,
            },
            "evaluate": {"rates": [0, 50, 100], "batch": 4},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(places, tmp_path_factory) -> dict[str, Path]:
    """method -> folder of its scores."""
    out = tmp_path_factory.mktemp("scores")
    found = {}
    for method in ("mf", "local", "prior", "late-fusion"):
        evaluate.run(parameters(), "bigearthnet-v2", method, "default", **places, out=out)
        found[method] = next(out.rglob(f"{method}/default/seed-1"))
    return found


def maps(folder: Path, model: str = "all") -> dict[str, np.ndarray]:
    """pair -> class map of a model."""
    table = pd.read_parquet(folder / "predictions.parquet")
    table = table[table["model"] == model]
    found = {}
    for pair, file in zip(table["pair"], table["file"], strict=True):
        with rasterio.open(folder / "predictions" / file) as source:
            found[pair] = source.read(1)
    return found


def test_every_file_is_listed_by_digest(scored):
    for folder in scored.values():
        listed = json.loads((folder / "evaluation.json").read_text())["files"]
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        del found["evaluation.json"]
        assert listed == {name: file_sha256(path) for name, path in found.items()}
        assert any(name.endswith(".tif") for name in listed)


def rows(folder: Path, **wanted) -> dict[str, float]:
    table = pd.read_csv(folder / "scores.csv")
    for column, value in wanted.items():
        table = table[table[column] == value]
    return dict(zip(table["metric"], table["value"], strict=True))


TEST = [f"tile/{i:02d}" for i in range(TILES) if i % 3 == 2]


def flat(pairs: list[str], found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of the pixels that have a class."""
    truth = np.concatenate([ARCHIVE.mask(Path(), pair).classes.ravel() for pair in pairs])
    predicted = np.concatenate([found[pair].ravel() for pair in pairs])
    return truth[truth != IGNORED], predicted[truth != IGNORED]


@pytest.mark.parametrize("method", ["mf", "late-fusion", "prior"])
@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([p for p in TEST if p not in ("tile/02", "tile/05")], {"modalities": "s1+s2"}),
        (["tile/02", "tile/05"], {"kind": "incomplete"}),
    ],
    ids=["complete", "incomplete"],
)
def test_scores_are_those_of_the_files(scored, method, pairs, wanted):
    """One model: the class maps on disk, with scikit-learn, give the table."""
    folder = scored[method]
    policy = pd.read_csv(folder / "scores.csv")["policy"].iloc[0]
    y, p = flat(pairs, maps(folder))
    expected = {
        "accuracy": accuracy_score(y, p),
        "f1_macro": f1_score(y, p, average="macro", zero_division=0),
        "f1_weighted": f1_score(y, p, average="weighted", zero_division=0),
        "iou_macro": jaccard_score(y, p, average="macro", zero_division=0),
    }
    found = rows(folder, **{"kind": "subset", "policy": policy} | wanted)
    assert found == pytest.approx(expected, abs=1e-12)


def test_class_maps_are_those_of_plain_torch(scored, places):
    """Tiles of one window: argmax of a forward pass with the tensors of the file."""
    folder = next(places["trained"].rglob("mf/default/seed-1"))
    described = json.loads((folder / "run.json").read_text())
    state = {
        name.split("/", 2)[2] if name.startswith("parameters/") else name.split("/", 3)[3]: value
        for name, value in load_file(folder / "model.safetensors").items()
        if name.startswith(("parameters/", "statistics/modality/"))
    }
    net = Network({"s1": 2, "s2": 3}, 3, task="pixel", width=4, projection=8)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") or key.startswith("heads") for key in missing)
    net.eval()
    found = maps(scored["mf"])
    checked = 0
    for pair in TEST:
        if ARCHIVE.shape(None, "mask", pair) != (SIZE, SIZE):
            continue
        inputs = {}
        for q, names in BANDS.items():
            if q == "s1" and pair in ("tile/02", "tile/05"):
                continue
            mean, std = (torch.tensor(v) for v in described["statistics"][q]["all"])
            x = np.stack([ARCHIVE.read(None, q, pair, name) for name in names])
            x = (torch.from_numpy(x) - mean[:, None, None]) / std[:, None, None]
            inputs[q] = torch.where(x.isnan(), 0, x).float()[None]
        with torch.no_grad():
            expected = net(inputs)[0].argmax(0).numpy()
        np.testing.assert_array_equal(found[pair], expected)
        checked += 1
    assert checked == 2


def test_the_model_has_learned(scored):
    """Each class has a level of its own, so more than the prior's share is right."""
    learned = rows(scored["mf"], kind="subset", policy="modality", modalities="s1+s2")
    nothing = rows(scored["prior"], kind="subset", modalities="s1+s2")
    assert learned["iou_macro"] > nothing["iou_macro"] + 0.1


def test_files_lie_where_their_tiles_do(scored):
    table = pd.read_parquet(scored["mf"] / "predictions.parquet").set_index("pair")
    assert sorted(table.index) == TEST
    for method in ("mf", "local"):
        folder = scored[method] / "predictions"
        files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.tif"))
        assert files == sorted(pd.read_parquet(folder.with_suffix(".parquet"))["file"])
    for pair, file in table["file"].items():
        mask = ARCHIVE.mask(Path(), pair)
        with rasterio.open(scored["mf"] / "predictions" / file) as source:
            assert source.shape == mask.classes.shape and source.nodata == 255
            assert source.colormap(1)[2] == (0xC4, 0x28, 0x1B, 255)
            assert source.tags(1)["class_1"] == "trees"
            if mask.crs is None:
                assert source.crs is None
            else:
                assert source.crs.to_epsg() == 32633
                assert source.bounds.left == 4e5 + 1000 * int(pair[-2:])
                assert source.bounds.bottom == 58e5 - 10 * mask.classes.shape[0]


@pytest.mark.parametrize(("method", "models"), [("mf", ["all"]), ("local", ["a", "b"])])
def test_confusion_matrices_are_those_of_the_files(scored, method, models):
    table = pd.read_parquet(scored[method] / "predictions.parquet")
    assert list(table["model"].unique()) == models and (table["state"] == "").all()
    for model, own in table.groupby("model"):
        found = maps(scored[method], model)
        assert sorted(found) == TEST
        for pair, counts in zip(own["pair"], own["confusion"], strict=True):
            y, p = flat([pair], found)
            expected = confusion_matrix(y, p, labels=range(3))
            np.testing.assert_array_equal(counts.reshape(3, 3), expected)


def test_scores_of_local_are_the_mean_over_the_groups_whose_maps_are_kept(scored):
    """Each group's model alone on all test tiles; not one model made of all of them."""
    pairs = [p for p in TEST if p not in ("tile/02", "tile/05")]
    each = [accuracy_score(*flat(pairs, maps(scored["local"], model))) for model in ("a", "b")]
    assert each[0] != each[1]
    found = rows(scored["local"], kind="subset", modalities="s1+s2")
    assert found["accuracy"] == pytest.approx(np.mean(each), abs=1e-12)
    whole = pd.read_csv(scored["local"] / "scores.csv").query("modalities == 's1+s2'")
    assert (whole["models"] == 2).all() and (whole["models_asked"] == 2).all()


def test_the_prior_predicts_the_most_frequent_class(scored):
    train_pairs = [f"tile/{i:02d}" for i in range(0, TILES, 3)]
    truth = np.concatenate([ARCHIVE.mask(Path(), p).classes.ravel() for p in train_pairs])
    most = np.bincount(truth[truth != IGNORED]).argmax()
    assert all((classes == most).all() for classes in maps(scored["prior"]).values())


def test_every_question_is_answered(scored):
    table = pd.read_csv(scored["mf"] / "scores.csv")
    assert set(table["kind"]) == {"subset", "missing", "class", "incomplete", "validation", "own"}
    assert set(table["policy"]) == {"modality", "average", "local"}
    assert set(table[table["kind"] == "class"]["metric"]) == {"iou", "f1"}
    assert table["value"].between(0, 1).all()
    whole = table[(table["kind"] == "missing") & (table["rate"] == 100)]
    for removed, other in (("s1", "s2"), ("s2", "s1")):
        alone = rows(scored["mf"], kind="subset", policy="modality", modalities=other)
        part = whole[whole["removed"] == removed]
        assert dict(zip(part["metric"], part["value"], strict=True)) == alone
    clients = pd.read_csv(scored["local"] / "scores.csv").query("kind == 'client'")
    assert set(clients["client"]) == {"a-s1", "a-s2", "b-s1", "b-s2"}


def test_a_second_run_writes_the_same_bytes(scored, places, tmp_path):
    evaluate.run(parameters(), "bigearthnet-v2", "mf", "default", **places, out=tmp_path)
    again = next(tmp_path.rglob("mf/default/seed-1"))
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert len(files) == 3 + len(TEST)  # scores.csv, confusion or predictions, evaluation.json
    for file in files:
        assert (again / file).read_bytes() == (scored["mf"] / file).read_bytes()
