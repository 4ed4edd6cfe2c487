"""How well scores order architectures whose accuracy is known, and what picking by them costs.

A score that failed is NaN and counts as the worst: in ranks it stands below all that were scored, tied with the other
failures, and it is never picked. A correlation of values leaves it out. Where a statistic is undefined, because there
are fewer than two points or one side is constant, it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DECILES = tuple(np.arange(1, 11) / 10)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Counts = NDArray[np.int32]

# -- correlation --------------------------------------------------------------------------------


def kendall(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Kendall's tau-b: pairs in the same order less pairs in the opposite one, corrected for ties.

    Args:
        scores: (K,), higher is better; NaN ranks below all others.
        accuracies: (K,).

    Returns:
        -1 to 1; NaN for fewer than two points or a constant.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    score, accuracy = map(_order_codes, _columns(scores, accuracies))
    if not (score.any() and accuracy.any()):
        return float("nan")
    return float(stats.kendalltau(score, accuracy).statistic)


def spearman(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank.

    Args:
        scores: (K,), higher is better; NaN ranks below all others.
        accuracies: (K,).

    Returns:
        -1 to 1; NaN for fewer than two points or a constant.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    score, accuracy = map(_order_codes, _columns(scores, accuracies))
    if not (score.any() and accuracy.any()):
        return float("nan")
    return float(stats.spearmanr(score, accuracy).statistic)


def pearson(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Pearson's correlation of the values themselves.

    Args:
        scores: (K,); what is not finite is left out.
        accuracies: (K,); likewise.

    Returns:
        -1 to 1; NaN for fewer than two points, or where one side is constant up to rounding.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    score, accuracy = _columns(scores, accuracies)
    finite = np.isfinite(score) & np.isfinite(accuracy)
    if not finite.any():
        return float("nan")
    score, accuracy = (_shrink(column[finite]) for column in (score, accuracy))
    if any(_is_constant(column.min(), column.max()) for column in (score, accuracy)):
        return float("nan")
    return float(stats.pearsonr(score, accuracy).statistic)


def partial_spearman(scores: ArrayLike, accuracies: ArrayLike, given: ArrayLike) -> float:
    """Spearman correlation of scores and accuracies with the ranks of a third quantity regressed out of both.

    Args:
        scores: (K,); NaN ranks below all others.
        accuracies: (K,).
        given: (K,), such as parameter counts.

    Returns:
        -1 to 1; 0 where the third quantity leaves nothing over; NaN where one of the three is constant.

    Raises:
        ValueError: The three differ in length, or are empty.
    """
    columns = _columns(scores, accuracies, given)
    r_sa, r_sg, r_ag = (np.asarray(spearman(columns[i], columns[j])) for i, j in ((0, 1), (0, 2), (1, 2)))
    return float(_partial(r_sa, r_sg, r_ag))


def size_matched_agreement(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, within: float = 0.15
) -> tuple[float, int]:
    """Whether a score tells apart architectures of about the same size.

    Args:
        scores: (K,), higher is better; NaN is below all others.
        accuracies: (K,).
        sizes: (K,), positive.
        within: Pairs count whose sizes differ by at most this share of the smaller one.

    Returns:
        Mean over the pairs of sign(score difference) x sign(accuracy difference), -1 to 1, and the number of pairs.
        NaN where there is no pair, or no score at all.

    Raises:
        ValueError: The three differ in length, or are empty.
    """
    *columns, size = _columns(scores, accuracies, sizes)
    ascending = np.argsort(size)
    size = size[ascending]
    score, accuracy = (_order_codes(column)[ascending] for column in columns)
    agreement = pairs = 0
    for i in range(len(size) - 1):  # by rows, because all pairs of 15,625 architectures would fill the memory
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
    """What a search loses under each budget by trusting a score.

    The best accuracy among the architectures within the budget, minus the accuracy of the one that the score picks
    there (the mean accuracy of those that share the highest score, so that order does not matter).

    Args:
        scores: (K,), higher is better; NaN is never picked.
        accuracies: (K,) in percent.
        sizes: (K,) parameters or another cost.
        quantiles: Budgets, as quantiles of the sizes.

    Returns:
        Quantile, limit in the unit of the sizes, and regret in that of the accuracies, by budget. The regret is NaN
        where a budget has no architecture with a score.

    Raises:
        ValueError: The three differ in length, or are empty.
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
    """Mean of `regret_curve` over the budgets.

    Args:
        scores: (K,), higher is better; NaN is never picked.
        accuracies: (K,) in percent.
        sizes: (K,) parameters or another cost.
        quantiles: Budgets, as quantiles of the sizes.

    Returns:
        Mean regret in the unit of the accuracies; NaN where a budget has no architecture with a score.

    Raises:
        ValueError: The three differ in length, or are empty.
    """
    return float(np.mean([regret for _, _, regret in regret_curve(scores, accuracies, sizes, quantiles)]))


def precision_at_k(scores: ArrayLike, accuracies: ArrayLike, k: int) -> float:
    """Share of the k most accurate architectures that are among the k highest scored.

    Where a tie, in score or in accuracy, can be cut in several ways, this is the mean over all of them.

    Args:
        scores: (K,), higher is better; NaN is never among the highest.
        accuracies: (K,).
        k: 1 to K.

    Returns:
        0 to 1; NaN where there is no score at all. Scores that say nothing reach k / K.

    Raises:
        ValueError: The two differ in length or are empty, or k is out of range.
    """
    score, accuracy = _columns(scores, accuracies)
    if not 1 <= k <= len(score):
        raise ValueError(f"k must be 1 to {len(score)}, the number of architectures; got {k}.")
    if np.isnan(score).all():
        return float("nan")
    chosen = np.where(np.isnan(score), 0, _chance_of_top(score, k))
    # Ties in score and in accuracy are cut independently, so that the chances multiply.
    return float(chosen @ _chance_of_top(accuracy, k)) / k


def _chance_of_top(values: Floats, k: int) -> Floats:
    """Probability of each to be among the k highest if ties are cut at random."""
    codes = _order_codes(values)
    last = np.sort(codes)[-k]
    above, tied = codes > last, codes == last
    return above + tied * ((k - above.sum()) / tied.sum())


# -- parts of the space -------------------------------------------------------------------------


def best_decile(accuracies: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the best tenth, rounded up, and of all that are as accurate as the last of it.

    Args:
        accuracies: (K,).

    Returns:
        (K,).

    Raises:
        ValueError: There are none.
    """
    (accuracy,) = _columns(accuracies)
    return accuracy >= np.sort(accuracy)[-tenth(len(accuracy))]


def tenth(count: int) -> int:
    """A tenth of a number of architectures, rounded up."""
    return -(-count // 10)


def parameter_bins(sizes: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Bins of about equally many architectures, from small to large; equal sizes stay together.

    Args:
        sizes: (K,) parameters or another cost.
        bins: How many, at least 1.

    Returns:
        (K,) bin of each, 0 to bins - 1. Some bins stay empty where many are of one size.

    Raises:
        ValueError: There are no sizes, or no bins.
    """
    (size,) = _columns(sizes)
    if bins < 1:
        raise ValueError(f"There must be at least one bin; got {bins}.")
    return np.searchsorted(np.quantile(size, np.arange(1, bins) / bins), size, side="left")


# -- bootstrap ----------------------------------------------------------------------------------

BLOCK = 2**20
"""Numbers that an array of one block of resamples holds, which bounds the memory."""


def draw_resamples(count: int, resamples: int, seed: int) -> Counts:
    """Bootstrap resamples of architectures, as how often each was drawn.

    Args:
        count: K architectures.
        resamples: R resamples, each of K draws with replacement.
        seed: The same seed gives the same resamples.

    Returns:
        (K, R), each column sums to K. The first are the same however many are asked for.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((count, resamples), dtype=np.int32)
    for resample in range(resamples):
        counts[:, resample] = np.bincount(rng.integers(count, size=count), minlength=count)
    return counts


def bootstrap_correlations(
    scores: ArrayLike,
    accuracies: ArrayLike,
    given: ArrayLike,
    counts: Counts,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Floats]:
    """Correlations in every resample, exactly those of architectures repeated as often as they were drawn.

    Spearman and Pearson are correlations weighted by the counts. Kendall needs the discordant pairs, which are the
    inversions of the scores sorted by accuracy; they are counted bit by bit, in O(K log K) operations on all resamples
    at once. That is exact and needs no matrix of pairs, so that it serves 100 architectures as well as 15,625.

    Args:
        scores: (M, K), rows of scores; NaN as everywhere in this module.
        accuracies: (K,), finite.
        given: (K,), finite; the third quantity of the partial correlation.
        counts: (K, R), from `draw_resamples`. Rows of it resample a part of the architectures.
        progress: Told how many of the M x R correlations of each kind were made, each time that some were.

    Returns:
        "kendall", "spearman", "pearson" and "partial_spearman": (M, R); NaN where undefined in a resample.
    """
    rows = np.asarray(scores, dtype=np.float64)
    accuracy, third = _columns(accuracies, given)
    resamples = counts.shape[1]
    names = ("kendall", "spearman", "pearson", "partial_spearman")
    results = {name: np.full((len(rows), resamples), np.nan) for name in names}
    step = max(1, BLOCK // len(accuracy))
    for start in range(0, resamples, step):
        block = slice(start, min(start + step, resamples))
        statistics = _Resamples(np.ascontiguousarray(counts[:, block], dtype=np.int32), accuracy, third)
        for row, score in enumerate(rows):
            for name, values in zip(names, statistics.correlations(score), strict=True):
                results[name][row, block] = values
            if progress is not None:
                progress(statistics.size)
    return results


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a statistic: the percentiles of its values in the resamples.

    Args:
        values: (R,); NaN where a resample leaves the statistic undefined.
        confidence: Share of the resamples within the interval.

    Returns:
        Low and high end. NaN where a share of the resamples larger than 1 - confidence is undefined, or there are none.
    """
    value = np.asarray(values, dtype=np.float64)
    defined = value[~np.isnan(value)]
    if not len(defined) or len(defined) < confidence * len(value):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class _Ranked:
    """A column in a block of resamples: mid-ranks around their mean, and ties."""

    def __init__(self, values: Floats, drawn: Counts) -> None:
        self.codes = _order_codes(values)
        order = np.argsort(self.codes, kind="stable")
        counts = _sum_runs(self.codes[order], drawn[order])
        centred = np.cumsum(counts, axis=0, dtype=np.int32) - (counts + counts.sum(axis=0)) / 2
        self.ranks = centred[self.codes]
        self.square = _dot(counts, centred**2)
        self.tied = _pairs(counts)


class _Resamples:
    """A block of resamples, (K, R) counts, with what all scores share."""

    def __init__(self, counts: Counts, accuracies: Floats, given: Floats) -> None:
        self.size = counts.shape[1]
        self._counts = counts
        self._weights = weights = counts.astype(np.float64)
        self._accuracies = _shrink(accuracies)
        self._accuracy, self._given = _Ranked(accuracies, counts), _Ranked(given, counts)
        self._weighted_accuracy = weights * self._accuracy.ranks
        self._weighted_given = weights * self._given.ranks
        covariance = _dot(self._weighted_accuracy, self._given.ranks)
        self._accuracy_given = _ratio(covariance, self._accuracy.square, self._given.square)

    def correlations(self, scores: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Kendall, Spearman, Pearson and partial Spearman, (R,) each."""
        score = _Ranked(scores, self._counts)
        spearman = _ratio(_dot(self._weighted_accuracy, score.ranks), score.square, self._accuracy.square)
        with_given = _ratio(_dot(self._weighted_given, score.ranks), score.square, self._given.square)
        partial = _partial(spearman, with_given, self._accuracy_given)
        return self._kendall(score), spearman, self._pearson(scores), partial

    def _kendall(self, score: _Ranked) -> Floats:
        accuracy = self._accuracy
        order = np.lexsort((score.codes, accuracy.codes))  # ties in accuracy ascend in score: they invert nothing
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
    """(R,) correlations from one product with the weights, and whether rounding left each of them its digits.

    Both columns are at most 1, from `_shrink`.
    """
    score, accuracy = scores - scores.mean(), accuracies - accuracies.mean()
    columns = np.stack([score, accuracy, score * score, accuracy * accuracy, score * accuracy])
    moments = np.einsum("mk,kr->mr", columns, weights)
    mean, mean_accuracy, square, square_accuracy, product = moments / np.maximum(weights.sum(axis=0), 1)
    variance, variance_accuracy = square - mean**2, square_accuracy - mean_accuracy**2
    is_sure = (variance > 0.01 * square) & (variance_accuracy > 0.01 * square_accuracy)
    is_sure &= np.minimum(variance, variance_accuracy) > 1e-20  # what is constant up to rounding is far below
    norm = np.sqrt(np.where(is_sure, variance, 1)) * np.sqrt(np.where(is_sure, variance_accuracy, 1))
    return (product - mean * mean_accuracy) / norm, is_sure


def _pearson_around_means(scores: Floats, accuracies: Floats, weights: Floats) -> Floats:
    """(R,) correlations from the differences to the mean of each resample; NaN where one side is constant."""
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

    Two codes are in the order of the highest bit in which they differ. For each bit, a pair counts whose codes agree
    above it and of which the earlier has it set and the later has not.

    Args:
        codes: (K,), at least 0.
        counts: (K, R), how often each was drawn: its weight.

    Returns:
        (R,).
    """
    total = np.zeros(counts.shape[1])
    for bit in range(int(codes.max()).bit_length()):
        alike = np.argsort(codes >> (bit + 1), kind="stable")
        above = codes[alike] >> (bit + 1)
        first = np.searchsorted(above, above)  # place where the run of codes that agree above the bit begins
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
    """(K,) whole numbers from 0 without gaps, in the order of the values; NaN is below all others."""
    _, codes = np.unique(values, return_inverse=True)
    missing = np.isnan(values)
    return np.where(missing, 0, codes + missing.any())


def _shrink(values: Floats) -> Floats:
    """Values times a power of two, exact, so that no square of them overflows."""
    return np.ldexp(values, -int(np.frexp(np.abs(values).max())[1]))


def _is_constant(low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether values between these limits differ by no more than rounding."""
    return ~(high - low > 2e-13 * np.maximum(np.abs(low), np.abs(high)))


def _sum_runs(keys: Codes, rows: Counts) -> Counts:
    """(K, R) summed over the runs of equal keys."""
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return rows if len(first) == len(rows) else np.add.reduceat(rows, first, axis=0, dtype=np.int32)


def _pairs(counts: Counts) -> Floats:
    """(G, R) sizes of groups to (R,) pairs within them."""
    return (_dot(counts, counts) - counts.sum(axis=0)) / 2


def _dot(left: Floats | Counts, right: Floats | Counts) -> Floats:
    return np.einsum("kr,kr->r", left, right, dtype=np.float64)  # squares of counts may pass what int32 holds


def _ratio(product: Floats, square: Floats, other_square: Floats) -> Floats:
    """A correlation from its sums of products and squares; NaN where one side is constant."""
    norm = np.sqrt(square) * np.sqrt(other_square)
    return np.divide(product, norm, out=np.full_like(norm, np.nan), where=norm > 0)


def _partial(score_accuracy: Floats, score_given: Floats, accuracy_given: Floats) -> Floats:
    """Partial correlation from the three plain ones."""
    rest = (1 - score_given**2) * (1 - accuracy_given**2)
    # A score that is the third quantity in disguise has nothing left to correlate.
    partial = (score_accuracy - score_given * accuracy_given) / np.sqrt(np.maximum(rest, 1e-12))
    return np.where(rest <= 1e-12, 0.0, partial)
