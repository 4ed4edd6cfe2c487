"""Scores that a pool of networks shares, so that they say little about it: constants and ceilings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

_TOP_SHARE = 0.2
"""The share of networks at the highest score from which the score is said to meet a ceiling."""

_COMMON_SHARE = 0.5
"""The share of networks at any one score from which it is said to be common."""


def describe_ties(scores: Iterable[float | None], unit: str = "scores") -> str | None:
    """Say that the scores of a pool are constant, meet a ceiling, or have one value in half of all cases.

    Some proxies do so by their nature: `meco` is 0 wherever a map has more channels than tokens, `swap` counts at most
    2^16 patterns, and `gradient_flow` is 0 if every block passes gradients on.

    Args:
        scores: The scores of the pool; missing and undefined ones are left out.
        unit: What is counted, in the plural.

    Returns:
        The shared value and the number of times, such as "0 for all 20 scores"; None if most scores differ.

    Example:
        >>> describe_ties([0.0] * 20)
        '0 for all 20 scores'
        >>> describe_ties([65536.0, 2.0, 65536.0, 3.0])
        '65,536, the highest, for 2 of 4 scores'
        >>> describe_ties([1.0, 2.0, 3.0])
    """
    counts = Counter(score for score in scores if score is not None and math.isfinite(score))
    total = counts.total()
    if total < 2:
        return None
    (common, times), top = counts.most_common(1)[0], max(counts)
    if times == total:
        return f"{_written(common)} for all {total:,} {unit}"
    if counts[top] >= max(2, _TOP_SHARE * total):
        return f"{_written(top)}, the highest, for {counts[top]:,} of {total:,} {unit}"
    if times >= max(2, _COMMON_SHARE * total):
        return f"{_written(common)} for {times:,} of {total:,} {unit}"
    return None


def _written(score: float) -> str:
    """A score for a report: a count with all its digits, anything else with six."""
    return f"{score:,.0f}" if score == round(score) and abs(score) < 1e15 else f"{score:.6g}"
