"""Stable seeds, and the global random generators left as they were."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stable_seed(*parts: int | str) -> int:
    """A seed below 2^63 from the parts, the same in every process, on every machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the generators of random, NumPy and torch for the block, and give them back as they were.

    Of torch this is the CPU's, from which networks are drawn before they move to a device: those of other devices are
    neither touched nor, where nothing else uses them, started.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
