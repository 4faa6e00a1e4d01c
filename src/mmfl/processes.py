"""Pools of processes that end with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from mmfl.errors import UserError

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for `map`; an error ends the running calls and cancels those that wait."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent) as processes:
        try:
            yield processes
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; use fewer workers"
            ) from None
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


@contextmanager
def ahead(workers: int) -> Iterator[Map]:
    """A `map` over processes with results in order; the plain `map` for one worker.

    It takes few items before their results are asked for, so that many large ones need no memory.
    """
    if workers <= 1:
        yield map
        return
    with pool(workers) as processes:

        def run(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Future[Any]] = deque()
            for item in items:
                waiting.append(processes.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield run


def _end_with_parent() -> None:
    """A forked worker waits for work for ever once its parent was killed: end it then."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
