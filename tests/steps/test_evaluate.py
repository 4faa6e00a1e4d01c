"""The evaluate step: probabilities and scores again, from the trained file and plain torch."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from mmfl.clients.manifest import content_hash, read_manifest, write_manifest
from mmfl.errors import UserError
from mmfl.federation.data import Data
from mmfl.models.network import Network
from mmfl.params import Params
from mmfl.steps import evaluate, partition, train

BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B08"]}


@pytest.fixture
def trained(store, tmp_path, monkeypatch) -> tuple[Params, dict]:
    """Parameters, and the arguments of `evaluate.run` for a model trained on the tiny store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMFL_CACHE", raising=False)
    params = Params.model_validate(
        {
            "archives": {"bigearthnet-v2": {}},
            "model": {"width": 4, "projection": 8},
            "train": {"seeds": [1], "methods": ["mf"], "size": 16, "rounds": 3, "batch": 8,
                      "bands": BANDS},
            "evaluate": {"rates": [0, 50, 100]},
        }
    )  # fmt: skip
    manifest = tmp_path / "clients.parquet"
    partition.run(patches=store[0], out=manifest, scenario="country", assignment="duplicate")
    places = {"patches": store[0], "manifest": manifest}
    train.run(
        params, "bigearthnet-v2", "mf", "default", **places, device="cpu",
        out=tmp_path / "runs", measured=tmp_path / "measured",
    )  # fmt: skip
    places |= {"trained": tmp_path / "runs", "out": tmp_path / "scores", "device": "cpu"}
    return params, places


def run(trained) -> Path:
    params, places = trained
    evaluate.run(params, "bigearthnet-v2", "mf", "default", **places)
    return next(places["out"].rglob("seed-1"))


def by_hand(places: dict, present: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, probabilities) of the test locations: mean of the features that are there."""
    folder = next(places["trained"].rglob("seed-1"))
    described = json.loads((folder / "run.json").read_text())
    state = {
        name.split("/", 2)[2] if name.startswith("parameters/") else name.split("/", 3)[3]: value
        for name, value in load_file(folder / "model.safetensors").items()
        if name.startswith(("parameters/", "statistics/modality/"))
    }
    net = Network({"s1": 2, "s2": 2}, 19, width=4, projection=8)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") or key.startswith("heads") for key in missing)
    net.eval()
    data = Data(places["patches"], read_manifest(places["manifest"]), BANDS, 16)
    test = data.splits["test"]
    features, held = {}, {}
    for q in BANDS:
        mean, std = (
            torch.tensor(v, dtype=torch.float32) for v in described["statistics"][q]["all"]
        )
        there = data.present[q][test] & (q in present)
        x = (data.batch(q, test[there]) - mean[:, None, None]) / std[:, None, None]
        features[q] = torch.zeros(len(test), 16)
        with torch.no_grad():
            features[q][torch.from_numpy(there)] = net.features(q, x)
        held[q] = torch.from_numpy(there)
    count = sum(held.values())
    fused = sum(features.values()) / count.clamp_min(1)[:, None]
    with torch.no_grad():
        probabilities = torch.sigmoid(net.classifier(fused)).numpy()
    return data.pairs[test], np.where(count[:, None].numpy() > 0, probabilities, np.nan)


def test_predictions_are_those_of_plain_torch(trained):
    folder = run(trained)
    pairs, expected = by_hand(trained[1], {"s1", "s2"})
    table = pd.read_parquet(folder / "predictions.parquet")
    assert table["pair"].tolist() == list(pairs)
    np.testing.assert_allclose(np.stack(table["probabilities"]), expected, atol=2e-6)


@pytest.mark.parametrize("present", ["s1", "s2"])
def test_one_modality_alone(trained, store, present):
    folder = run(trained)
    rows = pd.read_csv(folder / "scores.csv")
    rows = rows[(rows["kind"] == "subset") & (rows["policy"] == "modality")]
    found = rows[(rows["modalities"] == present) & (rows["metric"] == "ap_macro")]["value"].item()
    pairs, probabilities = by_hand(trained[1], {present})
    table = store[1].set_index("pair").loc[pairs]
    both = (table["s1"].notna() & table["s2"].notna()).to_numpy()
    truth = np.zeros((len(table), 19), bool)
    for row, labels in enumerate(table["labels"]):
        truth[row, labels] = True
    seen = truth[both].any(axis=0)
    expected = average_precision_score(truth[both][:, seen], probabilities[both][:, seen])
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_damaged_model_is_named(trained):
    model = next(trained[1]["trained"].rglob("model.safetensors"))
    model = model.resolve()
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged: .* run train again$"):
        run(trained)
    assert not trained[1]["out"].exists()


def test_another_partition_is_refused(trained):
    _, places = trained
    partition.run(
        patches=places["patches"], out=places["manifest"], scenario="random",
        assignment="duplicate", clients=3,
    )  # fmt: skip
    with pytest.raises(UserError, match="trained on another partition"):
        run(trained)


def test_without_a_test_split_nothing_is_scored(trained):
    _, places = trained
    frame = read_manifest(places["manifest"])
    frame = frame[frame["split"] != "test"]
    write_manifest(places["manifest"], frame)
    path = next(places["trained"].rglob("run.json"))
    described = json.loads(path.read_text()) | {"partition_sha256": content_hash(frame)}
    path.unlink()
    path.write_text(json.dumps(described))
    with pytest.raises(UserError, match="no test location"):
        run(trained)
