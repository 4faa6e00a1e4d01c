"""What is written down of the files of an archive of one's own, so that a change is noticed."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from mmfl.archives.base import MASK
from mmfl.archives.folder.archive import Folder
from mmfl.archives.folder.table import base_folder, named, table_path
from mmfl.facts.description import read_description
from mmfl.files import digest, file_sha256

log = logging.getLogger(__name__)
LIMIT = 2_000_000_000  # bytes of images up to which they are read


def verify(name: str, path: Path) -> tuple[list[tuple[str, int, str]], Path]:
    """Rows (name, bytes, SHA-256) of the description, the table and all its files, and the root.

    The row `masks` is of their names and contents, and so is `images` up to `LIMIT` bytes; above
    it is of their names and sizes alone. A missing file counts as empty.

    Raises:
        UserError: the description or its table is wrong.
    """
    described = Folder.described_by(name, path).described
    table = table_path(described, path)
    rows = [(file.name, file.stat().st_size, file_sha256(file)) for file in (path, table)]
    found = _files(path)
    for part in sorted(found, reverse=True):
        files = found[part]
        total = sum(_size(file) for file in files.values())
        read = part == "masks" or total <= LIMIT
        if not read:
            log.info("%s: %.1f GB of images, so of each the name and size are recorded and not "
                     "the content", path, total / 1e9)  # fmt: skip
        content = hashlib.sha256()
        for text, file in files.items():
            sha256 = file_sha256(file) if read and file.is_file() else ""
            content.update(f"{text}\0{_size(file)}\0{sha256}\n".encode())
        rows.append((part, total, content.hexdigest()))
    return rows, path


def state(path: Path) -> str:
    """A digest of the description, the table, and of sizes and times of the files that it names.

    For Snakemake: no image is read, and it is in no output, as times differ between copies.

    Raises:
        UserError: the description or its table is wrong.
    """
    files = {text: file for part in _files(path).values() for text, file in part.items()}
    there = {text: file.stat() for text, file in files.items() if file.is_file()}
    said = [file_sha256(file) for file in (path, table_path(read_description(path), path))]
    return digest([said, {text: [s.st_size, s.st_mtime_ns] for text, s in there.items()}])


def _files(path: Path) -> dict[str, dict[str, Path]]:
    """`images` and, for the pixel task, `masks`: name in the table -> file, sorted."""
    described = read_description(path)
    base = base_folder(described, path)
    found: dict[str, set[str]] = {}
    for q, held in named(described, path).items():
        part = found.setdefault("masks" if q == MASK.name else "images", set())
        part.update(text for names in held.values() for text in names or ())
    return {part: {text: base / text for text in sorted(texts)} for part, texts in found.items()}


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
