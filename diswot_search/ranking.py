"""How well scores order architectures whose accuracy is known, and what picking by them costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DECILES = tuple(np.arange(1, 11) / 10)


def regret_at_budget(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, quantiles: Sequence[float] = DECILES
) -> float:
    """What a search loses by trusting a score, averaged over budgets.

    Under each budget, the best accuracy among the architectures within it, minus the accuracy of the one that the
    score picks there (the mean accuracy of those that share the highest score, so that order does not matter).

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
    score, accuracy, size = _columns(scores, accuracies, sizes)
    regrets = []
    for quantile in quantiles:
        within = size <= np.quantile(size, quantile)
        scored = within & ~np.isnan(score)
        if not scored.any():
            return float("nan")
        picked = scored & (score == score[scored].max())
        regrets.append(accuracy[within].max() - accuracy[picked].mean())
    return float(np.mean(regrets))


def size_matched_agreement(
    scores: ArrayLike, accuracies: ArrayLike, sizes: ArrayLike, within: float = 0.15
) -> tuple[float, int]:
    """Whether a score tells apart architectures of about the same size.

    Args:
        scores: (K,), higher is better.
        accuracies: (K,).
        sizes: (K,), positive.
        within: Pairs count whose sizes differ by at most this share of the smaller one.

    Returns:
        Mean over the pairs of sign(score difference) x sign(accuracy difference), -1 to 1, and the number of pairs.
        NaN where there is no pair.

    Raises:
        ValueError: The three differ in length, or are empty.
    """
    score, accuracy, size = _columns(scores, accuracies, sizes)
    first, second = np.triu_indices(len(size), k=1)
    close = abs(size[first] - size[second]) <= within * np.minimum(size[first], size[second])
    first, second = first[close], second[close]
    agreement = np.sign(score[first] - score[second]) * np.sign(accuracy[first] - accuracy[second])
    return (float(agreement.mean()) if len(first) else float("nan")), len(first)


def partial_spearman(scores: ArrayLike, accuracies: ArrayLike, given: ArrayLike) -> float:
    """Spearman correlation of scores and accuracies with the ranks of a third quantity regressed out of both.

    Args:
        scores: (K,).
        accuracies: (K,).
        given: (K,), such as parameter counts.

    Returns:
        -1 to 1; 0 where the third quantity leaves nothing over; NaN where one of the three is constant or has a NaN.

    Raises:
        ValueError: The three differ in length, or are empty.
    """
    ranks = [stats.rankdata(column) for column in _columns(scores, accuracies, given)]
    r_sa, r_sg, r_ag = (stats.pearsonr(ranks[i], ranks[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2)))
    rest = (1 - r_sg**2) * (1 - r_ag**2)
    if rest <= 1e-12:  # a score that is the third quantity in disguise has nothing left to correlate
        return 0.0
    return float((r_sa - r_sg * r_ag) / np.sqrt(rest))


def _columns(*columns: ArrayLike) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1 or not arrays[0].size:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"Scores, accuracies and sizes must be equally long lists, not empty; got shapes {shapes}.")
    return arrays
