"""What a worker does with a candidate of a search: its costs, then its score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..runtime.executors.base import Placement
from .cost_kinds import StoredCost
from .costs import CostCounter
from .evaluator import Evaluator
from .records import Score


@dataclass(frozen=True)
class ScoringTask:
    """A candidate for a worker.

    Attributes:
        architecture: The architecture as text.
        known: The costs that are known; None if there are none.
    """

    architecture: str
    known: StoredCost | None


@dataclass(frozen=True)
class ScoringProgram:
    """The program of a search.

    Attributes:
        evaluator: Scores architectures.
        counter: Counts the costs that are not known.
    """

    evaluator: Evaluator
    counter: CostCounter

    def __call__(self, placement: Placement) -> Callable[[ScoringTask], tuple[StoredCost, Score]]:
        evaluator, counter = self.evaluator.on(placement.device), self.counter

        def score(task: ScoringTask) -> tuple[StoredCost, Score]:
            architecture = evaluator.space.parse(task.architecture)
            cost = counter.complete(architecture, task.known)
            if cost.failure is not None:
                return cost, Score("failed", reason=cost.failure)
            if not evaluator.space.is_trainable(architecture):
                return cost, Score("failed", reason="not trainable: the output does not depend on the input")
            return cost, evaluator.evaluate([architecture])[0]

        return score
