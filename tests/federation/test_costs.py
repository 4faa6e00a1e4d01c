"""FLOPs that are reported against those of a real local step, by torch's counter."""

from __future__ import annotations

import pytest

from helpers.small_federation import federation
from mmfl.federation.local_update import fresh_features, local_update
from mmfl.federation.loop import federate
from mmfl.models.flops import Counter, forward_flops, training_flops
from mmfl.models.whitening import group_by_group


@pytest.mark.parametrize("assignment", ["duplicate", "both"])
@pytest.mark.parametrize(
    "method", ["mf", "fedprox", "scaffold", "moon", "prototypes", "mf+fw", "mf+mim", "mf+fw+mim"]
)
def test_reported_flops_are_those_of_real_steps(store, tmp_path, method, assignment):
    """The second round, with the bank there; prototypes' own products are left out."""
    fed, initial = federation(store, tmp_path, method, assignment=assignment, **{"train.rounds": 1})
    server, _ = federate(fed, initial)
    client = fed.strategy.clients[0]
    broadcast = fed.strategy.broadcast(server, client)
    kept = server.clients.get(client.id, {})
    with group_by_group(), Counter() as counter:
        update = local_update(fed.task, fed.strategy, broadcast, client, kept, fed.params.train)
    reported = sum(
        count * training_flops(
            fed.task.network, modalities, fed.params.train.size,
            projections=int(method in ("moon", "prototypes")),
            extra_forwards=fed.strategy.extra_forwards,
            negatives="all" if "mim" in method else None, batch=5,
        ) for modalities, count in update.samples.items()
    )  # fmt: skip
    assert counter.unknown == set()
    assert reported == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_the_extra_pass_of_a_fresh_bank_is_counted(store, tmp_path):
    fed, initial = federation(store, tmp_path, "mf+mim", **{"mim.bank": "fresh"})
    server = fed.strategy.start(initial)
    client = fed.strategy.clients[0]
    broadcast = fed.strategy.broadcast(server, client)
    with group_by_group(), Counter() as counter:
        fresh_features(fed.task, fed.strategy, broadcast, client)
    (q,) = client.modalities
    one = forward_flops(fed.task.network, q, fed.params.train.size, batch=5)
    assert one * client.size == pytest.approx(counter.get_total_flops(), rel=1e-9)
    _, rows = federate(fed, initial)  # flops 1 per sample of a step, 0.25 of the extra pass
    found = [r["flops"] for r in rows if r["client"] == client.id]
    assert found == [client.size * 1.25] * 3


def test_moons_extra_passes_cost_two_forward_passes(store, tmp_path):
    fed, _ = federation(store, tmp_path, "moon")
    net, size = fed.task.network, fed.params.train.size
    plain, moon = (
        training_flops(net, ("s1",), size, projections=1, extra_forwards=count) for count in (0, 2)
    )
    assert 1.5 < moon / plain < 1.8  # a forward pass is about a third of a step
