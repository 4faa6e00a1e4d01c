"""Reading ahead: the same batches, whichever way they go, and buffers that nobody else uses."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from helpers.small_federation import federation, parameters, same
from helpers.small_tile_federation import tile_data
from mmfl.errors import UserError
from mmfl.federation import loading
from mmfl.federation.data import Buffers
from mmfl.federation.loading import read_ahead
from mmfl.federation.loop import federate
from mmfl.federation.task import schedule, shuffled
from mmfl.patches.augment import Turned

CPU = torch.device("cpu")


def task_of(store, tmp_path, **changes):
    return federation(store, tmp_path / "work", **changes)[0].task


def requests(client, turned=True):
    rng = np.random.default_rng(0)
    batches = [rng.permutation(client.locations)[:count] for count in (5, 3, 5, 1, 5, 5, 2)]
    return [(rows, Turned(1, place) if turned else None) for place, rows in enumerate(batches)]


def expected(data, client, wanted):
    for samples, turned in wanted:
        held = {q: np.isin(samples, client.train[q]) for q in client.modalities}
        yield held, {q: data.batch(q, samples[h], turned) for q, h in held.items() if h.any()}


def check(data, client, wanted):
    found = read_ahead(data, client, wanted, CPU)
    count = 0
    for read, (present, images) in zip(found, expected(data, client, wanted), strict=True):
        assert read.present.keys() == present.keys() and read.images.keys() == images.keys()
        assert all((read.present[q] == present[q]).all() for q in present)
        for q, image in images.items():
            torch.testing.assert_close(read.images[q], image, rtol=0, atol=0, equal_nan=True)
            read.images[q].mul_(0)  # a batch belongs to who asked for it
        count += 1
    assert count == len(wanted)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_batches_are_those_that_are_asked_for(
    store, tmp_path, monkeypatch, turned, preload, native
):
    data = task_of(store, tmp_path, modalities=("s1", "s2", "s2-20m")).data
    if preload:
        data.preload()
    assert data.in_memory == preload
    if native:  # the way to a GPU, which ends on the CPU here

        def buffers(q, count, device, augment):
            return Buffers(True, data.images[q].buffers(count))

        monkeypatch.setattr(data, "buffers", buffers)
    for client in data.clients:
        check(data, client, requests(client, turned))


@pytest.mark.parametrize("in_memory", [True, False])
def test_windows_of_tiles(tiles, monkeypatch, in_memory):
    data = tile_data(tiles, ("s1", "s2", "dem"))
    assert data.in_memory
    monkeypatch.setattr(type(data), "in_memory", in_memory)
    for client in data.clients:
        check(data, client, requests(client))


def test_training_does_not_depend_on_the_thread(store, tmp_path):
    runs = []
    for preload in (True, False):
        fed, initial = federation(store, tmp_path / str(preload), method="mf+mim")
        if preload:
            fed.task.data.preload()
        runs.append(federate(fed, initial))
    assert same(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_waiting_is_a_part_of_the_steps(store, tmp_path, monkeypatch):
    """A disk that takes its time shows in what a run says of its time."""
    fed, initial = federation(store, tmp_path / "work")
    read = fed.task.data.fill

    def slow(*arguments):
        time.sleep(0.02)
        return read(*arguments)

    monkeypatch.setattr(fed.task.data, "fill", slow)
    federate(fed, initial)
    assert 0.02 < fed.seconds["waiting"] < fed.seconds["steps"]


def test_at_most_so_many_batches_are_ahead(store, tmp_path):
    data = task_of(store, tmp_path).data
    client = data.clients[0]
    filled = []
    fill = data.fill

    def counted(q, samples, buffers, turned):
        filled.append(buffers.tensors[0].data_ptr())
        return fill(q, samples, buffers, turned)

    data.fill = counted
    wanted = [(client.locations[:2], None)] * 20
    reads = read_ahead(data, client, wanted, CPU)
    for place, _ in enumerate(reads, 1):
        assert len(filled) <= place - 1 + loading.DEPTH
    assert len(filled) == 20 and len(set(filled)) == loading.DEPTH


def test_a_damaged_shard_is_named_by_who_asked(store, tmp_path):
    data = task_of(store, tmp_path).data
    client = next(c for c in data.clients if c.modalities == ("s1",))
    path = store[0] / "s1" / "10m-00000.npy"
    os.truncate(path, 5000)  # after it was checked: a memory map would end the process
    before = threading.active_count()
    with pytest.raises(UserError, match=r"10m-00000\.npy: damaged shard .*mmfl split --archive"):
        list(read_ahead(data, client, requests(client), CPU))
    assert threading.active_count() == before


def test_leaving_early_ends_the_thread(store, tmp_path):
    data = task_of(store, tmp_path).data
    client = data.clients[0]
    before = threading.active_count()
    reads = read_ahead(data, client, requests(client) * 50, CPU)
    next(reads)
    assert threading.active_count() == before + 1
    reads.close()
    assert threading.active_count() == before


def test_a_window_shuffles_some_shards_together():
    samples = np.arange(100, 200)
    shards = np.repeat(np.arange(10), 10)
    order = shuffled(samples, shards, 2, np.random.default_rng(0))
    assert sorted(order) == samples.tolist()
    pairs = [set(shards[part - 100]) for part in order.reshape(5, 20)]
    assert all(len(pair) == 2 for pair in pairs) and len(set.union(*pairs)) == 10
    assert not (np.diff(shards[order[:20] - 100]) == 0).all()  # mixed within the window
    again = shuffled(samples, shards, 2, np.random.default_rng(0))
    assert (again == order).all()
    everything = shuffled(samples, shards, 0, np.random.default_rng(0))
    assert (everything == np.random.default_rng(0).permutation(samples)).all()


def test_windows_of_a_federation(store, tmp_path, monkeypatch):
    """Every sample once an epoch, by the client's own shards; the same twice, not the default."""
    data = task_of(store, tmp_path).data
    for patches in data.stores.values():
        patches._shard = np.arange(len(patches._shard)) // 6
    client = data.clients[0]
    plans = {}
    for window in (0, 1):
        params = parameters(**{"train.window": window})
        plans[window] = [
            np.concatenate([rows for *_, rows in schedule(client, params, 1, 0, None, data.shards)])
            for _ in range(2)
        ]
        assert (plans[window][0] == plans[window][1]).all()
        assert sorted(plans[window][0]) == sorted(client.locations)
    assert (plans[0][0] != plans[1][0]).any()
    changes = np.diff(data.shards(client, plans[1][0])) != 0
    assert changes.sum() == len(np.unique(data.shards(client, client.locations))) - 1


def test_nothing_is_read_ahead_of_what_is_in_memory(store, tmp_path):
    """A thread would only get in the way."""
    data = task_of(store, tmp_path).data
    data.preload()
    client = data.clients[0]
    before = threading.active_count()
    for _ in read_ahead(data, client, requests(client), CPU):
        assert threading.active_count() == before


def test_reading_goes_on_while_a_batch_is_in_use_and_not_into_its_buffers(store, tmp_path):
    """All other buffers are filled meanwhile, and that of the batch is not."""
    data = task_of(store, tmp_path).data
    client = data.clients[0]
    filled, ahead, fill = [], threading.Event(), data.fill

    def counted(q, samples, buffers, turned):
        found = fill(q, samples, buffers, turned)
        filled.append(buffers.tensors[0].data_ptr())
        if len(filled) == loading.DEPTH:
            ahead.set()
        return found

    data.fill = counted
    reads = read_ahead(data, client, [(client.locations[:2], None)] * 20, CPU)
    (image,) = next(reads).images.values()
    assert loading.DEPTH > 1 and ahead.wait(60)
    time.sleep(0.05)  # time enough for one too many
    assert len(filled) == loading.DEPTH and filled.count(image.data_ptr()) == 1
    reads.close()


def test_batches_of_clients_with_several_modalities(store, tmp_path):
    """Some samples have one of them, some batches none."""
    data = task_of(store, tmp_path, assignment="both").data
    client = data.clients[0]
    lone = np.setdiff1d(client.train["s2"], client.train["s1"])
    both = np.intersect1d(client.train["s2"], client.train["s1"])
    wanted = [(rows, Turned(1, 0)) for rows in (both[:4], lone[:1], np.r_[lone[:1], both[:3]])]
    assert len(lone)
    check(data, client, wanted)
    reads = list(read_ahead(data, client, wanted[1:2], CPU))
    assert reads[0].present["s1"].tolist() == [False] and set(reads[0].images) == {"s2"}
