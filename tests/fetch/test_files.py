"""Fetching: resumed, verified, whole or not at all, whatever the server does."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.downloads import get, interrupt
from mmfl.errors import UserError
from mmfl.fetch.files import ATTEMPTS, fetch, recorded_sha256


def test_fetches_and_verifies(site, tmp_path: Path) -> None:
    path = get(site, tmp_path, bytes=len(site.body))
    assert path.read_bytes() == site.body
    assert recorded_sha256(path) == hashlib.sha256(site.body).hexdigest()
    names = {item.name for item in path.parent.iterdir()}
    assert names == {"archive.bin", ".verified.json", ".lock"}
    assert site.asked[0]["Accept-Encoding"] == "identity"


def test_sha256(site, tmp_path: Path) -> None:
    checksum = "sha256:" + hashlib.sha256(site.body).hexdigest()
    assert get(site, tmp_path, checksum=checksum).read_bytes() == site.body


def test_second_call_neither_asks_nor_reads(site, tmp_path: Path, monkeypatch) -> None:
    path = get(site, tmp_path)
    monkeypatch.setattr("mmfl.fetch.files._hashes", lambda _: pytest.fail("hashed again"))
    assert get(site, tmp_path) == path
    assert len(site.asked) == 1


def test_touched_file_is_hashed_but_not_fetched(site, tmp_path: Path) -> None:
    path = get(site, tmp_path)
    os.utime(path, ns=(1, 1))
    assert recorded_sha256(path) is None
    assert get(site, tmp_path) == path
    assert recorded_sha256(path)
    assert len(site.asked) == 1


def test_changed_file_is_fetched_again(site, tmp_path: Path) -> None:
    path = get(site, tmp_path)
    path.write_bytes(bytes(len(site.body)))
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 2


def test_resumes_within_a_call(site, tmp_path: Path) -> None:
    site.cut = [1_000_000, 1_000_000]
    assert get(site, tmp_path).read_bytes() == site.body
    assert [asked.get("Range") for asked in site.asked] == [
        None,
        "bytes=1000000-",
        "bytes=2000000-",
    ]
    assert site.asked[1]["If-Range"] == '"one"'
    assert site.sent == len(site.body)


def test_resumes_in_a_later_call(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, 2_000_000)
    site.sent = 0
    assert get(site, tmp_path).read_bytes() == site.body
    assert site.sent == 1_000_000


def test_progress_gives_new_attempts(site, tmp_path: Path) -> None:
    site.cut = [200_000] * (2 * ATTEMPTS)
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 2 * ATTEMPTS + 1


def test_starts_again_without_ranges(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, 2_000_000)
    site.ranges = False
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 1


def test_gives_up_when_nothing_new_comes(site, tmp_path: Path) -> None:
    site.ranges, site.cut = False, [1000] * 50
    with pytest.raises(UserError, match=f"{ATTEMPTS} attempts"):
        get(site, tmp_path)
    assert len(site.asked) == ATTEMPTS


def test_changed_at_the_source_while_interrupted(site, tmp_path: Path) -> None:
    """If-Range makes the server send the new file from its start."""
    interrupt(site, tmp_path, 2_000_000, checksum=None)
    site.body, site.etag = site.body[::-1], '"two"'
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


def test_no_validator_no_checksum_starts_again(site, tmp_path: Path) -> None:
    site.etag = None
    interrupt(site, tmp_path, 2_000_000, checksum=None)
    site.body = site.body[::-1]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert "Range" not in site.asked[0]


def test_no_validator_but_checksum_resumes(site, tmp_path: Path) -> None:
    site.etag = None
    interrupt(site, tmp_path, 2_000_000)
    assert get(site, tmp_path).read_bytes() == site.body
    assert site.asked[0]["Range"] == "bytes=2000000-"


def test_weak_etag_is_no_validator(site, tmp_path: Path) -> None:
    site.etag = 'W/"one"'
    interrupt(site, tmp_path, 2_000_000)
    assert get(site, tmp_path).read_bytes() == site.body
    assert "If-Range" not in site.asked[0]


def test_damaged_part_starts_again(site, tmp_path: Path) -> None:
    part = interrupt(site, tmp_path, 2_000_000)
    part.write_bytes(bytes(2_000_000))
    assert get(site, tmp_path).read_bytes() == site.body
    assert [asked.get("Range") for asked in site.asked] == ["bytes=2000000-", None]


def test_wrong_range_starts_again(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, 2_000_000)
    site.wrong_range = True
    assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 2


@pytest.mark.parametrize("size", [None, 3_000_000])
def test_whole_part_is_not_fetched_again(site, tmp_path: Path, size: int | None) -> None:
    """A kill between the last byte and the rename; the size may be unknown (416)."""
    part = interrupt(site, tmp_path, 2_000_000, bytes=size)
    part.write_bytes(site.body)
    site.sent = 0
    assert get(site, tmp_path, bytes=size).read_bytes() == site.body
    assert site.sent == 0


def test_too_long_part_starts_again(site, tmp_path: Path) -> None:
    part = interrupt(site, tmp_path, 2_000_000)
    part.write_bytes(site.body + b"more")
    assert get(site, tmp_path).read_bytes() == site.body


def test_without_checksum_the_first_hash_holds(site, tmp_path: Path) -> None:
    path = get(site, tmp_path, checksum=None)
    path.unlink()
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    path.unlink()
    site.body = site.body[::-1]
    with pytest.raises(UserError, match="to accept the new file"):
        get(site, tmp_path, checksum=None)
    assert not path.exists()


def test_unknown_length(site, tmp_path: Path) -> None:
    site.length = False
    assert get(site, tmp_path).read_bytes() == site.body


def test_content_encoding_is_not_undone(site, tmp_path: Path) -> None:
    site.body = gzip.compress(b"tar" * 1000, mtime=0)
    site.headers = {"Content-Encoding": "gzip"}
    assert get(site, tmp_path).read_bytes() == site.body


def pauses(slept: list[float]) -> SimpleNamespace:
    """In place of the event that pauses wait for: it writes them down."""
    return SimpleNamespace(wait=lambda timeout: slept.append(timeout), is_set=lambda: False)


def test_503_then_ok(site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    assert get(site, tmp_path).read_bytes() == site.body


@pytest.mark.parametrize("date", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_goes_first(site, tmp_path: Path, status: int, date: bool) -> None:
    slept: list[float] = []
    site.statuses = [status]
    date_ = formatdate(time.time() + 250, usegmt=True)
    site.headers = {"Retry-After": date_ if date else "250"}
    get(site, tmp_path, pause=100.0, stop=pauses(slept))
    assert len(slept) == 1
    assert 100 < slept[0] <= 250 and (date or slept[0] == 250)


@pytest.mark.parametrize("status", [429, 503])
def test_back_off_doubles(site, tmp_path: Path, status: int) -> None:
    slept: list[float] = []
    site.statuses = [status] * 3
    get(site, tmp_path, pause=1.0, stop=pauses(slept))
    assert slept == [1, 2, 4]


@pytest.mark.parametrize(
    ("value", "seconds"), [("-5", 2.0), ("soon", 2.0), ("", 2.0), ("999999999", 300.0), ("0", 0.0)]
)
def test_odd_retry_after(site, tmp_path: Path, value: str, seconds: float) -> None:
    """What makes no sense is not obeyed, and never more than five minutes."""
    slept: list[float] = []
    site.statuses = [429]
    site.headers = {"Retry-After": value}
    get(site, tmp_path, pause=2.0, stop=pauses(slept))
    assert slept == [seconds]


@pytest.mark.parametrize("status", [429, 503])
def test_gives_up_in_one_line(site, tmp_path: Path, status: int) -> None:
    site.statuses = [status] * 99
    with pytest.raises(UserError, match=rf"HTTP {status}, {ATTEMPTS} attempts; run dow") as error:
        get(site, tmp_path)
    assert "\n" not in str(error.value) and len(site.asked) == ATTEMPTS
    assert not list(tmp_path.glob("*/archive.bin"))


@pytest.mark.parametrize(
    ("status", "text"), [(404, "check the url"), (410, "check the url"), (403, "netrc")]
)
def test_refusals_are_not_tried_again(site, tmp_path: Path, status: int, text: str) -> None:
    site.statuses = [status]
    with pytest.raises(UserError, match=f"HTTP {status}.*{text}") as error:
        get(site, tmp_path)
    assert "\n" not in str(error.value)
    assert site.url in str(error.value)
    assert len(site.asked) == 1


def test_wrong_checksum(site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"found {site.md5}, expected md5:0000"):
        get(site, tmp_path, checksum="md5:" + 32 * "0")
    assert not [item for item in tmp_path.glob("*/*") if not item.name.startswith(".")]
    assert len(site.asked) == 1


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("size", [10, 4_000_000])
def test_wrong_size(site, tmp_path: Path, size: int, length: bool) -> None:
    site.length = length
    with pytest.raises(UserError, match=r"expected|of 4,000,000 bytes"):
        get(site, tmp_path, bytes=size)
    assert not list(tmp_path.glob("*/archive.bin"))
    assert site.sent <= len(site.body) * ATTEMPTS


def test_no_room(site, tmp_path: Path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("mmfl.fetch.transfer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="make room"):
        get(site, tmp_path)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broke off"):
        fetch("http://127.0.0.1:9/a", tmp_path, progress=False, pause=0.0)


def test_message_hides_credentials_and_query(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch("http://me:secret@127.0.0.1:9/a?token=secret", tmp_path, progress=False, pause=0.0)
    assert "secret" not in str(error.value)


def test_places(site, tmp_path: Path) -> None:
    """A folder per url and checksum, or per url and size."""
    first = get(site, tmp_path)
    assert get(site, tmp_path, bytes=len(site.body)) == first
    other = get(site, tmp_path, checksum=None, bytes=len(site.body))
    assert len({first, other, get(site, tmp_path, checksum=None)}) == 3


class TestFile:
    def test_copies(self, tmp_path: Path) -> None:
        source = tmp_path / "with space.tar"
        source.write_bytes(b"abc")
        path = fetch(source.as_uri(), tmp_path / "store", progress=False)
        assert path.read_bytes() == b"abc"
        assert path.name == "with_space.tar"

    def test_resumes_the_same_and_starts_again_with_another(self, tmp_path: Path) -> None:
        source, store = tmp_path / "a", tmp_path / "store"
        source.write_bytes(b"abcdef")
        path = fetch(source.as_uri(), store, progress=False)
        record = path.with_name(".verified.json")
        stat = source.stat()
        for tag, content in ((f"{stat.st_size} {stat.st_mtime_ns}", b"ABCdef"), ("x", b"abcdef")):
            path.unlink(missing_ok=True)
            record.unlink(missing_ok=True)
            path.with_name("a.part").write_bytes(b"ABC")
            path.with_name(".a.part.tag").write_text(tag)
            assert fetch(source.as_uri(), store, progress=False).read_bytes() == content

    def test_empty(self, tmp_path: Path) -> None:
        source = tmp_path / "a"
        source.touch()
        assert fetch(source.as_uri(), tmp_path / "s", bytes=0, progress=False).read_bytes() == b""

    @pytest.mark.parametrize("url", ["file:///nowhere/a", "file://elsewhere/a", "file:///tmp"])
    def test_missing(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(UserError, match="not found"):
            fetch(url, tmp_path, progress=False)


CHILD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from mmfl.fetch.files import fetch
fetch(sys.argv[1], Path(sys.argv[2]), checksum=sys.argv[3], progress=False)
"""


def start(site, store: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, site.url, str(store), site.md5])


def test_killed_again_and_again(site, tmp_path: Path) -> None:
    """kill -9 in the middle, twice; the third call goes on and completes."""
    site.slow = 0.02
    for least in (300_000, 1_500_000):
        child = start(site, tmp_path)
        while sum(part.stat().st_size for part in tmp_path.glob("*/*.part")) < least:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not list(tmp_path.glob("*/archive.bin"))
    site.slow, asked = 0.0, len(site.asked)
    assert get(site, tmp_path).read_bytes() == site.body
    assert int(site.asked[asked]["Range"].strip("bytes=-")) >= 1_500_000


def test_two_at_once_fetch_once(site, tmp_path: Path) -> None:
    site.slow = 0.005
    children = [start(site, tmp_path) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert len(site.asked) == 1


def test_unreadable_record(site, tmp_path: Path) -> None:
    path = get(site, tmp_path)
    for text in ("", "[]", json.dumps({"sha256": 1})):
        path.with_name(".verified.json").write_text(text)
        assert get(site, tmp_path).read_bytes() == site.body
    assert len(site.asked) == 1
