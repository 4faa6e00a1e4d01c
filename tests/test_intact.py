"""Files are checked against their digests, once, and again where they changed."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mmfl import intact
from mmfl.errors import DamagedFile
from mmfl.intact import OpenFile, Watch

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def hashed(monkeypatch, tmp_path) -> list[Path]:
    """The files that were read to be hashed; all are old enough to be remembered, apart."""
    monkeypatch.setattr(intact, "REMEMBERED", str(tmp_path / "remembered"))
    monkeypatch.setattr(intact, "SETTLED", -(10**12))
    read, plain = [], intact.sha256

    def counted(path):
        read.append(path)
        return plain(path)

    monkeypatch.setattr(intact, "sha256", counted)
    return read


def made(folder: Path, name: str = "x.npy", content: bytes = CONTENT) -> tuple[Path, str]:
    (folder / name).write_bytes(content)
    return folder / name, hashlib.sha256(content).hexdigest()


def flip(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.seek(5000)
        (byte,) = handle.read(1)
        handle.seek(5000)
        handle.write(bytes([byte ^ 1]))


def flip_and_restore_the_time(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_bytes(CONTENT[::-1])
    os.replace(path.with_suffix(".new"), path)


CHANGES = [
    flip, flip_and_restore_the_time, replaced, Path.unlink,
    lambda p: os.truncate(p, 700), lambda p: os.truncate(p, 0),
    lambda p: p.open("ab").write(b"more"),
]  # fmt: skip


def test_a_file_is_hashed_once_for_all_processes(tmp_path, hashed):
    files = dict(made(tmp_path, f"{i}.npy", CONTENT[i:]) for i in range(5))
    for _ in range(3):
        Watch("do it again").check(files)
        Watch("do it again").open(*next(iter(files.items())))
    assert sorted(hashed) == sorted(files)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_though_it_was_right_before(tmp_path, hashed, change):
    path, sha256 = made(tmp_path)
    Watch("").check({path: sha256})
    change(path)
    for use in ("check", "open", "content"):
        watch = Watch("do it again")
        with pytest.raises(DamagedFile, match=r"x\.npy: (damaged: found|is missing).*do it again"):
            watch.check({path: sha256}) if use == "check" else getattr(watch, use)(path, sha256)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", ["check", "content", "open"])
def test_a_change_while_it_is_used_is_told_afterwards(tmp_path, use, change):
    path, sha256 = made(tmp_path)
    watch = Watch("do it again")
    watch.check({path: sha256}) if use == "check" else getattr(watch, use)(path, sha256)
    watch.unchanged()
    change(path)
    with pytest.raises(DamagedFile, match=r"x\.npy: .*; do it again$"):
        watch.unchanged()


def test_written_and_written_back_while_it_is_used(tmp_path):
    """Nobody knows what was read in between."""
    path, sha256 = made(tmp_path)
    watch = Watch("do it again")
    watch.check({path: sha256})
    before = path.stat().st_mtime_ns
    flip(path)
    flip(path)
    os.utime(path, ns=(before, before + 1))
    with pytest.raises(DamagedFile, match="was written to while it was used"):
        watch.unchanged()


def test_another_link_or_an_equal_copy_is_no_change(tmp_path):
    path, sha256 = made(tmp_path)
    watch = Watch("")
    watch.check({path: sha256})
    os.link(path, tmp_path / "link")
    watch.unchanged()
    os.replace(made(tmp_path, "copy")[0], path)
    watch.unchanged()
    flip(path)
    with pytest.raises(DamagedFile):
        watch.unchanged()


def test_what_is_read_is_what_was_checked(tmp_path):
    """A file of another content in its place does not reach who opened it before."""
    path, sha256 = made(tmp_path)
    opened = Watch("").open(path, sha256)
    replaced(path)
    found = np.empty(1000, np.uint8)
    opened.read_into(found.data, 300)
    assert found.tobytes() == CONTENT[300:1300]


def test_a_file_that_is_cut_off_is_an_error(tmp_path):
    path, sha256 = made(tmp_path)
    opened = Watch("").open(path, sha256)
    os.truncate(path, 500)
    with pytest.raises(EOFError, match="ends after 500 bytes"):
        opened.read_into(np.empty(1000, np.uint8).data, 0)
    with pytest.raises(EOFError, match="ends after 500 bytes"):
        opened.read_into(np.empty(1000, np.uint8).data, 2000)


def test_closed_when_nobody_holds_it(tmp_path):
    opened = OpenFile(made(tmp_path)[0])
    number = opened.fileno
    os.fstat(number)
    del opened
    with pytest.raises(OSError):
        os.fstat(number)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, hashed, monkeypatch):
    """A write within the same tick of the clock would not be seen."""
    monkeypatch.setattr(intact, "SETTLED", 3_600_000_000_000)
    path, sha256 = made(tmp_path)
    for _ in range(2):
        Watch("").check({path: sha256})
    assert hashed == [path, path]


def test_a_cache_that_cannot_be_written(tmp_path, hashed, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(intact, "REMEMBERED", str(tmp_path / "file/below"))
    path, sha256 = made(tmp_path)
    for _ in range(2):
        Watch("").check({path: sha256})
    assert hashed == [path, path]
    flip(path)
    with pytest.raises(DamagedFile):
        Watch("").check({path: sha256})


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "[0, 0, 0, 0, 0]"])
def test_a_damaged_memory_is_no_memory(tmp_path, hashed, content):
    path, sha256 = made(tmp_path)
    Watch("").check({path: sha256})
    (record,) = (p for p in (tmp_path / "remembered").iterdir() if p.suffix != ".lock")
    record.write_text(content)
    Watch("").check({path: sha256})
    assert hashed == [path, path]


def test_jobs_that_start_together_hash_once(tmp_path, hashed):
    path, sha256 = made(tmp_path, content=CONTENT * 100)
    barrier = threading.Barrier(4)

    def job():
        barrier.wait()
        Watch("").check({path: sha256})

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hashed == [path]
