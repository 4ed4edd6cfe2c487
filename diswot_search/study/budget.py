"""Budgets: limits on the costs of an architecture, and whether a space can meet those that are counted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from search_spaces.registry import unknown_name_message

from ..checks import check_parallel, with_near_names
from ..deployment.latency import latency_conditions
from ..deployment.runtimes import RUNTIMES, default_runtime, get_runtime
from ..options.shared import BudgetLimits
from .cost_kinds import COSTS, Conditions, CostValues

if TYPE_CHECKING:
    from search_spaces.cost import Cost
    from search_spaces.space import Architecture, SearchSpace


Measure = Literal["params", "macs"]


class BudgetError(ValueError):
    """A budget that no architecture of the space meets."""


@with_near_names
@dataclass(frozen=True, kw_only=True)
class Budget(BudgetLimits):
    """The most that an architecture may cost. A limit of None does not bind; all others must be kept.

    The limits are those of `BudgetLimits`: `max_params`, `max_macs`, `max_latency_ms` with its runtime, threads and
    batch size, `max_memory_mb` and `max_size_mb`. Latency is that of `measure_latency`.

    Raises:
        ValueError: A limit is not a positive, finite number, a number is not a positive integer, or there is no such
            runtime.

    Example:
        >>> from diswot_search import Budget
        >>> from search_spaces.cost import Cost
        >>> Budget(max_params=0.5e6).admits(Cost(params=270_000, macs=40_000_000))
        True
    """

    def __post_init__(self) -> None:
        for kind in COSTS.values():
            limit = getattr(self, kind.limit)
            if limit is not None and not (_is_number(limit) and math.isfinite(limit) and limit > 0):
                raise ValueError(f"{kind.limit} is {limit!r}; it must be a positive, finite number.")
        for name in ("latency_batch_size", "latency_threads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1.")
        if self.latency_runtime is not None and self.latency_runtime not in RUNTIMES:
            raise ValueError(unknown_name_message("latency_runtime", str(self.latency_runtime), RUNTIMES))

    @property
    def limits(self) -> dict[str, float]:
        """The limits that bind, by name of the cost, in the order of `COSTS`.

        Example:
            >>> Budget(max_params=3e4, max_latency_ms=2).limits
            {'params': 30000.0, 'latency_ms': 2}
        """
        limits = {kind.name: getattr(self, kind.limit) for kind in COSTS.values()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def is_empty(self) -> bool:
        """Whether no limit is set, so that every architecture is within the budget."""
        return not self.limits

    @property
    def conditions(self) -> Conditions:
        """The conditions that latency and memory depend on."""
        return Conditions(self.latency_runtime, self.latency_threads, self.latency_batch_size, self.max_latency_ms)

    def describe_latency(self) -> str:
        """The conditions of latency in words."""
        return latency_conditions(
            self.latency_runtime or default_runtime(), self.latency_threads, self.latency_batch_size
        )

    def admits(self, cost: Cost | CostValues, latency_ms: float | None = None) -> bool:
        """Whether an architecture of this cost is within the limits.

        Args:
            cost: Costs of the architecture. A limit on a cost that is not known is not checked, so that the cheap
                limits can be checked before a network is built.
            latency_ms: Latency of the architecture in milliseconds, if `cost` does not have it.
        """
        values = {name: getattr(cost, name, None) for name in COSTS}
        if latency_ms is not None:
            values["latency_ms"] = latency_ms
        pairs = ((values[name], limit) for name, limit in self.limits.items())
        return all(value is None or value <= limit for value, limit in pairs)

    def settled(self, *, timed: bool = False) -> Budget:
        """The budget with the runtime that its latency is measured in, which this machine must have.

        Args:
            timed: Whether latency is measured without a limit, too.

        Raises:
            ValueError: This machine has no such device, or cannot run so many threads.
            ImportError: onnxruntime is asked for and not installed.
        """
        check_parallel("latency_threads", self.latency_threads, least=1)
        if self.max_latency_ms is None and not timed:
            return self
        if self.latency_runtime is None and default_runtime() != "onnxruntime":
            warnings.warn(
                "onnxruntime is not installed, so latency is that of eager PyTorch, where mobile networks are some ten "
                "times slower: pip install 'diswot-search[onnx]', or choose a latency_runtime.",
                stacklevel=2,
            )
        runtime = get_runtime(self.latency_runtime or default_runtime())
        return replace(self, latency_runtime=runtime.name)

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values; `from_dict` reads them. Those that say nothing are left out."""
        first = tuple(f.name for f in fields(self))[:4]
        values = asdict(self)
        if self.latency_runtime is None and self.latency_threads == 1:
            del values["latency_threads"]
        return {name: value for name, value in values.items() if name in first or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Budget:
        """Make a budget from the fields that `to_dict` wrote, or from some of them.

        Args:
            values: Values by field name; a missing field has its default.

        Raises:
            ValueError: A name is not a field, or a value is not a limit.
        """
        allowed = [f.name for f in fields(cls)]
        unknown = [name for name in values if name not in allowed]
        if unknown:
            raise ValueError(f"A budget has no {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed)}.")
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cheapest(
    space: SearchSpace, measure: Measure, cost: Callable[[Architecture], Cost] | None = None
) -> tuple[Architecture, float]:
    """Find the architecture of least cost, by coordinate descent from the first choices.

    The result is exact if the order of a decision's choices by cost does not depend on the other decisions.

    Args:
        space: The search space.
        measure: The cost to minimise: "params" or "macs".
        cost: Cost of an architecture, infinite for one that must not be taken; by default `space.cost`.

    Returns:
        The architecture and its cost by `measure`.

    Raises:
        ValueError: There is no such measure.

    Example:
        >>> from diswot_search.study.budget import cheapest
        >>> from search_spaces import create_space
        >>> architecture, params = cheapest(create_space("cifar_resnet_s0"), "params")
        >>> str(architecture)
        '1-1-1'
    """
    if measure not in ("params", "macs"):
        raise ValueError(f"measure is {measure!r}; it must be 'params' or 'macs'.")
    cost_of = cost or space.cost
    ends = [_descend(space, start, lambda one: getattr(cost_of(one), measure)) for start in space.starts]
    return min(ends, key=lambda end: end[1])


def check_satisfiable(
    space: SearchSpace, budget: Budget, cost: Callable[[Architecture], Cost] | None = None
) -> Architecture:
    """Find an architecture within the limits on parameters and multiply-accumulates.

    The search is as exact as `cheapest` for one limit, and for two limits if the same choices are cheapest by both. The
    limit on latency is not checked, because that takes a built network.

    Args:
        space: The search space.
        budget: The limits.
        cost: Cost of an architecture, infinite for one that must not be taken; by default `space.cost`.

    Returns:
        The first such architecture on the way down.

    Raises:
        BudgetError: No such architecture was found; the message states the smallest costs of the space.
    """
    cost_of = cost or space.cost
    maxima: dict[Measure, float | None] = {"params": budget.max_params, "macs": budget.max_macs}
    limits = {measure: limit for measure, limit in maxima.items() if limit is not None}

    def overrun(architecture: Architecture) -> float:
        spending = cost_of(architecture)
        return max((getattr(spending, measure) / limit for measure, limit in limits.items()), default=0.0)

    for start in space.starts:
        architecture, ratio = _descend(space, start, overrun, enough=1.0)
        if ratio <= 1:
            return architecture
    smallest = {measure: cheapest(space, measure, cost_of) for measure in limits}
    for start, _ in smallest.values():
        architecture, ratio = _descend(space, start, overrun, enough=1.0)
        if ratio <= 1:
            return architecture
    limit_texts = " and ".join(f"max_{measure}={limit:,.10g}" for measure, limit in limits.items())
    least = " and ".join(f"{value:,} {measure}" for measure, (_, value) in smallest.items())
    raise BudgetError(
        f"No architecture of {space.name} was found within {limit_texts}; the smallest cost of the space is {least}."
    )


def _descend(
    space: SearchSpace, start: Architecture, value_of: Callable[[Architecture], float], enough: float = -math.inf
) -> tuple[Architecture, float]:
    """Change one decision after another for as long as that lowers the value, or until it is at most `enough`."""
    current, value = start, value_of(start)
    while value > enough:
        before = value
        for position, allowed in enumerate(space.decisions.values()):
            for choice in allowed:
                if choice == current.choices[position]:
                    continue
                candidate = space.with_choice(current, position, choice)
                if candidate is None:
                    continue
                candidate_value = value_of(candidate)
                if candidate_value < value:
                    current, value = candidate, candidate_value
                if value <= enough:
                    return current, value
        if value >= before:
            break
    return current, value
