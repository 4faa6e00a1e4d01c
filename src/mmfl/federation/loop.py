"""The round loop, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mmfl.evaluation.metrics import scores
from mmfl.evaluation.predict import Inputs, ensemble_probabilities
from mmfl.federation import checkpoint
from mmfl.federation.data import Data, Normaliser
from mmfl.federation.local_update import fresh_features, local_update
from mmfl.models.network import Network
from mmfl.params import Params
from mmfl.patches.batching import batches
from mmfl.strategies.base import Server, Strategy, nbytes

Row = dict[str, Any]


@dataclass
class Federation:
    """Everything that one run needs, put together by `steps/train.py`."""

    network: Network
    strategy: Strategy
    data: Data
    normaliser: Normaliser
    params: Params
    seed: int
    device: torch.device
    flops: Callable[[tuple[str, ...]], float]
    work: Path
    title: str = ""


def federate(fed: Federation, initial: dict[str, torch.Tensor]) -> tuple[Server, list[Row]]:
    """Train all rounds, from the last checkpoint in `fed.work` where there is one.

    Returns the final server and a row per round and client (and one for the server, with the
    validation score). The best round by validation stays in `fed.work/best.safetensors`.
    """
    clients = fed.strategy.participants(fed.data.clients)
    fixed = fed.strategy.steps(fed.data.clients, lambda c: _steps(c.size, fed.params))
    server, rows = fed.strategy.start(initial, clients or fed.data.clients), []
    resumed = checkpoint.latest(fed.work)
    if resumed:
        server, meta = resumed
        rows = meta["rows"]
    rounds = range(server.round, fed.params.train.rounds if clients else 0)
    for _ in tqdm(rounds, desc=fed.title, unit="round", initial=server.round, total=rounds.stop):
        # 1. An extra forward pass where a module asks for one (MIM with bank: fresh).
        uploads = {}
        for client in clients:
            asking = [module for module in fed.strategy.modules if module.fresh(client)]
            if asking:
                uploads[client.id] = fresh_features(
                    fed.network, fed.strategy, fed.strategy.broadcast(server, client), client,
                    fed.data, fed.normaliser, fed.params, fed.device,
                )  # fmt: skip
        for module in fed.strategy.modules if uploads else ():
            module.receive(server, uploads)

        # 2. Every client trains from what the server sends it.
        updates = []
        for client in clients:
            broadcast = fed.strategy.broadcast(server, client)
            update = local_update(
                fed.network, fed.strategy, broadcast, client, fed.data, fed.normaliser,
                fed.params, fed.seed, fixed, fed.device,
            )  # fmt: skip
            updates.append(update)
            extra = uploads.get(client.id, {})
            forward = client.size / 3 if extra else 0  # a forward pass is a third of a step
            rows.append(
                {
                    "round": server.round + 1,
                    "client": client.id,
                    "modality": "+".join(client.modalities),
                    "samples": int(update.metrics["samples"]),
                    "steps": update.steps,
                    "loss": update.metrics["loss"],
                    "loss_mim": update.metrics["loss_mim"],
                    "bytes_up": exchanged(fed, update.wire_bytes + nbytes(extra.values())),
                    "bytes_down": exchanged(fed, broadcast.bytes),
                    "flops": fed.flops(client.modalities) * (update.metrics["samples"] + forward),
                }
            )

        # 3. The server combines the updates, is validated and saved.
        server = fed.strategy.server_step(server, updates, clients)
        score = validate(fed, server)
        previous = [row["val_map"] for row in rows if row["client"] == "server"]
        rows.append({"round": server.round, "client": "server", "val_map": score})
        if not previous or (score or 0) > max(value or 0 for value in previous):
            checkpoint.save(fed.work / "best.safetensors", server, {})
        checkpoint.save(fed.work / f"round-{server.round:05d}.safetensors", server, {"rows": rows})
        checkpoint.keep_last(fed.work)
    return server, rows


def exchanged(fed: Federation, count: int) -> int:
    """Bytes that really travel: none where nothing is exchanged (the anchors)."""
    return count if fed.strategy.exchanges else 0


def validate(fed: Federation, server: Server) -> float | None:
    """Macro average precision on the clients' validation locations, all modalities."""
    locations = fed.data.splits.get("validation", np.empty(0, np.int64))
    if not len(locations) or not fed.data.labels[locations].any():
        return None
    mask = {q: fed.data.present[q][locations] for q in fed.data.bands}
    inputs = standardised(fed.data, fed.normaliser, fed.device)
    found = []
    for ensemble in fed.strategy.evaluation_view(
        server, fed.data.clients, shown_policy(fed.params)
    ):
        probabilities = ensemble_probabilities(
            fed.network, ensemble, locations, [mask], inputs,
            len(fed.data.classes), fed.params.evaluate.batch,
        )[0]  # fmt: skip
        seen = ~np.isnan(probabilities[:, 0])
        if seen.any():
            found.append(scores(fed.data.labels[locations][seen], probabilities[seen])["ap_macro"])
    return float(np.mean(found)) if found else None


def shown_policy(params: Params) -> str:
    """The statistics under which the union model is tested; `local` has none, so pooled ones."""
    return "modality" if params.train.statistics == "local" else params.train.statistics


def standardised(data: Data, normaliser: Normaliser, device: torch.device) -> Inputs:
    """Images of locations, standardised as the test bench does it."""

    def inputs(q: str, locations: np.ndarray) -> torch.Tensor:
        return normaliser.locations(q, data.batch(q, locations).to(device), locations)

    return inputs


def _steps(size: int, params: Params) -> int:
    return params.train.epochs * len(batches(size, params.train.batch))
