"""Pools of processes that end with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for `map`; an error ends the running calls and cancels those that wait."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent) as processes:
        try:
            yield processes
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A forked worker waits for work for ever once its parent was killed: end it then."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
