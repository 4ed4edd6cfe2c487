"""The reference networks that tell how quick and how undisturbed a machine is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from torch import nn

from search_spaces.input_spec import as_input_spec

from ..runtime.seeding import isolated_random_state
from .runtimes import Pass, Runtime, shipped

_WIDTHS = {"cache": 2000, "memory": 6000}
"""Outputs of the wide networks: 16 MB of weights, which a large cache holds, and 49 MB, which most do not."""


@dataclass(frozen=True)
class Paces:
    """The quickest passes of the reference networks in one round, in seconds.

    Attributes:
        compute: Time of a few convolutions, which tells how quick the processor is.
        cache: Time of 16 MB of weights, which tells whether something else uses the caches.
        memory: Time of 49 MB of weights, which tells whether something else uses the memory.
    """

    compute: float = math.inf
    cache: float = math.inf
    memory: float = math.inf

    def quicker(self, other: Paces) -> Paces:
        """The quicker of each."""
        return Paces(min(self.compute, other.compute), min(self.cache, other.cache), min(self.memory, other.memory))

    def disturbance(self, quickest: Paces) -> float:
        """How much longer the weights took to be read than at their quickest, as a share of that."""
        pairs = ((self.cache, quickest.cache), (self.memory, quickest.memory))
        return max((own / least - 1 for own, least in pairs if least), default=0.0)


@dataclass
class Reference:
    """The reference networks in one runtime, with the quickest pass of each so far in this process.

    Attributes:
        compute, cache, memory: One pass of each network; see `Paces`.
        quickest: The quickest pass of each.
    """

    compute: Pass
    cache: Pass
    memory: Pass
    quickest: Paces = Paces()

    def note(self, paces: Paces) -> None:
        """Note the times of one round."""
        self.quickest = self.quickest.quicker(paces)


@functools.cache
def reference_in(runtime: Runtime, threads: int) -> Reference:
    """The references in a runtime, made once per process."""
    with isolated_random_state(0):
        small = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU()),
            *(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 128)),
        )
        wide = {
            name: nn.Sequential(nn.Flatten(), nn.Linear(48, 2048), nn.ReLU(), nn.Linear(2048, width))
            for name, width in _WIDTHS.items()
        }
    images = as_input_spec((3, 64, 64)).example(1)
    corner = images[:, :, :4, :4].contiguous()
    return Reference(
        runtime.prepare(shipped(small), images, threads),
        runtime.prepare(shipped(wide["cache"]), corner, threads),
        runtime.prepare(shipped(wide["memory"]), corner, threads),
    )
