"""A federation on disk: its tensors in safetensors, the rest and a digest in the header."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmfl.errors import DamagedFile, UserError
from mmfl.files import atomic
from mmfl.strategies.base import POLICIES, Server

log = logging.getLogger(__name__)


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
                f"{path}: not written ({error}); free room on its disk, then run train again: it "
                "goes on from the round before"
            ) from None


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


def latest(folder: Path, identity: dict[str, Any]) -> tuple[Server, dict[str, Any]] | None:
    """The newest whole checkpoint of a folder; None without one.

    Raises:
        UserError: it belongs to a run with another `identity`; says what differs.
    """
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True):
        try:
            server, meta = read(path)
        except DamagedFile as error:
            log.warning("%s; going on from the one before", error)
            continue
        differing = differences(meta.get("identity", {}), identity)
        if differing:
            raise UserError(
                f"{path}: a checkpoint of another run: {'; '.join(differing[:3])}; delete it or "
                "run train with --fresh"
            )
        return server, meta
    return None


def differences(found: Any, expected: Any, key: str = "") -> list[str]:
    """One line per value in which two JSON documents differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = dict.fromkeys([*expected, *found])
        inner = [(f"{key}.{n}" if key else n, found.get(n), expected.get(n)) for n in names]
        return [line for name, a, b in inner for line in differences(a, b, name)]
    return [] if found == expected else [f"{key}: found {found}, expected {expected}"]


def keep_last(folder: Path, count: int = 2) -> None:
    """Delete all but the newest `count` checkpoints."""
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True)[count:]:
        path.unlink()
