"""What `download` wrote down of an archive that it does not copy, and whether it still holds.

Such files may be edited at any time. `split` uses them only as they were written down, so that all
its outputs belong to one state of the archive.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmfl import chosen
from mmfl.archives import get
from mmfl.errors import UserError
from mmfl.files import file_sha256

Row = tuple[str, int, str]  # name, bytes, SHA-256
YAML = (".yaml", ".yml")  # of a description
AGAIN = "run download again"


def rows(archive: str, local: Path) -> tuple[list[Row], Path]:
    """What is written down of a local copy, or of an archive of one's own, and its root.

    Args:
        local: the folder of an extracted copy, of which only the metadata are hashed; or the
            description of an archive of one's own.

    Raises:
        UserError: no copy lies there; the description or its table is wrong.
    """
    if local.suffix in YAML:
        found, root = chosen.load("archives", "folder").verify(archive, local)
        return found, root
    files = _metadata(archive, local)
    if not files:
        raise UserError(
            f"download.local.{archive}: {local} has no {get(archive).metadata_files[0]}, expected "
            "an extracted copy of the archive; correct the folder"
        )
    return [(path.name, path.stat().st_size, file_sha256(path)) for path in files], local


class Guard:
    """An archive that is used: refused where it is not what was written down, or is edited.

    Args:
        archive, root: its name, and where it lies.
        recorded: the rows of files.csv.

    Raises:
        UserError: its description, table or metadata differ.
    """

    def __init__(self, archive: str, root: Path, recorded: Iterable[Row]) -> None:
        self.archive, self.root = archive, root
        self.recorded = {name: (size, sha256) for name, size, sha256 in recorded}
        self.own = root.suffix in YAML
        self.state = self._state()
        self._tables()

    def unchanged(self) -> None:
        """Say now whether all that was read since is what was written down.

        Of an archive of one's own this reads the images again, as `verify` does.

        Raises:
            UserError: a file was edited, replaced or removed meanwhile, or before.
        """
        self._tables()
        if not self.own:
            return
        if self._state() != self.state:
            raise UserError(f"{self.root}: files of it were edited while they were read; {AGAIN}")
        for name, *found in rows(self.archive, self.root)[0]:
            if tuple(found) != self.recorded.get(name):
                raise UserError(f"{self.root}: {name}: found others than download wrote down in "
                                f"files.csv; {AGAIN}")  # fmt: skip

    def _state(self) -> str:
        return str(chosen.load("archives", "folder").state(self.root)) if self.own else ""

    def _tables(self) -> None:
        files = [self.root] if self.own else []
        for path in [*files, *_metadata(self.archive, self.root)]:
            if path.name in self.recorded and file_sha256(path) != self.recorded[path.name][1]:
                raise UserError(f"{path}: found another file than download wrote down in files.csv"
                                f", edited since; {AGAIN}")  # fmt: skip


def _metadata(archive: str, root: Path) -> list[Path]:
    """The tables of an archive that are there."""
    files = [root / name for name in get(archive, root).metadata_files]
    return [path for path in files if path.is_file()]
