"""Which devices a job computes on. The jobs of one machine share its GPUs by a lock each."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from mmfl.errors import UserError

LOCKS = "mmfl-devices"  # folder of the locks, in the machine's temporary folder
log = logging.getLogger(__name__)


@contextmanager
def devices(name: str, count: int = 1) -> Iterator[list[torch.device]]:
    """`count` CUDA devices that no other job on this machine has, or the processor.

    Args:
        name: cuda, cpu, or auto: CUDA where the machine has it.
        count: CUDA devices; with auto, 0 is the processor. The workers of a job share them in turn.

    Raises:
        UserError: the name is unknown, or fewer devices are visible than asked for.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: found {name}, expected auto, cpu or cuda")
    visible = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cuda" and not visible:
        raise UserError("--device: found no CUDA device, expected one for cuda; use --device cpu")
    if not visible or (name == "auto" and count == 0):
        yield [torch.device("cpu")]
        return
    count = max(count, 1)
    if count > visible:
        raise UserError(
            f"--gpus: found {count}, expected at most the {visible} CUDA devices that this job can "
            "see; lower the rule's resource gpu"
        )
    # An index may mean another device in each job (CUDA_VISIBLE_DEVICES, cgroups); a UUID does not.
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(visible)]
    with claim(names, count) as chosen:
        yield [torch.device("cuda", place) for place in chosen]


@contextmanager
def claim(names: Sequence[str], count: int, folder: Path | None = None) -> Iterator[list[int]]:
    """Places of `count` of the named things, held until the end; waits until so many are free.

    Takes all or none, so that two jobs never wait for each other. The kernel releases a lock
    however its process ends.
    """
    folder = folder or Path(tempfile.gettempdir(), LOCKS)
    waiting = False
    while True:
        with ExitStack() as held:
            free = (i for i, name in enumerate(names) if _free(folder / name, held))
            chosen = list(itertools.islice(free, count))
            if len(chosen) == count:
                yield chosen
                return
        if not waiting:
            log.info("waiting for %d free of %d devices (locks in %s)", count, len(names), folder)
            waiting = True
        time.sleep(0.2)


def _free(path: Path, held: ExitStack) -> bool:
    """Take the lock of a device if nobody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another user's
        path.parent.chmod(0o1777)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):
            path.chmod(0o666)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
