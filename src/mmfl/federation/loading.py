"""The batches of a client's local training, read ahead by a thread into buffers used again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfl.federation.data import Buffers, Data
from mmfl.patches.augment import Turned
from mmfl.strategies.base import Client

DEPTH = 3  # batches that are read, waiting or in use
Request = tuple[np.ndarray, Turned | None]
"""The samples of a batch, and how they are turned."""


@dataclass(frozen=True)
class Read:
    """A batch as it was read: raw images (N, C, size, size) float32 by modality, NaN in gaps.

    `present[q]` (B,) bool: the samples that have modality q. The images are on the training
    device, and belong to the batch until the next one is asked for.
    """

    present: dict[str, np.ndarray]
    images: dict[str, Tensor]


@dataclass
class Slot:
    """Buffers of one batch by modality; on CUDA `copied` says when the device has taken them."""

    buffers: dict[str, Buffers] = field(default_factory=dict)
    copied: Any = None


def read_ahead(
    data: Data, client: Client, requests: Sequence[Request], device: torch.device
) -> Iterator[Read]:
    """The batches in their order, see `Read`.

    A thread reads ahead, unless all images are in memory anyway. For CUDA it copies the shards'
    native pixels into pinned memory; upsampling and turning are the device's work. No number
    depends on the thread.

    Raises:
        UserError: a shard is damaged.
    """
    most = max((len(samples) for samples, _ in requests), default=0)
    loader = _Loader(data, client, device, most)
    if data.in_memory and device.type != "cuda":
        slot = Slot()
        for request in requests:
            yield loader.finish(request, slot, loader.fill(request, slot))
        return
    free: queue.Queue[Slot | None] = queue.Queue()
    ready: queue.Queue[tuple[Slot, Parts] | BaseException] = queue.Queue()
    for _ in range(DEPTH):
        free.put(Slot())

    def work() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # each thread has a current one
            for request in requests:
                slot = free.get()
                if slot is None:
                    return
                ready.put((slot, loader.fill(request, slot)))
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for request in requests:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            slot, parts = found
            yield loader.finish(request, slot, parts)
            free.put(slot)
    finally:
        free.put(None)
        thread.join()


Parts = dict[str, tuple[np.ndarray, list[Tensor]]]
"""modality -> which samples have it, and what was read of them."""


class _Loader:
    def __init__(self, data: Data, client: Client, device: torch.device, most: int) -> None:
        self.data, self.client, self.device, self.most = data, client, device, most

    def fill(self, request: Request, slot: Slot) -> Parts:
        """Read a batch into the slot's buffers."""
        samples, turned = request
        if slot.copied is not None:
            slot.copied.synchronize()
        found = {}
        for q in self.client.modalities:
            held = np.isin(samples, self.client.train[q])
            if held.any():
                if q not in slot.buffers:
                    slot.buffers[q] = self.data.buffers(
                        q, self.most, self.device, turned is not None
                    )
                found[q] = held, self.data.fill(q, samples[held], slot.buffers[q], turned)
        return found

    def finish(self, request: Request, slot: Slot, parts: Parts) -> Read:
        """Bring what was read to the device and complete it there."""
        samples, turned = request
        present = {q: np.zeros(len(samples), bool) for q in self.client.modalities}
        images = {}
        for q, (held, read) in parts.items():
            present[q] = held
            on_device = [part.to(self.device, non_blocking=True) for part in read]
            images[q] = self.data.finish(q, samples[held], slot.buffers[q], on_device, turned)
        if self.device.type == "cuda":
            slot.copied = torch.cuda.Event()
            slot.copied.record(torch.cuda.current_stream(self.device))
        return Read(present, images)
