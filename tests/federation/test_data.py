"""What clients see of patches: which locations, by which statistics, from which shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.patch_store import make_store
from mmfl.archives import get
from mmfl.clients.manifest import build
from mmfl.errors import UserError
from mmfl.federation.data import Data, Normaliser
from mmfl.patches.augment import Turned, symmetry
from mmfl.patches.normalisation import moments

BANDS = {"s1": ["VV", "VH"], "s2": ["B02", "B11"]}
SIZE = 16


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """(folder, table), to be read only."""
    folder = tmp_path_factory.mktemp("data") / "patches"
    return folder, make_store(folder)


def data_of(patches, assignment="duplicate", **choice):
    folder, table = patches
    frame = build(table, scenario="country", assignment=assignment, **choice).frame
    return Data(folder, frame, BANDS, SIZE)


def test_locations_are_those_of_the_partition(patches):
    """Not those of another country; a location's labels are all of its classes."""
    data = data_of(patches, countries=["B"])
    table = patches[1][patches[1]["country"] == "B"].sort_values("pair")
    assert data.pairs.tolist() == table["pair"].tolist()
    for row, labels in zip(data.labels, table["labels"], strict=True):
        assert np.flatnonzero(row).tolist() == labels.tolist()
    for split in ("train", "validation", "test"):
        expected = table["pair"][table["split"] == split]
        assert data.pairs[data.splits[split]].tolist() == expected.tolist()


def test_clients_train_on_their_groups_training_locations_and_no_others(patches):
    data = data_of(patches)
    assert [c.id for c in data.clients] == ["a-s1", "a-s2", "b-s1", "b-s2"]
    for client in data.clients:
        (q,) = client.modalities
        table = patches[1][patches[1][q].notna() & (patches[1]["split"] == "train")]
        expected = table["pair"][table["country"] == client.group.upper()]
        assert data.pairs[client.train[q]].tolist() == sorted(expected)


def test_what_the_archive_holds_is_present_also_where_no_client_holds_it(patches):
    """Group A has s1 alone, B s2 alone: the test bench may see both of either."""
    data = data_of(patches, "alternate")
    held = patches[1].set_index("pair")
    for q in ("s1", "s2"):
        assert data.present[q].tolist() == held[q].notna()[data.pairs].tolist()
        others = data.present[q] & ~np.isin(np.arange(len(data.pairs)), data.held[q]["location"])
        assert others.any()
    s1 = data.batch("s1", np.flatnonzero(data.present["s1"])[-3:])
    folder = patches[0] / "s1" / "10m-00000.npy"
    stored = np.load(folder, mmap_mode="r")
    index = data.stores["s1"].rows(data.pairs[np.flatnonzero(data.present["s1"])[-3:]])
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(stored[index][:, :2]), (SIZE, SIZE), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(s1, expected.float(), rtol=1e-4, atol=1e-3)


def test_a_client_whose_locations_lack_a_modality_does_not_hold_it(patches):
    folder, table = patches
    table = table.assign(s2=table["s2"].where(table["country"] != "A", None))
    frame = build(table, scenario="country", assignment="both").frame
    clients = {c.group: c for c in Data(folder, frame, BANDS, SIZE).clients}
    assert clients["a"].modalities == ("s1",) and clients["b"].modalities == ("s1", "s2")
    for client in clients.values():
        assert all(len(rows) and (np.diff(rows) > 0).all() for rows in client.train.values())


@pytest.mark.parametrize("normalisation", ["global", "client"])
def test_statistics_count_every_training_image_however_many_at_a_time(
    patches, monkeypatch, normalisation
):
    monkeypatch.setattr("mmfl.federation.data.COUNTED", 3)
    data = data_of(patches)
    found = data.statistics(normalisation)
    for q in BANDS:
        own = {c.id: c.train[q] for c in data.clients if q in c.train}
        assert len(own) == 2 and all(len(rows) > 6 for rows in own.values())
        asked = {"all": np.concatenate(list(own.values()))}
        asked |= own if normalisation == "client" else {}
        assert set(found[q]) == set(asked)
        for name, rows in asked.items():
            x = data.batch(q, rows).double().numpy()
            np.testing.assert_allclose(found[q][name][0], x.mean((0, 2, 3)), rtol=1e-9)
            np.testing.assert_allclose(found[q][name][1], x.std((0, 2, 3)), rtol=1e-9)


def test_sums_are_about_the_published_means(patches, monkeypatch):
    """A sum of squares about 0 would lose the digits of a small deviation."""
    given = []

    def noted(images, origin):
        given.append(origin.tolist())
        return moments(images, origin)

    monkeypatch.setattr("mmfl.federation.data.moments", noted)
    data_of(patches).statistics("global")
    published = {
        band.name: band.mean for q in BANDS for band in get("bigearthnet-v2").modalities[q].bands
    }
    assert given == [[published[name] for name in BANDS[q]] for q in BANDS for _ in "ab"]
    assert all(value for values in given for value in values)


def test_a_band_of_nothing_but_gaps_is_refused_beside_one_with_pixels(patches):
    data = data_of(patches)
    batch = data.batch

    def gapped(q, samples, *rest):
        x = batch(q, samples, *rest)
        x[:, 1] = torch.nan
        return x

    data.batch = gapped
    with pytest.raises(UserError, match=r"train\.bands\.s1: VH: found nothing but gaps"):
        data.statistics("global")


def test_published_statistics_are_those_of_the_bands_in_their_order(patches):
    for q, names in BANDS.items():
        bands = {b.name: b for b in get("bigearthnet-v2").modalities[q].bands}
        found = data_of(patches).statistics("archive")[q]
        assert list(found) == ["all"]
        assert found["all"][0].tolist() == [bands[name].mean for name in names]
        assert found["all"][1].tolist() == [bands[name].std for name in names]


@pytest.mark.parametrize("lacking", ["mean", "std"])
def test_half_of_what_would_be_published_is_none(patches, lacking):
    data = data_of(patches)
    data.stores["s1"].bands = [band | {lacking: None} for band in data.stores["s1"].bands]
    with pytest.raises(UserError, match="none is published for s1 VV; use global or client"):
        data.statistics("archive")


def test_shards_of_samples_are_those_of_the_first_modality_that_the_client_has(patches):
    """Samples of both modalities count for s1, those of s2 alone for s2."""
    data = data_of(patches, "both")
    for q, first in (("s1", 0), ("s2", 100)):
        store = data.stores[q]
        store._shard = first + np.arange(len(store._shard))
    client = data.clients[0]
    lone = np.setdiff1d(client.train["s2"], client.train["s1"])
    assert len(lone) and len(np.intersect1d(*client.train.values()))
    order = client.locations[::-1]
    found = dict(zip(order.tolist(), data.shards(client, order).tolist(), strict=True))
    for sample, shard in found.items():
        q, first = ("s2", 100) if sample in lone else ("s1", 0)
        assert shard == first + data.stores[q].rows(data.pairs[[sample]])[0]
    # what the archive holds and the client does not is no reason
    client.train["s1"] = client.train["s1"][:0]
    rows = client.train["s2"]
    assert (data.shards(client, rows) == 100 + data.stores["s2"].rows(data.pairs[rows])).all()


def statistics(**entries):
    """One number for all bands: name -> (mean, std)."""
    return {
        q: {name: (np.full(2, m), np.full(2, s)) for name, (m, s) in entries.items()} for q in BANDS
    }


def test_a_batch_is_standardised_by_its_client_and_others_by_all(patches):
    data = data_of(patches)
    ids = [c.id for c in data.clients if "s1" in c.train]
    given = statistics(all=(1.0, 2.0), **{ids[0]: (10.0, 4.0), ids[1]: (-3.0, 0.5)})
    normaliser = Normaliser(given, data)
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    for name, (mean, std) in {
        ids[0]: (10, 4), ids[1]: (-3, 0.5), "all": (1, 2), "nobody": (1, 2)
    }.items():  # fmt: skip
        assert torch.equal(normaliser.client("s1", x.clone(), name), (x - mean) / std)
    train = {c.id: c.train["s1"] for c in data.clients if c.id in ids}
    order = np.array([train[ids[1]][0], train[ids[0]][1], train[ids[1]][2]])
    found = normaliser.locations("s1", x.repeat(3, 1, 1, 1), order)
    for one, (mean, std) in zip(found, [(-3, 0.5), (10, 4), (-3, 0.5)], strict=True):
        assert torch.equal(one, (x[0] - mean) / std)
    assert normaliser.without_client("s1", order) == 0


def test_with_one_entry_nobody_lacks_one(patches):
    data = data_of(patches)
    normaliser = Normaliser(statistics(all=(1.0, 2.0)), data)
    assert normaliser.without_client("s1", np.arange(len(data.pairs))) == 0


def test_a_published_deviation_of_zero_divides_by_little(patches):
    normaliser = Normaliser(statistics(all=(1.0, 0.0)), data_of(patches))
    found = normaliser.client("s1", torch.ones(1, 2, 2, 2), "all")
    assert (found == 0).all()


def test_only_gaps_that_an_archive_declares_become_the_mean(patches):
    """NaN elsewhere is a fault of the images, and the loss shows it."""
    data = data_of(patches)
    x = torch.full((1, 2, 2, 2), torch.nan)
    plain = Normaliser(statistics(all=(1.0, 2.0)), data)
    assert not data.gapped("s1") and plain.client("s1", x.clone(), "all").isnan().all()
    data.gapped = lambda q: q == "s1"
    gapped = Normaliser(statistics(all=(1.0, 2.0)), data)
    assert (gapped.client("s1", x.clone(), "all") == 0).all()


def test_a_partition_of_other_splits_or_patches_is_refused(patches):
    folder, table = patches
    frame = build(table, scenario="country", assignment="duplicate").frame
    moved = frame.assign(split=frame["split"].replace({"test": "train"}))
    with pytest.raises(UserError, match=r"found test where the partition has pair-\d+ in train"):
        Data(folder, moved, BANDS, SIZE)
    other = frame.assign(pair=frame["pair"].replace({"pair-009": "pair-999"}))
    with pytest.raises(UserError, match="no such location where the partition has pair-999"):
        Data(folder, other, BANDS, SIZE)
    both = build(table.assign(s1="x", s2="x"), scenario="country", assignment="duplicate").frame
    with pytest.raises(UserError, match="has no patch of the pairs"):  # it has fewer patches now
        Data(folder, both, BANDS, SIZE)


@pytest.mark.parametrize("resolution", [10, 20])
def test_every_shard_that_is_read_is_looked_at_first(tmp_path, resolution):
    """Of all resolutions, before anything is made of them."""
    store = tmp_path / "patches", make_store(tmp_path / "patches", pairs=16)
    data_of(store)
    path = store[0] / "s2" / f"{resolution}m-00000.npy"
    with path.open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"damaged")
    with pytest.raises(UserError, match=rf"{resolution}m-00000\.npy"):
        data_of(store)


def test_patches_of_another_digest_are_refused(patches):
    data = data_of(patches)
    data.of(data.store.sha256)
    with pytest.raises(UserError, match="found other patches than before"):
        data.of("0" * 64)


def test_a_file_that_changes_meanwhile_is_told(tmp_path):
    store = tmp_path / "patches", make_store(tmp_path / "patches", pairs=16)
    data = data_of(store)
    data.unchanged()
    path = store[0] / "s1" / "10m-00000.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(UserError, match=r"10m-00000\.npy"):
        data.unchanged()


def test_reading_is_a_copy_once_all_modalities_are_kept(patches):
    data = data_of(patches)
    assert not data.in_memory
    data.images["s1"].preload(data._row["s1"][data.present["s1"]])
    assert not data.in_memory
    data.preload()
    assert data.in_memory


def test_frequencies_are_those_of_the_given_locations(patches):
    data = data_of(patches)
    rows = np.array([3, 7, 11])
    assert data.frequencies(rows).tolist() == (data.labels[rows].sum(axis=0) / 3).tolist()


def test_what_is_read_ahead_is_turned_by_its_own_name(patches):
    data, turned = data_of(patches), Turned(seed=3, epoch=1)
    samples = np.flatnonzero(data.present["s2"])[[4, 0, 2]]
    plain = data.batch("s2", samples).numpy()
    buffers = data.buffers("s2", 5, torch.device("cpu"), augment=True)
    (found,) = data.fill("s2", samples, buffers, turned)
    assert data.finish("s2", samples, buffers, [found], turned) is found
    for row, code in enumerate(turned.codes(data.pairs[samples]).tolist()):
        assert np.array_equal(found[row].numpy(), symmetry(plain[row], code))
    assert len(set(turned.codes(data.pairs[samples]).tolist())) > 1
