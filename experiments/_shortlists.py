"""Shortlists whose accuracies are looked up: candidates by scores, rungs by successive halving, the pick's regret."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diswot_search import halving

SIZES = ("params", "macs")
PLACES_PER_OTHER, SEEN = 3, 50
"""Another score gets at most one place in three, and a proxy is computed on the best 50 by the first score."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Benchmark:
    """Candidates with their accuracies on one data set.

    Attributes:
        names: The candidates as text.
        full: Their accuracies after full trainings, in percent.
        seen: The accuracies that a full rung sees.
        short: The accuracies that a short rung sees.
        params: Their numbers of parameters.
        scores: Their scores by name, higher is better.
    """

    names: list[str]
    full: Floats
    seen: Floats
    short: Floats
    params: Floats
    scores: dict[str, Floats]

    def accuracy(self, place: int, share: float) -> float:
        """Return the accuracy that a rung of this share of a full training sees."""
        return float((self.seen if share == 1 else self.short)[place])

    def subset(self, names: set[str]) -> Benchmark:
        """Return these candidates alone."""
        places = np.array([place for place, name in enumerate(self.names) if name in names])
        scores = {name: values[places] for name, values in self.scores.items()}
        columns = (self.full[places], self.seen[places], self.short[places], self.params[places])
        return Benchmark([self.names[place] for place in places], *columns, scores)


@dataclass(frozen=True)
class Shortlist:
    """Candidates by a score; each other score adds its best candidate that is not among them yet.

    Attributes:
        score: The score.
        others: The other scores; of candidates that they rank alike the one that the score ranks first. Those that
            take a network to compute see the best `SEEN` by the score alone.
        has_largest: Whether the largest candidate within the budget takes part, and gets a full training in any case.
    """

    score: str
    others: tuple[str, ...] = ()
    has_largest: bool = False

    def choose(self, orders: dict[str, Ints], scores: dict[str, Floats], count: int) -> tuple[list[int], list[int]]:
        """Return the shortlist, the best first, and the places of baselines in it.

        Args:
            orders: The candidates within the budget by each score, the best first.
            scores: All scores of all candidates.
            count: The length of the shortlist; fewer if there are not so many candidates.
        """
        others = self.others[: count // PLACES_PER_OTHER]
        ranked = orders[self.score]
        chosen = ranked[: count - len(others)].tolist()
        for name in others:
            left = ranked[: None if name in SIZES else SEEN]
            left = left[~np.isin(left, chosen)]
            if len(left):
                chosen.append(int(left[np.argmax(scores[name][left])]))
        if not self.has_largest:
            return chosen, []
        largest = int(ranked[np.argmax(scores["params"][ranked])])
        chosen += [] if largest in chosen else [largest]
        return chosen, [chosen.index(largest)]


@dataclass(frozen=True)
class Plan:
    """A shortlist of k candidates, and the rungs that it passes; without a rung the first one is the pick."""

    shortlist: Shortlist
    count: int
    rungs: tuple[halving.Rung, ...] = ()

    def pick(self, benchmark: Benchmark, orders: dict[str, Ints]) -> tuple[int, float]:
        """Return the pick, by successive halving, and its cost in full trainings."""
        alive, baselines = self.shortlist.choose(orders, benchmark.scores, self.count)
        cost = 0.0
        for rung in self.rungs:
            cost += len(alive) * rung.share
            values = [benchmark.accuracy(place, rung.share) for place in alive]
            places = halving.order(values) if rung.keep is None else halving.going_on(values, rung.keep, baselines)
            alive = [alive[place] for place in places]
        return alive[0], cost


class Pool:
    """A draw of candidates, ordered within each budget by every score; equal scores are in random order.

    Args:
        benchmark: The candidates.
        members: The places of those that are drawn.
        budgets: The budgets, as quantiles of their parameter counts.
        rng: Orders candidates with equal scores.
    """

    def __init__(self, benchmark: Benchmark, members: Ints, budgets: Sequence[float], rng: np.random.Generator) -> None:
        self.benchmark = benchmark
        orders = {"random": rng.permutation(members)}
        for name, values in benchmark.scores.items():
            shuffled = rng.permutation(members)
            orders[name] = shuffled[np.argsort(-values[shuffled], kind="stable")]
        params = benchmark.params
        self.budgets = []
        for limit in np.quantile(params[members], budgets):
            within = {name: order[params[order] <= limit] for name, order in orders.items()}
            self.budgets.append((within, float(benchmark.full[within["random"]].max())))

    def measure(self, plan: Plan) -> tuple[float, float]:
        """Return the regret of a plan's pick, mean over budgets, and the cost under the largest of them."""
        picks = [plan.pick(self.benchmark, orders) for orders, _ in self.budgets]
        bests = [best for _, best in self.budgets]
        regrets = [best - self.benchmark.full[pick] for best, (pick, _) in zip(bests, picks, strict=True)]
        return statistics.fmean(regrets), picks[-1][1]
