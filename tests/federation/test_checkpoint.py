"""Checkpoints: what a round writes, damage, kills, the best round, another run's."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from helpers.small_federation import federation, same
from mmfl.errors import DamagedFile, UserError
from mmfl.federation import checkpoint
from mmfl.federation.checkpoint import JOURNAL, Journal, place, read_journal
from mmfl.federation.loop import federate
from mmfl.strategies.base import Server


def run(store, folder, method="mf", rounds=3, scores=None, **choice):
    """(federation, server, rows); `scores` in place of the validation's, by round."""
    fed, initial = federation(store, folder, method, **{"train.rounds": rounds}, **choice)
    if scores:
        step, trained = fed.strategy.server_step, []
        fed.strategy.server_step = lambda *a: trained.append(step(*a)) or trained[-1]
        fed.task.validate = lambda ensembles: scores[trained[-1].round - 1]
        fed.trained = trained
    return fed, *federate(fed, initial)


def damage(path, fault):
    """One bit of a tensor flipped (the file can be read), cut, emptied or gone."""
    content = bytearray(path.read_bytes())
    if fault == "flip":
        content[-9] ^= 4
    path.write_bytes({"flip": content, "cut": content[:-100]}.get(fault, b""))
    if fault == "gone":
        path.unlink()


@pytest.mark.parametrize("fault", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(store, tmp_path, fault, caplog):
    _, whole, rows = run(store, tmp_path / "a", "scaffold")
    run(store, tmp_path / "b", "scaffold", rounds=2)
    last = place(tmp_path / "b", 2)
    damage(last, fault)
    with pytest.raises(DamagedFile, match="digest" if fault == "flip" else "not a whole"):
        checkpoint.read(last)
    _, resumed, again = run(store, tmp_path / "b", "scaffold")
    assert same(whole, resumed) and rows == again
    assert "round-00002.safetensors" in caplog.text
    assert "going on from the one before" in caplog.text


def test_without_a_whole_checkpoint_the_run_begins_again_and_says_so(store, tmp_path, caplog):
    _, whole, rows = run(store, tmp_path / "a", rounds=2)
    run(store, tmp_path / "b", rounds=2)
    for path in checkpoint.numbered(tmp_path / "b").values():
        damage(path, "flip")
    _, server, again = run(store, tmp_path / "b", rounds=2)
    assert same(whole, server) and rows == again
    assert "no whole checkpoint is left; beginning at round 1" in caplog.text


def test_a_checkpoint_of_another_run_is_refused(store, tmp_path):
    run(store, tmp_path, rounds=1)
    with pytest.raises(
        UserError, match=r"round-00001.*learning_rate: found 0.05, expected 0.125; delete it or"
    ):
        run(store, tmp_path, **{"train.learning_rate": 0.125})
    fed, initial = federation(store, tmp_path)
    fed.identity["code"] = "another"
    with pytest.raises(UserError, match="code: found None, expected another"):
        federate(fed, initial)


@pytest.mark.parametrize("what", ["meta", "shape", "name", "value", "type"])
def test_every_part_of_a_checkpoint_is_in_its_digest(what):
    """Values that stay in another order, shape or type are another checkpoint."""
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    changed = {
        "shape": {**tensors, "a": tensors["a"].reshape(3, 2)},
        "name": {"a": tensors["a"], "c": tensors["b"]},
        "value": {**tensors, "b": torch.zeros(2)},
        "type": {**tensors, "b": torch.ones(2).view(torch.int32)},
    }.get(what, tensors)
    meta = "{}" if what == "meta" else '{"round": 1}'
    assert checkpoint._digest(changed, meta) != checkpoint._digest(tensors, '{"round": 1}')


def test_a_value_that_only_one_run_has_is_a_difference():
    differences = checkpoint.differences
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}) == ["a.c: found 2, expected None"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}) == ["a.c: found None, expected 2"]
    assert differences({"a": [1]}, {"a": [1]}) == []


def test_the_best_checkpoint_stays_beside_the_last_ones(tmp_path):
    for number in (1, 2, 3, 4, 5):
        place(tmp_path, number).touch()
    checkpoint.keep_last(tmp_path, best=2)
    assert list(checkpoint.numbered(tmp_path)) == [2, 4, 5]


# ---- the rows -----------------------------------------------------------------------------------


def written(folder, count):
    """Bytes that one more round writes where there are `count` rows already."""
    row = {
        "round": 1,
        "client": "c",
        "state": "trained",
        "samples": 120,
        "loss": 0.6931471805599453,
    }
    journal = Journal(folder / JOURNAL)
    journal.append([row] * count)
    before = journal.path.stat().st_size
    server = Server({("s1", "w"): torch.zeros(10)}, {}, round=7)
    journal.append([row] * 4)
    path = place(folder, 7)
    checkpoint.save(
        path, server, {"identity": {"a": 1}, "best": {"round": 3}, "rows": journal.mark}
    )
    _, meta, found = checkpoint.latest(folder, {"a": 1})
    assert found.rows == [row] * (count + 4) and meta["best"] == {"round": 3}
    return path.stat().st_size, journal.path.stat().st_size - before


def test_a_round_writes_the_same_with_a_hundred_rows_and_with_a_hundred_thousand(tmp_path):
    """But for the digits of the journal's length."""
    few, many = written(tmp_path / "few", 100), written(tmp_path / "many", 100_000)
    assert abs(many[0] - few[0]) <= 8 and many[1] == few[1]


def test_rows_of_a_run_are_those_that_its_checkpoints_name(store, tmp_path):
    _, _, rows = run(store, tmp_path)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    for number, path in checkpoint.numbered(tmp_path).items():
        _, meta = checkpoint.read(path)
        found = read_journal(tmp_path / JOURNAL, meta["rows"]).rows
        assert found == [row for row in rows if row["round"] <= number]


@pytest.mark.parametrize("tail", [b'{"round": 3}\n', b'{"roun'])
def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_cut_off(store, tmp_path, tail):
    _, whole, rows = run(store, tmp_path / "a")
    run(store, tmp_path / "b", rounds=2)
    with (tmp_path / "b" / JOURNAL).open("ab") as handle:
        handle.write(tail)
    _, resumed, again = run(store, tmp_path / "b")
    assert same(whole, resumed) and rows == again
    assert (tmp_path / "a" / JOURNAL).read_bytes() == (tmp_path / "b" / JOURNAL).read_bytes()


@pytest.mark.parametrize(
    ("fault", "beginning"), [("last", 1), ("first", 0), ("cut", 1), ("gone", 0)]
)
def test_damaged_rows_are_named_and_no_row_is_made_up(
    store, tmp_path, fault, beginning, caplog
):  # fmt: skip
    """Damage behind the checkpoint before lets it be used; else the run begins again."""
    _, whole, rows = run(store, tmp_path / "a")
    fed, _, _ = run(store, tmp_path / "b", rounds=2)
    path = tmp_path / "b" / JOURNAL
    content = path.read_bytes()
    if fault == "cut":
        path.write_bytes(content[:-5])
    elif fault == "gone":
        path.unlink()
    else:
        at = content.index(b"0.") if fault == "first" else content.rindex(b"0.")
        path.write_bytes(content[:at] + b"7" + content[at + 1 :])
    fed, initial = federation(store, tmp_path / "b")
    begun = []
    step = fed.strategy.server_step
    fed.strategy.server_step = lambda server, updates: (
        begun.append(server.round) or step(server, updates)
    )
    resumed, again = federate(fed, initial)
    assert begun[0] == beginning
    assert same(whole, resumed) and rows == again
    assert JOURNAL in caplog.text
    assert ("beginning at round 1" in caplog.text) == (beginning == 0)


def test_rows_for_which_there_is_no_room_name_the_file_and_leave_the_others(tmp_path, monkeypatch):
    journal = Journal(tmp_path / JOURNAL)
    journal.append([{"round": 1}])
    before = journal.mark

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=rf"No space left on device: '.*{JOURNAL}'"):
            journal.append([{"round": 2}])
    assert journal.mark == before and journal.rows == [{"round": 1}]
    assert read_journal(journal.path, before).rows == [{"round": 1}]
    journal.append([{"round": 3}])
    assert read_journal(journal.path, journal.mark).rows == [{"round": 1}, {"round": 3}]
    assert journal.path.stat().st_size == journal.size


# ---- the best round -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.6, 0.7], 3),
        ([0.7, 0.6, 0.5], 1),
        ([0.5, 0.7, 0.6], 2),
        ([0.6, 0.6, 0.6], 1),
        ([None] * 3, 3),
    ],
)
def test_the_best_round_stays_beside_the_last_two(store, tmp_path, scores, best):
    """The first of equal ones; without scores the last."""
    fed, _, _ = run(store, tmp_path, scores=scores)
    assert fed.best["round"] == best
    assert list(checkpoint.numbered(tmp_path)) == sorted({best, 2, 3})
    assert same(checkpoint.read(place(tmp_path, best))[0], fed.trained[best - 1])


@pytest.mark.parametrize("fault", ["flip", "gone"])
def test_a_lost_best_round_is_trained_again_and_no_finished_round_is(
    store, tmp_path, fault, caplog
):
    scores = [0.5, 0.9, 0.6, 0.7, 0.8]
    whole, server, rows = run(store, tmp_path / "a", "scaffold", 5, scores)
    run(store, tmp_path / "b", "scaffold", 4, scores)
    damage(place(tmp_path / "b", 2), fault)
    fed, resumed, again = run(store, tmp_path / "b", "scaffold", 5, scores)
    assert [s.round for s in fed.trained] == [5, 1, 2]  # the last, then what the best one needs
    assert same(server, resumed) and rows == again
    assert fed.best["round"] == 2 and "training up to round 2, the best, once more" in caplog.text
    assert same(checkpoint.read(place(tmp_path / "b", 2))[0], whole.trained[1])
    _, meta = checkpoint.read(place(tmp_path / "b", 5))
    assert meta["best"]["round"] == 2 and meta["best"]["val_score"] == 0.9


def test_a_lost_best_round_costs_nothing_once_a_later_one_is_better(store, tmp_path, caplog):
    scores = [0.9, 0.5, 0.6, 0.95]
    _, server, _ = run(store, tmp_path / "a", "mf", 4, scores)
    run(store, tmp_path / "b", "mf", 3, scores)  # which keeps the rounds 1, 2 and 3
    place(tmp_path / "b", 1).unlink()
    fed, resumed, _ = run(store, tmp_path / "b", "mf", 4, scores)
    assert [s.round for s in fed.trained] == [4] and fed.best["round"] == 4
    assert same(server, resumed) and "once more" not in caplog.text


def test_a_best_round_that_comes_out_otherwise_is_refused(store, tmp_path):
    scores = [0.5, 0.9, 0.6, 0.7]
    run(store, tmp_path, "mf", 4, scores)
    place(tmp_path, 2).unlink()
    with pytest.raises(
        UserError, match=r"round 2 trained again: .*0.8}, expected .*0.9}: .*--fresh"
    ):
        run(store, tmp_path, "mf", 4, [0.5, 0.8, 0.6, 0.7])


# ---- files --------------------------------------------------------------------------------------


def test_the_newest_is_that_of_the_highest_round_however_many_digits(tmp_path):
    for number in (99_998, 99_999, 100_000):
        journal = Journal(tmp_path / JOURNAL)
        server = Server({("s1", "w"): torch.zeros(1)}, {}, round=number)
        meta = {"identity": {}, "best": {}, "rows": journal.mark}
        journal.append([])
        checkpoint.save(place(tmp_path, number), server, meta)
    assert checkpoint.latest(tmp_path, {})[0].round == 100_000
    checkpoint.keep_last(tmp_path, 99_999)
    assert list(checkpoint.numbered(tmp_path)) == [99_999, 100_000]
    checkpoint.keep_last(tmp_path, 7, count=1)
    assert list(checkpoint.numbered(tmp_path)) == [100_000]


def test_a_file_that_cannot_hold_so_many_tensors_does_not_ask_for_room(tmp_path):
    """The names of a file's tensors may take 100 MB, whatever the disk."""
    many = {("s", f"{i}{'x' * 1_000_000}"): torch.zeros(1) for i in range(101)}
    with pytest.raises(UserError, match="101 tensors are too many for a file: use fewer clients"):
        checkpoint.save(tmp_path / "a.safetensors", Server(many, {}), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("I/O error: No space left on device (os error 28)", "free room on its disk"),
        ("I/O error: Permission denied (os error 13)", "correct its folder"),
    ],
)
def test_the_remedy_fits_the_fault(tmp_path, monkeypatch, text, remedy):
    from safetensors import SafetensorError

    def failing(*arguments):
        raise SafetensorError(text)

    monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(UserError, match=remedy):
        checkpoint.save(tmp_path / "a.safetensors", Server({}, {}), {})
