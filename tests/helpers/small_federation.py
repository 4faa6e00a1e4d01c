"""A small federation on the small store of patches."""

import torch

from mmfl.clients.manifest import build
from mmfl.federation import checkpoint
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.loop import Federation
from mmfl.federation.setup import build_network, build_strategy
from mmfl.federation.task import Classification
from mmfl.models.network import initialise
from mmfl.params import MethodEntry, Params, resolve

torch.set_num_threads(1)


def parameters(method="mf", **changes):
    base = Params.model_validate(
        {
            "model": {"width": 4, "projection": 8},
            "train": {
                "methods": ["mf"],
                "size": 16,
                "rounds": 3,
                "batch": 5,
                "bands": {"s1": ["VV", "VH"], "s2": ["B02", "B04", "B08"]},
            },
        }
    )
    return resolve(base, MethodEntry(method=method, set=changes))


def federation(
    store,
    work,
    method="mf",
    modalities=("s1", "s2"),
    assignment="duplicate",
    workers=1,
    participation=None,
    held=None,
    **changes,
):
    """`held`: the assignment of the clients, where it is not that of the parameters."""
    folder, table = store
    dump = parameters(method, **changes).model_dump()
    bands = dump["train"]["bands"] | {"s2-20m": ["B05", "B11"]}
    dump["train"]["bands"] = {q: bands[q] for q in modalities}
    dump["partition"] |= {"modalities": list(modalities), "assignment": assignment}
    dump["participation"] = participation or {}
    dump["report"]["baseline"] = method
    params = Params.model_validate(dump)
    frame = build(
        table, scenario="country", assignment=held or assignment, modalities=modalities
    ).frame
    data = Data(folder, frame, params.train.bands, params.train.size)
    network = build_network(method, params, len(data.classes))
    initialise(network, 1)
    initial = {k: v.detach().clone() for k, v in network.state_dict().items()}
    strategy = build_strategy(method, params, network, data)
    normaliser = Normaliser(data.statistics(params.train.normalisation), data)
    task = Classification(network, data, normaliser, params, 1, torch.device("cpu"))
    identity = {"method": method, "parameters": dump["train"] | {"rounds": 0}}
    return Federation(
        task,
        strategy,
        params,
        1,
        lambda m: 1.0,
        lambda q: 0.25,
        work,
        identity=identity,
        workers=workers,
    ), initial


def same(one, two):
    a, b = checkpoint.flatten(one), checkpoint.flatten(two)
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)
