"""The test bench of a federation: whose statistics, which windows, how many at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import small_federation, small_tile_federation
from mmfl.federation import bench
from mmfl.federation.bench import build_bench
from mmfl.federation.data import Normaliser

CPU = torch.device("cpu")


def parts(fed):
    task = fed.task
    normaliser = Normaliser(task.data.statistics("client"), task.data)
    return task.network, task.data, normaliser, fed.params


def test_images_are_standardised_by_the_client_of_their_group(store, tmp_path):
    fed, _ = small_federation.federation(store, tmp_path)
    network, data, normaliser, params = parts(fed)
    built = build_bench(network, data, normaliser, params, CPU)
    for client in data.clients:
        (q,) = client.modalities
        mean, std = (v[:, None, None] for v in data.statistics("client")[q][client.id])
        rows = client.train[q][:3]
        expected = (data.batch(q, rows).double().numpy() - mean) / std
        np.testing.assert_allclose(built.inputs(q, rows).numpy(), expected, atol=1e-4)
    assert (built.batch, built.thresholds) == (params.evaluate.batch, "half")
    own = params.evaluate.model_copy(update={"threshold": "validation", "batch": 7})
    params = params.model_copy(update={"evaluate": own})
    built = build_bench(network, data, normaliser, params, CPU)
    assert (built.batch, built.thresholds) == (7, "validation")


def test_tiles_are_standardised_by_the_client_of_their_group(tiles, tmp_path):
    fed, _ = small_tile_federation.federation(tiles, tmp_path)
    network, data, normaliser, params = parts(fed)
    built = build_bench(network, data, normaliser, params, CPU)
    for client in data.clients:
        (q,) = client.modalities
        mean, std = (v[:, None, None] for v in data.statistics("client")[q][client.id])
        location = int(data.places(client.train[q])[0])
        raw = data.tile(q, location).double().numpy()
        found = built.tile(q, location).numpy()
        np.testing.assert_allclose(found, np.nan_to_num((raw - mean) / std), atol=1e-3)
    assert built.overlap == 0.0 and built.size == params.train.size
    assert build_bench(network, data, normaliser, params, CPU, 0.25).overlap == 0.25


@pytest.mark.parametrize(("pixels", "batch"), [(10**9, 8), (3 * 16**2, 3), (1, 1)])
def test_windows_at_a_time_are_bounded_by_their_pixels(tiles, tmp_path, monkeypatch, pixels, batch):
    """8 are asked for; windows have 16 x 16 pixels; at least one has to pass."""
    monkeypatch.setattr(bench, "PIXELS", pixels)
    fed, _ = small_tile_federation.federation(tiles, tmp_path)
    assert fed.params.evaluate.batch == 8
    assert build_bench(*parts(fed), CPU).batch == batch
