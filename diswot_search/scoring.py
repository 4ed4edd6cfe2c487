"""What a comparison computes: one proxy on one architecture with one draw of weights, against one opponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from search_spaces import Architecture

from .evaluation import Evaluator, failure_reason
from .proxies import Proxy
from .readings import Readings
from .score_store import NewScore
from .teacher import Teacher

SIZES = ("params", "macs")
"""What stands beside every proxy. It belongs to the architecture's own text, not to what it computes."""


@dataclass(frozen=True, eq=False)
class Opponent:
    """Whom proxies compare students with: a teacher as it is, or with its readings spoilt, or nobody.

    Attributes:
        teacher: The teacher.
        treatment: What is done to its readings: "shuffled", "no teacher" for noise in their place, or nothing.
        control: What is said of it beside a proxy, None for the teacher that was asked for.
    """

    teacher: Teacher | None = None
    treatment: str | None = None
    control: str | None = None

    def context(self) -> dict[str, Any]:
        """What a score depends on, as JSON values."""
        return {"teacher": self.teacher.config() if self.teacher else None, "treatment": self.treatment}

    def spoil(self, readings: Readings | None, seed: int) -> Readings | None:
        """The teacher's readings as proxies get them."""
        if readings is None or self.treatment is None:
            return readings
        return readings.shuffled(seed) if self.treatment == "shuffled" else readings.replaced_by_noise(seed)


NOBODY = Opponent()


@dataclass(frozen=True, eq=False)
class Unit:
    """A proxy against an opponent: what is computed and stored.

    Attributes:
        proxy: The proxy.
        opponent: Whom it compares with.
        series: Number of its series in the store, for each draw.
    """

    proxy: Proxy
    opponent: Opponent
    series: tuple[int, ...]


class Scorer:
    """Computes the scores of one draw; its teachers' readings are taken once, and go with it.

    Args:
        evaluator_for: Gives the evaluator that reads this teacher, and students, on the draw's probe.
        draw: Number of the draw.
        seed: Seed of its weights.
        canonical: Score the architecture that stands for all with the same function; otherwise each as written.
    """

    def __init__(
        self, evaluator_for: Callable[[Teacher | None], Evaluator], draw: int, seed: int, canonical: bool = True
    ) -> None:
        self.evaluator_for = evaluator_for
        self.draw = draw
        self.seed = seed
        self.canonical = canonical
        self._reader = evaluator_for(None)
        self._readings: dict[Opponent, Readings | None] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def scores(self, architecture: Architecture, units: Sequence[Unit]) -> dict[int, NewScore]:
        """New scores of an architecture by the number of their series. A failure is recorded and disturbs no other."""
        needs = {name for unit in units if unit.proxy.is_registered for name in unit.proxy.needs}
        shared = self._reader.read_student(architecture, self.seed, needs=needs, canonical=self.canonical)
        found = {}
        for unit in units:
            student = shared
            if not unit.proxy.is_registered:  # who knows what it does to the network
                needs = set(unit.proxy.needs)
                student = self._reader.read_student(architecture, self.seed, needs=needs, canonical=self.canonical)
            found[unit.series[self.draw]] = score_of(unit.proxy, student, self._against(unit.opponent))
        return found

    def _against(self, opponent: Opponent) -> Readings | None:
        if opponent not in self._readings:
            evaluator = self._evaluator(opponent.teacher)
            self._readings[opponent] = opponent.spoil(read_teacher(evaluator, self.seed), self.seed)
        return self._readings[opponent]

    def _evaluator(self, teacher: Teacher | None) -> Evaluator:
        """One for all that is done to a teacher's readings."""
        key = repr(teacher and teacher.config())
        if key not in self._evaluators:
            self._evaluators[key] = self.evaluator_for(teacher)
        return self._evaluators[key]


def read_teacher(evaluator: Evaluator, seed: int) -> Readings | None:
    """The teacher's readings.

    Raises:
        ValueError: It cannot be built, or read on this probe.
    """
    try:
        return evaluator.read_teacher(seed, 0)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def score_of(proxy: Proxy, student: Readings, teacher: Readings | None) -> NewScore:
    """A score, or why there is none: an architecture may fail in any way that a network can.

    Raises:
        MemoryError: There was not enough memory, which says nothing about the architecture.
    """
    score, reason = None, None
    with student.watch() as watch:
        try:
            score = proxy(student, teacher)
        except Exception as error:
            reason = failure_reason(error)
            if _is_out_of_memory(error):
                raise MemoryError(
                    f"Out of memory in the proxy {proxy.name!r} ({reason}). What was stored stays: make room, or take "
                    "a smaller batch or another device, and run the same again."
                ) from error
    if score is not None and not math.isfinite(score):
        score, reason = None, f"the score is {score}"
    return NewScore(score, reason, watch.seconds, watch.passes)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left; for the CPU and for MPS torch has no class of its own."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in message or "out of memory" in message)
