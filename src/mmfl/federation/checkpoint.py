"""A federation on disk: the server's tensors in safetensors, the rest in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmfl.errors import UserError
from mmfl.files import atomic
from mmfl.strategies.base import POLICIES, Server


def flatten(server: Server) -> dict[str, Tensor]:
    """`parameters/<scope>/<name>`, `statistics/<policy>/<scope>/<name>`, `state/<name>`."""
    tensors = {f"parameters/{s}/{n}": t for (s, n), t in server.parameters.items()}
    for policy, values in server.statistics.items():
        tensors |= {f"statistics/{policy}/{s}/{n}": t for (s, n), t in values.items()}
    tensors |= {f"state/{name}": t for name, t in server.state.items()}
    # Shared storage is refused by safetensors: every tensor becomes its own copy.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def save(path: Path, server: Server, meta: dict[str, Any]) -> None:
    """Write atomically. `meta` is JSON; the round is kept beside it."""
    header = {"meta": json.dumps(meta | {"round": server.round}, sort_keys=True)}
    with atomic(path) as temporary:
        save_file(flatten(server), temporary, metadata=header)


def read(path: Path) -> tuple[Server, dict[str, Any]]:
    """The server and its meta.

    Raises:
        UserError: the file is truncated or not a checkpoint.
    """
    server = Server({}, {policy: {} for policy in POLICIES})
    try:
        with safe_open(path, "pt") as handle:
            meta = json.loads(handle.metadata()["meta"])
            for name in handle.keys():  # noqa: SIM118 - not a dict
                kind, rest = name.split("/", 1)
                tensor = handle.get_tensor(name)
                if kind == "parameters":
                    scope, key = rest.split("/", 1)
                    server.parameters[scope, key] = tensor
                elif kind == "statistics":
                    policy, scope, key = rest.split("/", 2)
                    server.statistics[policy][scope, key] = tensor
                else:
                    server.state[rest] = tensor
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole checkpoint ({error}); delete it and run train again"
        ) from None
    server.round = meta["round"]
    return server, meta


def latest(folder: Path) -> tuple[Server, dict[str, Any]] | None:
    """The newest checkpoint of a folder that can be read; None without one."""
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True):
        try:
            return read(path)
        except UserError:
            continue
    return None


def keep_last(folder: Path, count: int = 2) -> None:
    """Delete all but the newest `count` checkpoints."""
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True)[count:]:
        path.unlink()
