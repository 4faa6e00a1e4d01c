"""The files in the working tree, hashed as DVC does; nothing that DVC remembers is used."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mmfl.errors import UserError
from mmfl.verification.committed import Entry, Revision


@dataclass(frozen=True)
class Found:
    """A file or folder that is there; `listed`: of a folder, name -> MD5 of each file."""

    entry: Entry
    listed: dict[str, str] = field(default_factory=dict)


class Tree:
    """Hashes with DVC's own functions, under the project's .dvcignore.

    Raises:
        UserError: DVC is not installed.
    """

    def __init__(self, root: Path | str = ".") -> None:
        try:
            from dvc.fs import LocalFileSystem
            from dvc.ignore import DvcIgnoreFilter
        except ImportError:
            raise UserError(
                "dvc: not installed, expected the environment of the project; run make env"
            ) from None
        self.root = Path(root).resolve()
        self._fs = LocalFileSystem()
        self._ignore = DvcIgnoreFilter(self._fs, str(self.root))

    def read(self, path: str) -> Found | None:
        """Hash a file or folder; None if there is none, or an empty folder."""
        from dvc_data.hashfile.build import build
        from dvc_data.hashfile.db import HashFileDB
        from dvc_data.hashfile.tree import Tree as Listing

        full = self.root / path
        if not full.exists() or (full.is_dir() and not any(p.is_file() for p in full.rglob("*"))):
            return None
        # a store that is empty and has no state: every byte is read
        store = HashFileDB(self._fs, str(self.root / ".dvc-none"))
        _, meta, found = build(store, str(full), self._fs, "md5", dry_run=True, ignore=self._ignore)
        md5 = str(found.hash_info.value)
        if not isinstance(found, Listing):
            return Found(Entry(md5))
        return Found(Entry(md5, meta.nfiles), _names(found))

    def remembered(self, entry: Entry) -> dict[str, str] | None:
        """The list of a committed folder, name -> MD5, if DVC's cache has it."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree as Listing

        try:
            with Repo(str(self.root)) as repo:
                return _names(Listing.load(repo.cache.local, HashInfo("md5", entry.md5)))
        except (DvcException, OSError, ValueError):
            return None


def committed_entry(revision: Revision, path: str) -> Entry | None:
    """The hash of a file or folder as git keeps it at a revision; None if it does not."""
    files = {name: revision.read(name) for name in revision.files(path)}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if content is None:
                return None
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        found = Tree(folder).read(path)
    return found.entry if found else None


def _names(listing: object) -> dict[str, str]:
    return {"/".join(key): str(info.value) for key, _, info in listing}  # type: ignore[attr-defined]
