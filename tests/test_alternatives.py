"""benchmarks/alternatives: the checks of what is read notice other pixels."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.alternatives.archive import prepare, simulate
from benchmarks.alternatives.readers import READERS, repeated, same

SQUARES = {side: np.ones((1, 120 // side, 120 // side)) for side in (20, 60, 120)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alternatives")
    return prepare(simulate(folder, 40), folder, 8)


def test_batches_of_a_reader_without_a_rival_are_ours(pairs, tmp_path):
    names = pairs.names[[3, 1, 3]]
    for name in ("mmfl shards, into one buffer", "rasterio open per band"):
        reader = READERS[name](pairs, tmp_path, len(names))
        assert reader.check(names, reader.read(names)).startswith("10 m bands equal to the bit")
        assert reader.bytes > 8 * 250_000


def test_other_pixels_are_noticed(pairs):
    names = pairs.names[:3]
    right = pairs.batch(names)
    assert same(pairs, names, right) == "all 14 bands equal to the bit"
    other_pairs = {q: x[::-1].copy() for q, x in right.items()}
    swapped = right | {"s1": right["s1"][:, ::-1]}
    shifted = right | {"s2": np.roll(right["s2"], 1, axis=3)}
    rounded = right | {"s1": np.rint(right["s1"])}
    for wrong in (other_pairs, swapped, shifted, rounded):
        with pytest.raises(AssertionError):
            same(pairs, names, wrong)
    assert "whole dB" in same(pairs, names, rounded, whole=("s1",))


def test_nearest_neighbours_are_the_native_pixels_repeated(pairs):
    names = pairs.names[:2]
    native = pairs.native(names)
    nearest = {
        q: np.stack([np.kron(x, SQUARES[x.shape[1]]) for x in bands], 1)
        for q, bands in native.items()
    }
    assert "nearest" in repeated(pairs, names, nearest)
    with pytest.raises(AssertionError):
        repeated(pairs, names, pairs.batch(names))  # bilinear
