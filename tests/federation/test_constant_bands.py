"""Bands of one value: as scikit-learn's StandardScaler, and a client's own by the pooled ones."""

import logging

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from helpers.store_digests import seal
from mmfl.clients.manifest import build
from mmfl.federation.data import Data, Normaliser
from mmfl.patches.normalisation import moments, pool

BANDS = {"s1": ["VV", "VH"], "s2": ["B02"]}


def data_of(store, change) -> Data:
    """The small store with its VH, (N, 120, 120) by location, as `change` makes it."""
    folder, table = store
    path = folder / "s1" / "10m-00000.npy"
    pixels = np.load(path)
    held = table[table["s1"].notna()].reset_index(drop=True)
    pixels[:, 1] = change(pixels[:, 1], held)
    np.save(path, pixels)
    seal(folder)
    frame = build(table, scenario="country", assignment="duplicate").frame
    return Data(folder, frame, BANDS, 16)


def test_a_band_of_one_value(store, caplog):
    data = data_of(store, lambda x, held: np.full_like(x, -25.7))
    with caplog.at_level(logging.WARNING):
        mean, std = data.statistics("global")["s1"]["all"]
    assert "train.bands.s1: VH has one value in all training images" in caplog.text
    assert mean[1] == pytest.approx(-25.7, rel=1e-6) and std[1] == 1
    samples = np.flatnonzero(data.present["s1"])[:5]
    x = data.batch("s1", samples)
    assert StandardScaler().fit(np.full((50, 1), -25.7)).scale_ == std[1]
    found = Normaliser(data.statistics("global"), data).client("s1", x, "nobody")
    assert found[:, 1].abs().max() < 1e-5


def test_a_band_of_one_value_at_a_client(store):
    """It takes mean and deviation of all clients; the other client its own."""
    data = data_of(
        store, lambda x, held: np.where((held["country"] == "A").to_numpy()[:, None, None], 3, x)
    )
    found = data.statistics("client")["s1"]
    mean, std = found["all"]
    assert std[1] > 20
    for client in data.clients:
        if "s1" in client.train:
            own = data.batch("s1", client.train["s1"])[:, 1].double()
            expected = (mean[1], std[1]) if client.group == "a" else (
                own.mean().item(), own.std(correction=0).item()
            )  # fmt: skip
            assert [v[1] for v in found[client.id]] == pytest.approx(expected, rel=1e-9)
            assert found[client.id][1][0] != pytest.approx(std[0], rel=1e-6)


@pytest.mark.parametrize("origin", [0.0, 5.0, -1e4])
@pytest.mark.parametrize("value", [7.3, -25.7, 0.0, 5.0, 12_345.67])
def test_what_is_constant(origin, value):
    x = torch.full((3, 1, 20, 20), value)
    one = moments([x[:2], x[2:]], np.array([origin]))
    assert one.constant.all() and pool([one, one]).constant.all()
    x[1, 0, 5, 5] += max(abs(value), 1)  # a deviation of 1/35 of that
    assert not moments([x], np.array([origin])).constant.any()


@pytest.mark.parametrize("origin", [1000.0, 0.0, 3000.0])
def test_rounding_is_no_deviation(origin):
    """A float32 of 1,000 is known to 6e-5: the next number beside it tells nothing."""
    value = np.float32(1000)
    x = torch.full((2, 1, 8, 8), float(value))
    x[1] = float(np.nextafter(value, np.float32(np.inf)))
    assert moments([x], np.array([origin])).constant.all()
    x[1] = float(value) + 0.1
    assert not moments([x], np.array([origin])).constant.any()


def test_training_locations_alone_are_counted(store):
    """Whatever the others hold."""
    data = data_of(
        store,
        lambda x, held: np.where((held["split"] == "train").to_numpy()[:, None, None], x, 9e9),
    )
    mean, std = data.statistics("global")["s1"]["all"]
    assert abs(mean[1]) < 1e3 and std[1] < 1e3
