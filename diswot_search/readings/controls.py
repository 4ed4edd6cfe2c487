"""Controls: readings whose activations are changed, in another order of samples or replaced by noise.

A control takes its changed activations when it is made, and lets go of the original readings then. Neither the network
nor the original readings can be reached from it. It computes from the changed activations the readings that declare
`controlled=True`. It refuses every other reading, one that a user adds included.

Class maps and label gradients of a head that is not linear need a run of the head, so they are taken at once as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..networks.contract import ReadingError
from ..networks.forward import Forward
from ..runtime.seeding import stable_seed
from .passes import Pass, Passes
from .recording import MapRecord, Recorder
from .timing import Reading, T, Timed

Change = Callable[[Tensor], Tensor]
"""Makes a tensor of the same shape from a tensor of samples."""

_ACTIVATION_KINDS = frozenset({"blocks"})
"""The records of a forward pass that a control can change. Codes and derivatives belong to the network itself."""


_HEAD_READINGS = ("label_gradient", "class_map_gram")
"""The readings that run the head alone unless it is linear on mean pooled features."""


@dataclass(frozen=True)
class _Making:
    """The original of a control and the changes, which exist only while the control takes its values."""

    original: Passes
    change_forward: Callable[[Forward], Forward]
    change: Change

    def changed_pass(self, kinds: frozenset[str]) -> Pass:
        taken = self.original._pass_with(kinds)
        notes = Recorder(kinds, taken.images)
        notes.body = taken.notes.body
        blocks = [_changed(block, self.change) for block in taken.notes.blocks]
        forward = self.change_forward(taken.forward)
        # Last, for each draw of noise depends on the draws before it.
        entry = None if taken.notes.entry is None else _changed(taken.notes.entry, self.change)
        if "blocks" in kinds:
            notes.blocks, notes.entry = blocks, entry
        return Pass(kinds, forward, notes, taken.images.detach(), forward.logits)


class Controlled(Passes):
    """Readings made from those of another network by a change of its activations; made by `under_control`."""

    _making: _Making | None

    @classmethod
    def of(cls, making: _Making) -> Controlled:
        """Readings on the original's probe, which hold changed values and no reference to the original."""
        original = making.original
        controlled = cls.__new__(cls)
        Timed.__init__(controlled)
        controlled.probe = original.probe
        controlled.device = original.device
        controlled.precision = original.precision
        controlled.trained = original.trained
        controlled.needs = controlled._announced = frozenset()
        controlled._cost = None
        controlled._make = _no_network
        controlled._making = making
        controlled._take_values()
        return controlled

    def _take_values(self) -> None:
        """Take all values that need the original, and let go of it.

        An error is kept and raised when the reading is used, as that of any reading is.
        """
        try:
            for kinds in (frozenset[str](), _ACTIVATION_KINDS):
                with suppress(Exception):
                    self._pass_with(kinds)
            with suppress(Exception):
                if not (self._get("has_linear_head") and self._get("has_mean_pooling")):
                    for name in _HEAD_READINGS:
                        with suppress(Exception):
                            self._get(name)
        finally:
            self._making = None
            self._errors = {name: _without_frames(error) for name, error in self._errors.items()}

    def _get(self, name: str) -> object:
        return getattr(self, name)

    def _admit(self, reading: Reading[object]) -> None:
        if not reading.controlled:
            raise _refusal(reading.name)

    def _take(self, name: str, function: Callable[[Any], T]) -> T:
        try:
            return super()._take(name, function)
        except Exception as error:  # the one that is kept must not collect the frames of callers
            raise _without_frames(error) from None

    def _run(self, kinds: frozenset[str]) -> Pass:
        if self._making is None or not kinds <= _ACTIVATION_KINDS:
            raise _refusal(", ".join(sorted(kinds - _ACTIVATION_KINDS)) or "a forward pass")
        return self._making.changed_pass(kinds)

    def _rerun_head(self, raw: object) -> Tensor:
        if self._making is None:
            raise _refusal("the head")
        return self._making.original._rerun_head(raw)


def under_control(original: Passes, change_forward: Callable[[Forward], Forward], change: Change) -> Any:
    """Change the activations of readings.

    Args:
        original: The readings, of `Readings` or of a subclass.
        change_forward: Changes the results of a forward pass.
        change: Changes the output of a block.

    Returns:
        Readings of the original's class, which refuse what a control does not have.
    """

    kind: Any = type(original)
    if not issubclass(kind, Controlled):
        kind = type(f"Controlled{kind.__name__}", (Controlled, kind), {})
    return kind.of(_Making(original, change_forward, change))


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


def _without_frames(error: Exception) -> Exception:
    """The same error without its traceback, causes and context: their frames hold the original readings."""
    try:
        return copy.copy(error)
    except Exception:  # some errors cannot be made from their arguments
        return RuntimeError(f"{type(error).__name__}: {error}")


def _refusal(name: str) -> ReadingError:
    return ReadingError(
        f"a control has activations alone and no network, so it does not give {name!r}; a reading that is made from "
        "activations and the probe alone declares @reading(controlled=True)"
    )


def _no_network() -> NoReturn:
    raise _refusal("model")
