"""Scores of many proxies beside known accuracies in, how far each can be trusted out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ranking import (
    Counts,
    best_decile,
    bootstrap_correlations,
    draw_resamples,
    kendall,
    parameter_bins,
    partial_spearman,
    pearson,
    percentile_interval,
    precision_at_k,
    regret_curve,
    size_matched_agreement,
    spearman,
    tenth,
)

CORRELATIONS = {"kendall": kendall, "spearman": spearman, "pearson": pearson}
SMALLEST_BIN = 5
"""Correlations of fewer architectures than this say nothing."""


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
        seconds: By label, median seconds per architecture: building, every pass that the proxy touches, and its own
            work, as measured while all was computed together.
        passes: By label, the passes that those seconds include.
        conditions: What the seconds were measured on: device, batch, precision, threads.
        failures: By label, how many pairs of architecture and seed failed, by reason.
        controls: By label of a control, the label of its proxy and what was changed.
        left_out: How many architectures of the table are not compared, by reason.

    Raises:
        ValueError: There is no architecture or seed, a column has another shape or is not finite, or a control has no
            proxy.
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
    conditions: str = ""

    def __post_init__(self) -> None:
        count, draws = len(self.architectures), len(self.seeds)
        if not count or not draws:
            raise ValueError(f"A table of scores needs architectures and seeds; got {count} and {draws}.")
        for name in ("accuracies", "params", "macs"):
            _require_shape(name, getattr(self, name), (count,))
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite numbers, but some are not.")
        for label, scores in self.scores.items():
            _require_shape(f"Scores of {label!r}", scores, (draws, count))
        for label, (proxy, _) in self.controls.items():
            if not {label, proxy} <= self.scores.keys():
                raise ValueError(f"{label!r} is a control of {proxy!r}, but not both have scores.")


@dataclass(frozen=True)
class Estimate:
    """A statistic over the architectures.

    Attributes:
        value: Mean over the seeds; NaN where a seed leaves it undefined.
        std: Standard deviation over the seeds, of a sample (n - 1); 0 for one seed.
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
        smallest: Parameters of the smallest architecture in the bin.
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
        seconds: Median seconds per architecture, of the passes and its own work; NaN where not measured.
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


def summarise(
    table: ScoreTable,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    top_k: int | None = None,
    bins: int = 5,
    progress: Callable[[], None] | None = None,
) -> list[ProxyResult]:
    """How well each score of a table orders its architectures.

    The 95 % intervals are percentiles of a bootstrap over the architectures: the same resamples for all scores and
    seeds, the statistic averaged over the seeds within each. The best decile and the bins are those of the whole table,
    in every resample. Correlations have intervals. Regret and precision have none, because they hang on a maximum,
    which a bootstrap does not tell the spread of; agreement has none either: for these the spread over the seeds must
    do.

    Args:
        table: What has been scored.
        bootstrap: Number of resamples; 0 for no intervals.
        seed: Of the resamples.
        top_k: How many count as the top in precision; a tenth, rounded up, if None.
        bins: Number of parameter bins, equally filled but for equal sizes, which stay together. Bins of fewer than 5
            architectures are skipped, and so is a best decile of fewer. A mean over the bins is over those in which the
            statistic is defined.
        progress: Called as many times as there are scores, evenly over the work. All of 15,625 architectures take
            about two seconds for each score and seed.

    Returns:
        A result for each score, in the order of the table.

    Raises:
        ValueError: An option is out of range.
    """
    count = len(table.architectures)
    top_k = tenth(count) if top_k is None else top_k
    _check_options(bootstrap, top_k, count, bins)
    if not table.scores:
        return []
    regions = _regions(table, draw_resamples(count, bootstrap, seed), bins, progress or (lambda: None))
    return [_result(table, row, label, regions, top_k) for row, label in enumerate(table.scores)]


def correlation_matrix(table: ScoreTable) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Which scores say the same: Spearman correlation of every two, each averaged over its seeds.

    Args:
        table: What has been scored. The mean is over the seeds that have a score; where none has, NaN, which ranks
            below all others.

    Returns:
        L labels, and (L, L); NaN beside a constant score.
    """
    labels = tuple(table.scores)
    means = [_defined_mean(scores) for scores in table.scores.values()]
    matrix = np.empty((len(labels), len(labels)))
    for i, first in enumerate(means):
        for j, second in enumerate(means[: i + 1]):
            matrix[i, j] = matrix[j, i] = spearman(first, second)
    return labels, matrix


@dataclass(frozen=True, eq=False)
class _Sample:
    """One statistic of all L scores: (L, S) over the seeds, (L, S, R) in the resamples."""

    values: NDArray[np.float64]
    resamples: NDArray[np.float64]

    def estimate(self, row: int) -> Estimate:
        interval = percentile_interval(self.resamples[row].mean(axis=0))
        return _over_seeds(self.values[row], *interval)


@dataclass(frozen=True, eq=False)
class _Regions:
    """Statistics by name, over the whole table and parts of it."""

    whole: dict[str, _Sample]
    decile: dict[str, _Sample]
    bins: list[tuple[NDArray[np.bool_], dict[str, _Sample]]]
    within_bins: dict[str, _Sample]


def _regions(table: ScoreTable, counts: Counts, bins: int, progress: Callable[[], None]) -> _Regions:
    bin_of = parameter_bins(table.params, bins)
    masks = [bin_of == index for index in range(bins) if (bin_of == index).sum() >= SMALLEST_BIN]
    parts = [np.ones(len(table.architectures), dtype=bool), best_decile(table.accuracies), *masks]
    rows, places = _distinct_rows(table)
    work = sum(int(members.sum()) for members in parts) * len(rows) * (1 + counts.shape[1])
    ticks = _Ticks(progress, len(table.scores), work)
    whole, decile, *binned = (_correlate(table, rows, places, members, counts, ticks) for members in parts)
    if parts[1].sum() < SMALLEST_BIN:
        decile = {name: _average([], like=sample) for name, sample in decile.items()}
    within = {name: _average([part[name] for part in binned], like=whole[name]) for name in CORRELATIONS}
    return _Regions(whole, decile, list(zip(masks, binned, strict=True)), within)


def _distinct_rows(table: ScoreTable) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows of scores, (M, K), and which of them each label and seed has, (L, S): sizes are the same for all seeds."""
    number: dict[bytes, int] = {}
    rows = np.concatenate(list(table.scores.values()))
    places = np.array([number.setdefault(row.tobytes(), len(number)) for row in rows])
    _, first = np.unique(places, return_index=True)
    return rows[first], places.reshape(len(table.scores), len(table.seeds))


class _Ticks:
    """Calls a function a number of times, evenly over an amount of work."""

    def __init__(self, tick: Callable[[], None], times: int, work: int) -> None:
        self._tick, self._times, self._work = tick, times, work
        self._ticked = self._done = 0

    def add(self, work: int) -> None:
        """Count work as done."""
        self._done += work
        while self._ticked < self._done * self._times // self._work:
            self._tick()
            self._ticked += 1


def _result(table: ScoreTable, row: int, label: str, regions: _Regions, top_k: int) -> ProxyResult:
    scores, accuracies, params = table.scores[label], table.accuracies, table.params
    proxy, control = table.controls.get(label, (label, None))
    regrets = np.array([regret_curve(score, accuracies, params) for score in scores])
    overall, decile, within_bins = (
        {name: sample.estimate(row) for name, sample in region.items()}
        for region in (regions.whole, regions.decile, regions.within_bins)
    )
    return ProxyResult(
        label=label,
        proxy=proxy,
        control=control,
        scored=float((~np.isnan(scores)).mean()),
        kendall=overall["kendall"],
        spearman=overall["spearman"],
        pearson=overall["pearson"],
        best_decile={name: decile[name] for name in CORRELATIONS},
        within_bins=within_bins,
        bins=[_bin_result(params[mask], part, row) for mask, part in regions.bins],
        precision=_over_seeds([precision_at_k(score, accuracies, top_k) for score in scores]),
        top_k=top_k,
        regret=_over_seeds(regrets[:, :, 2].mean(axis=1)),
        regrets=_mean_curve(regrets),
        partial_spearman=overall["partial_spearman"],
        agreement=_over_seeds([size_matched_agreement(score, accuracies, params)[0] for score in scores]),
        seconds=table.seconds.get(label, float("nan")),
        passes=table.passes.get(label, ()),
        failures=table.failures.get(label, {}),
    )


def _correlate(
    table: ScoreTable,
    rows: NDArray[np.float64],
    places: NDArray[np.int64],
    members: NDArray[np.bool_],
    counts: Counts,
    ticks: _Ticks,
) -> dict[str, _Sample]:
    """All correlations among some architectures, by name."""
    accuracies, params, scores = table.accuracies[members], table.params[members], rows[:, members]
    statistics: dict[str, Callable[[NDArray[np.float64]], float]] = {
        name: partial(correlation, accuracies=accuracies) for name, correlation in CORRELATIONS.items()
    }
    statistics["partial_spearman"] = partial(partial_spearman, accuracies=accuracies, covariate=params)
    values = {name: np.array([statistic(score) for score in scores]) for name, statistic in statistics.items()}
    ticks.add(scores.size)
    resampled = bootstrap_correlations(
        scores, accuracies, params, counts[members], progress=lambda made: ticks.add(made * len(accuracies))
    )
    return {name: _Sample(values[name][places], resampled[name][places]) for name in statistics}


def _average(parts: list[_Sample], like: _Sample) -> _Sample:
    """Mean over parts of the space, NaN where there is none."""
    if not parts:
        return _Sample(np.full_like(like.values, np.nan), np.full_like(like.resamples, np.nan))
    values = np.stack([part.values for part in parts])
    return _Sample(_defined_mean(values), _defined_mean(np.stack([part.resamples for part in parts])))


def _defined_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _over_seeds(values: ArrayLike, low: float = float("nan"), high: float = float("nan")) -> Estimate:
    value = np.asarray(values, dtype=np.float64)
    return Estimate(float(value.mean()), _spread(value), low, high)


def _spread(values: NDArray[np.float64]) -> float:
    if len(values) == 1 or np.ptp(values) == 0:  # exactly 0 for parameters, where the rounded mean gives 1e-17
        return 0.0
    return float(values.std(ddof=1))


def _mean_curve(curves: NDArray[np.float64]) -> list[BudgetRegret]:
    """(S, budgets, 3) curves of regret to their mean over the seeds."""
    return [
        BudgetRegret(float(quantile), float(limit), float(regrets.mean()), _spread(regrets))
        for quantile, limit, regrets in zip(curves[0, :, 0], curves[0, :, 1], curves[:, :, 2].T, strict=True)
    ]


def _bin_result(params: NDArray[np.float64], part: dict[str, _Sample], row: int) -> BinResult:
    kendall_tau, spearman_rho, pearson_r = (float(part[name].values[row].mean()) for name in CORRELATIONS)
    return BinResult(float(params.min()), float(params.max()), len(params), kendall_tau, spearman_rho, pearson_r)


def _require_shape(name: str, array: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")


def _check_options(bootstrap: int, top_k: int, count: int, bins: int) -> None:
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be at least 0, the number of resamples; got {bootstrap}.")
    if not 1 <= top_k <= count:
        raise ValueError(f"top_k must be 1 to {count}, the number of architectures; got {top_k}.")
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}.")
