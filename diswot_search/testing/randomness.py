"""The state of the global random generators, for tests that nothing changes it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> tuple[object, ...]:
    """Return the state of the global generators of Python, NumPy and torch, as a value to compare."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()
