"""Random numbers keyed by purpose: no global stream, so a resume changes no bit."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator that depends on (seed, key) only, e.g. `generator(1, "order", epoch, client)`."""
    text = "/".join(map(str, (seed, *key)))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
