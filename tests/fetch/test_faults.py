"""A faulty server and a faulty disk: success or one line, never a file that looks complete."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from helpers.warm_python import kill, python
from mmfl.errors import UserError
from mmfl.fetch.files import fetch
from mmfl.fetch.transfer import progress_bar
from mmfl.fetch.watch import Stopped
from mmfl.files import digest


def get(site, store: Path, path: str = "archive.bin", **options) -> Path:
    url = site.url.replace("archive.bin", path)
    options = {"checksum": site.md5, "progress": False, "pause": 0.0} | options
    return fetch(url, store, **options)


def fails(site, store: Path, match: str, **options) -> None:
    with pytest.raises(UserError, match=match) as error:
        get(site, store, **options)
    assert "\n" not in str(error.value)
    assert not list(store.glob("*/archive.bin")) and not list(store.glob("*/elsewhere"))


def test_connection_reset(site, tmp_path: Path) -> None:
    """Each attempt brings bytes, so it goes on, by Range, until all are there."""
    site.reset, site.slow = [400_000, 900_000, 10], 0.01
    assert get(site, tmp_path).read_bytes() == site.body
    assert "Range" in site.asked[-1]


def test_server_falls_silent(site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mmfl.fetch.transfer.TIMEOUT", (10, 1))
    site.stall = [1_200_000]
    assert get(site, tmp_path).read_bytes() == site.body
    assert "Range" in site.asked[-1]


def test_server_is_silent_for_ever(site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mmfl.fetch.transfer.TIMEOUT", (1, 0.1))
    site.stall = [0] * 99
    fails(site, tmp_path, "broke off .*run download again, it resumes")


def test_slow_server(site, tmp_path: Path) -> None:
    """Slow, but not so slow that it never ends: one answer is enough."""
    site.slow = 0.02
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 1


def test_redirect_keeps_the_range(site, tmp_path: Path) -> None:
    site.redirect, site.cut = "/archive.bin", [700_000]
    path = get(site, tmp_path, "elsewhere")
    assert path.read_bytes() == site.body and path.name == "elsewhere"
    assert site.asked[-1]["Range"] == "bytes=700000-"


def test_redirect_for_ever(site, tmp_path: Path) -> None:
    site.redirect = "/elsewhere"
    fails(site, tmp_path, "redirected for ever", path="elsewhere")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_to_another_scheme(site, tmp_path: Path, target: str) -> None:
    site.redirect = target
    fails(site, tmp_path, "no url that can be fetched", path="elsewhere")


def test_an_error_page_in_place_of_the_file(site, tmp_path: Path) -> None:
    checksum = site.md5
    site.body = b"<html>please log in</html>"
    fails(site, tmp_path, "found a page of HTML, expected the file", checksum=checksum)
    assert not list(tmp_path.glob("*/*.part"))


def test_empty_body(site, tmp_path: Path) -> None:
    checksum = site.md5
    site.body = b""
    fails(site, tmp_path, "expected md5", checksum=checksum)


def test_more_than_the_manifest_says(site, tmp_path: Path) -> None:
    site.length = False
    size = len(site.body) - 5
    fails(site, tmp_path, "more than the expected", bytes=size)


def test_nothing_says_how_long_it_is(site, tmp_path: Path) -> None:
    """No length, no size, no checksum: a dropped connection would look like the end."""
    site.length = False
    fails(site, tmp_path, "found no length.*give bytes or checksum", checksum=None)
    assert get(site, tmp_path, checksum=None, bytes=len(site.body)).read_bytes() == site.body


def test_truncated_for_ever(site, tmp_path: Path) -> None:
    """The server's file is shorter than its own Content-Length."""
    site.cut, site.ranges = [1_000] * 99, False
    fails(site, tmp_path, "broke off .* it resumes")


def test_the_disk_is_full(site, tmp_path: Path) -> None:
    """/dev/full in place of the file: the kernel's own answer to every write."""
    folder = tmp_path / digest([site.url, site.md5])
    folder.mkdir()
    (folder / "archive.bin.part").symlink_to("/dev/full")
    fails(site, tmp_path, "No space left on device; free or name another place")


def test_the_folder_cannot_be_written(site) -> None:
    """/sys takes no files, even from root; the command says so in one line."""
    with pytest.raises(OSError) as error:
        get(site, Path("/sys/mmfl"))
    assert error.value.errno in (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT)
    assert not site.asked


MANIFEST = "archive: bigearthnet-v2\nlicence: x\nfiles:\n"


def project(folder: Path, site, count: int = 1) -> dict[str, str]:
    """A folder with parameters and a manifest of `count` files; the environment for it."""
    (folder / "data/manifests").mkdir(parents=True)
    (folder / "params.yaml").write_text("archives: {bigearthnet-v2: {}}\n")
    checksum = "sha256:" + hashlib.sha256(site.body).hexdigest()
    entries = [
        f"  - {{name: f{i}.bin, url: '{site.url}?{i}', checksum: '{checksum}'}}\n"
        for i in range(count)
    ]
    (folder / "data/manifests/bigearthnet-v2.yaml").write_text(MANIFEST + "".join(entries))
    return {**os.environ, "MMFL_CACHE": str(folder / "cache")}


COMMAND = ["-m", "mmfl.cli", "download", "--archive", "bigearthnet-v2"]


def test_the_command_on_a_read_only_place(site, tmp_path: Path) -> None:
    env = project(tmp_path, site) | {"MMFL_CACHE": "/sys/mmfl"}
    done = subprocess.run(
        [python(), *COMMAND], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("mmfl: /sys/mmfl") and not (tmp_path / "data/raw").exists()


@pytest.mark.parametrize("parallel", [1, 3])
def test_bounded_parallelism(site, tmp_path: Path, parallel: int) -> None:
    """Never more than so many answers at a time, as many as that, and the same table."""
    env = project(tmp_path, site, 8)
    site.together = parallel
    command = [python(), *COMMAND, "--parallel", str(parallel)]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert site.most == parallel
    table = (tmp_path / "data/raw/bigearthnet-v2/files.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == [f"f{i}.bin" for i in range(8)]


def test_one_fault_ends_the_others_which_resume(site, tmp_path: Path) -> None:
    env = project(tmp_path, site, 3)
    site.slow, site.statuses = 0.05, [200, 404, 200]
    done = subprocess.run(
        [python(), *COMMAND], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and "HTTP 404" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("cache/*/*/archive.bin"))
    parts = [path.stat().st_size for path in tmp_path.glob("cache/*/*/*.part")]
    assert all(size < len(site.body) for size in parts)
    site.slow, asked = 0.0, len(site.asked)
    subprocess.run([python(), *COMMAND], cwd=tmp_path, env=env, check=True, capture_output=True)
    resumed = sum("Range" in headers for headers in site.asked[asked:])
    assert resumed == sum(size > 0 for size in parts)


def test_what_a_killed_process_left_is_removed(site, tmp_path: Path) -> None:
    folder = tmp_path / digest([site.url, site.md5])
    folder.mkdir()
    (folder / ".archive.bin.part.tag.77.tmp").write_text("half")
    get(site, tmp_path)
    assert not list(folder.glob(".*.tmp"))


def test_killed_at_many_moments(site, tmp_path: Path) -> None:
    """kill -9 as soon as a little more is there; at last all is there and right."""
    env = project(tmp_path, site, 3)
    site.slow = 0.01
    for least in (1, 500_000, 2_000_000, 4_000_000, 6_000_000, 8_500_000):
        child = subprocess.Popen(
            [python(), *COMMAND], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL
        )
        cache = tmp_path / "cache"
        while (
            child.poll() is None
            and sum(path.stat().st_size for path in cache.glob("*/*/archive.bin*")) < least
        ):
            time.sleep(0.001)
        kill(child)
        for path in cache.glob("*/*/archive.bin"):
            assert path.read_bytes() == site.body
    site.slow = 0.0
    subprocess.run([python(), *COMMAND], cwd=tmp_path, env=env, check=True, capture_output=True)
    found = sorted((tmp_path / "cache").glob("*/*/archive.bin"))
    assert len(found) == 3 and all(path.read_bytes() == site.body for path in found)
    left = {path.name for path in (tmp_path / "cache").glob("*/*/*")}
    assert not any(name.endswith((".part", ".tmp")) for name in left)


def test_stop(site, tmp_path: Path) -> None:
    """Another thread's event ends a transfer at the next piece; a later call goes on."""
    stop = threading.Event()
    site.stall = [2_000_000]

    def watch() -> None:
        while not sum(path.stat().st_size for path in tmp_path.glob("*/*.part")):
            stop.wait(0.01)
        stop.set()

    thread = threading.Thread(target=watch)
    thread.start()
    with pytest.raises(Stopped):
        get(site, tmp_path, stop=stop)
    thread.join()
    site.release.set()
    assert not list(tmp_path.glob("*/archive.bin"))
    assert get(site, tmp_path).read_bytes() == site.body
    assert "Range" in site.asked[-1]


def test_time_left_is_shown() -> None:
    """6 of 8 MB in 3 s: 1 s is left. Without a known size there is no such claim."""
    with progress_bar("archive.bin", 8_000_000) as bar:
        bar.n, bar.start_t = 6_000_000, bar._time() - 3
        assert "75%" in str(bar) and "00:03<00:01" in str(bar) and "2.00MB/s" in str(bar)
    with progress_bar("archive.bin", None) as bar:
        bar.n = 6_000_000
        assert "<" not in str(bar)
