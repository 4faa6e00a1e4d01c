"""Clients in N processes of one thread, each with one resident network; any N gives the same bits.

With one worker everything runs in this process. On a CPU workers are forked and share the images
that are loaded already; on CUDA, which cannot be forked, they start anew and build their task.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from mmfl.errors import UserError
from mmfl.federation.local_update import fresh_features, local_update
from mmfl.federation.task import Task
from mmfl.params.sections import Train
from mmfl.strategies.base import Broadcast, Client, Slots, Strategy

Build = Callable[[int], tuple[Task, Strategy]]
"""Worker number -> its task and strategy."""


@dataclass
class Job:
    """Local training of a client, or with `fresh` only its extra forward pass."""

    client: Client
    broadcast: Broadcast
    kept: Slots
    train: Train
    steps: int | None = None
    fresh: bool = False

    def run(self, task: Task, strategy: Strategy) -> Any:
        """The client's `Update`, or what it uploads."""
        if self.fresh:
            return fresh_features(task, strategy, self.broadcast, self.client)
        return local_update(
            task, strategy, self.broadcast, self.client, self.kept, self.train, self.steps
        )


def deterministic() -> None:
    """One thread and deterministic algorithms, in this process.

    What new tensors hold is left as it is: to fill them all takes 2 to 5 % of a step.
    """
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


class Workers:
    """Runs jobs; use as a context. `build` is called in each worker (`start`: fork or spawn).

    Raises:
        UserError: a worker died; names the client that it had.
    """

    def __init__(self, count: int, build: Build, start: str = "fork") -> None:
        self.count = count
        self._build = build
        self._context: Any = multiprocessing.get_context(start)
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._here: tuple[Task, Strategy] | None = None

    def __enter__(self) -> Workers:
        if self.count == 1:
            self._here = self._build(0)
            return self
        for place in range(self.count):
            ours, theirs = self._context.Pipe()
            inherited = [*self._pipes, ours] if self._context.get_start_method() == "fork" else []
            process = self._context.Process(
                target=_serve, args=(theirs, inherited, self._build, place), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        return self

    def __exit__(self, *exception: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if exception[0] is not None:
                process.terminate()
            process.join()
        self._processes, self._pipes = [], []

    def run(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Client id -> result, whatever the order in which they come."""
        if self._here is not None:
            return {job.client.id: job.run(*self._here) for job in jobs}
        return dict(self._spread(sorted(jobs, key=lambda job: -job.client.size)))

    def _spread(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Any]]:
        """Largest clients first, each to the first worker that is free."""
        waiting = list(jobs)
        busy: dict[Connection, str] = {}
        for pipe in self._pipes:
            if waiting:
                self._send(pipe, waiting.pop(0), busy)
        while busy:
            for found in wait(list(busy)):
                assert isinstance(found, Connection)
                client = busy.pop(found)
                try:
                    kind, result = pickle.loads(found.recv_bytes())
                except (EOFError, OSError):
                    raise self._died(found, client) from None
                if kind == "failed":
                    raise result
                yield client, result
                if waiting:
                    self._send(found, waiting.pop(0), busy)

    def _send(self, pipe: Connection, job: Job, busy: dict[Connection, str]) -> None:
        try:
            pipe.send_bytes(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
        except OSError:
            raise self._died(pipe, job.client.id) from None
        busy[pipe] = job.client.id

    def _died(self, pipe: Connection, client: str) -> UserError:
        process = self._processes[self._pipes.index(pipe)]
        process.join(5)
        code = process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code and code < 0 else f"with {code}"
        return UserError(
            f"worker {process.pid}: ended {how} while it trained the client {client}, expected its "
            "update; the rounds before are kept, run train again to go on from there"
        )


def _serve(pipe: Connection, inherited: list[Connection], build: Build, place: int) -> None:
    """A worker's life: build once, then answer jobs until the other end is closed."""
    for other in inherited:  # else no worker would see that the parent is gone
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who closes the pipe
    deterministic()
    built: tuple[Task, Strategy] | None = None
    while True:
        try:
            job = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        try:
            if built is None:
                built = build(place)
            answer: tuple[str, Any] = ("done", job.run(*built))
        except UserError as error:
            answer = ("failed", error)
        except Exception:  # one that can be sent, whatever it was
            answer = ("failed", RuntimeError(traceback.format_exc()))
        try:
            pipe.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        except OSError:
            os._exit(0)
