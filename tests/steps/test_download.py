"""The step: a manifest or a local copy in; a table, a root folder, the same bytes each time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml
import zstandard

from mmfl.errors import UserError
from mmfl.fetch.stac.listing import COLUMNS
from mmfl.steps import download

NAME = "simulated"
META = "metadata.parquet"
EXCLUDED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


def tar_zst(path: Path, files: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(zstandard.compress(stream.getvalue()))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in the real layout and its manifest, file:// urls; the working directory."""
    source = tmp_path / "published"
    source.mkdir()
    (source / META).write_bytes(b"clean")
    (source / EXCLUDED).write_bytes(b"excluded")
    tar_zst(source / "BigEarthNet-S1.tar.zst", {"BigEarthNet-S1/scene/a/a_VV.tif": b"vv"})
    tar_zst(source / "BigEarthNet-S2.tar.zst", {"BigEarthNet-S2/product/a/a_B02.tif": b"b02"})
    write_manifest(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_manifest(folder: Path, **changed: object) -> None:
    files = []
    for path in sorted((folder / "published").iterdir()):
        data = path.read_bytes()
        checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
        entry = {"name": path.name, "url": path.as_uri(), "bytes": len(data), "checksum": checksum}
        files.append({**entry, "unpack": path.name.endswith(".zst")})
    manifest = {"archive": NAME, "licence": "MIT", "files": files, **changed}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))


def run(**options: object) -> tuple[bytes, bytes]:
    """Run the step; the bytes of its two outputs."""
    given = {"manifest": Path("manifest.yaml"), "local": None, "extract": True, **options}
    out = Path("data/raw", NAME)
    download.run(NAME, store=Path(".cache/download"), out=out, **given)  # type: ignore[arg-type]
    assert sorted(item.name for item in out.iterdir()) == ["files.csv", "root.json", "scenes.csv"]
    assert (out / "scenes.csv").read_text() == ",".join(COLUMNS) + "\n"  # it brings its images
    return (out / "files.csv").read_bytes(), (out / "root.json").read_bytes()


def test_everything_meets_in_one_root(published: Path) -> None:
    table, where = run()
    root = Path(json.loads(where)["root"])
    assert not root.is_absolute() and root.parent == Path(".cache/download")
    assert (root / "BigEarthNet-S1/scene/a/a_VV.tif").read_bytes() == b"vv"
    assert (root / "BigEarthNet-S2/product/a/a_B02.tif").read_bytes() == b"b02"
    assert (root / META).read_bytes() == b"clean"
    assert (root / EXCLUDED).read_bytes() == b"excluded"
    assert len(list(root.iterdir())) == 4
    assert all(not os.readlink(item).startswith("/") for item in root.iterdir())
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table.decode()))}
    assert set(rows) == {path.name for path in (published / "published").iterdir()}
    for path in (published / "published").iterdir():
        data = path.read_bytes()
        assert rows[path.name]["bytes"] == str(len(data))
        assert rows[path.name]["sha256"] == hashlib.sha256(data).hexdigest()


def test_tars_of_images_stay_packed(published: Path) -> None:
    """The split reads them as streams: a root with four links, and no file besides the download."""
    table, where = run(extract=False)
    root = Path(json.loads(where)["root"])
    names = {path.name for path in (published / "published").iterdir()}
    assert {item.name for item in root.iterdir()} == names
    assert (root / "BigEarthNet-S1.tar.zst").resolve().is_relative_to(Path(".cache").resolve())
    kept = [path for path in Path(".cache").rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in kept if path.suffix == ".tif"]
    extracted, elsewhere = run(extract=True)
    assert extracted == table and elsewhere != where


def test_idempotent_and_deterministic(published: Path) -> None:
    first = run()

    def state() -> dict[str, tuple[int, int]]:
        files = [item for item in Path(".cache").rglob("*") if item.name != ".lock"]
        return {str(item): (item.lstat().st_ino, item.lstat().st_mtime_ns) for item in files}

    before = state()
    for path in (published / "published").iterdir():
        path.unlink()  # the source is not needed any more
    assert run() == first
    assert state() == before


def test_outputs_come_back_after_deletion(published: Path) -> None:
    """Workflow tools delete outputs before a step runs again; nothing is fetched twice."""
    first = run()
    for name in ("files.csv", "root.json", "scenes.csv"):
        Path("data/raw", NAME, name).unlink()
    for path in (published / "published").iterdir():
        path.unlink()
    assert run() == first


def test_the_project_may_move(published: Path, tmp_path_factory, monkeypatch) -> None:
    run()
    moved = tmp_path_factory.mktemp("moved") / "project"
    published.rename(moved)
    monkeypatch.chdir(moved)
    root = Path(json.loads(Path("data/raw", NAME, "root.json").read_text())["root"])
    assert (root / "BigEarthNet-S2/product/a/a_B02.tif").read_bytes() == b"b02"


def test_another_version_has_another_root(published: Path) -> None:
    first = run()
    (published / "published" / META).write_bytes(b"other")
    write_manifest(published)
    second = run()
    assert first[0] != second[0] and first[1] != second[1]
    assert (Path(json.loads(second[1])["root"]) / META).read_bytes() == b"other"


def test_store_outside(published: Path, tmp_path_factory) -> None:
    store = tmp_path_factory.mktemp("store")
    out = Path("out")
    download.run(NAME, manifest=Path("manifest.yaml"), local=None, store=store, out=out)
    root = Path(json.loads((out / "root.json").read_text())["root"])
    assert root.parent == store
    assert (root / META).read_bytes() == b"clean"


def test_local_copy_is_used_in_place(published: Path) -> None:
    copy = published / "copy"
    copy.mkdir()
    (copy / META).write_bytes(b"clean")
    (copy / "BigEarthNet-S1").mkdir()
    table, where = run(manifest=None, local=copy)
    assert json.loads(where)["root"] == "copy"
    assert table.decode() == (
        f"name,bytes,sha256\n{META},5,{hashlib.sha256(b'clean').hexdigest()}\n"
    )
    (copy / EXCLUDED).write_bytes(b"excluded")
    assert EXCLUDED in run(local=copy)[0].decode()
    assert not Path(".cache").exists()


@pytest.mark.parametrize("folder", ["nowhere", "published/metadata.parquet", "."])
def test_no_local_copy(published: Path, folder: str) -> None:
    with pytest.raises(UserError, match=f"download.local.{NAME}: .*has no {META}"):
        run(local=Path(folder))
    assert not Path("data").exists()


def test_neither(published: Path) -> None:
    with pytest.raises(UserError, match="set one"):
        run(manifest=None)


def test_manifest_of_another_archive(published: Path) -> None:
    write_manifest(published, archive="other")
    with pytest.raises(UserError, match="found other, expected simulated"):
        run()


def test_two_files_with_the_same_folder(published: Path) -> None:
    tar_zst(published / "published/more.tar.zst", {"BigEarthNet-S1/b": b""})
    write_manifest(published)
    with pytest.raises(UserError, match="found BigEarthNet-S1 in two files"):
        run()


def test_damaged_source_leaves_no_outputs(published: Path) -> None:
    (published / "published/BigEarthNet-S2.tar.zst").write_bytes(b"x")
    with pytest.raises(UserError, match="BigEarthNet-S2"):
        run()
    assert not Path("data").exists()
