"""Readings of a network on a probe."""

from __future__ import annotations

import torch

from ..data.probe import Probe
from ..networks.network import ConvertedTeacher, Teacher
from .core import Readings
from .passes import Precision


def read_network(
    network: Teacher, probe: Probe, seed: int = 0, *, device: str = "cpu", precision: Precision | None = None
) -> Readings:
    """The readings of a network on a probe; nothing is built or run before one of them is used.

    Args:
        network: The network.
        probe: The batch, as the students see it; a network with a conversion of its own reads the converted batch.
        seed: Seed of random weights; trained weights do not depend on it.
        device: Where the network runs.
        precision: Memory layout and number format.

    Raises:
        ValueError: The network's conversion does not take this probe, or changes its labels.
    """
    seen = probe
    if isinstance(network, ConvertedTeacher):
        seen = network.convert(probe)
        if not torch.equal(seen.labels, probe.labels):
            raise ValueError(f"The teacher {network.name!r} converts a probe to one with other labels.")
    return Readings(lambda: network.build(seed), seen, device=device, precision=precision, trained=network.trained)
