"""A piece is joined only to the rest of the same file, whatever the server makes of If-Range."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from helpers.downloads import Script, answer, get, interrupt
from mmfl.errors import UserError
from mmfl.fetch.transfer import Version, tag_file

AT = 2_000_000


def piece(body: bytes, start: int, **headers: str) -> Script:
    span = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return answer(206, body[start:], **{"Content_Range": span, **headers})


CHANGED = {
    "etag": {"ETag": '"two"'},
    "weak etag": {"ETag": 'W/"two"'},
    "date": {"Last_Modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
    "date beside the same etag": {
        "ETag": '"one"',
        "Last_Modified": "Tue, 02 Jan 2024 00:00:00 GMT",
    },
    "no validator": {},
    "encoding": {"ETag": '"one"', "Content_Encoding": "gzip"},
}


@pytest.mark.parametrize("case", CHANGED)
def test_another_file_is_not_joined(site, tmp_path: Path, case: str) -> None:
    """206 to a request whose If-Range it should have refused; no checksum would tell."""
    site.headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    interrupt(site, tmp_path, AT, checksum=None)
    site.body, site.etag = site.body[::-1], '"two"'
    site.scripts = [piece(site.body, AT, **CHANGED[case])]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert site.asked[0]["If-Range"] == '"one"' and "Range" not in site.asked[1]


def test_if_range_is_ignored(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, AT, checksum=None)
    site.body, site.etag, site.heeds = site.body[::-1], '"two"', False
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


def test_a_changed_size_is_not_joined(site, tmp_path: Path) -> None:
    """The validator is the same, as careless servers have it."""
    interrupt(site, tmp_path, AT, checksum=None)
    site.body += b"more"
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert len(site.asked) == 2


def test_the_date_alone(site, tmp_path: Path) -> None:
    site.etag, site.heeds = None, False
    site.headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    interrupt(site, tmp_path, AT, checksum=None)
    site.body = site.body[::-1]
    site.headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:01 GMT"}
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


def test_the_same_file_is_joined(site, tmp_path: Path) -> None:
    """Strong or weak: of one tag."""
    interrupt(site, tmp_path, AT, checksum=None)
    site.scripts, site.sent = [piece(site.body, AT, ETag='W/"one"')], 0
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert len(site.asked) == 1 and not site.sent


def test_without_validators_the_checksum_tells(site, tmp_path: Path) -> None:
    """Joined, found wrong, fetched whole."""
    interrupt(site, tmp_path, AT)
    site.scripts = [piece(site.body[::-1], AT)]
    assert get(site, tmp_path).read_bytes() == site.body
    assert ["Range" in asked for asked in site.asked] == [True, False]


@pytest.mark.parametrize("span", [
    "bytes 0-2999999/3000000", "bytes 1999999-2999999/3000000", "bytes 2000000-1999999/3000000",
    "bytes 2000000-2999999/2500000", "bytes -5-2999999/3000000", "items 2000000-2999999/3000000",
    "bytes 2000000-99999999999999999999999/99999999999999999999999", "", "bytes */3000000",
])  # fmt: skip
def test_odd_ranges(site, tmp_path: Path, span: str) -> None:
    """Another one than was asked for, or none at all: it starts again."""
    interrupt(site, tmp_path, AT, checksum=None)
    site.scripts = [piece(site.body, AT, ETag='"one"', Content_Range=span)]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert ["Range" in asked for asked in site.asked] == [True, False]


def test_more_than_the_range_says(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, AT, checksum=None)
    more = {"Content_Range": "bytes 2000000-2500000/3000000", "Content_Length": "1000000"}
    site.scripts = [piece(site.body, AT, ETag='"one"', **more)]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


def test_less_than_was_asked_for_goes_on(site, tmp_path: Path) -> None:
    interrupt(site, tmp_path, AT, checksum=None)
    span = "bytes 2000000-2499999/3000000"
    site.scripts = [answer(206, site.body[AT : AT + 500_000], ETag='"one"', Content_Range=span)]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body
    assert site.asked[1]["Range"] == "bytes=2500000-"


@pytest.mark.parametrize("validator", [{"ETag": '"two"'}, {}])
def test_416_of_another_file(site, tmp_path: Path, validator: dict) -> None:
    """Of as many bytes as are there: that says nothing of what they are."""
    part = interrupt(site, tmp_path, AT, checksum=None)
    part.write_bytes(bytes(3_000_000))
    site.scripts = [answer(416, b"", Content_Range="bytes */3000000", **validator)]
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


def test_an_unreadable_tag_is_none(site, tmp_path: Path) -> None:
    for text in ("", '"one"', "[]", "{", '{"odd": 1}'):
        part = interrupt(site, tmp_path, AT, checksum=None)
        tag_file(part).write_text(text)
        path = get(site, tmp_path, checksum=None)
        assert path.read_bytes() == site.body and "Range" not in site.asked[0]
        for left in path.parent.iterdir():
            left.unlink()


PAGE = b"<!DOCTYPE html>\n<title>Sign in</title>" + b"x" * 5_000_000


@pytest.mark.parametrize("body", [
    PAGE, b"<HTML>", b"\xef\xbb\xbf\n <!-- a\n b --> <html lang=en>",
    b'<?xml version="1.0"?><!DOCTYPE html><html/>',
])  # fmt: skip
@pytest.mark.parametrize("checksum", [True, False])
def test_a_page_with_status_200(site, tmp_path: Path, body: bytes, checksum: bool) -> None:
    """It does not replace the piece that is there, nor is it taken for the file."""
    options = {} if checksum else {"checksum": None}
    part = interrupt(site, tmp_path, AT, **options)
    site.scripts = [answer(200, body)]
    with pytest.raises(UserError, match="found a page of HTML, expected the file") as error:
        get(site, tmp_path, **options)
    assert "\n" not in str(error.value) and part.stat().st_size == AT
    assert get(site, tmp_path, **options).read_bytes() == site.body
    assert site.asked[1]["Range"] == f"bytes={AT}-"


def test_a_page_by_its_type(site, tmp_path: Path) -> None:
    site.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(UserError, match="found a page of HTML"):
        get(site, tmp_path, checksum=None)
    assert get(site, tmp_path).read_bytes() == site.body  # the checksum says that it is the file


def test_packed_on_the_way(site, tmp_path: Path) -> None:
    """Without a checksum nobody would notice that it is another file."""
    body = gzip.compress(site.body)
    site.scripts = [answer(200, body, Content_Encoding="gzip")]
    with pytest.raises(UserError, match="packed by Content-Encoding gzip, expected it as it is"):
        get(site, tmp_path, checksum=None)
    assert get(site, tmp_path, checksum=None).read_bytes() == site.body


@pytest.mark.parametrize("length", ["-5", "5, 6", "x", "9" * 30])
def test_lengths_that_are_none(site, tmp_path: Path, length: str) -> None:
    """A cut-off file would look whole."""
    site.scripts = [answer(200, b"cut off", Content_Length=length)] * 9
    with pytest.raises(UserError, match=r"found no length|broke off") as error:
        get(site, tmp_path, checksum=None)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*/archive.bin"))


@pytest.mark.parametrize(("one", "other", "same"), [
    (Version('"a"'), Version('"a"'), True),
    (Version('"a"'), Version('W/"a"'), True),
    (Version('"a"'), Version('"b"'), False),
    (Version('"a"', "Mon"), Version("", "Mon"), True),
    (Version('"a"', "Mon"), Version("", "Tue"), False),
    (Version('"a"', total=5), Version('"a"', total=6), False),
    (Version('"a"', total=5), Version('"a"'), True),
    (Version('"a"', encoding="gzip"), Version('"a"'), False),
    (Version('"a"'), Version("", "Mon"), None),
    (Version(total=5), Version(total=5), None),
    (Version(), Version(), None),
])  # fmt: skip
def test_same(one: Version, other: Version, same: bool | None) -> None:
    assert one.same(other) is same and other.same(one) is same
