"""Limits on parameters, multiply-accumulates and latency, and whether a space can meet them."""

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
    """What an architecture may cost at most; a limit that is None does not bind.

    Attributes:
        max_params: Trainable parameters.
        max_macs: Multiply-accumulates of one image.
        max_latency_ms: Median milliseconds of one forward pass, on the device of the study.
        latency_batch_size: Images in that pass.

    Raises:
        ValueError: A limit is not a positive, finite number, or the batch is not a positive integer.
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
        """Whether every architecture is within it."""
        return self.max_params is None and self.max_macs is None and self.max_latency_ms is None

    def admits(self, cost: Cost, latency_ms: float | None = None) -> bool:
        """Whether an architecture of this cost is within the limits.

        Args:
            cost: Its parameters and multiply-accumulates.
            latency_ms: Its latency; without it the limit on latency is not checked, so that the cheap
                limits can be settled before anything is built.
        """
        spent = (cost.params, self.max_params), (cost.macs, self.max_macs), (latency_ms, self.max_latency_ms)
        return all(value <= limit for value, limit in spent if value is not None and limit is not None)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Budget:
        """The budget that `to_dict` wrote, or any part of it.

        Raises:
            ValueError: A name that is no field, or a value that is no limit.
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
    """Median time of one forward pass in milliseconds, in evaluation mode and without gradients.

    The model is moved to the device and stays there; the mode of its modules is put back.

    Args:
        model: The network.
        input_size: Channels, height and width of one image.
        batch_size: Images in one pass.
        device: Where it runs.
        warmup: Passes before the clock starts.
        repeats: Passes that are timed.
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
    """The architecture of least cost, by coordinate descent from the first choices.

    Exact where the order of a decision's choices by cost does not depend on the other decisions.

    Args:
        space: Where to look.
        measure: "params" or "macs".
        cost: Cost of an architecture, infinite where it is not to be taken; by default the space's.

    Returns:
        The architecture and its cost by `measure`.
    """
    if measure not in ("params", "macs"):
        raise ValueError(f"measure is {measure!r}; it must be 'params' or 'macs'.")
    cost_of = cost or space.cost
    return _descend(space, _first(space), lambda architecture: getattr(cost_of(architecture), measure))


def check_satisfiable(
    space: SearchSpace, budget: Budget, cost: Callable[[Architecture], Cost] | None = None
) -> Architecture:
    """Find an architecture within the limits on parameters and multiply-accumulates.

    As exact as `cheapest` for one limit, and for two where one choice is the cheapest by both. The limit on
    latency is left out: it shows only when networks are built.

    Args:
        space: Where to look.
        budget: The limits.
        cost: As for `cheapest`.

    Raises:
        BudgetError: None is found; the message states the smallest costs of the space.
    """
    cost_of = cost or space.cost
    given: dict[Measure, float | None] = {"params": budget.max_params, "macs": budget.max_macs}
    limits = {measure: limit for measure, limit in given.items() if limit is not None}

    def overrun(architecture: Architecture) -> float:
        spent = cost_of(architecture)
        return max((getattr(spent, measure) / limit for measure, limit in limits.items()), default=0.0)

    found, ratio = _descend(space, _first(space), overrun, enough=1.0)
    if ratio <= 1:
        return found
    smallest = {measure: cheapest(space, measure, cost_of) for measure in limits}
    for start, _ in smallest.values():
        found, ratio = _descend(space, start, overrun, enough=1.0)
        if ratio <= 1:
            return found
    asked = " and ".join(f"max_{measure}={limit:,.10g}" for measure, limit in limits.items())
    least = " and ".join(f"{value:,} {measure}" for measure, (_, value) in smallest.items())
    raise BudgetError(
        f"No architecture of {space.name} was found within {asked}; the smallest cost of the space is {least}."
    )


def _first(space: SearchSpace) -> Architecture:
    return space.architecture([choices[0] for choices in space.decisions.values()])


def _descend(
    space: SearchSpace, start: Architecture, value_of: Callable[[Architecture], float], enough: float = -math.inf
) -> tuple[Architecture, float]:
    """Change one decision after another while that lowers the value, or until it is low enough."""
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
