"""Controls: readings whose activations are changed, in another order of samples or replaced by noise.

A control holds no network. It has changed activations, and computes from them the readings that declare
`controlled=True`. It refuses every other reading, one that a user adds included, and so the untouched network cannot be
read through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..networks.contract import ReadingError
from ..networks.forward import Forward
from ..runtime.seeding import stable_seed
from .passes import Pass, Passes
from .recording import MapRecord, Recorder
from .timing import Reading, Timed

Change = Callable[[Tensor], Tensor]
"""Makes a tensor of the same shape from a tensor of samples."""

_ACTIVATION_KINDS = frozenset({"blocks"})
"""The records of a forward pass that a control can change. Codes and derivatives belong to the network itself."""


class Controlled(Passes):
    """Readings made from those of another network by a change of its activations; made by `under_control`."""

    _change: Callable[[frozenset[str]], Pass]

    @classmethod
    def of(cls, original: Passes, change: Callable[[frozenset[str]], Pass]) -> Controlled:
        """Readings on the original's probe.

        Args:
            original: The readings to change; no reference to them is kept.
            change: Gives the changed pass with the records asked for.
        """
        controlled = cls.__new__(cls)
        Timed.__init__(controlled)
        controlled.probe = original.probe
        controlled.device = original.device
        controlled.precision = original.precision
        controlled.trained = original.trained
        controlled.needs = controlled._announced = frozenset()
        controlled._cost = None
        controlled._make = _no_network
        controlled._change = change
        return controlled

    def _admit(self, reading: Reading[object]) -> None:
        if not reading.controlled:
            raise _refusal(reading.name)

    def _run(self, kinds: frozenset[str]) -> Pass:
        if not kinds <= _ACTIVATION_KINDS:
            raise _refusal(", ".join(sorted(kinds - _ACTIVATION_KINDS)))
        return self._change(kinds)


def under_control(original: Passes, change_forward: Callable[[Forward], Forward], change: Change) -> Any:
    """Change the activations of readings.

    Args:
        original: The readings, of `Readings` or of a subclass.
        change_forward: Changes the results of a forward pass.
        change: Changes the output of a block.

    Returns:
        Readings of the original's class, which refuse what a control does not have.
    """

    def changed_pass(kinds: frozenset[str]) -> Pass:
        taken = original._pass_with(kinds)
        notes = Recorder(kinds, taken.images)
        notes.body = taken.notes.body
        notes.blocks = [_changed(block, change) for block in taken.notes.blocks]
        forward = change_forward(taken.forward)
        # Last, for each draw of noise depends on the draws before it.
        notes.entry = None if taken.notes.entry is None else _changed(taken.notes.entry, change)
        return Pass(kinds, forward, notes, taken.images.detach(), forward.logits, taken.head)

    kind: Any = type(original)
    if not issubclass(kind, Controlled):
        kind = type(f"Controlled{kind.__name__}", (Controlled, kind), {})
    return kind.of(original, changed_pass)


def other_order(original: Passes, seed: int) -> tuple[Callable[[Forward], Forward], Change]:
    """Changes that put the samples in another order."""
    generator = torch.Generator().manual_seed(stable_seed("shuffled", seed))
    order = torch.randperm(len(original.probe.labels), generator=generator).to(original.device)
    return lambda forward: forward.mapped(lambda values: values[order]), lambda values: values[order]


def noise(seed: int) -> tuple[Callable[[Forward], Forward], Change]:
    """Changes that replace every feature map by standard normal noise."""
    draw, draw_weight = (_normal(stable_seed(what, seed)) for what in ("noise", "noise for weights"))
    return lambda forward: forward.from_features(draw, draw_weight), draw


def _normal(seed: int) -> Change:
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator).to(like)


def _changed(record: MapRecord, change: Change) -> MapRecord:
    return MapRecord(change(record.raw.detach()), record.layout, record.is_map)


def _refusal(name: str) -> ReadingError:
    return ReadingError(
        f"a control has activations alone and no network, so it does not give {name!r}; a reading that is made from "
        "activations and the probe alone declares @reading(controlled=True)"
    )


def _no_network() -> NoReturn:
    raise _refusal("model")
