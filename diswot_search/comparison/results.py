"""Statistics of a comparison: how well the scores of each proxy order architectures of known accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import WORKING_SHARE, check_memory
from ..proxies.ties import describe_ties
from .statistics import (
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
"""The rank and value correlations of a comparison, by name."""


_MIN_BIN_ARCHITECTURES = 5
"""Fewest architectures of a bin, or of a best decile, whose correlations are reported."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of a comparison: K architectures of known accuracy, each with S draws of its weights.

    Attributes:
        table: Name of the table of accuracies.
        column: Its column.
        space: Name of the search space.
        teacher: Name of the teacher; None without one.
        probe: Name of the probe.
        architectures: The K architectures as text.
        accuracies: (K,), in percent.
        params: (K,), numbers of parameters.
        macs: (K,), multiply-accumulates of one image.
        seeds: The S seeds of the weights.
        scores: (S, K) scores by label; NaN where a score failed.
        seconds: Median seconds per architecture, by label: building, every pass that the proxy uses, and its own work,
            measured while all proxies were computed together.
        passes: Names of the passes that those seconds include, by label.
        failures: Number of failed pairs of architecture and seed by reason, by label.
        controls: Label of the proxy and name of the changed condition, by label of the control.
        left_out: Number of architectures of the table that are not compared, by reason.
        conditions: Conditions of the time measurements: device, batch, precision, threads.
        workers: Names of the workers that computed the scores of an architecture with a seed, by (s, k); without those
            that the process of the comparison itself computed.

    Raises:
        ValueError: There are no architectures or no seeds, a column has the wrong shape or is not finite, or a control
            lacks its proxy.
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
    workers: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        count, draws = len(self.architectures), len(self.seeds)
        if not count or not draws:
            raise ValueError(f"A table of scores needs architectures and seeds; got {count} and {draws}.")
        for name in ("accuracies", "params", "macs"):
            _require_shape(name, getattr(self, name), (count,))
            if bad := count - int(np.isfinite(getattr(self, name)).sum()):
                raise ValueError(f"{name} must be finite numbers, but {bad} of {count} are not.")
        for label, scores in self.scores.items():
            _require_shape(f"Scores of {label!r}", scores, (draws, count))
        for label, (proxy, _) in self.controls.items():
            if not {label, proxy} <= self.scores.keys():
                raise ValueError(f"{label!r} is a control of {proxy!r}, but not both have scores.")


@dataclass(frozen=True)
class Estimate:
    """A statistic over the architectures, with its spread.

    Attributes:
        value: Mean over the seeds; NaN where the statistic is undefined for a seed.
        std: Sample standard deviation over the seeds (n - 1); 0 for one seed.
        low: Lower end of the bootstrap interval over the architectures; NaN without an interval.
        high: Upper end of that interval; NaN without an interval.

    Example:
        >>> estimate = Estimate(value=0.6, std=0.1, low=0.4, high=0.8)
        >>> estimate.low < estimate.value < estimate.high
        True
    """

    value: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class BinResult:
    """Correlations among architectures of about the same size, as means over the seeds.

    Attributes:
        smallest: Number of parameters of the smallest architecture in the bin.
        largest: Number of parameters of the largest one.
        count: Number of architectures in the bin.
        kendall: Kendall's tau-b.
        spearman: Spearman's rank correlation.
        pearson: Pearson's correlation of the values.
    """

    smallest: float
    largest: float
    count: int
    kendall: float
    spearman: float
    pearson: float


@dataclass(frozen=True)
class BudgetRegret:
    """Accuracy lost under one budget by picking the architecture with the highest score.

    Attributes:
        quantile: Share of the architectures within the budget.
        limit: The budget, in parameters.
        value: Mean regret over the seeds, in points of accuracy.
        std: Standard deviation over the seeds.
    """

    quantile: float
    limit: float
    value: float
    std: float


@dataclass(frozen=True)
class ProxyResult:
    """How well one proxy, or one control of it, orders the architectures of a table.

    Attributes:
        label: Name of this row.
        proxy: Label of the proxy; the same as `label` unless this is a control.
        control: Condition that the control changed; None for the proxy itself.
        scored: Share of the pairs of architecture and seed that have a score.
        kendall: Kendall's tau-b over all architectures.
        spearman: Spearman's rank correlation over all architectures.
        pearson: Pearson's correlation over the architectures that have a score.
        best_decile: The three correlations within the most accurate tenth, by name.
        within_bins: The three correlations as means over the parameter bins, by name.
        bins: The parameter bins, from small to large.
        precision: Share of the `top_k` most accurate architectures that are among the `top_k` with the highest scores.
        top_k: Number of architectures that count as the top.
        regret: Mean regret over the budgets, in points of accuracy.
        regrets: Regret under each budget.
        partial_spearman: Spearman's correlation with the ranks of the parameters regressed out.
        agreement: Agreement in order over pairs of architectures whose parameters differ by at most 15 %.
        seconds: Median seconds per architecture for the passes and the proxy's own work; NaN if not measured.
        passes: Names of the passes that those seconds include.
        failures: Number of failed pairs of architecture and seed, by reason.
        ties: The value that many scores share, and their number; None if most differ. See `proxies.ties`.
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
    ties: str | None = None


def summarise(
    table: ScoreTable,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    top_k: int | None = None,
    bins: int = 5,
    progress: Callable[[], None] | None = None,
) -> list[ProxyResult]:
    """Compute how well each score of a table orders the architectures.

    The 95 % intervals are percentiles of a bootstrap over the architectures. All scores and seeds share the resamples,
    and within each resample the statistic is averaged over the seeds. Every resample keeps the best decile and the bins
    of the whole table. Correlations have intervals. Regret and precision depend on a maximum, whose spread a bootstrap
    does not estimate, so they have none, and neither has agreement; these three have their spread over the seeds.

    Args:
        table: The scores of the comparison.
        bootstrap: Number of resamples; 0 for no intervals.
        seed: Seed of the resamples.
        top_k: Number of architectures that count as the top in precision; None for a tenth, rounded up.
        bins: Number of parameter bins. They hold equally many architectures, except that equal sizes share a bin. Bins
            of fewer than 5 architectures are skipped, and so is a best decile of fewer. A mean over the bins takes
            those in which the statistic is defined.
        progress: Called once for each score of the table, evenly over the work.

    Returns:
        A result for each score, in the order of the table.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> import numpy as np
        >>> accuracies, params = np.array([70.0, 72.0, 75.0]), np.array([1e5, 2e5, 3e5])
        >>> table = ScoreTable("toy.csv", "accuracy", "toy", None, "random", ("a", "b", "c"), accuracies, params,
        ...                    params, (0,), {"params": params[None]})
        >>> summarise(table, bootstrap=0)[0].spearman.value
        1.0
    """
    count = len(table.architectures)
    top_k = tenth(count) if top_k is None else top_k
    _check_options(bootstrap, top_k, count, bins)
    if not table.scores:
        return []
    regions = _regions(table, draw_resamples(count, bootstrap, seed), bins, progress or (lambda: None))
    return [_result(table, row, label, regions, top_k) for row, label in enumerate(table.scores)]


def correlation_matrix(table: ScoreTable) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Spearman correlations between the scores of all proxies.

    Args:
        table: The scores of the comparison. Each score is averaged over the seeds in which it did not fail; an
            architecture that failed in all of them ranks below all others.

    Returns:
        The L labels and the (L, L) correlations; NaN in the row and the column of a constant score.
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
    """One statistic of all L scores: (L, S) values by seed, and (L, S, R) values in the resamples."""

    values: NDArray[np.float64]
    resamples: NDArray[np.float64]

    def estimate(self, row: int) -> Estimate:
        interval = percentile_interval(self.resamples[row].mean(axis=0))
        return _over_seeds(self.values[row], *interval)


@dataclass(frozen=True, eq=False)
class _Regions:
    """Statistics by name, over the whole table and over parts of it."""

    whole: dict[str, _Sample]
    decile: dict[str, _Sample]
    bins: list[tuple[NDArray[np.bool_], dict[str, _Sample]]]
    within_bins: dict[str, _Sample]


def _regions(table: ScoreTable, counts: Counts, bins: int, progress: Callable[[], None]) -> _Regions:
    bin_of = parameter_bins(table.params, bins)
    masks = [bin_of == index for index in range(bins) if (bin_of == index).sum() >= _MIN_BIN_ARCHITECTURES]
    parts = [np.ones(len(table.architectures), dtype=bool), best_decile(table.accuracies), *masks]
    rows, places = _distinct_rows(table)
    work = sum(int(members.sum()) for members in parts) * len(rows) * (1 + counts.shape[1])
    ticks = _Ticks(progress, len(table.scores), work)
    whole, decile, *binned = (_correlate(table, rows, places, members, counts, ticks) for members in parts)
    if parts[1].sum() < _MIN_BIN_ARCHITECTURES:
        decile = {name: _average([], like=sample) for name, sample in decile.items()}
    within = {name: _average([part[name] for part in binned], like=whole[name]) for name in CORRELATIONS}
    return _Regions(whole, decile, list(zip(masks, binned, strict=True)), within)


def _distinct_rows(table: ScoreTable) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct rows of scores, (M, K), and the row of each label and seed, (L, S).

    Sizes are equal for all seeds, so that each is computed once.
    """
    number: dict[bytes, int] = {}
    rows = np.concatenate(list(table.scores.values()))
    places = np.array([number.setdefault(row.tobytes(), len(number)) for row in rows])
    _, first = np.unique(places, return_index=True)
    return rows[first], places.reshape(len(table.scores), len(table.seeds))


class _Ticks:
    """Calls a function a fixed number of times, evenly over an amount of work."""

    def __init__(self, tick: Callable[[], None], times: int, work: int) -> None:
        self._tick, self._times, self._work = tick, times, work
        self._ticked = self._done = 0

    def add(self, work: int) -> None:
        """Count an amount of work as done."""
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
        ties=describe_ties(scores.flatten().tolist()),
    )


def _correlate(
    table: ScoreTable,
    rows: NDArray[np.float64],
    places: NDArray[np.int64],
    members: NDArray[np.bool_],
    counts: Counts,
    ticks: _Ticks,
) -> dict[str, _Sample]:
    """All correlations among the member architectures, by name."""
    accuracies, params, scores = table.accuracies[members], table.params[members], rows[:, members]
    statistics: dict[str, Callable[[NDArray[np.float64]], float]] = {
        name: partial(correlation, accuracies=accuracies) for name, correlation in CORRELATIONS.items()
    }
    statistics["partial_spearman"] = partial(partial_spearman, accuracies=accuracies, covariate=params)
    values = {name: np.array([statistic(score) for score in scores]) for name, statistic in statistics.items()}
    ticks.add(scores.size)
    resampled = bootstrap_correlations(
        scores, accuracies, params, counts[members], progress=lambda count: ticks.add(count * len(accuracies))
    )
    return {name: _Sample(values[name][places], resampled[name][places]) for name in statistics}


def _average(parts: list[_Sample], like: _Sample) -> _Sample:
    """Mean over parts of the space; NaN without parts."""
    if not parts:
        return _Sample(np.full_like(like.values, np.nan), np.full_like(like.resamples, np.nan))
    values = np.stack([part.values for part in parts])
    return _Sample(_defined_mean(values), _defined_mean(np.stack([part.resamples for part in parts])))


def _defined_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis without NaN values; NaN where all values are NaN."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _over_seeds(values: ArrayLike, low: float = float("nan"), high: float = float("nan")) -> Estimate:
    value = np.asarray(values, dtype=np.float64)
    return Estimate(float(value.mean()), _spread(value), low, high)


def _spread(values: NDArray[np.float64]) -> float:
    if len(values) == 1 or np.ptp(values) == 0:  # exactly 0 for sizes, where the rounded mean would give 1e-17
        return 0.0
    return float(values.std(ddof=1))


def _mean_curve(curves: NDArray[np.float64]) -> list[BudgetRegret]:
    """Mean over the seeds of (S, budgets, 3) regret curves."""
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


def check_resamples(bootstrap: int, count: int) -> None:
    """Refuse a number of resamples that cannot be held in memory.

    Args:
        bootstrap: Number of resamples.
        count: Number of architectures.

    Raises:
        ValueError: It is negative, or too large.
    """
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be at least 0, the number of resamples; got {bootstrap}.")
    what = f"{bootstrap:,} resamples of {count:,} architectures (bootstrap)"
    check_memory(what, 4 * bootstrap * max(count, 1), share=WORKING_SHARE)


def _check_options(bootstrap: int, top_k: int, count: int, bins: int) -> None:
    check_resamples(bootstrap, count)
    if not 1 <= top_k <= count:
        raise ValueError(f"top_k must be 1 to {count}, the number of architectures; got {top_k}.")
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}.")
