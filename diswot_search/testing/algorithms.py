"""The contract of search algorithms."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import ClassVar

import pytest

from search_spaces.recipes import create_space
from search_spaces.space import Architecture, SearchSpace

from ..study.algorithm import Algorithm
from ..study.records import Record
from .randomness import random_state

Score = Callable[[Architecture], "float | None"]


def records_of(
    space: SearchSpace, architectures: list[Architecture], score: Score, first_index: int = 0
) -> list[Record]:
    """Return the records that a study would store; a score of None stands for a failed evaluation."""
    records = []
    for index, architecture in enumerate(architectures, start=first_index):
        cost, value = space.cost(architecture), score(architecture)
        records.append(
            Record(
                status="failed" if value is None else "ok",
                reason="made to fail" if value is None else None,
                score=value,
                index=index,
                architecture=str(architecture),
                canonical=str(space.canonical(architecture)),
                params=cost.params,
                macs=cost.macs,
                latency_ms=cost.macs / 1e6,
            )
        )
    return records


def run_algorithm(algorithm: Algorithm, score: Score, evaluations: int) -> list[Architecture]:
    """Ask and tell until enough architectures are scored or none is left; return those asked for, in order."""
    asked: list[Architecture] = []
    while len(asked) < evaluations and (batch := algorithm.ask()):
        algorithm.tell(records_of(algorithm.space, batch, score, len(asked)))
        asked += batch
    return asked


class AlgorithmContract:
    """The tests that every search algorithm passes.

    Example:
        A file `test_my_algorithm.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.algorithms import AlgorithmContract
        >>> class TestMyAlgorithm(AlgorithmContract):
        ...     def create(self, space, **common):
        ...         return MyAlgorithm(space, **common)
    """

    seeded: ClassVar[bool] = True
    """Whether the search depends on the seed."""
    learns: ClassVar[bool] = True
    """Whether the search depends on the scores."""
    budgets: ClassVar[bool] = False
    """Whether architectures are proposed again, with a larger budget."""
    limit: ClassVar[float] = 0.3e6
    """The largest number of parameters where a test sets a budget: about two thirds of NAS-Bench-201 are within."""

    def create(self, space: SearchSpace, **common: object) -> Algorithm:
        """Create the algorithm with any of the common options `seed`, `feasible` and `start`."""
        raise NotImplementedError

    @pytest.fixture
    def cells(self) -> SearchSpace:
        """A space of 15,625 architectures, of which many are equal or untrainable."""
        return create_space("nasbench201")

    @pytest.fixture
    def resnets(self) -> SearchSpace:
        """A space of 64 architectures, all different."""
        return create_space("cifar_resnet_s0")

    def within(self, space: SearchSpace, limit: float) -> Callable[[Architecture], bool]:
        return lambda architecture: space.cost(architecture).params <= limit

    @staticmethod
    def uneven(architecture: Architecture) -> float | None:
        """Return a score in no order; one in five is a failure."""
        value = random.Random(str(architecture)).random()
        return None if value < 0.2 else value

    @staticmethod
    def opposite(architecture: Architecture) -> float | None:
        """Return a score in the opposite order, with the same failures."""
        value = AlgorithmContract.uneven(architecture)
        return None if value is None else -value

    def test_same_seed_and_scores_same_search(self, cells: SearchSpace) -> None:
        searches = []
        for global_seed in (1, 2):
            random.seed(global_seed)
            algorithm = self.create(cells, seed=3, feasible=self.within(cells, self.limit))
            searches.append(run_algorithm(algorithm, self.uneven, 120))
        assert searches[0] == searches[1]

    def test_another_seed_another_search(self, cells: SearchSpace) -> None:
        first, second = (run_algorithm(self.create(cells, seed=seed), self.uneven, 50) for seed in (0, 1))
        assert (first != second) == self.seeded

    def test_scores_guide_what_is_asked(self, cells: SearchSpace) -> None:
        scores = (self.uneven, self.opposite)
        first, second = (run_algorithm(self.create(cells, seed=0), score, 120) for score in scores)
        assert (first != second) == self.learns

    def test_global_random_states_are_left_alone(self, cells: SearchSpace) -> None:
        state = random_state()
        run_algorithm(self.create(cells, seed=3), self.uneven, 120)
        assert random_state() == state

    def test_asks_only_what_is_new_trainable_and_within_the_budget(self, cells: SearchSpace) -> None:
        feasible = self.within(cells, self.limit)
        asked = run_algorithm(self.create(cells, seed=0, feasible=feasible), self.uneven, 300)
        assert len(asked) >= 300
        assert self.budgets or len({cells.canonical(architecture) for architecture in asked}) == len(asked)
        assert all(architecture in cells and feasible(architecture) for architecture in asked)
        assert all(cells.is_trainable(architecture) for architecture in asked)

    def test_what_is_asked_again_gets_a_larger_budget(self, cells: SearchSpace) -> None:
        algorithm, budgets = self.create(cells, seed=0), dict[Architecture, float]()
        for _ in range(10):
            asked = algorithm.ask()
            assert 0 < algorithm.budget <= 1
            for architecture in asked:
                assert budgets.get(architecture, 0.0) < algorithm.budget
                budgets[architecture] = algorithm.budget
            algorithm.tell(records_of(cells, asked, self.uneven))
        assert self.budgets or set(budgets.values()) == {1.0}

    def test_goes_on_when_everything_fails(self, cells: SearchSpace) -> None:
        asked = run_algorithm(self.create(cells, seed=0), lambda architecture: None, 120)
        assert len({cells.canonical(architecture) for architecture in asked}) == len(asked) >= 120

    def test_small_space_is_searched_wholly(self, resnets: SearchSpace) -> None:
        algorithm = self.create(resnets, seed=0)
        asked = run_algorithm(algorithm, self.uneven, 10 * resnets.size)
        assert sorted(set(map(str, asked))) == sorted(map(str, resnets))
        assert self.budgets or len(asked) == resnets.size
        assert algorithm.ask() == []

    def test_everything_within_the_budget_is_searched(self, cells: SearchSpace) -> None:
        feasible = self.within(cells, cells.cost(cells.architecture(["none"] * 6)).params)
        allowed = {cells.canonical(a) for a in cells if feasible(a) and cells.is_trainable(a)}
        asked = run_algorithm(self.create(cells, seed=0, feasible=feasible), self.uneven, 10 * len(allowed))
        assert {cells.canonical(architecture) for architecture in asked} == allowed
        assert self.budgets or len(asked) == len(allowed)

    def test_budget_without_architectures_asks_for_nothing(self, resnets: SearchSpace) -> None:
        assert self.create(resnets, seed=0, feasible=lambda architecture: False).ask() == []

    def test_finds_the_optimum_of_an_easy_objective(self, cells: SearchSpace) -> None:
        if not self.learns or self.budgets:
            pytest.skip("the algorithm does not learn from scores, or evaluates again instead of proposing new ones")
        target = cells.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")

        def matches(architecture: Architecture) -> float:
            return sum(a == b for a, b in zip(architecture.choices, target.choices, strict=True))

        best = max(matches(cells.canonical(architecture)) for architecture in cells)
        successes = 0
        for seed in range(6):
            asked = run_algorithm(self.create(cells, seed=seed), matches, 300)
            successes += any(matches(architecture) == best for architecture in asked)
        assert successes >= 5  # by chance, 300 of 4,929 distinct cells hold the one optimum in 6 % of searches

    def test_scores_that_change_are_learned_anew(self, cells: SearchSpace) -> None:
        searches = []
        for before in (self.uneven, self.opposite):
            algorithm = self.create(cells, seed=0)
            first, second = algorithm.ask(), algorithm.ask()
            records = records_of(cells, first, before)
            algorithm.tell(records, scored=[record for record in records if record.status == "ok"])
            records = records_of(cells, first + second, self.uneven)
            algorithm.tell(records[len(first) :], scored=[record for record in records if record.status == "ok"])
            searches.append([algorithm.ask() for _ in range(20)])
        assert searches[0] == searches[1]

    def test_record_of_an_architecture_that_was_not_asked_for_is_refused(self, resnets: SearchSpace) -> None:
        algorithm = self.create(resnets, seed=0)
        records = records_of(resnets, algorithm.ask(), self.uneven)
        algorithm.tell(records)
        with pytest.raises(ValueError, match=re.escape(records[0].architecture)):
            algorithm.tell(records[:1])

    def test_start_outside_the_budget_is_refused(self, resnets: SearchSpace) -> None:
        start = next(iter(resnets))
        with pytest.raises(ValueError, match=re.escape(str(start))):
            self.create(resnets, seed=0, feasible=lambda architecture: architecture != start, start=start)
