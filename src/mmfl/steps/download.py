"""Download: a manifest (or a local copy) in, a table of verified files and the archive's root out."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.fetch.files import fetch
from mmfl.fetch.manifest import read_manifest
from mmfl.fetch.unpack import unpack
from mmfl.files import digest, file_sha256, write_json, write_text


def run(archive: str, *, manifest: Path, local: Path | None, store: Path, out: Path) -> None:
    """Write `out/files.csv` (name, bytes, sha256) and `out/root.json` (where the archive lies)."""
    rows, root = _local(archive, local) if local else _fetched(archive, manifest, store)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "bytes", "sha256"))
    writer.writerows(rows)
    write_text(out / "files.csv", text.getvalue())
    write_json(out / "root.json", {"root": _relative(root)})


def _fetched(archive: str, manifest: Path, store: Path) -> tuple[list[tuple], Path]:
    listed = read_manifest(manifest)
    if listed.archive != archive:
        raise UserError(f"{manifest}: found the archive {listed.archive}, expected {archive}")
    found = [(file, *fetch(file, store)) for file in listed.files]
    root = store / f"{archive}-{digest([sha256 for _, _, sha256 in found])}"
    root.mkdir(parents=True, exist_ok=True)
    for file, path, _ in found:
        if file.unpack:
            folder = path.with_name("unpacked")
            unpack(path, folder)
            for item in sorted(folder.iterdir()):
                _link(item, root / item.name)
        else:
            _link(path, root / file.name)
    return [(file.name, path.stat().st_size, sha256) for file, path, sha256 in found], root


def _local(archive: str, local: Path) -> tuple[list[tuple], Path]:
    names = get(archive).metadata_files
    if not (local / names[0]).is_file():
        raise UserError(
            f"download.local.{archive}: {local} has no {names[0]}, expected an extracted copy of "
            "the archive; correct the folder"
        )
    files = [local / name for name in names if (local / name).is_file()]
    return [(path.name, path.stat().st_size, file_sha256(path)) for path in files], local


def _link(source: Path, target: Path) -> None:
    """A relative link in the archive's root to a file or folder of the store."""
    if not target.exists():
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))


def _relative(path: Path) -> str:
    """Relative to the working directory where it lies below it, so that outputs can be moved."""
    path = path.absolute()
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
