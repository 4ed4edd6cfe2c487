"""Costs of architectures, counted or measured once and stored."""

from __future__ import annotations

import itertools
import math

from search_spaces.cost import Cost
from search_spaces.registry import shortened
from search_spaces.space import Architecture

from ..checks import check_memory
from ..runtime.failures import MAX_REASON, failure_reason
from ..runtime.interruption import Interruption
from ..runtime.seeding import isolated_random_state, stable_seed
from .budget import Budget, BudgetError, cheapest, check_satisfiable, measure_latency
from .evaluator import Evaluator
from .study import StoredCost, Study


class Costs:
    """Costs of architectures, each counted or measured once per study, however often the study is continued.

    Args:
        evaluator: Evaluator with the space and the device.
        budget: Limits that decide what is feasible and whether latency is measured.
        study: Study that stores the costs.
        interruption: Checked before each count.
    """

    def __init__(self, evaluator: Evaluator, budget: Budget, study: Study, interruption: Interruption) -> None:
        self.evaluator = evaluator
        self.space = evaluator.space
        self.budget = budget
        self.study = study
        self.interruption = interruption
        self.timed = budget.max_latency_ms is not None or "latency_ms" in study.objectives

    def counted(self, architecture: Architecture) -> StoredCost:
        """Parameters and multiply-accumulates, or the reason why they cannot be counted.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        self.interruption.check()
        stored = self.study.cost(str(architecture))
        if stored is None:
            try:
                cost = self.space.cost(architecture)
                check_memory(f"The weights of {shortened(str(architecture))}", 4 * cost.params)
                stored = StoredCost(cost.params, cost.macs)
            except Exception as error:  # a network may fail to be built in any way; it is recorded as failed
                stored = StoredCost(failure=_reason("cost", error, architecture))
            self.study.add_cost(str(architecture), stored)
        return stored

    def stored(self, architecture: Architecture) -> StoredCost:
        """All costs that the study needs, from its store or computed now; latency only if limited or an objective.

        Raises:
            OutOfMemory, MachineError: The machine failed.
        """
        stored = self.counted(architecture)
        if not self.timed or stored.failure is not None or stored.latency_ms is not None:
            return stored
        try:
            stored = StoredCost(stored.params, stored.macs, self._measure(architecture))
        except Exception as error:  # as above
            reason = _reason("latency", error, architecture)
            stored = StoredCost(stored.params, stored.macs, failure=reason)
        self.study.add_cost(str(architecture), stored)
        return stored

    def _measure(self, architecture: Architecture) -> float:
        with isolated_random_state(stable_seed(0, str(architecture))):
            model = self.space.build(architecture)
        return measure_latency(
            model, self.space.input_size, batch_size=self.budget.latency_batch_size, device=self.evaluator.device
        )

    def cost(self, architecture: Architecture) -> Cost:
        """The cost; infinite if it cannot be counted, so that no budget admits it."""
        counted = self.counted(architecture)
        if counted.failure is not None and counted.params is None:
            return Cost(math.inf, math.inf)  # type: ignore[arg-type]
        return Cost(counted.params or 0, counted.macs or 0)

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the budget admits an architecture. One that cannot be built passes, to be recorded as failed."""
        if self.counted(architecture).failure is not None:
            return True
        cost = self.cost(architecture)
        if not self.budget.admits(cost) or self.budget.max_latency_ms is None:
            return self.budget.admits(cost)
        stored = self.stored(architecture)
        return stored.failure is not None or self.budget.admits(cost, stored.latency_ms)

    def find_start(self) -> Architecture | None:
        """An architecture within the budget; None without limits.

        A limit of latency is tried on the architecture with the fewest multiply-accumulates and on its neighbours.

        Raises:
            BudgetError: No architecture within the budget was found.
        """
        if self.budget.is_empty:
            return None
        start = check_satisfiable(self.space, self.budget, self.cost)
        if self.budget.max_latency_ms is None:
            return start
        fewest, _ = cheapest(self.space, "macs", self.cost)
        fastest = math.inf
        for architecture in itertools.chain([start, fewest], self.space.neighbours(fewest)):
            latency = self.stored(architecture).latency_ms
            if latency is None:
                continue
            fastest = min(fastest, latency)
            if self.budget.admits(self.cost(architecture), latency):
                return architecture
        raise BudgetError(
            f"No architecture of {self.space.name} was found within max_latency_ms={self.budget.max_latency_ms:g}; "
            f"the lowest latency measured is {fastest:.3g} ms "
            f"(batch {self.budget.latency_batch_size}, {self.evaluator.device})."
        )


def _reason(prefix: str, error: Exception, architecture: Architecture) -> str:
    return f"{prefix}: {failure_reason(error, f'in the {prefix} of {architecture}')}"[:MAX_REASON]
