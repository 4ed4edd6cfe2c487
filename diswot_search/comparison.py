"""Scores of many proxies beside known accuracies in, how far each can be trusted out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """What has been scored: K architectures whose accuracy is known, S draws of weights each.

    Attributes:
        table: Name of the table of accuracies.
        column: Its column.
        space: Name of the search space.
        teacher: Name of the teacher, if there is one.
        probe: Name of the probe.
        architectures: K architectures as text.
        accuracies: (K,) in percent.
        params: (K,).
        macs: (K,).
        seeds: S seeds of the weights.
        scores: By label, (S, K); NaN where a score failed.
        seconds: By label, median seconds per architecture when asked for alone.
        passes: By label, the passes that those seconds include.
        failures: By label, how many pairs of architecture and seed failed, by reason.
        controls: By label of a control, the label of its proxy and what was changed.
        left_out: How many architectures of the table are not compared, by reason.

    Raises:
        ValueError: There is no architecture or seed, a column has another length, or a control has no proxy.
    """

    table: str
    column: str
    space: str
    teacher: str | None
    probe: str
    architectures: tuple[str, ...]
    accuracies: NDArray[np.float64]
    params: NDArray[np.float64]
    macs: NDArray[np.float64]
    seeds: tuple[int, ...]
    scores: dict[str, NDArray[np.float64]]
    seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    controls: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, draws = len(self.architectures), len(self.seeds)
        if not count or not draws:
            raise ValueError(f"A table of scores needs architectures and seeds; got {count} and {draws}.")
        shapes = {name: (getattr(self, name), (count,)) for name in ("accuracies", "params", "macs")}
        shapes |= {f"scores of {label!r}": (scores, (draws, count)) for label, scores in self.scores.items()}
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
        for label, (proxy, _) in self.controls.items():
            if not {label, proxy} <= self.scores.keys():
                raise ValueError(f"{label!r} is a control of {proxy!r}, but not both have scores.")


@dataclass(frozen=True)
class Estimate:
    """A statistic over the architectures.

    Attributes:
        value: Mean over the seeds; NaN where a seed leaves it undefined.
        std: Standard deviation over the seeds; 0 for one seed.
        low: Lower end of the bootstrap interval over the architectures; NaN where none was made.
        high: Its upper end.
    """

    value: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class BinResult:
    """Correlations among architectures of about the same size, means over the seeds.

    Attributes:
        smallest: Parameters of the smallest architecture.
        largest: Those of the largest.
        count: How many architectures.
        kendall: Tau-b.
        spearman: Correlation of ranks.
        pearson: Correlation of values.
    """

    smallest: float
    largest: float
    count: int
    kendall: float
    spearman: float
    pearson: float


@dataclass(frozen=True)
class BudgetRegret:
    """What picking by a score loses under one budget.

    Attributes:
        quantile: Share of the architectures that are within the budget.
        limit: The budget in parameters.
        value: Mean regret over the seeds, in points of accuracy.
        std: Standard deviation over the seeds.
    """

    quantile: float
    limit: float
    value: float
    std: float


@dataclass(frozen=True)
class ProxyResult:
    """How one proxy, or one control of it, orders the architectures of a table.

    Attributes:
        label: Name of this row.
        proxy: Label of the proxy; the same unless this is a control.
        control: What the control changed, or None.
        scored: Share of the pairs of architecture and seed that have a score.
        kendall: Tau-b over all architectures.
        spearman: Correlation of ranks over all architectures.
        pearson: Correlation of values over the architectures that have a score.
        best_decile: The three inside the best decile of accuracy, by name.
        within_bins: Their means over the parameter bins, by name.
        bins: The parameter bins, from small to large.
        precision: Share of the `top_k` most accurate that are among the `top_k` highest scored.
        top_k: How many count as the top.
        regret: Mean regret over the budgets, in points of accuracy.
        regrets: Regret under each budget.
        partial_spearman: Correlation of ranks given the parameters.
        agreement: Agreement in sign among architectures within 15 % of each other's parameters.
        seconds: Median seconds per architecture when asked for alone; NaN where not measured.
        passes: What those seconds include.
        failures: How many pairs of architecture and seed failed, by reason.
    """

    label: str
    proxy: str
    control: str | None
    scored: float
    kendall: Estimate
    spearman: Estimate
    pearson: Estimate
    best_decile: dict[str, Estimate]
    within_bins: dict[str, Estimate]
    bins: list[BinResult]
    precision: Estimate
    top_k: int
    regret: Estimate
    regrets: list[BudgetRegret]
    partial_spearman: Estimate
    agreement: Estimate
    seconds: float
    passes: tuple[str, ...]
    failures: dict[str, int]
