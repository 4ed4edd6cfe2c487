"""Numbers of trainings over several seeds: means, and paired differences with t intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

LEVEL = 0.95
"""Confidence of the intervals."""


@dataclass(frozen=True)
class Spread:
    """A number over several seeds.

    Attributes:
        mean: The mean.
        std: The sample standard deviation, with one degree of freedom less than seeds; None for one seed.
        count: Number of seeds.
    """

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A mean difference between pairs of trainings with the same seed.

    Attributes:
        mean: The mean of the differences.
        low, high: The ends of its t interval; None for fewer than 2 pairs.
        count: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def has_equal_values(self) -> bool:
        """Whether the differences of several pairs are equal, so that the interval has no width and tells nothing."""
        if self.low is None or self.high is None:
            return False
        return math.isclose(self.low, self.high, rel_tol=0, abs_tol=1e-9)


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None without values.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, std=1.4142135623730951, count=2)
    """
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def paired_difference(values: Sequence[float], others: Sequence[float], level: float = LEVEL) -> Difference | None:
    """The mean of the differences of pairs, with its t interval.

    The interval holds the true mean with this confidence if the differences are normally distributed. Source: Student,
    "The probable error of a mean", 1908.

    Args:
        values: (N,) numbers.
        others: (N,) numbers that are subtracted, in the same order.
        level: Confidence of the interval, between 0 and 1.

    Returns:
        The difference; None without pairs.

    Raises:
        ValueError: The numbers are not as many as the others.

    Example:
        >>> paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], level=0.5)
        Difference(mean=2.0, low=1.5285954792089682, high=2.471404520791032, count=3)
    """
    differences = spread([value - other for value, other in zip(values, others, strict=True)])
    if differences is None:
        return None
    mean, std, count = differences.mean, differences.std, differences.count
    if std is None:
        return Difference(mean, None, None, count)
    reach = float(stdtrit(count - 1, 0.5 + level / 2)) * std / math.sqrt(count)
    return Difference(mean, mean - reach, mean + reach, count)
