"""What became of a round: its validation score, whether training diverged, whether it is best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmfl.facts.tasks import DIVERGED
from mmfl.strategies.base import Server, Update

Row = dict[str, Any]


def server_row(server: Server, updates: Sequence[Update], score: float | None) -> Row:
    """The server's row after a round, of which it accepted `updates`.

    Its state is `diverged` where a loss, a weight, a running statistic or an answer about a
    validation location is not finite; then there is no score. `score` is NaN for such an answer.
    """
    row: Row = {"round": server.round, "client": "server", "val_score": score}
    losses = [update.metrics[key] for update in updates for key in ("loss", "loss_terms")]
    tensors = [server.parameters.values(), *(s.values() for s in server.statistics.values())]
    answered = score is None or math.isfinite(score)
    if answered and all(map(math.isfinite, losses)) and all(map(_finite, tensors)):
        return row
    return row | {"val_score": None, "state": DIVERGED}


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def diverged(rows: Sequence[Row]) -> int | None:
    """The first round after which a run had diverged; None if it never had."""
    rounds = [row["round"] for row in rows if row.get("state") == DIVERGED]
    return min(rounds, default=None)


def is_best(row: Row, before: Sequence[Row]) -> bool:
    """Whether a round's server row is better than all before: a higher score, the first of equals.

    Scores are fractions, of which more is better. Without any score the last round that has not
    diverged is best, and with no other a diverged one.
    """
    rank = _rank(row)
    best = max((_rank(other) for other in before), default=None)
    return best is None or rank > best or (rank == best and row["val_score"] is None)


def _rank(row: Row) -> tuple[bool, float]:
    score = row["val_score"]
    return row.get("state") != DIVERGED, -math.inf if score is None else score
