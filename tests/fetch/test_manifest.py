"""Manifests are refused at the door, in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmfl.errors import UserError
from mmfl.fetch.manifest import read_manifest

HEAD = "archive: a\nlicence: MIT\n"
PUBLISHED = Path(__file__).parents[2] / "data/manifests"


def test_published() -> None:
    manifest = read_manifest(PUBLISHED / "bigearthnet-v2.yaml")
    assert manifest.licence == "CDLA-Permissive-1.0"
    assert [file.unpack for file in manifest.files] == [False, False, True, True]
    for file in manifest.files:
        assert file.url == f"https://zenodo.org/records/10891137/files/{file.name}"
        assert file.checksum and file.checksum.startswith("md5:")


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_manifest_is_valid_and_named_by_its_archive(path: Path) -> None:
    assert read_manifest(path).archive == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing, expected archive:, licence:, files:"),
        ("[1, 2]", "found a list"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.system [ls]", ":1: found the tag"),
        (HEAD + "archive: b\nfiles: []", ":3: the key archive is given twice, first in line 1"),
        (HEAD + "files: &f [*f]", ":3: found \\*f"),
        (HEAD + "files:\n- name: a\n  url: 'file:///a'\n  bytes: yes",
         r":6: files.0.bytes: found 'yes', expected a whole number"),
        (HEAD, "files: "),
        (HEAD + "files: []", "files: "),
        (HEAD + "files: [{name: a}]", "files.0.url"),
        (HEAD + "files: [{name: ../a, url: 'file:///a'}]", r"files.0.name: found '\.\./a'"),
        (HEAD + "files: [{name: .a, url: 'file:///a'}]", "files.0.name"),
        (HEAD + "files: [{name: a, url: 'ftp://a'}]", "files.0.url"),
        (HEAD + "files: [{name: a, url: 'http://me:secret@a/b'}]", "netrc"),
        (HEAD + "files: [{name: a, url: 'file:///a', bytes: -1}]", "files.0.bytes"),
        (HEAD + "files: [{name: a, url: 'file:///a', checksum: abc}]", "files.0.checksum"),
        (HEAD + "files: [{name: a, url: 'file:///a', md5: abc}]", "files.0.md5"),
        (HEAD + "files: [{name: a, url: 'file:///a'}, {name: a, url: 'file:///b'}]", "same name"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_manifest(path)
    assert re.match(rf"{path}(:\d+)?: ", str(error.value))
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="expected the archive's manifest"):
            read_manifest(path)
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="found UTF-16"):
        read_manifest(path)
