"""The partition step: what it reads, writes and reports."""

import hashlib
import json
import logging

import pandas as pd
import pytest

from mmfl.clients.manifest import build, read_manifest
from mmfl.errors import UserError
from mmfl.files import digest
from mmfl.steps import partition

CHOICE = {"scenario": "country", "assignment": "duplicate"}


def test_manifest_and_summary_are_those_of_the_table(store, tmp_path, caplog):
    folder, table = store
    out = tmp_path / "clients.parquet"
    with caplog.at_level(logging.WARNING):
        found = partition.run(patches=folder, out=out, **CHOICE)
    expected = build(table, **CHOICE)
    pd.testing.assert_frame_equal(read_manifest(out), expected.frame)
    assert found.summary == expected.summary
    classes = json.loads((folder / "labels/classes.json").read_text())["classes"]
    written = json.loads(out.with_suffix(".json").read_text())
    files = {"clients.csv": hashlib.sha256(out.with_suffix(".csv").read_bytes()).hexdigest()}
    said = expected.summary | {"classes": classes, "files": files}
    assert written == said | {"digest": digest(said)}
    assert "locations without a partner: 4 of s1, 4 of s2" in caplog.text


def test_no_shard_is_opened_and_the_bytes_repeat(store, tmp_path):
    folder, _ = store
    partition.run(patches=folder, out=tmp_path / "one.parquet", **CHOICE)
    for shard in folder.glob("*/*.npy"):
        shard.unlink()
    partition.run(patches=folder, out=tmp_path / "two.parquet", **CHOICE)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.mark.parametrize(
    "name", ["labels/index.parquet", "labels/classes.json", "s1/index.parquet"]
)
@pytest.mark.parametrize("content", [None, b"x"])
def test_a_damaged_store_is_refused_and_nothing_is_written(store, tmp_path, name, content):
    folder, _ = store
    (folder / name).unlink()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*; `mmfl split --archive bigear"):
        partition.run(patches=folder, out=tmp_path / "out.parquet", **CHOICE)
    assert not (tmp_path / "out.parquet").exists()
