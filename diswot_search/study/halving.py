"""Successive halving: many candidates with a small budget each, the best of them with a larger one, and so on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import TYPE_CHECKING, TypedDict

from search_spaces.space import Architecture, SearchSpace

from ..checks import check_whole
from .algorithm import Algorithm, check_integer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .records import Record


SHARES, KEEP = (0.06, 1.0), (3,)
"""The shares of the rungs, and the number of candidates that each but the last keeps, by default."""


@dataclass(frozen=True)
class Rung:
    """A rung of successive halving.

    Attributes:
        share: Share of the whole budget that each of its candidates gets, above 0 and at most 1.
        keep: Number of its candidates that go on to the next rung; None for the last one, which none leaves.
    """

    share: float
    keep: int | None = None


def rungs_of(shares: Sequence[float], keep: Sequence[int]) -> tuple[Rung, ...]:
    """The rungs with these shares of the budget.

    Args:
        shares: The share of each rung, rising, the last one 1.
        keep: The number of candidates that leave each rung but the last, falling.

    Raises:
        ValueError: The shares do not rise to 1, the numbers rise, or they are not one less than the shares.

    Example:
        >>> rungs_of([0.06, 1.0], [3])
        (Rung(share=0.06, keep=3), Rung(share=1.0, keep=None))
    """
    are_shares = all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares)
    if not shares or not are_shares or list(shares) != sorted(set(shares)) or shares[-1] != 1:
        raise ValueError(f"rung_shares is {list(shares)}; it must be rising shares above 0, of which the last is 1.")
    if len(keep) != len(shares) - 1:
        raise ValueError(
            f"rung_keep is {list(keep)}, but there are {len(shares)} rungs: it must have a number for each but the "
            f"last, {len(shares) - 1}."
        )
    for count in keep:
        check_whole("rung_keep", count, least=1)
    if list(keep) != sorted(keep, reverse=True):
        raise ValueError(f"rung_keep is {list(keep)}; later rungs cannot keep more candidates than earlier ones.")
    return tuple(Rung(float(share), count) for share, count in zip(shares, [*keep, None], strict=True))


def order(values: Sequence[float | None]) -> list[int]:
    """The places of candidates, the best value first; ties are broken by the earlier place.

    Args:
        values: The values, where higher is better; None for a candidate that failed, which is left out.

    Example:
        >>> order([1.0, None, 3.0, 3.0])
        [2, 3, 0]
    """
    places = [place for place, value in enumerate(values) if value is not None and not math.isnan(value)]
    return sorted(places, key=lambda place: (-_value(values[place]), place))


def _value(value: float | None) -> float:
    assert value is not None
    return value


def going_on(
    values: Sequence[float | None],
    keep: int,
    baselines: Collection[int] = (),
    barred: Collection[int] = (),
    named: Collection[int] = (),
) -> list[int]:
    """The places of the candidates that go on from a rung, in order of their places.

    They are all that are named, the best `keep` of the others, and the best baseline beside them if it is none of them.

    Args:
        values: The values of the rung, where higher is better; None for a candidate that failed, which is out.
        keep: Number of candidates to keep.
        baselines: Places of the baselines.
        barred: Places of candidates that are not kept, such as baselines over the budget. The best baseline is one of
            them only if there is no other.
        named: Places of candidates that go on whatever their values, beside those that are kept.

    Example:
        >>> going_on([5.0, 4.0, 7.0, 1.0], keep=2)
        [0, 2]
        >>> going_on([5.0, 4.0, 7.0, 1.0], keep=2, baselines=[1, 3])
        [0, 1, 2]
        >>> going_on([5.0, 4.0, 7.0, 1.0], keep=2, baselines=[2, 3], barred=[2])
        [0, 1, 3]
        >>> going_on([5.0, 4.0, None, 7.0], keep=1, named=[2, 3])
        [0, 3]
    """
    best = order(values)
    kept = [place for place in best if place not in barred and place not in named][:keep]
    compared = sorted((place for place in best if place in baselines), key=lambda place: place in barred)
    return sorted({*kept, *compared[:1], *(place for place in best if place in named)})


def standard_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy, in points: that of a share of this many independent images.

    Args:
        accuracy: The accuracy in percent.
        images: Number of images, at least 1.

    Example:
        >>> standard_error(50.0, 100)
        5.0
    """
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def seed_variance(accuracies: Sequence[Sequence[float]]) -> float | None:
    """The variance of an accuracy over seeds, in squared points, pooled over all candidates of a rung.

    It is the sum of the squared deviations from each candidate's own mean, divided by the degrees of freedom: the
    number of accuracies less that of the candidates that have several.

    Args:
        accuracies: The accuracies of each candidate by seed, in percent; of one that failed none.

    Returns:
        The variance; None while no candidate has several seeds, since a single one tells nothing of it.

    Example:
        >>> seed_variance([[50.0, 54.0], [48.0, 50.0], [47.0]]), seed_variance([[50.0], [48.0]])
        (5.0, None)
    """
    several = [own for own in accuracies if len(own) > 1]
    if not several:
        return None
    return sum(variance(own) * (len(own) - 1) for own in several) / sum(len(own) - 1 for own in several)


def leaders(values: Sequence[Sequence[float]], accuracies: Sequence[Sequence[float]], images: int) -> list[int]:
    """The places of the candidates of a rung that may be the best: the best first, then all within their spread of it.

    Candidates are ordered by the means of their values over seeds. One is within its spread of the best if their mean
    accuracies differ by no more than the standard error of the difference. Its variance is that of the images, `p(1 -
    p) / images` for each of the two, and that of the seeds, `seed_variance` divided by the number of seeds of each.
    Accuracies on the same images, and those with the same seed, vary together, so that their difference varies less:
    this is on the careful side. While no candidate has several seeds, their variance is not known, and the images alone
    would call a lucky seed the best. Then the best two are leaders, however far they are apart.

    In a simulation of four candidates two points apart, with 5,000 images and seeds of two points, the pick is truly
    the best in 65 of 100 cases after 2.5 second seeds, as `in_doubt` asks for them. It is after a second seed for all
    four as well, and in 61 by the spread of images alone, which asks for 0.7.

    Args:
        values: The values of each candidate by seed, where higher is better; of one that failed none.
        accuracies: Their accuracies on validation images, in percent, in the same order.
        images: Number of validation images.

    Example:
        >>> leaders([[50.0], [62.0], [40.0]], [[50.0], [62.0], [40.0]], 100)
        [1, 0]
        >>> leaders([[50.0, 50.2], [62.0, 61.8], [40.0]], [[50.0, 50.2], [62.0, 61.8], [40.0]], 100)
        [1]
    """
    best = order([fmean(own) if own else None for own in values])
    of_seeds = seed_variance(accuracies)
    sure = best[: 2 if of_seeds is None else 1]
    return [p for p in best if p in sure or _is_near(accuracies[p], accuracies[best[0]], images, of_seeds or 0.0)]


def _is_near(own: Sequence[float], other: Sequence[float], images: int, of_seeds: float) -> bool:
    """Whether the mean accuracies of two candidates are within their spread."""
    if not own or not other:
        return False
    of_images = sum(standard_error(fmean(some), images) ** 2 for some in (own, other))
    spread = math.sqrt(of_images + of_seeds / len(own) + of_seeds / len(other))
    return abs(fmean(own) - fmean(other)) <= spread


def in_doubt(values: Sequence[Sequence[float]], accuracies: Sequence[Sequence[float]], images: int) -> list[int]:
    """The places of the candidates that get a second seed before one is picked; empty if `leaders` has the pick first.

    They are all leaders with a single seed, so that the pick is the best of means over two: one lucky seed never wins,
    neither against a single one nor against a mean. Whoever calls it trains them, and asks again: then the variance of
    the seeds is known better, and others may be near the best. A candidate without a rival needs no second seed.

    Args:
        values: The values of each candidate by seed, where higher is better; of one that failed none.
        accuracies: Their accuracies on validation images, in percent, in the same order.
        images: Number of validation images.

    Example:
        >>> one, two = [[50.0], [56.0], [40.0]], [[50.0, 52.0], [56.0, 51.0], [40.0]]
        >>> in_doubt(one, one, 100), in_doubt(two, two, 100), leaders(two, two, 100)[0]
        ([0, 1], [], 1)
    """
    if sum(map(bool, values)) < 2:
        return []
    return sorted(place for place in leaders(values, accuracies, images) if len(values[place]) < 2)


# -- as an algorithm ----------------------------------------------------------------------------


class _CommonOptions(TypedDict, total=False):
    """Arguments of `Algorithm`."""

    seed: int
    feasible: Callable[[Architecture], bool] | None
    start: Architecture | None


@dataclass(eq=False)
class _Bracket:
    """Candidates that climb the rungs together.

    Attributes:
        rung: The rung that they are on, from 0.
        members: Those on this rung, in order.
        remaining: Those of them that are not proposed yet.
        is_full: Whether the first rung gets no more of them.
    """

    is_full: bool = False
    rung: int = 0
    members: list[Architecture] = field(default_factory=list)
    remaining: list[Architecture] = field(default_factory=list)


class SuccessiveHalving(Algorithm):
    """Halving: evenly drawn candidates with a small share of a budget, the best of them again with larger ones.

    It is for evaluations of your own that take a budget, as trainings do: after `ask`, `budget` is the share that the
    proposals are to get. The best of the last rung is the pick. When all candidates are through, new ones are drawn. A
    score without training has no budget, so that `search` refuses it; `diswot shortlist` halves a search's candidates.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016.

    Args:
        space: The search space.
        candidates: Number of candidates of the first rung.
        shares: The share of the budget of each rung, rising, the last one 1.
        keep: Number of candidates that go on from each rung but the last.
        common: Arguments of `Algorithm`.

    Raises:
        ValueError: A number is out of range.

    Example:
        Replace `evaluate` by a training of your own that ends annealed after `round(30 * budget)` epochs:

        >>> import diswot_search as ds
        >>> space = ds.create_space("cifar_resnet_s0")
        >>> def evaluate(architecture, budget):
        ...     return 100 - 4e6 / space.cost(architecture).params / budget
        >>> halving = ds.create_algorithm("halving", space, candidates=4, shares=[0.1, 1.0], keep=[2])
        >>> for rung in halving.rungs:
        ...     asked = halving.ask()
        ...     values = [evaluate(architecture, halving.budget) for architecture in asked]
        ...     halving.tell([ds.Score("ok", score=value) for value in values])
        ...     print(f"{len(asked)} candidates with a share of {rung.share:g}")
        4 candidates with a share of 0.1
        2 candidates with a share of 1
        >>> pick = asked[ds.halving.order(values)[0]]
    """

    has_budgets = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        candidates: int = 10,
        shares: Sequence[float] = SHARES,
        keep: Sequence[int] = KEEP,
        **common: Unpack[_CommonOptions],
    ) -> None:
        super().__init__(space, **common)
        self.candidates = check_integer("candidates", candidates, 1)
        self.rungs = rungs_of(shares, keep)
        self.budget = self.rungs[0].share
        self._brackets: list[_Bracket] = []
        self._values: dict[str, float] = {}

    @property
    def batch_size(self) -> int:
        """Number of candidates of the rung that the next `ask` proposes."""
        bracket = self._next_bracket()
        return len(bracket.remaining) if bracket.rung else self.candidates - len(bracket.members)

    def suggest(self, attempt: int) -> Architecture:
        return self.draw()

    def ask(self, most: int | None = None) -> list[Architecture]:
        bracket = self._next_bracket()
        if bracket not in self._brackets:
            self._brackets.append(bracket)
        self.budget = self.rungs[bracket.rung].share
        if bracket.rung == 0:
            proposals = super().ask(most)
            bracket.members += proposals
            bracket.is_full = len(bracket.members) >= self.candidates or (not proposals and most != 0)
            # Where nothing new is left, those that are told go on without others.
            return self.ask(most) if bracket.is_full and bracket.members and not proposals else proposals
        count = len(bracket.remaining) if most is None else most
        proposals, bracket.remaining = bracket.remaining[:count], bracket.remaining[count:]
        self._pending |= {str(architecture): architecture for architecture in proposals}
        return proposals

    def _next_bracket(self) -> _Bracket:
        """The bracket whose candidates are proposed next: an open one, or a new one."""
        for bracket in self._brackets:
            self._climb(bracket)
        self._brackets = [bracket for bracket in self._brackets if bracket.members or not bracket.is_full]
        is_open = (bracket for bracket in self._brackets if bracket.remaining or not bracket.is_full)
        return next(is_open, _Bracket())

    def _climb(self, bracket: _Bracket) -> None:
        """Take a bracket to its next rung if all on this one are told; one that is through has no members."""
        is_waiting = any(str(architecture) in self._pending for architecture in bracket.members)
        if is_waiting or bracket.remaining or not bracket.is_full:
            return
        keep = self.rungs[bracket.rung].keep
        values = [self._values.get(str(architecture)) for architecture in bracket.members]
        places = [] if keep is None else going_on(values, keep)
        bracket.rung += 1
        bracket.members = [bracket.members[place] for place in places]
        bracket.remaining = list(bracket.members)
        for architecture in bracket.members:  # which may fail on the next rung
            del self._values[str(architecture)]

    def learn(self, evaluated: Sequence[tuple[Architecture, Record]]) -> None:
        self._values |= {
            str(architecture): record.score for architecture, record in evaluated if record.score is not None
        }

    def forget(self) -> None:
        self._values = {}
