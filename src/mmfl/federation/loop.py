"""The round loop, read from top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmfl.errors import DamagedFile, UserError
from mmfl.federation import checkpoint
from mmfl.federation.attendance import State, attendance, check_schedule
from mmfl.federation.checkpoint import Journal
from mmfl.federation.outcome import Row, is_best, server_row
from mmfl.federation.task import Task, shown_policy
from mmfl.federation.workers import Build, Job, Workers
from mmfl.params import Params
from mmfl.strategies.base import Broadcast, Client, Server, Strategy, Update, slot_bytes

log = logging.getLogger(__name__)


@dataclass
class Federation:
    """Everything that one run needs, put together by `steps/train.py`.

    Attributes:
        flops: FLOPs of a training step per sample, by the modalities that the sample has.
        forward: FLOPs of a forward pass with projection per sample, by modality.
        work: folder of the checkpoints.
        identity: what decides the run's bits, JSON; a checkpoint with another one is refused.
        build: makes a worker's task and strategy where it cannot be forked.
        seconds: filled with where the time went.
        best: filled with the server's row of the best round, {} where none was trained.
        unchanged: called before a round is kept; raises where the images changed meanwhile.
    """

    task: Task
    strategy: Strategy
    params: Params
    seed: int
    flops: Callable[[tuple[str, ...]], float]
    forward: Callable[[str], float]
    work: Path
    title: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    build: Build | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    best: Row = field(default_factory=dict)
    unchanged: Callable[[], None] = lambda: None


def federate(fed: Federation, initial: dict[str, torch.Tensor]) -> tuple[Server, list[Row]]:
    """Train all rounds, from the last checkpoint in `fed.work` where there is one.

    Returns the final server and a row per round and client (and one for the server, with the
    validation score, see `server_row`). The checkpoint of the best round by validation
    (`is_best`), whose row is `fed.best` then, stays in `fed.work`.
    """
    strategy, params = fed.strategy, fed.params
    check_schedule(strategy.population, params.participation)
    found = checkpoint.latest(fed.work, fed.identity)
    if found is None:
        server, journal = strategy.start(initial), Journal(fed.work / checkpoint.JOURNAL)
        fed.best = {}
    else:
        server, meta, journal = found
        fed.best = meta["best"]
    rounds = range(server.round, params.train.rounds if strategy.clients else 0)
    with _workers(fed) as workers:
        for _ in tqdm(rounds, fed.title, unit="round", initial=server.round, total=rounds.stop):
            server, rows = one_round(fed, workers, server)
            fed.unchanged()  # what was made from damaged images is not kept
            journal.append(rows)
            if is_best(rows[-1], [fed.best] if fed.best else []):
                fed.best = rows[-1]
            _save(fed, server, journal)
            checkpoint.keep_last(fed.work, fed.best["round"])
        if fed.best:
            _find_best(fed, workers, initial, journal)
    return server, journal.rows


def one_round(fed: Federation, workers: Workers, server: Server) -> tuple[Server, list[Row]]:
    """The server after one more round; a row per client asked, and the server's."""
    strategy = fed.strategy
    fixed = strategy.steps(lambda client: len(fed.task.plan(client, 0, None)))
    # 1. Who takes part; an extra forward pass where a module asks for one.
    states = _attending(strategy, fed.params, fed.seed, server.round)
    present = [c for c in strategy.clients if states.get(c.id) in ("trained", "late")]
    asking = [c for c in present if any(m.fresh(c) for m in strategy.modules)]
    uploads = workers.run([_job(fed, server, client, fixed, fresh=True) for client in asking])
    on_time = {c: slots for c, slots in uploads.items() if states[c] == "trained"}
    strategy.receive(server, on_time)

    # 2. Every one of them trains from what the server sends it.
    jobs = [_job(fed, server, client, fixed) for client in present]
    updates = workers.run(jobs)

    # 3. The server combines the updates and is validated.
    rows = _rows(fed, server, states, jobs, updates, uploads)
    accepted = [updates[c.id] for c in present if states[c.id] == "trained"]
    server = strategy.server_step(server, accepted)
    score = fed.task.validate(strategy.evaluation_view(server, shown_policy(fed.params)))
    return server, [*rows, server_row(server, accepted, score)]


def _save(fed: Federation, server: Server, journal: Journal) -> None:
    """Write a checkpoint; the rows that it refers to are on the disk before it."""
    meta = {"identity": fed.identity, "best": fed.best, "rows": journal.mark}
    checkpoint.save(checkpoint.place(fed.work, server.round), server, meta)


def _find_best(
    fed: Federation, workers: Workers, initial: dict[str, torch.Tensor], journal: Journal
) -> None:
    """See to it that the checkpoint of the best round is there: if it was lost, train it again.

    The same bits come out, since a round depends on the one before alone.
    """
    number = fed.best["round"]
    try:
        checkpoint.read(checkpoint.place(fed.work, number))
        return
    except DamagedFile as error:
        log.warning("%s; training up to round %d, the best, once more", error, number)
    server, rows = fed.strategy.start(initial), [fed.best]
    while server.round < number:
        server, rows = one_round(fed, workers, server)
    if rows[-1] != fed.best:
        raise UserError(
            f"{fed.work}: round {number} trained again: found {rows[-1]}, expected {fed.best}: "
            "this machine does not compute the same bits; run train with --fresh"
        )
    fed.unchanged()
    _save(fed, server, journal)


def _workers(fed: Federation) -> Workers:
    count = max(1, min(fed.workers, len(fed.strategy.clients)))
    if count > 1 and fed.build is not None:
        return Workers(count, fed.build, "spawn")
    return Workers(count, lambda place: (fed.task, fed.strategy))


def _attending(strategy: Strategy, params: Params, seed: int, round_index: int) -> dict[str, State]:
    if strategy.clients != strategy.population:  # centralised: one machine, always there
        return {client.id: "trained" for client in strategy.clients}
    states = attendance(strategy.clients, params.participation, seed, round_index)
    if not strategy.exchanges:  # there is no server that a client could be late for
        states = {c: "trained" if state == "late" else state for c, state in states.items()}
    for client, state in states.items():
        if state != "trained":
            log.warning("round %d: the client %s %s", round_index + 1, client, ABSENT[state])
    return states


ABSENT = {"failed": "failed: nothing of it in this round", "late": "was late: its update is left"}


def _job(
    fed: Federation, server: Server, client: Client, fixed: int | None, fresh: bool = False
) -> Job:
    broadcast = fed.strategy.broadcast(server, client)
    kept = server.clients.get(client.id, {})
    return Job(client, broadcast, kept, fed.params.train, fixed, fresh)


def _rows(
    fed: Federation,
    server: Server,
    states: dict[str, State],
    jobs: list[Job],
    updates: dict[str, Update],
    uploads: dict[str, Any],
) -> list[Row]:
    """A row per client asked: what it did, and what it cost."""
    broadcasts: dict[str, Broadcast] = {job.client.id: job.broadcast for job in jobs}
    rows: list[Row] = []
    for client in fed.strategy.clients:
        if client.id not in states:
            continue
        row: Row = {
            "round": server.round + 1,
            "client": client.id,
            "modality": "+".join(client.modalities),
            "state": states[client.id],
        }
        update = updates.get(client.id)
        if update is None:  # it got the broadcast and never answered
            broadcast = fed.strategy.broadcast(server, client)
            row |= {"samples": 0, "steps": 0, "bytes_up": 0, "bytes_down": broadcast.bytes}
            rows.append(row | {"flops": 0.0})
            continue
        extra = uploads.get(client.id, {})
        flops = sum(fed.flops(m) * count for m, count in update.samples.items())
        if extra:
            flops += sum(fed.forward(q) * len(client.train[q]) for q in client.modalities)
        row |= {
            "samples": sum(update.samples.values()),
            "steps": update.steps,
            "bytes_up": update.bytes + slot_bytes(extra),
            "bytes_down": broadcasts[client.id].bytes,
            "flops": flops,
        }
        row |= update.metrics
        if not math.isfinite(update.metrics["loss"]):
            log.warning(
                "round %d: the loss of the client %s is not finite: training has diverged, or an "
                "image holds NaN that its archive does not declare", server.round + 1, client.id,
            )  # fmt: skip
        for kind, seconds in update.seconds.items():
            fed.seconds[kind] = fed.seconds.get(kind, 0.0) + seconds
        rows.append(row)
    return rows
