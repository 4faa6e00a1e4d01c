"""Who takes part in a round: sampling, failures and late answers, by the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmfl.errors import UserError
from mmfl.params import Participation
from mmfl.randomness import generator
from mmfl.strategies.base import Client

State = Literal["trained", "failed", "late"]


def attendance(
    clients: Sequence[Client], participation: Participation, seed: int, round_index: int
) -> dict[str, State]:
    """Client id -> what becomes of it, for the clients that are asked in this round.

    max(1, round(fraction K)) of the K clients are asked. One that fails does not train; one that
    is late trains, and the server discards its answer, so that its own state stays as it was.
    Drawn from (seed, round, client) alone: the same for every method of an experiment.
    """
    ids = sorted(client.id for client in clients)
    draw = generator(seed, "attendance", round_index).permutation(len(ids))
    count = max(1, round(participation.fraction * len(ids)))
    planned = {a.client: a.what for a in participation.schedule if a.round == round_index + 1}
    found: dict[str, State] = {}
    for name in sorted(ids[place] for place in draw[:count]):
        luck = generator(seed, "absence", round_index, name).random()
        what = planned.get(name)
        if what == "fails" or (what is None and luck < participation.fails):
            found[name] = "failed"
        elif what == "late" or (what is None and luck < participation.fails + participation.late):
            found[name] = "late"
        else:
            found[name] = "trained"
    return found


def check_schedule(clients: Sequence[Client], participation: Participation) -> None:
    """Refuse a schedule that names a client which does not exist."""
    known = {client.id for client in clients}
    for absence in participation.schedule:
        if absence.client not in known:
            raise UserError(
                f"participation.schedule: found client {absence.client}, expected one of "
                f"{', '.join(sorted(known))}"
            )
