"""Rank statistics: how well scores order architectures of known accuracy, and the accuracy that picking by them costs.

A failed score is NaN and counts as the worst: it ranks below every other score, tied with the other failures, and is
never picked. Pearson's correlation leaves it out. A statistic is NaN where it is undefined: for fewer than two points,
or where one side is constant.

All functions take equally long columns, `(K,)`, with one entry for each of K architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DECILES = tuple(np.arange(1, 11) / 10)
"""The default budgets of a regret curve, as quantiles of the sizes."""


Floats = NDArray[np.float64]


Codes = NDArray[np.int64]


Counts = NDArray[np.int32]


# -- correlation --------------------------------------------------------------------------------


def kendall(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Kendall's tau-b: the number of concordant pairs minus that of discordant ones, corrected for ties.

    With C concordant and D discordant pairs, and T_s and T_a pairs that are tied in one column alone, tau-b is
    `(C - D) / sqrt((C + D + T_s) (C + D + T_a))`. Source: Kendall, "The treatment of ties in ranking problems",
    Biometrika 33, 1945.

    Args:
        scores: (K,), higher is better; NaN ranks below all others.
        accuracies: (K,).

    Returns:
        Tau-b, -1 to 1; NaN for fewer than two points or a constant column.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> round(kendall([1, 2, 3, 4], [70, 72, 71, 75]), 3)
        0.667
    """
    score, accuracy = map(_order_codes, _columns(scores, accuracies))
    if not (score.any() and accuracy.any()):
        return float("nan")
    return float(stats.kendalltau(score, accuracy).statistic)


def spearman(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's correlation of the ranks, where ties share their mean rank.

    Source: Spearman, "The proof and measurement of association between two things", 1904.

    Args:
        scores: (K,), higher is better; NaN ranks below all others.
        accuracies: (K,).

    Returns:
        Rho, -1 to 1; NaN for fewer than two points or a constant column.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> round(spearman([1, 2, 3, 4], [70, 72, 71, 75]), 3)
        0.8
    """
    score, accuracy = map(_order_codes, _columns(scores, accuracies))
    if not (score.any() and accuracy.any()):
        return float("nan")
    return float(stats.spearmanr(score, accuracy).statistic)


def pearson(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Pearson's correlation of the values: their covariance divided by both standard deviations.

    Args:
        scores: (K,), higher is better.
        accuracies: (K,). Architectures whose score or accuracy is not finite are left out.

    Returns:
        r, -1 to 1; NaN for fewer than two points, or where one column is constant up to rounding.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> round(pearson([1, 2, 3, 4], [70, 72, 71, 75]), 3)
        0.837
    """
    score, accuracy = _columns(scores, accuracies)
    finite = np.isfinite(score) & np.isfinite(accuracy)
    if not finite.any():
        return float("nan")
    score, accuracy = (_shrink(column[finite]) for column in (score, accuracy))
    if any(_is_constant(column.min(), column.max()) for column in (score, accuracy)):
        return float("nan")
    return float(stats.pearsonr(score, accuracy).statistic)


def partial_spearman(scores: ArrayLike, accuracies: ArrayLike, covariate: ArrayLike) -> float:
    """Spearman correlation of scores and accuracies, with the ranks of a covariate regressed out of both.

    From the three plain correlations it is `(r_sa - r_sc r_ac) / sqrt((1 - r_sc^2) (1 - r_ac^2))`.

    Args:
        scores: (K,); NaN ranks below all others.
        accuracies: (K,).
        covariate: (K,), such as parameter counts.

    Returns:
        -1 to 1; 0 where the covariate explains one of the columns completely; NaN where a column is constant.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> partial_spearman([1, 2, 3, 4], [70, 72, 71, 75], [1, 2, 3, 4])  # a score that is the size
        0.0
    """
    columns = _columns(scores, accuracies, covariate)
    r_sa, r_sc, r_ac = (np.asarray(spearman(columns[i], columns[j])) for i, j in ((0, 1), (0, 2), (1, 2)))
    return float(_partial(r_sa, r_sc, r_ac))


def size_matched_agreement(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, within: float = 0.15
) -> tuple[float, int]:
    """Agreement in order between scores and accuracies, over pairs of architectures of about the same size.

    Args:
        scores: (K,), higher is better; NaN ranks below all others.
        accuracies: (K,).
        sizes: (K,), positive.
        within: Largest difference in size of a pair that counts, as a share of its smaller size.

    Returns:
        The mean over the pairs of sign(score difference) x sign(accuracy difference), -1 to 1, and the number of
        pairs. The mean is NaN where there is no pair, or no score at all.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> size_matched_agreement([1, 2, 9], [70, 71, 60], [100, 110, 500])
        (1.0, 1)
    """
    *columns, size = _columns(scores, accuracies, sizes)
    ascending = np.argsort(size)
    size = size[ascending]
    score, accuracy = (_order_codes(column)[ascending] for column in columns)
    agreement = pairs = 0
    for i in range(len(size) - 1):  # row by row: all pairs of 15,625 architectures would fill the memory
        end = i + 1 + int(np.searchsorted(size[i + 1 :] - size[i], within * size[i], side="right"))
        close = slice(i + 1, end)
        agreement += int(np.sign(score[close] - score[i]) @ np.sign(accuracy[close] - accuracy[i]))
        pairs += end - i - 1
    is_defined = pairs and not np.isnan(columns[0]).all()
    return (agreement / pairs if is_defined else float("nan")), pairs


# -- picking ------------------------------------------------------------------------------------


def regret_curve(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, quantiles: Sequence[float] = DECILES
) -> list[tuple[float, float, float]]:
    """Accuracy that a search loses under each budget by trusting a score.

    The regret is the best accuracy within the budget, minus the accuracy of the architecture that the score picks
    there. Architectures that share the highest score count with their mean accuracy, so that their order is irrelevant.

    Args:
        scores: (K,), higher is better; NaN is never picked.
        accuracies: (K,), usually in percent.
        sizes: (K,), parameters or another cost.
        quantiles: Budgets, as quantiles of the sizes.

    Returns:
        For each budget its quantile, its limit in the unit of the sizes, and the regret in the unit of the accuracies.
        The regret is NaN where no architecture within the budget has a score.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> regret_curve([1, 3, 2], [70, 60, 75], [1, 2, 3], quantiles=[0, 1])
        [(0.0, 1.0, 0.0), (1.0, 3.0, 15.0)]
    """
    score, accuracy, size = _columns(scores, accuracies, sizes)
    curve = []
    for quantile in quantiles:
        limit = np.quantile(size, quantile)
        within = size <= limit
        scored = within & ~np.isnan(score)
        regret = float("nan")
        if scored.any():
            picked = scored & (score == score[scored].max())
            regret = float(accuracy[within].max() - accuracy[picked].mean())
        curve.append((float(quantile), float(limit), regret))
    return curve


def regret_at_budget(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, quantiles: Sequence[float] = DECILES
) -> float:
    """Mean regret over the budgets of a `regret_curve`.

    Args:
        scores: (K,), higher is better; NaN is never picked.
        accuracies: (K,), usually in percent.
        sizes: (K,), parameters or another cost.
        quantiles: Budgets, as quantiles of the sizes.

    Returns:
        Mean regret in the unit of the accuracies; NaN where a budget has no architecture with a score.

    Raises:
        ValueError: The columns differ in length, or are empty.

    Example:
        >>> regret_at_budget([1, 3, 2], [70, 60, 75], [1, 2, 3], quantiles=[0, 1])
        7.5
    """
    return float(np.mean([regret for _, _, regret in regret_curve(scores, accuracies, sizes, quantiles)]))


def precision_at_k(scores: ArrayLike, accuracies: ArrayLike, k: int) -> float:
    """Share of the k most accurate architectures that are among the k with the highest scores.

    Where a tie in score or in accuracy can be cut in several ways, the result is the mean over all of them.

    Args:
        scores: (K,), higher is better; NaN is never among the highest.
        accuracies: (K,).
        k: 1 to K.

    Returns:
        0 to 1; NaN where there is no score at all. Random scores reach k / K on average.

    Raises:
        ValueError: The columns differ in length or are empty, or k is out of range.

    Example:
        >>> precision_at_k([5, 6, 7, 8], [70, 71, 60, 72], k=2)
        0.5
    """
    score, accuracy = _columns(scores, accuracies)
    if not 1 <= k <= len(score):
        raise ValueError(f"k must be 1 to {len(score)}, the number of architectures; got {k}.")
    if np.isnan(score).all():
        return float("nan")
    chosen = np.where(np.isnan(score), 0, _chance_of_top(score, k))
    # Ties in score and in accuracy are cut independently, so the chances multiply.
    return float(chosen @ _chance_of_top(accuracy, k)) / k


def _chance_of_top(values: Floats, k: int) -> Floats:
    """(K,) probabilities of being among the k highest values when ties are cut at random."""
    codes = _order_codes(values)
    last = np.sort(codes)[-k]
    above, tied = codes > last, codes == last
    return above + tied * ((k - above.sum()) / tied.sum())


# -- parts of the space -------------------------------------------------------------------------


def best_decile(accuracies: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the most accurate tenth, rounded up, including all that tie with its last member.

    Args:
        accuracies: (K,).

    Returns:
        (K,) mask.

    Raises:
        ValueError: There are no accuracies.

    Example:
        >>> best_decile([70, 75, 72]).tolist()
        [False, True, False]
    """
    (accuracy,) = _columns(accuracies)
    return accuracy >= np.sort(accuracy)[-tenth(len(accuracy))]


def tenth(count: int) -> int:
    """A tenth of a count, rounded up."""
    return -(-count // 10)


def parameter_bins(sizes: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Size bins with about equally many architectures each, from small to large; equal sizes share a bin.

    Args:
        sizes: (K,), parameters or another cost.
        bins: Number of bins, at least 1.

    Returns:
        (K,) bin numbers, 0 to bins - 1. A bin can be empty where many architectures have one size.

    Raises:
        ValueError: There are no sizes, or no bins.

    Example:
        >>> parameter_bins([10, 20, 30, 40], bins=2).tolist()
        [0, 0, 1, 1]
    """
    (size,) = _columns(sizes)
    if bins < 1:
        raise ValueError(f"There must be at least one bin; got {bins}.")
    return np.searchsorted(np.quantile(size, np.arange(1, bins) / bins), size, side="left")


# -- bootstrap ----------------------------------------------------------------------------------

_NUMBERS_PER_BLOCK = 2**20
"""Largest number of entries in an array of one block of resamples; it bounds the memory."""


def draw_resamples(count: int, resamples: int, seed: int) -> Counts:
    """Bootstrap resamples of the architectures, as counts of how often each was drawn.

    Args:
        count: K, the number of architectures.
        resamples: R, the number of resamples, each of K draws with replacement.
        seed: Seed of the draws.

    Returns:
        (K, R) counts; each column sums to K. The first columns do not depend on R.

    Example:
        >>> counts = draw_resamples(5, resamples=3, seed=0)
        >>> counts.shape, counts.sum(0).tolist()
        ((5, 3), [5, 5, 5])
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((count, resamples), dtype=np.int32)
    for resample in range(resamples):
        counts[:, resample] = np.bincount(rng.integers(count, size=count), minlength=count)
    return counts


def bootstrap_correlations(
    scores: ArrayLike,
    accuracies: ArrayLike,
    covariate: ArrayLike,
    counts: Counts,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Floats]:
    """Exact correlations in every resample, as if each architecture were repeated as often as it was drawn.

    Spearman and Pearson are correlations weighted by the counts. Kendall needs the discordant pairs, which are the
    inversions of the scores sorted by accuracy. They are counted bit by bit, in O(K log K) operations on all resamples
    at once, without a matrix of pairs, so the cost stays moderate for 15,625 architectures.

    Args:
        scores: (M, K), one row for each score; NaN ranks below all others, and Pearson leaves it out.
        accuracies: (K,), finite.
        covariate: (K,), finite; the quantity that the partial correlation regresses out.
        counts: (K, R), from `draw_resamples`; a selection of its rows resamples a part of the architectures.
        progress: Called after each step with the number of correlations of each kind that it made, of M x R in all.

    Returns:
        (M, R) values for each of "kendall", "spearman", "pearson" and "partial_spearman"; NaN where a resample leaves
        the statistic undefined.

    Raises:
        ValueError: The accuracies and the covariate differ in length, or are empty.
    """
    rows = np.asarray(scores, dtype=np.float64)
    accuracy, confounder = _columns(accuracies, covariate)
    resamples = counts.shape[1]
    names = ("kendall", "spearman", "pearson", "partial_spearman")
    results = {name: np.full((len(rows), resamples), np.nan) for name in names}
    step = max(1, _NUMBERS_PER_BLOCK // len(accuracy))
    for start in range(0, resamples, step):
        block = slice(start, min(start + step, resamples))
        statistics = _Resamples(np.ascontiguousarray(counts[:, block], dtype=np.int32), accuracy, confounder)
        for row, score in enumerate(rows):
            for name, values in zip(names, statistics.correlations(score), strict=True):
                results[name][row, block] = values
            if progress is not None:
                progress(statistics.size)
    return results


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval: the central percentiles of a statistic over its resamples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        values: (R,); NaN where a resample leaves the statistic undefined.
        confidence: Share of the resamples within the interval.

    Returns:
        Low and high end. Both are NaN where there are no resamples, or more than a share of 1 - confidence of them is
        undefined.

    Example:
        >>> low, high = percentile_interval(range(101), confidence=0.9)
        >>> round(low, 6), round(high, 6)
        (5.0, 95.0)
    """
    value = np.asarray(values, dtype=np.float64)
    defined = value[~np.isnan(value)]
    if not len(defined) or len(defined) < confidence * len(value):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class _Ranked:
    """Mid-ranks of a column around their mean, and its ties, in a block of resamples."""

    def __init__(self, values: Floats, drawn: Counts) -> None:
        self.codes = _order_codes(values)
        order = np.argsort(self.codes, kind="stable")
        counts = _sum_runs(self.codes[order], drawn[order])
        centred = np.cumsum(counts, axis=0, dtype=np.int32) - (counts + counts.sum(axis=0)) / 2
        self.ranks = centred[self.codes]
        self.square = _dot(counts, centred**2)
        self.tied = _pairs(counts)


class _Resamples:
    """A block of resamples, (K, R) counts, with everything that does not depend on the scores."""

    def __init__(self, counts: Counts, accuracies: Floats, covariate: Floats) -> None:
        self.size = counts.shape[1]
        self._counts = counts
        self._weights = weights = counts.astype(np.float64)
        self._accuracies = _shrink(accuracies)
        self._accuracy, self._covariate = _Ranked(accuracies, counts), _Ranked(covariate, counts)
        self._weighted_accuracy = weights * self._accuracy.ranks
        self._weighted_covariate = weights * self._covariate.ranks
        covariance = _dot(self._weighted_accuracy, self._covariate.ranks)
        self._accuracy_covariate = _ratio(covariance, self._accuracy.square, self._covariate.square)

    def correlations(self, scores: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Kendall, Spearman, Pearson and partial Spearman, (R,) each."""
        score = _Ranked(scores, self._counts)
        spearman = _ratio(_dot(self._weighted_accuracy, score.ranks), score.square, self._accuracy.square)
        with_covariate = _ratio(_dot(self._weighted_covariate, score.ranks), score.square, self._covariate.square)
        partial = _partial(spearman, with_covariate, self._accuracy_covariate)
        return self._kendall(score), spearman, self._pearson(scores), partial

    def _kendall(self, score: _Ranked) -> Floats:
        accuracy = self._accuracy
        order = np.lexsort((score.codes, accuracy.codes))  # ties in accuracy ascend in score, so they add no inversion
        ordered, codes = self._counts[order], score.codes[order]
        tied_in_both = _pairs(_sum_runs(accuracy.codes[order] * len(codes) + codes, ordered))
        pairs = _pairs(ordered.sum(axis=0, keepdims=True))
        surplus = pairs - score.tied - accuracy.tied + tied_in_both - 2 * _inversions(codes, ordered)
        return _ratio(surplus, pairs - score.tied, pairs - accuracy.tied)

    def _pearson(self, scores: Floats) -> Floats:
        finite = np.isfinite(scores)
        if not finite.any():
            return np.full(self._weights.shape[1], np.nan)
        weights = self._weights if finite.all() else self._weights[finite]
        score, accuracy = _shrink(scores[finite]), self._accuracies[finite]
        correlation, is_sure = _pearson_by_moments(score, accuracy, weights)
        correlation[~is_sure] = _pearson_around_means(score, accuracy, weights[:, ~is_sure])
        return correlation


def _pearson_by_moments(scores: Floats, accuracies: Floats, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(R,) correlations from one product with the weights, and whether each is safe from cancellation.

    Both columns come from `_shrink`, so they are at most 1.
    """
    score, accuracy = scores - scores.mean(), accuracies - accuracies.mean()
    columns = np.stack([score, accuracy, score * score, accuracy * accuracy, score * accuracy])
    moments = np.einsum("mk,kr->mr", columns, weights)
    mean, mean_accuracy, square, square_accuracy, product = moments / np.maximum(weights.sum(axis=0), 1)
    variance, variance_accuracy = square - mean**2, square_accuracy - mean_accuracy**2
    is_sure = (variance > 0.01 * square) & (variance_accuracy > 0.01 * square_accuracy)
    is_sure &= np.minimum(variance, variance_accuracy) > 1e-20  # a column that is constant up to rounding is far below
    norm = np.sqrt(np.where(is_sure, variance, 1)) * np.sqrt(np.where(is_sure, variance_accuracy, 1))
    return (product - mean * mean_accuracy) / norm, is_sure


def _pearson_around_means(scores: Floats, accuracies: Floats, weights: Floats) -> Floats:
    """(R,) correlations from the deviations from the mean of each resample; NaN where one column is constant."""
    columns, drawn = (scores, accuracies), np.maximum(weights.sum(axis=0), 1)
    score, accuracy = (column[:, None] - column @ weights / drawn for column in columns)
    weighted = weights * score
    correlation = _ratio(_dot(weighted, accuracy), _dot(weighted, score), _dot(weights, accuracy**2))
    absent = weights == 0
    for column in columns:
        low = np.where(absent, np.inf, column[:, None]).min(axis=0)
        high = np.where(absent, -np.inf, column[:, None]).max(axis=0)
        correlation[_is_constant(low, high)] = np.nan
    return correlation


def _inversions(codes: Codes, counts: Counts) -> Floats:
    """Weighted number of pairs whose earlier code is the larger one.

    The highest bit in which two codes differ decides their order. So for each bit, a pair counts if its codes agree in
    all higher bits, the earlier code has the bit set and the later one has not.

    Args:
        codes: (K,), at least 0.
        counts: (K, R), the weight of each code: how often it was drawn.

    Returns:
        (R,) numbers of pairs.
    """
    total = np.zeros(counts.shape[1])
    for bit in range(int(codes.max()).bit_length()):
        alike = np.argsort(codes >> (bit + 1), kind="stable")
        above = codes[alike] >> (bit + 1)
        first = np.searchsorted(above, above)  # start of the run of codes that agree above the bit
        is_set = (codes[alike] >> bit & 1).astype(bool)
        set_before = np.concatenate([[0], np.cumsum(is_set)])
        of_set = np.zeros((is_set.sum() + 1, counts.shape[1]), dtype=np.int32)
        np.cumsum(counts[alike[is_set]], axis=0, out=of_set[1:])
        begin, end = set_before[first], set_before[:-1]
        later = ~is_set & (end > begin)
        total += _dot(counts[alike[later]], of_set[end[later]] - of_set[begin[later]])
    return total


# -- helpers ------------------------------------------------------------------------------------


def _columns(*columns: ArrayLike) -> list[Floats]:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1 or not arrays[0].size:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"Scores, accuracies and sizes must be equally long lists, not empty; got shapes {shapes}.")
    return arrays


def _order_codes(values: Floats) -> Codes:
    """(K,) dense ranks of the values, from 0 without gaps; NaN ranks below all others."""
    _, codes = np.unique(values, return_inverse=True)
    missing = np.isnan(values)
    return np.where(missing, 0, codes + missing.any())


def _shrink(values: Floats) -> Floats:
    """The values times a power of two, which is exact, so that their squares do not overflow."""
    return np.ldexp(values, -int(np.frexp(np.abs(values).max())[1]))


def _is_constant(low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether values between these limits differ only by rounding."""
    return ~(high - low > 2e-13 * np.maximum(np.abs(low), np.abs(high)))


def _sum_runs(keys: Codes, rows: Counts) -> Counts:
    """(K, R) summed over the runs of equal keys."""
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return rows if len(first) == len(rows) else np.add.reduceat(rows, first, axis=0, dtype=np.int32)


def _pairs(counts: Counts) -> Floats:
    """(R,) numbers of pairs within groups of (G, R) sizes."""
    return (_dot(counts, counts) - counts.sum(axis=0)) / 2


def _dot(left: Floats | Counts, right: Floats | Counts) -> Floats:
    return np.einsum("kr,kr->r", left, right, dtype=np.float64)  # squares of counts can overflow int32


def _ratio(product: Floats, square: Floats, other_square: Floats) -> Floats:
    """A correlation from its sums of products and squares; NaN where one column is constant."""
    norm = np.sqrt(square) * np.sqrt(other_square)
    return np.divide(product, norm, out=np.full_like(norm, np.nan), where=norm > 0)


def _partial(score_accuracy: Floats, score_covariate: Floats, accuracy_covariate: Floats) -> Floats:
    """Partial correlation from the three plain ones."""
    rest = (1 - score_covariate**2) * (1 - accuracy_covariate**2)
    # A score that orders like the covariate leaves nothing to correlate.
    partial = (score_accuracy - score_covariate * accuracy_covariate) / np.sqrt(np.maximum(rest, 1e-12))
    return np.where(rest <= 1e-12, 0.0, partial)
