"""Readings made from those of another network, as controls: in another order, or of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..networks.contract import ReadingError
from ..runtime.seeding import stable_seed
from .forward import Forward
from .passes import Pass, Passes
from .recording import Recorder
from .timing import T

ACTIVATIONS_ALONE = "altered readings are activations alone: they have neither codes nor derivatives"


Change = Callable[[Tensor], Tensor]


class Altered(Passes):
    """Passes whose activations are made from those of another network.

    Args:
        original: What they are made from.
        change_forward: Makes what a forward pass gave.
        change_map: Makes the output of a block.
    """

    def __init__(self, original: Passes, change_forward: Callable[[Forward], Forward], change_map: Change) -> None:
        super().__init__(
            lambda: original.model,
            original.probe,
            device=original.device,
            precision=original.precision,
            trained=original.trained,
            cost=lambda: original.cost,
        )
        self._original = original
        self._change_forward = change_forward
        self._change_map = change_map

    def _take(self, name: str, function: Callable[[Any], T]) -> T:
        if name in ("half_gradients", "ntk", "fisher_information", "subsample"):  # these run the network itself
            raise ReadingError(ACTIVATIONS_ALONE)
        return super()._take(name, function)

    def _run(self, kinds: frozenset[str]) -> Pass:
        if not kinds <= {"blocks"}:
            raise ReadingError(ACTIVATIONS_ALONE)
        taken = self._original._pass_with(kinds)
        notes = Recorder(kinds, taken.notes.samples)
        notes.blocks = [self._change_map(block.detach()) for block in taken.notes.blocks]
        forward = self._change_forward(taken.forward)
        return Pass(kinds, forward, notes, taken.images, forward.logits)


def other_order(original: Passes, seed: int) -> tuple[Callable[[Forward], Forward], Change]:
    """Changes that put the samples in another order."""
    generator = torch.Generator().manual_seed(stable_seed("shuffled", seed))
    order = torch.randperm(len(original.probe.labels), generator=generator).to(original.device)
    return lambda forward: forward.mapped(lambda values: values[order]), lambda map_: map_[order]


def noise(seed: int) -> tuple[Callable[[Forward], Forward], Change]:
    """Changes that put standard normal noise in place of every feature map."""
    generator = torch.Generator().manual_seed(stable_seed("noise", seed))

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    return lambda forward: forward.from_features(draw), draw
