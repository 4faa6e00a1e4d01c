"""The exceptions that stand for a user's mistake or a damaged file."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Bad input. The message is one line: file or key, found, expected, remedy.

    The command line prints it without a traceback and ends with exit status 2.
    """


class DamagedFile(UserError):
    """A file of an archive that cannot be used: `path`, and in one line why (`reason`)."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
