"""The kinds of cost that an architecture has: the one place that names them and says how each is computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from search_spaces.cost import count_cost_of, count_memory_of
from search_spaces.input_spec import InputSpec
from search_spaces.space import Architecture, SearchSpace

from ..deployment.latency import measure_latency
from ..runtime.seeding import isolated_random_state, stable_seed


@dataclass(frozen=True, kw_only=True)
class CostValues:
    """The costs of one architecture, each None where it is not known. The fields are the names of `COSTS`.

    Attributes:
        params: Trainable parameters.
        macs: Multiply-accumulates of one image.
        latency_ms: Latency of one batch where the student ships, in milliseconds.
        memory_mb: Weights and the peak of activations of one batch, in MB (10^6 bytes).
        size_mb: Weights in float32, in MB.
    """

    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    size_mb: float | None = None

    def costs(self) -> dict[str, Any]:
        """The values by name."""
        return {name: getattr(self, name) for name in COSTS}


@dataclass(frozen=True, kw_only=True)
class StoredCost(CostValues):
    """The costs of an architecture, as far as they are counted or measured before it is scored.

    Attributes:
        failure: Why a cost could not be counted or measured.
        details: Facts about how a cost was measured, by its name: for latency, the fields of a `Latency`, and how often
            it was measured.
    """

    failure: str | None = None
    details: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """The conditions that latency and memory depend on.

    Attributes:
        runtime: Name of the runtime; None for the default.
        threads: Number of threads.
        batch_size: Number of images in the batch.
        limit_ms: The limit on latency; a network that is far above it is measured roughly.
    """

    runtime: str | None = None
    threads: int = 1
    batch_size: int = 1
    limit_ms: float | None = None


@dataclass(frozen=True)
class CostSubject:
    """A network whose costs are computed.

    Attributes:
        build: Builds it, each time with the same weights.
        input_spec: Its input.
    """

    build: Callable[[], nn.Module]
    input_spec: InputSpec

    @classmethod
    def of_architecture(cls, space: SearchSpace, architecture: Architecture) -> CostSubject:
        """The network of an architecture, whose random weights depend on its text alone.

        Args:
            space: The space.
            architecture: An architecture of it.
        """

        def build() -> nn.Module:
            with isolated_random_state(stable_seed(0, str(architecture))):
                return space.build(architecture)

        return cls(build, space.input_spec)


@dataclass(frozen=True)
class Computed:
    """A cost that was computed, and facts about how it was measured."""

    value: float
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CostKind:
    """A kind of cost; less is better.

    A new kind is an entry of `COSTS`, a field of `CostValues`, and a limit `max_<name>` of `BudgetLimits`.

    Attributes:
        name: The name, with its unit at the end.
        heading: The name in tables.
        title: The name on an axis.
        unit: The unit; empty for counts.
        compute: Computes the cost of a network under the conditions; None if `SearchSpace.cost` does.
        is_measured: Whether the cost is measured, so that each time gives another value.
        effort: Rank among the kinds that are computed; a candidate that is over a limit of a lower one needs no other.
    """

    name: str
    heading: str
    title: str
    unit: str = ""
    compute: Callable[[CostSubject, Conditions], Computed] | None = None
    is_measured: bool = False
    effort: int = 0

    @property
    def limit(self) -> str:
        """Name of the field of `Budget` that limits it."""
        return f"max_{self.name}"

    def format(self, value: float) -> str:
        """The value with its unit, for a table."""
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:,.10g}"


def _size(subject: CostSubject, conditions: Conditions) -> Computed:
    counted = count_cost_of(subject.build, subject.input_spec).weight_bytes
    assert counted is not None
    return Computed(counted / 1e6)


def _memory(subject: CostSubject, conditions: Conditions) -> Computed:
    memory = count_memory_of(subject.build, subject.input_spec, conditions.batch_size)
    return Computed((memory.weights + memory.activations) / 1e6)


def _latency(subject: CostSubject, conditions: Conditions) -> Computed:
    latency = measure_latency(
        subject.build(),
        subject.input_spec,
        runtime=conditions.runtime,
        threads=conditions.threads,
        batch_size=conditions.batch_size,
        limit_ms=conditions.limit_ms,
    )
    return Computed(latency.ms, {**asdict(latency), "instability": latency.instability})


COSTS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind("params", "params", "parameters"),
        CostKind("macs", "MACs", "multiply-accumulates of one image"),
        CostKind("latency_ms", "latency", "latency", "ms", _latency, is_measured=True, effort=3),
        CostKind("memory_mb", "memory", "memory of one batch", "MB", _memory, effort=2),
        CostKind("size_mb", "size", "size of the weights", "MB", _size, effort=1),
    )
}
"""All kinds of cost by name. A limit or an objective of one of them is all that it takes to have it computed."""


def computed_kinds(names: Collection[str]) -> list[CostKind]:
    """The kinds among these that take more than counting, the quickest to compute first.

    Args:
        names: Names of kinds.

    Example:
        >>> [kind.name for kind in computed_kinds(["latency_ms", "params", "memory_mb"])]
        ['memory_mb', 'latency_ms']
    """
    needed = (kind for kind in COSTS.values() if kind.compute and kind.name in names)
    return sorted(needed, key=lambda kind: kind.effort)
