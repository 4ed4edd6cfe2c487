"""Stable seeds, and blocks that leave the global random generators as they were."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stable_seed(*parts: int | str) -> int:
    """Derive a seed below 2^63 from numbers and texts. It is the same in every process and on every machine.

    Example:
        >>> from diswot_search.runtime.seeding import stable_seed
        >>> stable_seed("weights", 0) == stable_seed("weights", 0) != stable_seed("weights", 1)
        True
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the global generators of random, NumPy and torch for a block, and restore their states after it.

    Only torch's CPU generator is seeded. Networks are drawn from it before they move to a device. Other devices are
    neither touched nor initialised.

    Args:
        seed: Seed of all three generators, at least 0.
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
