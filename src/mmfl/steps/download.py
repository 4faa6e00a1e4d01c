"""Download: a manifest or a local copy in, a table of verified files and the root folder out.

Where the archive is one of label tiles, the imagery is found by STAC search (docs/imagery.md).
"""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from mmfl import chosen
from mmfl.archives import get, recorded
from mmfl.archives.recorded import Row
from mmfl.errors import UserError
from mmfl.fetch.files import fetch, recorded_sha256
from mmfl.fetch.manifest import File, read_manifest
from mmfl.fetch.stac.listing import SCENES, check, table
from mmfl.fetch.unpack import unpack
from mmfl.files import digest, file_sha256, write_json, write_text
from mmfl.intact import digests
from mmfl.params.imagery import Imagery

PARALLEL = 4  # files or images fetched at a time
TABLES = ("files.csv", SCENES)  # listed by digest in root.json
IMAGERY = "imagery"  # the folder of the images in the archive's root

log = logging.getLogger(__name__)


def run(
    archive: str,
    *,
    manifest: Path | None,
    local: Path | None,
    store: Path,
    out: Path,
    parallel: int = PARALLEL,
    imagery: Imagery | None = None,
    extract: bool = False,
    pause: float = 1.0,
) -> None:
    """Write `out/files.csv` (name, bytes, sha256) and `out/root.json` (where it lies).

    `out/scenes.csv` lists every tile's scenes (`mmfl.fetch.stac.imagery`); it has no rows where the
    archive brings its images. It is written before a failed image ends the step, too.

    Args:
        archive: name of the archive.
        manifest: its files; not read if there is a local copy.
        local: an extracted copy, used in place: nothing is copied, only the metadata are hashed;
            or the description of an archive of one's own.
        store: folder of the downloaded and unpacked files; the archive's root is made in it.
        out: folder of the three outputs, which hold no dates.
        parallel: files or images fetched at a time; it changes no byte.
        imagery: where the imagery of label tiles comes from; None fetches none.
        extract: unpack the tars that the split could read as a stream, too.
        pause: first back-off of `fetch_imagery` in seconds.

    Raises:
        UserError: see `fetch`, `unpack`, `read_manifest` and `fetch_imagery`; no local copy in
            that folder.
    """
    if local is not None:
        rows, root = recorded.rows(archive, local)
    elif manifest is not None:
        rows, root = _fetched(archive, manifest, store, parallel, extract)
    else:
        raise UserError(f"download.{archive}: found neither a manifest nor download.local; set one")
    images = root / IMAGERY
    tiles = None if imagery is None or images.is_dir() else get(archive, root).tiles(root)
    if tiles is not None and imagery is not None:
        search = chosen.load("fetch.stac", "imagery")
        images = search.fetch_imagery(tiles, imagery, store, parallel=parallel, pause=pause)
        root = _joined(archive, root, images, store)
    kept = images / SCENES
    write_text(out / SCENES, kept.read_text(encoding="utf-8") if kept.is_file() else table([]))
    if tiles is not None:
        check(out / SCENES)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "bytes", "sha256"))
    writer.writerows(rows)
    write_text(out / "files.csv", text.getvalue())
    listed = digests(out, TABLES)
    write_json(out / "root.json", {"root": _relative(root), "files": listed})


def _fetched(
    archive: str, manifest: Path, store: Path, parallel: int, extract: bool
) -> tuple[list[Row], Path]:
    """Fetch everything and unpack what has to be; it meets as links in one folder of the store."""
    listed = read_manifest(manifest)
    if listed.archive != archive:
        raise UserError(
            f"{manifest}: archive: found {listed.archive}, expected {archive}; name another file"
        )
    described = get(archive)
    unpacked = {
        file.name: file.unpack and (extract or not described.packs(file.name))
        for file in listed.files
    }
    rows: list[Row] = []
    members: dict[str, Path] = {}
    for file, path in _each(listed.files, store, parallel):
        sha256 = recorded_sha256(path) or file_sha256(path)
        rows.append((file.name, path.stat().st_size, sha256))
        if file.checksum is None:
            text = "%s: no checksum in %s, found sha256:%s; put it there for others to check"
            log.info(text, file.name, manifest, sha256)
        found = {file.name: path}
        if unpacked[file.name]:
            folder = path.with_name(f"{path.name}.unpacked")
            unpack(path, folder)
            found = {item.name: item for item in sorted(folder.iterdir())}
        both = sorted(found.keys() & members.keys())
        if both:
            raise UserError(
                f"{manifest}: {file.name}: found {both[0]} in two files, expected it in one; "
                "correct the list"
            )
        members |= found
    key = digest(
        [
            [file.name, unpacked[file.name], row[2]]
            for file, row in zip(listed.files, rows, strict=True)
        ]
    )
    root = store / f"{archive}-{key}"
    root.mkdir(parents=True, exist_ok=True)
    for name, path in members.items():
        _link(path, root / name)
    return rows, root


def _joined(archive: str, root: Path, imagery: Path, store: Path) -> Path:
    """A folder of links to all that lies in the root, and to the imagery."""
    key = digest([str(root.resolve()), imagery.name])
    joined = store / f"{archive}-{key}"
    joined.mkdir(parents=True, exist_ok=True)
    members = {item.name: item for item in root.iterdir() if not item.name.startswith(".")}
    for name, path in (members | {IMAGERY: imagery}).items():
        _link(path, joined / name)
    return joined


def _each(files: list[File], store: Path, parallel: int) -> Iterator[tuple[File, Path]]:
    """Every file, fetched, in the order of the list; at most `parallel` at a time.

    Whatever ends this, a fault or Ctrl-C, ends the other transfers too; they resume next time.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(parallel) as pool:
        jobs = [
            pool.submit(fetch, file.url, store, bytes=file.bytes, checksum=file.checksum, stop=stop)
            for file in files
        ]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
            for job in jobs:
                if job.done() and (error := job.exception()):
                    raise error
            for file, job in zip(files, jobs, strict=True):
                yield file, job.result()
        finally:
            stop.set()
            for job in jobs:
                job.cancel()


def _link(source: Path, target: Path) -> None:
    """A relative link in the archive's root to a file or folder of the store."""
    text = os.path.relpath(source.resolve(), target.parent.resolve())
    if target.is_symlink() and os.readlink(target) == text:
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(text)
    os.replace(temporary, target)


def _relative(path: Path) -> str:
    """Relative to the working directory where it lies below it, so that outputs can be moved."""
    path = Path(os.path.normpath(path.absolute()))
    cwd = Path.cwd()
    return path.relative_to(cwd).as_posix() if path.is_relative_to(cwd) else str(path)
