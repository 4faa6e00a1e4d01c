"""Who takes part: the drawn frequencies, the schedule, and what the draws depend on."""

from collections import Counter

import numpy as np
import pytest

from mmfl.federation.attendance import attendance
from mmfl.params import Participation
from mmfl.strategies.base import Client

CLIENTS = [Client(f"c{i:02d}", "g", ("s1",), {"s1": np.arange(3)}) for i in range(20)]


def rounds(count=400, seed=1, **choice):
    participation = Participation(**choice)
    return [attendance(CLIENTS, participation, seed, index) for index in range(count)]


def test_by_default_everybody_trains():
    assert all(set(r.values()) == {"trained"} and len(r) == 20 for r in rounds(5))


def test_frequencies_are_the_probabilities():
    """8,000 draws: a share deviates by 0.02 with a probability below 1e-4."""
    found = Counter(state for r in rounds(fails=0.2, late=0.3) for state in r.values())
    total = sum(found.values())
    assert total == 8000
    assert found["failed"] / total == pytest.approx(0.2, abs=0.02)
    assert found["late"] / total == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("fraction", "asked"), [(1.0, 20), (0.5, 10), (0.12, 2), (0.13, 3), (0.01, 1)]
)
def test_the_fraction_is_asked_and_everybody_alike(fraction, asked):
    found = rounds(fraction=fraction)
    assert {len(r) for r in found} == {asked}
    counts = Counter(client for r in found for client in r)
    assert len(counts) == 20
    assert max(counts.values()) < 2 * min(counts.values()) + 30


def test_a_schedule_is_kept_and_touches_nobody_else():
    schedule = [
        {"round": 2, "client": "c03", "what": "fails"},
        {"round": 2, "client": "c04", "what": "late"},
        {"round": 3, "client": "c05"},
    ]
    plain, planned = rounds(4, fails=0.2), rounds(4, fails=0.2, schedule=schedule)
    changed = {
        (index + 1, client): state
        for index, states in enumerate(planned)
        for client, state in states.items()
        if state != plain[index][client] or (index + 1, client) in ((2, "c03"), (3, "c05"))
    }
    assert changed == {(2, "c03"): "failed", (2, "c04"): "late", (3, "c05"): "failed"}


def test_draws_depend_on_seed_and_round_not_on_the_order_of_clients():
    choice = Participation(fraction=0.5, fails=0.3)
    one = attendance(CLIENTS, choice, 1, 0)
    assert one == attendance(CLIENTS[::-1], choice, 1, 0)
    assert one != attendance(CLIENTS, choice, 2, 0) and one != attendance(CLIENTS, choice, 1, 1)


@pytest.mark.parametrize("choice", [{"fraction": 0.5}, {"fails": 0.5}, {"late": 0.5}])
def test_every_draw_by_itself_depends_on_seed_and_round(choice):
    """Two alike with a probability below 1e-5."""
    drawn = [attendance(CLIENTS, Participation(**choice), s, r) for s in (1, 2) for r in (0, 1)]
    assert all(one != two for i, one in enumerate(drawn) for two in drawn[:i])


def test_a_schedule_goes_before_luck():
    schedule = [{"round": r, "client": "c03", "what": "late"} for r in range(1, 41)]
    found = rounds(40, fails=0.9, schedule=schedule)
    assert {r["c03"] for r in found} == {"late"}
    assert {state for r in found for state in r.values()} == {"trained", "failed", "late"}


def test_every_client_has_luck_of_its_own_in_every_round():
    """Half fail: alike in all clients or rounds with a probability below 1e-5 each."""
    found = rounds(40, fails=0.5)
    assert all(set(r.values()) == {"trained", "failed"} for r in found)
    for client in CLIENTS:
        assert {r[client.id] for r in found} == {"trained", "failed"}
