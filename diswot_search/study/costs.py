"""Costs of architectures, counted or measured once and stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from search_spaces.cost import Cost
from search_spaces.registry import shortened
from search_spaces.space import Architecture, SearchSpace

from ..checks import check_memory
from ..runtime.failures import MAX_REASON, failure_reason
from ..runtime.interruption import Interruption
from .budget import Budget, BudgetError, cheapest, check_satisfiable
from .cost_kinds import COSTS, Computed, CostKind, CostSubject, StoredCost, computed_kinds
from .evaluator import Evaluator
from .study import Study

NEAR = 0.1
"""A latency within this share of its limit is measured again, and the second value counts."""

MAX_STARTS = 12
"""Architectures whose latency is measured in search of one within the limit."""


def compute(kind: CostKind, subject: CostSubject, budget: Budget) -> Computed:
    """Compute a cost. One that is measured near its limit is measured twice, and the second value counts.

    Args:
        kind: The kind of cost, which takes more than counting.
        subject: The network.
        budget: The limits, and the conditions of what is measured.

    Returns:
        The cost; the facts about a measured one say how often it was measured.
    """
    assert kind.compute is not None
    computed, measurements = kind.compute(subject, budget.conditions), 1
    if not kind.is_measured:
        return computed
    limit = budget.limits.get(kind.name)
    if limit is not None and abs(computed.value / limit - 1) <= NEAR:
        computed, measurements = kind.compute(subject, budget.conditions), 2
    return replace(computed, details={**computed.details, "measurements": measurements})


@dataclass(frozen=True)
class CostCounter:
    """Counts and measures costs, in any process. It stores nothing.

    Args:
        space: The space of the architectures.
        budget: Limits, and the conditions of what is measured.
        names: Names of the costs that are needed beside parameters and multiply-accumulates.
    """

    space: SearchSpace
    budget: Budget
    names: frozenset[str]

    @property
    def kinds(self) -> list[CostKind]:
        """The kinds that take more than counting, the quickest to compute first."""
        return computed_kinds(self.names)

    def count(self, architecture: Architecture) -> StoredCost:
        """Parameters and multiply-accumulates, or the reason why they cannot be counted.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        try:
            cost = self.space.cost(architecture)
            check_memory(f"The weights of {shortened(str(architecture))}", 4 * cost.params)
            return StoredCost(params=cost.params, macs=cost.macs, size_mb=self._size_of(cost))
        except Exception as error:  # a network may fail to be built in any way; it is recorded as failed
            return StoredCost(failure=_reason("cost", error, architecture))

    def add(self, kind: CostKind, architecture: Architecture, known: StoredCost) -> StoredCost:
        """The costs with one more of them; as they are if it is known, or if one has failed.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        if known.failure is not None or getattr(known, kind.name) is not None:
            return known
        try:
            computed = compute(kind, CostSubject.of_architecture(self.space, architecture), self.budget)
        except Exception as error:  # as above
            return replace(known, failure=_reason(kind.heading, error, architecture))
        facts = {kind.name: computed.details} if kind.is_measured else {}
        return replace(known, **{kind.name: computed.value}, details={**known.details, **facts})  # type: ignore[arg-type]

    def complete(self, architecture: Architecture, known: StoredCost | None) -> StoredCost:
        """All costs that are needed, of which some may be known.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        cost = self.count(architecture) if known is None else known
        for kind in self.kinds:
            cost = self.add(kind, architecture, cost)
        return cost

    def _size_of(self, cost: Cost) -> float | None:
        """The size of the weights, if it is needed and was counted with the parameters."""
        is_needed = "size_mb" in self.names
        return cost.weight_bytes / 1e6 if is_needed and cost.weight_bytes is not None else None


class Costs:
    """Costs of architectures, each counted or measured once per study, however often the study is continued.

    Args:
        evaluator: Evaluator with the space and the device.
        budget: Limits that decide what is feasible and which costs are needed.
        study: Study that stores the costs.
        interruption: Checked before each count.

    Attributes:
        counter: Counts what is not stored.
        tried: Number of architectures whose cost is known.
        within: Number of those that the budget admits.
        watch: Called with these two numbers when they change.
        note: Called with a text before a network is built or run for its cost. It may give the reason why the cost has
            failed, if that ended the process in an earlier run.
    """

    def __init__(self, evaluator: Evaluator, budget: Budget, study: Study, interruption: Interruption) -> None:
        self.evaluator = evaluator
        self.space = evaluator.space
        self.budget = budget
        self.study = study
        self.interruption = interruption
        self.watch: Callable[[int, int], None] = lambda tried, within: None
        self.note: Callable[[str], str | None] = lambda item: None
        self.counter = CostCounter(self.space, budget, frozenset({*budget.limits, *study.objectives}))
        self.computed = self.counter.kinds
        self.tried = self.within = 0
        for stored in study.costs:
            self.tried, self.within = self.tried + 1, self.within + budget.admits(stored)

    @property
    def patience(self) -> int | None:
        """Number of refused architectures in a row after which the next are repaired; see `Algorithm.patience`."""
        if any(kind.name in self.budget.limits for kind in self.computed if kind.name != "size_mb"):
            return 0
        return None if self.space.has_closed_cost else 10

    # -- one architecture -------------------------------------------------------------------------

    def counted(self, architecture: Architecture) -> StoredCost:
        """Parameters and multiply-accumulates, or the reason why they cannot be counted.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        self.interruption.check()
        stored = self.study.cost(str(architecture))
        if stored is not None:
            return stored
        reason = None if self.space.has_closed_cost else self.note(f"cost of {architecture}")
        failed = None if reason is None else StoredCost(failure=reason)
        return self.store(architecture, failed or self.counter.count(architecture))

    def stored(self, architecture: Architecture) -> StoredCost:
        """All costs that the study needs, from its store or computed now; the others only if limited or an objective.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        stored = self.counted(architecture)
        for kind in self.computed:
            stored = self._with(kind, architecture, stored)
        return stored

    def store(self, architecture: Architecture, cost: StoredCost) -> StoredCost:
        """Store the costs of an architecture, unless they are stored."""
        if self.study.cost(str(architecture)) != cost:
            self.study.add_cost(str(architecture), cost)
        return cost

    def _with(self, kind: CostKind, architecture: Architecture, stored: StoredCost) -> StoredCost:
        """The costs with one more of them, which is stored at once."""
        if stored.failure is not None or getattr(stored, kind.name) is not None:
            return stored
        self.interruption.check()
        reason = self.note(f"{kind.heading} of {architecture}")
        failed = None if reason is None else replace(stored, failure=reason)
        return self.store(architecture, failed or self.counter.add(kind, architecture, stored))

    def cost(self, architecture: Architecture) -> Cost:
        """The cost; infinite if it cannot be counted, so that no budget admits it."""
        counted = self.counted(architecture)
        if counted.failure is not None and counted.params is None:
            return Cost(math.inf, math.inf)  # type: ignore[arg-type]
        return Cost(counted.params or 0, counted.macs or 0)

    # -- what the budget admits -------------------------------------------------------------------

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the budget admits an architecture. One that cannot be built passes, to be recorded as failed."""
        is_new = self.study.cost(str(architecture)) is None
        verdict = self._is_feasible(architecture)
        if is_new:
            self.tried, self.within = self.tried + 1, self.within + verdict
            self.watch(self.tried, self.within)
        return verdict

    def _is_feasible(self, architecture: Architecture) -> bool:
        stored = self.counted(architecture)
        for kind in self.computed:
            if stored.failure is not None or not self.budget.admits(stored):
                break
            if kind.name in self.budget.limits:
                stored = self._with(kind, architecture, stored)
        return stored.failure is not None or self.budget.admits(stored)

    def find_start(self) -> Architecture | None:
        """An architecture within the budget; None without limits.

        Limits that take more than counting are tried on the architecture with the fewest multiply-accumulates, on the
        smallest within the other limits, and on the neighbours of the first, those with the fewest first.

        Raises:
            BudgetError: No architecture within the budget was found.
        """
        if self.budget.is_empty:
            return None
        start = check_satisfiable(self.space, self.budget, self.cost)
        if not any(kind.name in self.budget.limits for kind in self.computed):
            return start
        lowest: dict[str, float] = {}
        for architecture in itertools.islice(self._smallest(start), MAX_STARTS):
            if self._is_feasible(architecture):
                if self.stored(architecture).failure is None:
                    return architecture
                continue
            for name in self.budget.limits:
                value = getattr(self.counted(architecture), name)
                if value is not None:
                    lowest[name] = min(value, lowest.get(name, math.inf))
        raise BudgetError(self._not_found(lowest))

    def _smallest(self, start: Architecture) -> Iterator[Architecture]:
        """Architectures within the counted limits, first those that are probably the least costly."""
        fewest, _ = cheapest(self.space, "macs", self.cost)
        nearby = sorted(self.space.neighbours(fewest), key=lambda architecture: self.cost(architecture).macs)
        seen: set[str] = set()
        for architecture in itertools.chain([fewest, start], nearby):
            if str(architecture) not in seen and self.budget.admits(self.cost(architecture)):
                seen.add(str(architecture))
                yield architecture

    def _not_found(self, lowest: dict[str, float]) -> str:
        kinds = [kind for kind in COSTS.values() if kind.name in self.budget.limits and kind.compute is not None]
        limits = " and ".join(f"{kind.limit}={self.budget.limits[kind.name]:g}" for kind in kinds)
        found = ", ".join(
            f"the lowest {kind.heading} {'measured' if kind.is_measured else 'counted'} is "
            f"{lowest[kind.name]:.3g} {kind.unit}"
            for kind in kinds
            if kind.name in lowest
        )
        conditions = f" ({self.budget.describe_latency()})" if "latency_ms" in self.budget.limits else ""
        return f"No architecture of {self.space.name} was found within {limits}; {found}{conditions}."


def _reason(prefix: str, error: Exception, architecture: Architecture) -> str:
    return f"{prefix}: {failure_reason(error, f'in the {prefix} of {architecture}')}"[:MAX_REASON]
