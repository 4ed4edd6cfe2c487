"""Readings of a network on a probe."""

from __future__ import annotations

from functools import partial

from ..data.probe import Probe
from ..networks.network import Network
from .core import Readings
from .passes import Precision


def read_network(
    network: Network, probe: Probe, seed: int = 0, *, device: str = "cpu", precision: Precision | None = None
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
    build = partial(network.build, seed)
    return Readings(build, network.convert(probe), device=device, precision=precision, trained=network.trained)
