"""Files that are as they were written: nothing is used before it fits its digest, nor after.

What was found of a large file is remembered in the cache by its path, size, times and inode, so
that the next process does not read it again. Any write to a file changes one of these.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from mmfl import cache, files
from mmfl.errors import DamagedFile

THREADS = 4  # a core hashes 0.5 to 2 GB a second
TOLD = 4 << 30  # bytes from which on it is said that files are hashed
SETTLED = 2_000_000_000  # nanoseconds after which a further write has another time for sure
REMEMBERED = "checked"  # folder in the cache: a small file per file that was hashed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a file system tells of a file without reading it."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> State:
        """Of the result of `stat` or `fstat`."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class OpenFile:
    """A file opened for reading by offset; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fileno = -1
        self.fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fileno >= 0:
            os.close(self.fileno)

    def state(self) -> State:
        """As it is now."""
        return State.of(os.fstat(self.fileno))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes; any number of threads may.

        Raises:
            EOFError: the file ends before.
        """
        while buffer.nbytes:
            count = os.preadv(self.fileno, [buffer], offset)
            if not count:
                raise EOFError(f"ends after {self.state().size:,} bytes")
            buffer, offset = buffer[count:], offset + count


class Watch:
    """Files that a process uses, each checked against its SHA-256 before it does.

    Args:
        remedy: how a damaged one is made again, the end of its message.
        anew: read every file, also where it is remembered what was found before.
    """

    def __init__(self, remedy: str, anew: bool = False) -> None:
        self.remedy = remedy
        self.anew = anew
        self._used: dict[Path, tuple[State, str]] = {}

    def content(self, path: Path, sha256: str) -> bytes:
        """The bytes of a small file.

        Raises:
            DamagedFile: it is missing, cannot be read, or has another digest.
        """
        with self._told(path), path.open("rb") as handle:
            state = State.of(os.fstat(handle.fileno()))
            data = handle.read()
        self._compare(path, hashlib.sha256(data).hexdigest(), sha256)
        self._used[path] = state, sha256
        return data

    def check(self, wanted: dict[Path, str]) -> None:
        """Compare large files with their digests; those that are remembered are not read.

        Raises:
            DamagedFile: as `content`; the first one of `wanted` is named.
        """
        found: dict[Path, tuple[State, str] | None] = {}
        for path in wanted:
            with self._told(path):
                found[path] = self._known(path)
        lacking = [path for path, known in found.items() if known is None]
        if lacking:
            with _one_at_a_time(lacking[0].parent):
                for path in lacking:  # another process may have hashed them meanwhile
                    found[path] = self._known(path)
                lacking = [path for path in lacking if found[path] is None]
                size = sum(path.stat().st_size for path in lacking)
                if size > TOLD:
                    log.info("checking %d files, %.0f GB, once", len(lacking), size / 1e9)
                with ThreadPoolExecutor(min(THREADS, max(len(lacking), 1))) as pool:
                    jobs = {path: pool.submit(sha256, path) for path in lacking}
                for path, job in jobs.items():
                    with self._told(path):
                        found[path] = job.result()
        for path, known in found.items():
            assert known is not None
            self._compare(path, known[1], wanted[path])
            self._used[path] = known[0], wanted[path]

    def open(self, path: Path, sha256: str) -> OpenFile:
        """A large file that was checked; what is read of it is what was checked.

        Raises:
            DamagedFile: as `content`.
        """
        with self._told(path):
            for _ in range(2):
                opened = OpenFile(path)
                if self._used.get(path, (None, ""))[0] == opened.state():
                    return opened
                self.check({path: sha256})
            raise DamagedFile(path, f"changes while it is used; {self.remedy}")

    def unchanged(self) -> None:
        """Say now if a file is not what it was when it was checked: what was read may be wrong.

        Costs a look at each file's size and time; only where these differ, it is read again.

        Raises:
            DamagedFile: it was written to, cut off, replaced or removed meanwhile.
        """
        for path, (before, sha256) in list(self._used.items()):
            with self._told(path):
                now = State.of(path.stat())
                if now == before:
                    continue
                if now.inode == before.inode and (now.size, now.mtime) != (
                    before.size,
                    before.mtime,
                ):
                    raise DamagedFile(path, f"was written to while it was used; {self.remedy}")
            self.check({path: sha256})

    def _known(self, path: Path) -> tuple[State, str] | None:
        return None if self.anew and path.stat() else _remembered(path)

    def _compare(self, path: Path, found: str, expected: str) -> None:
        if found != expected:
            raise DamagedFile(
                path,
                f"damaged: found SHA-256 {found[:12]}, expected {expected[:12]}; {self.remedy}",
            )

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """A file that cannot be read, as one line."""
        try:
            yield
        except FileNotFoundError:
            raise DamagedFile(path, f"is missing; {self.remedy}") from None
        except DamagedFile:
            raise
        except OSError as error:
            raise DamagedFile(path, f"damaged: {error.strerror or error}; {self.remedy}") from None


def sha256(path: Path) -> tuple[State, str]:
    """The digest of a file's bytes, and its state; remembered for the next process.

    Raises:
        OSError: it cannot be read, or changes meanwhile.
    """
    began = time.time_ns()
    with path.open("rb") as handle:
        state = State.of(os.fstat(handle.fileno()))
        found = hashlib.file_digest(handle, "sha256").hexdigest()
        if State.of(os.fstat(handle.fileno())) != state:
            raise OSError(None, "changes while it is read", str(path))
    if max(state.mtime, state.ctime) < began - SETTLED:
        with suppress(OSError):  # a cache that may only be read: hashed again next time
            text = json.dumps([*astuple(state), found])
            files.write_text(_record(path), text)
    return state, found


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """name -> SHA-256 of small files in a folder."""
    return {name: files.file_sha256(folder / name) for name in names}


def _remembered(path: Path) -> tuple[State, str] | None:
    """What is known of a file as it is now; OSError if it is not there."""
    state = State.of(path.stat())
    try:
        *known, found = json.loads(_record(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return (state, str(found)) if known == list(astuple(state)) else None


def _record(path: Path) -> Path:
    return cache.root() / REMEMBERED / files.digest(str(path.resolve()))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Jobs that start together hash a folder once; without locks each does."""
    lock = cache.root() / REMEMBERED / f".{files.digest(str(folder.resolve()))}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.open("a").close()
    except OSError:
        yield
        return
    with files.locked(lock, f"checks {folder}"):
        yield
