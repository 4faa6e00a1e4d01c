"""A federation on disk: its tensors in safetensors, the rest and a digest in the header.

The rows of its rounds grow without end, so they are in a file beside the checkpoints (`Journal`):
what is written after a round does not depend on how many there were before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmfl.errors import DamagedFile, UserError
from mmfl.federation.outcome import Row
from mmfl.files import atomic
from mmfl.strategies.base import POLICIES, Server

JOURNAL = "rows.jsonl"
log = logging.getLogger(__name__)


@dataclass
class Journal:
    """The rows of all rounds, in a file of lines of JSON that only grows.

    A checkpoint holds its `mark`: how long the file was and the digest of that much. What a killed
    run wrote beyond the mark is cut off by the next `append`.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def mark(self) -> dict[str, Any]:
        """The length in bytes and the SHA-256 of what was appended so far."""
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}

    def append(self, rows: list[Row]) -> None:
        """Write the rows of a round behind those that are there, to the disk."""
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("ab") as handle:
                handle.truncate(self.size)
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:  # a full disk names no file
            error.filename = error.filename or str(self.path)
            raise
        self.rows += rows
        self.size += len(text)
        self.digest.update(text)


def read_journal(path: Path, mark: dict[str, Any]) -> Journal:
    """The journal up to a checkpoint's mark.

    Raises:
        DamagedFile: it is shorter, or not what was appended.
    """
    try:
        with path.open("rb") as handle:
            text = handle.read(mark["bytes"])
    except OSError as error:
        raise DamagedFile(path, f"not readable ({error.strerror})") from None
    journal = Journal(path, [], len(text), hashlib.sha256(text))
    if journal.mark != mark:
        raise DamagedFile(
            path,
            f"found {len(text)} bytes of digest {journal.mark['sha256'][:12]}, expected "
            f"{mark['bytes']} of {mark['sha256'][:12]}",
        )
    journal.rows = [json.loads(line) for line in text.splitlines()]
    return journal


def flatten(server: Server) -> dict[str, Tensor]:
    """A tensor per name; the first part of a name says what it is, `/` separates the parts."""
    tensors = {f"parameters/{s}/{n}": t for (s, n), t in server.parameters.items()}
    for policy, values in server.statistics.items():
        tensors |= {f"statistics/{policy}/{s}/{n}": t for (s, n), t in values.items()}
    for slot, values in server.state.items():
        tensors |= {f"state/{slot}/{s}/{n}": t for (s, n), t in values.items()}
    for client, slots in server.clients.items():
        for slot, values in slots.items():
            tensors |= {f"clients/{client}/{slot}/{s}/{n}": t for (s, n), t in values.items()}
    # Shared storage is refused by safetensors: every tensor becomes its own copy.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _unflatten(tensors: dict[str, Tensor], round_index: int) -> Server:
    server = Server({}, {policy: {} for policy in POLICIES}, round=round_index)
    for name, tensor in tensors.items():
        kind, *path, scope, key = name.split("/")
        if kind == "parameters":
            server.parameters[scope, key] = tensor
        elif kind == "statistics":
            server.statistics[path[0]][scope, key] = tensor
        elif kind == "state":
            server.state.setdefault(path[0], {})[scope, key] = tensor
        elif kind == "clients":
            slots = server.clients.setdefault(path[0], {})
            slots.setdefault(path[1], {})[scope, key] = tensor
        else:
            raise ValueError(f"unknown tensor {name}")
    return server


def _digest(tensors: dict[str, Tensor], meta: str) -> str:
    """SHA-256 over the header's text and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def save(path: Path, server: Server, meta: dict[str, Any]) -> None:
    """Write atomically. `meta` is JSON; the round is kept beside it.

    Raises:
        UserError: it could not be written.
    """
    tensors = flatten(server)
    text = json.dumps(meta | {"round": server.round}, sort_keys=True)
    header = json.dumps({"meta": text, "sha256": _digest(tensors, text)})
    with atomic(path) as temporary:  # one entry: safetensors writes several in any order
        try:
            save_file(tensors, temporary, {"mmfl": header})
        except SafetensorError as error:  # a full disk comes as text
            raise UserError(
                f"{path}: not written ({error}); {_remedy(str(error), len(tensors))}, then run "
                "train again: it goes on from the last round that was written"
            ) from None


def _remedy(error: str, count: int) -> str:
    if "header too large" in error:  # the format's limit for the names of a file's tensors
        return f"{count} tensors are too many for a file: use fewer clients or a smaller network"
    full = any(f"os error {number})" in error for number in (errno.ENOSPC, errno.EDQUOT))
    return "free room on its disk" if full else "correct its folder"


def read(path: Path) -> tuple[Server, dict[str, Any]]:
    """The server and its meta.

    Raises:
        DamagedFile: the file is truncated, not a checkpoint, or its digest does not fit.
    """
    remedy = "delete it and run train again"
    try:
        with safe_open(path, "pt") as handle:
            header = json.loads(handle.metadata()["mmfl"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        found = _digest(tensors, header["meta"])
        if found != header["sha256"]:
            raise DamagedFile(
                path, f"digest {found[:12]}, expected {header['sha256'][:12]}; {remedy}"
            )
        meta = json.loads(header["meta"])
        return _unflatten(tensors, meta["round"]), meta
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(path, f"not a whole checkpoint ({error}); {remedy}") from None


def place(folder: Path, round_index: int) -> Path:
    """The file of the checkpoint after so many rounds."""
    return folder / f"round-{round_index:05d}.safetensors"


def latest(folder: Path, identity: dict[str, Any]) -> tuple[Server, dict[str, Any], Journal] | None:
    """The newest whole checkpoint of a folder, its meta and its rows; None without one.

    Raises:
        UserError: it belongs to a run with another `identity`; says what differs.
    """
    found = numbered(folder)
    for path in reversed(found.values()):
        try:
            server, meta = read(path)
            differing = differences(meta.get("identity", {}), identity)
            if differing:
                raise UserError(
                    f"{path}: a checkpoint of another run: {'; '.join(differing[:3])}; delete it "
                    "or run train with --fresh"
                )
            return server, meta, read_journal(folder / JOURNAL, meta["rows"])
        except DamagedFile as error:
            log.warning("%s; going on from the one before %s", error, path.name)
    if found:
        log.warning("%s: no whole checkpoint is left; beginning at round 1", folder)
    return None


def differences(found: Any, expected: Any, key: str = "") -> list[str]:
    """One line per value in which two JSON documents differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = dict.fromkeys([*expected, *found])
        inner = [(f"{key}.{n}" if key else n, found.get(n), expected.get(n)) for n in names]
        return [line for name, a, b in inner for line in differences(a, b, name)]
    return [] if found == expected else [f"{key}: found {found}, expected {expected}"]


def numbered(folder: Path) -> dict[int, Path]:
    """round -> file of the checkpoints in a folder, by round."""
    found = {int(p.stem.partition("-")[2]): p for p in folder.glob("round-*.safetensors")}
    return dict(sorted(found.items()))


def keep_last(folder: Path, best: int, count: int = 2) -> None:
    """Delete all checkpoints but the newest `count` and that of the best round."""
    found = numbered(folder)
    for number in list(found)[:-count]:
        if number != best:
            found[number].unlink()
