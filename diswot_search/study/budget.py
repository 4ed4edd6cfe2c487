"""Budgets: limits on parameters, multiply-accumulates and latency, and whether a space can meet them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from search_spaces.cost import Cost
    from search_spaces.space import Architecture, SearchSpace


Measure = Literal["params", "macs"]


class BudgetError(ValueError):
    """A budget that no architecture of the space meets."""


@dataclass(frozen=True)
class Budget:
    """The most that an architecture may cost. A limit of None does not bind.

    Attributes:
        max_params: Largest number of trainable parameters.
        max_macs: Largest number of multiply-accumulates of one image.
        max_latency_ms: Largest median time of one forward pass, in milliseconds, on the device of the study.
        latency_batch_size: Number of images in that pass.

    Raises:
        ValueError: A limit is not a positive, finite number, or the batch is not a positive integer.

    Example:
        >>> from diswot_search import Budget
        >>> from search_spaces.cost import Cost
        >>> Budget(max_params=0.5e6).admits(Cost(params=270_000, macs=40_000_000))
        True
    """

    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    latency_batch_size: int = 1

    def __post_init__(self) -> None:
        for name in ("max_params", "max_macs", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and not (_is_number(limit) and math.isfinite(limit) and limit > 0):
                raise ValueError(f"{name} is {limit!r}; it must be a positive, finite number.")
        batch = self.latency_batch_size
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise ValueError(f"latency_batch_size is {batch!r}; it must be an integer of at least 1.")

    @property
    def is_empty(self) -> bool:
        """Whether no limit is set, so that every architecture is within the budget."""
        return self.max_params is None and self.max_macs is None and self.max_latency_ms is None

    def admits(self, cost: Cost, latency_ms: float | None = None) -> bool:
        """Whether an architecture of this cost is within the limits.

        Args:
            cost: Parameters and multiply-accumulates of the architecture.
            latency_ms: Latency of the architecture in milliseconds. Without it the limit on latency is not checked, so
                that the cheap limits can be checked before a network is built.
        """
        pairs = (cost.params, self.max_params), (cost.macs, self.max_macs), (latency_ms, self.max_latency_ms)
        return all(value <= limit for value, limit in pairs if value is not None and limit is not None)

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values; `from_dict` reads them."""
        return asdict(self)

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


def measure_latency(
    model: nn.Module,
    input_size: tuple[int, int, int],
    *,
    batch_size: int = 1,
    device: str | torch.device = "cpu",
    warmup: int = 3,
    repeats: int = 10,
) -> float:
    """Measure the median time of one forward pass, in evaluation mode and without gradients.

    The model is moved to the device and stays there. Its modules are put back into their modes.

    Args:
        model: The network.
        input_size: Channels, height and width of one image.
        batch_size: Number of images in one pass.
        device: Device of the passes, such as "cpu" or "cuda:0".
        warmup: Number of passes before timing starts.
        repeats: Number of timed passes.

    Returns:
        Milliseconds per pass, of the images' random float32 batch, without the transfer of the images to the device.

    Raises:
        ValueError: A number is too small.
    """
    import torch

    for name, value, least in (("batch_size", batch_size, 1), ("warmup", warmup, 0), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    device = torch.device(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, *input_size, generator=generator).to(device)
    training = [module for module in model.modules() if module.training]
    model.to(device).eval()
    milliseconds = []
    try:
        with torch.no_grad():
            for _ in range(warmup + repeats):
                started = time.perf_counter()
                model(images)
                _synchronise(device)
                milliseconds.append(1000 * (time.perf_counter() - started))
    finally:
        for module in training:
            module.training = True
    return statistics.median(milliseconds[warmup:])


def _synchronise(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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
                choices = list(current.choices)
                choices[position] = choice
                candidate = space.architecture(choices)
                candidate_value = value_of(candidate)
                if candidate_value < value:
                    current, value = candidate, candidate_value
                if value <= enough:
                    return current, value
        if value >= before:
            break
    return current, value
