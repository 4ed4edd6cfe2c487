"""Search algorithms, each against the contract, then what is particular to one."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import diswot_search as ds
from diswot_search.study import algorithms as evolution
from diswot_search.study.algorithm import Algorithm
from diswot_search.study.algorithms import create_algorithm, list_algorithms, register_algorithm
from diswot_search.study.records import Record, Score
from diswot_search.testing.algorithms import AlgorithmContract, records_of, run_algorithm
from search_spaces import Architecture, Cost, SearchSpace, UnknownNameError, create_space, read_table


class TestEvolution(AlgorithmContract):
    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("evolution", space, **common)


class TestAgeing(AlgorithmContract):
    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("ageing", space, **common)


class TestNSGA2(AlgorithmContract):
    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("nsga2", space, **common)


class TestRandom(AlgorithmContract):
    learns = False

    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("random", space, **common)


class TestExhaustive(AlgorithmContract):
    learns = False
    seeded = False

    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("exhaustive", space, **common)


class TestHalving(AlgorithmContract):
    budgets = True

    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return create_algorithm("halving", space, **common)


class HillClimbing(Algorithm):
    """The least that an algorithm of one's own defines, with an option."""

    def __init__(self, space: SearchSpace, *, first: int = 20, **common: Any) -> None:
        super().__init__(space, **common)
        self.first = first
        self.told = 0
        self.best: tuple[float, Architecture] | None = None

    def suggest(self, attempt: int) -> Architecture | None:
        if self.told < self.first or self.best is None:
            return self.draw()
        architecture = self.best[1]
        for _ in range(1 + attempt // 10):
            architecture = self.space.mutate(architecture, self.rng)
        return architecture

    def learn(self, evaluated: Any) -> None:
        self.told += len(evaluated)
        for architecture, record in evaluated:
            if self.best is None or record.score > self.best[0]:
                self.best = record.score, architecture

    def forget(self) -> None:
        self.told, self.best = 0, None


class TestAlgorithmOfOnesOwn(AlgorithmContract):
    def create(self, space: SearchSpace, **common: Any) -> Algorithm:
        return HillClimbing(space, **common)


class CountingSpace(SearchSpace):
    """Choices 0, 1, ... that cost what they say; nothing to build."""

    def __init__(self, decisions: int, choices: int) -> None:
        names = {f"d{i}": range(choices) for i in range(decisions)}
        super().__init__("counting", names, num_classes=2, input_size=(3, 8, 8))

    def build(self, architecture: Architecture) -> nn.Module:
        raise NotImplementedError

    def cost(self, architecture: Architecture) -> Cost:
        total = sum(int(c) for c in architecture.choices)
        return Cost(params=total, macs=100 - total)


class TwinSpace(CountingSpace):
    """Each choice 2k + 1 computes what 2k does."""

    def canonical(self, architecture: Architecture) -> Architecture:
        return self.architecture([int(c) - int(c) % 2 for c in architecture.choices])


class CostlyTwinSpace(CountingSpace):
    """Each choice 2k computes what 2k + 1 does, at less cost than the one that stands for both."""

    def canonical(self, architecture: Architecture) -> Architecture:
        return self.architecture([int(c) | 1 for c in architecture.choices])


ALL = ("evolution", "ageing", "nsga2", "random", "exhaustive", "halving")


def test_names() -> None:
    assert tuple(list_algorithms()) == ALL


# -- rare and tiny feasible regions -------------------------------------------------------------


@pytest.mark.parametrize("name", ["evolution", "ageing", "nsga2", "random"])
def test_rare_feasible_region_is_reached_from_the_start(name: str) -> None:
    space = CountingSpace(decisions=12, choices=5)
    start = space.architecture([0] * 12)
    algorithm = create_algorithm(name, space, feasible=lambda a: sum(a.choices) <= 5, start=start)
    asked = run_algorithm(algorithm, lambda a: float(sum(a.choices)), 100)
    assert len(set(asked)) == len(asked) >= 100
    assert max(sum(map(int, a.choices)) for a in asked) == 5


def test_without_a_start_a_region_too_rare_ends_the_search() -> None:
    space = CountingSpace(decisions=12, choices=5)
    assert create_algorithm("random", space, feasible=lambda a: sum(a.choices) == 0).ask() == []


def test_what_only_enumeration_finds_comes_in_no_order() -> None:
    space = CountingSpace(decisions=5, choices=7)
    scattered = list(space)[::853]
    algorithm = create_algorithm("random", space, feasible=set(scattered).__contains__)
    places = [scattered.index(a) for a in run_algorithm(algorithm, AlgorithmContract.uneven, 100)]
    assert sorted(places) == list(range(len(scattered)))
    rises = sum(later > earlier for earlier, later in itertools.pairwise(places))
    assert 5 <= rises <= 14


def test_walk_reaches_all_feasible_architectures_evenly() -> None:
    space = CountingSpace(decisions=3, choices=40)
    start = space.architecture([0, 0, 0])
    algorithm = create_algorithm("random", space, seed=1, feasible=lambda a: sum(a.choices) <= 3, start=start)
    drawn = [algorithm.draw() for _ in range(8_000)]
    counts = [drawn.count(a) for a in space if sum(map(int, a.choices)) <= 3]
    assert len(counts) == 20
    assert min(counts) > 0.5 * statistics.mean(counts)


@settings(max_examples=30)
@given(
    name=st.sampled_from(ALL),
    decisions=st.integers(1, 4),
    choices=st.integers(1, 3),
    limit=st.integers(0, 8),
    seed=st.integers(0, 3),
)
def test_any_small_space_is_searched_wholly(name: str, decisions: int, choices: int, limit: int, seed: int) -> None:
    space = CountingSpace(decisions, choices)
    feasible = [a for a in space if sum(map(int, a.choices)) <= limit]
    algorithm = create_algorithm(name, space, seed=seed, feasible=lambda a: sum(a.choices) <= limit)
    asked = run_algorithm(algorithm, AlgorithmContract.uneven, 1_000)
    assert sorted(set(map(str, asked))) == sorted(map(str, feasible))
    assert name == "halving" or len(asked) == len(feasible)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("most", [1, 5, 1_000])
def test_asking_for_fewer_gives_the_first_of_those(name: str, most: int) -> None:
    whole, part = (create_algorithm(name, CountingSpace(6, 4), seed=1) for _ in range(2))
    proposals = whole.ask()
    assert part.ask(most) == proposals[:most]


# -- budgets that take long to check ------------------------------------------------------------


class Budgeted:
    """A budget of small sums, which counts how often it is asked."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls = 0

    def __call__(self, architecture: Architecture) -> bool:
        self.calls += 1
        return sum(map(int, architecture.choices)) <= self.limit


@pytest.mark.parametrize("name", ["evolution", "ageing", "nsga2", "random"])
@pytest.mark.parametrize(("patience", "most"), [(0, 12.0), (10, 14.0)])
def test_what_is_over_the_budget_is_repaired(name: str, patience: int, most: float) -> None:
    space, feasible = CountingSpace(decisions=12, choices=5), Budgeted(8)
    algorithm = create_algorithm(name, space, feasible=feasible, start=space.architecture([0] * 12))
    algorithm.patience = patience
    asked = run_algorithm(algorithm, lambda a: float(sum(map(int, a.choices))), 60)
    assert len(set(asked)) == len(asked) >= 60
    assert all(sum(map(int, a.choices)) <= 8 for a in asked)
    assert feasible.calls <= most * len(asked)  # one of 3,900 even draws is within; a walk of 24 steps gives the next
    assert max(sum(map(int, a.choices)) for a in asked) == 8


@given(seed=st.integers(0, 10**6), limit=st.integers(0, 20))
def test_a_repaired_architecture_takes_no_more_from_the_start_than_it_must(seed: int, limit: int) -> None:
    space = CountingSpace(decisions=6, choices=5)
    start = space.architecture([0] * 6)
    algorithm = create_algorithm("random", space, seed=seed, feasible=Budgeted(limit), start=start)
    algorithm.patience = 0
    repaired = algorithm.draw()
    assert sum(map(int, repaired.choices)) <= limit
    if repaired != start:
        assert repaired.choices != start.choices


# -- which form is proposed ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_canonical_form_is_proposed(name: str) -> None:
    asked = run_algorithm(create_algorithm(name, TwinSpace(3, 4)), AlgorithmContract.uneven, 1_000)
    assert {c for a in asked for c in a.choices} == {0, 2}
    assert len(set(asked)) == 8
    assert name == "halving" or len(asked) == 8


@pytest.mark.parametrize("name", ALL)
def test_a_form_within_the_budget_stands_for_a_canonical_one_beyond(name: str) -> None:
    feasible = lambda a: sum(a.choices) <= 2  # noqa: E731 - one line in two tests
    asked = run_algorithm(
        create_algorithm(name, CostlyTwinSpace(3, 4), feasible=feasible), AlgorithmContract.uneven, 1_000
    )
    assert all(feasible(a) for a in asked)
    assert {CostlyTwinSpace(3, 4).canonical(a).choices for a in asked} == {(1, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 3)}
    assert len(set(asked)) == 4
    assert name == "halving" or len(asked) == 4


def test_exhaustive_keeps_the_order_of_the_space() -> None:
    space = create_space("cifar_resnet_s0")
    assert run_algorithm(create_algorithm("exhaustive", space), AlgorithmContract.uneven, 64) == list(space)


# -- selection ----------------------------------------------------------------------------------


def test_evolution_keeps_the_best_and_no_failures() -> None:
    space = create_space("nasbench201")
    algorithm = create_algorithm("evolution", space, population=10, tournament=3)
    asked = run_algorithm(algorithm, AlgorithmContract.uneven, 100)
    scores = sorted((s for a in asked if (s := AlgorithmContract.uneven(a)) is not None), reverse=True)
    survivors = [AlgorithmContract.uneven(individual.architecture) for individual in algorithm.individuals]
    assert survivors == scores[:10]


def test_ageing_keeps_the_youngest_however_bad() -> None:
    space = create_space("nasbench201")
    algorithm = create_algorithm("ageing", space, population=10, sample=3)
    asked = run_algorithm(algorithm, AlgorithmContract.uneven, 100)
    evaluated = [a for a in asked if AlgorithmContract.uneven(a) is not None]
    assert [individual.architecture for individual in algorithm.individuals] == evaluated[-10:]


def test_nsga2_keeps_the_whole_front() -> None:
    space = create_space("cifar_resnet_s0")
    score = lambda a: float(str(a).count("7"))  # noqa: E731 - read twice below
    algorithm = create_algorithm("nsga2", space, population=16, objectives=["score", "macs"])
    asked = run_algorithm(algorithm, score, 64)
    points = {(score(a), space.cost(a).macs) for a in asked}
    front = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)}
    survivors = {(score(i.architecture), space.cost(i.architecture).macs) for i in algorithm.individuals}
    assert len(front) > 1
    assert front <= survivors


def test_nsga2_spreads_over_sizes_where_evolution_follows_the_score() -> None:
    space = create_space("nasbench201")
    smallest = []
    for name in ("nsga2", "evolution"):
        asked = run_algorithm(create_algorithm(name, space), lambda a: float(space.cost(a).params), 300)
        smallest.append(statistics.median(space.cost(a).params for a in asked[-100:]))
    assert smallest[0] < smallest[1]


def test_objective_that_was_not_measured_is_named() -> None:
    space = create_space("cifar_resnet_s0")
    algorithm = create_algorithm("nsga2", space, objectives=("score", "latency_ms"))
    records = records_of(space, algorithm.ask(), lambda a: 1.0)
    unmeasured = [type(r)(**vars(r) | {"latency_ms": None}) for r in records]
    with pytest.raises(ValueError, match="latency_ms"):
        algorithm.tell(unmeasured)


def test_evolution_finds_the_most_accurate_cells_where_random_does_not(shared_data: Path) -> None:
    space = create_space("nasbench201", num_classes=100)
    accuracies = read_table(shared_data / "nasbench201.csv.gz", "cifar100_test_accuracy")
    ranked = sorted({space.canonical(a) for a in space if space.is_trainable(a)}, key=accuracies.__getitem__)[::-1]
    rank = {architecture: place for place, architecture in enumerate(ranked, start=1)}

    def best_ranks(name: str) -> list[tuple[int, int]]:
        searches = [
            run_algorithm(create_algorithm(name, space, seed=s), accuracies.__getitem__, 300) for s in range(20)
        ]
        return [(min(rank[a] for a in asked[:100]), min(rank[a] for a in asked[:300])) for asked in searches]

    evolved, drawn = best_ranks("evolution"), best_ranks("random")
    assert sum(last <= 0.005 * len(rank) for _, last in evolved) >= 18
    for mine, theirs in zip(zip(*evolved, strict=True), zip(*drawn, strict=True), strict=True):
        assert statistics.mean(mine) < statistics.mean(theirs) / 2


# -- scores that change --------------------------------------------------------------------------


def tell_in_batches(algorithm: Algorithm, scores: Callable[[int], Callable[[Architecture], float | None]]) -> Any:
    """Run an algorithm whose scores change with every batch; after each, what was asked and the scores of now."""
    asked: list[Architecture] = []
    for number in range(30):
        batch = algorithm.ask()
        asked += batch
        records = records_of(algorithm.space, asked, scores(number))
        scored = [record for record in records if record.status == "ok"]
        algorithm.tell(records[-len(batch) :], scored=scored)
        yield [a for a, record in zip(asked, records, strict=True) if record.status == "ok"], scores(number)


def changing(number: int) -> Callable[[Architecture], float | None]:
    def score(architecture: Architecture) -> float | None:
        if AlgorithmContract.uneven(architecture) is None:
            return None
        return random.Random(f"{number // 3} {architecture}").random()

    return score


def kept_by(algorithm: Any) -> list[tuple[Architecture, float]]:
    return [(i.architecture, i.fitness.values[0]) for i in algorithm.individuals]


def test_evolution_keeps_the_best_of_all_that_was_ever_scored() -> None:
    algorithm = create_algorithm("evolution", create_space("nasbench201"), population=10, tournament=3)
    populations = []
    for scored, score in tell_in_batches(algorithm, changing):
        best = sorted(scored, key=score, reverse=True)[:10]
        assert kept_by(algorithm) == [(a, score(a)) for a in best]
        populations.append(set(best))
    left = [before - after for before, after in itertools.pairwise(populations)]
    assert any(gone & later for gone, later in itertools.product(left[:10], populations[15:]))  # some came back


def test_ageing_keeps_the_youngest_with_their_scores_of_now() -> None:
    algorithm = create_algorithm("ageing", create_space("nasbench201"), population=10, sample=3)
    for scored, score in tell_in_batches(algorithm, changing):
        assert kept_by(algorithm) == [(a, score(a)) for a in scored[-10:]]


def test_nsga2_selects_among_all_that_was_ever_scored() -> None:
    space = create_space("nasbench201")
    algorithm = create_algorithm("nsga2", space, population=10)

    def beaten(one: tuple[float, float], points: list[tuple[float, float]]) -> bool:
        return any(p != one and p[0] >= one[0] and p[1] <= one[1] for p in points)

    for scored, score in tell_in_batches(algorithm, changing):
        rest = {a: (score(a), float(space.cost(a).params)) for a in scored}
        survivors = dict(kept_by(algorithm))
        assert all(survivors[a] == rest[a][0] for a in survivors)
        while rest and len(survivors) > 0:
            front = {a for a in rest if not beaten(rest[a], list(rest.values()))}
            assert front <= set(survivors) or set(survivors) <= front  # whole fronts, and a part of the last one
            survivors = {a: value for a, value in survivors.items() if a not in front}
            rest = {a: point for a, point in rest.items() if a not in front}
        assert len(algorithm.individuals) == min(10, len(scored))


@pytest.mark.parametrize(("name", "sample"), [("evolution", "tournament"), ("ageing", "sample")])
def test_scores_that_do_not_change_lead_to_the_same_search(name: str, sample: str) -> None:
    space = create_space("nasbench201")
    once, anew = (create_algorithm(name, space, seed=1, population=10, **{sample: 3}) for _ in range(2))
    asked = [a for a, _ in tell_in_batches(anew, lambda number: AlgorithmContract.uneven)][-1]
    expected = run_algorithm(once, AlgorithmContract.uneven, 10 + 29 * 4)
    assert asked == [a for a in expected if AlgorithmContract.uneven(a) is not None]


def test_an_algorithm_that_cannot_forget_says_so() -> None:
    class Stubborn(HillClimbing):
        forget = Algorithm.forget

    with pytest.raises(ValueError, match="Stubborn defines `learn` but not `forget`"):
        Stubborn(create_space("cifar_resnet_s0")).forget()
    create_algorithm("random", create_space("cifar_resnet_s0")).forget()


# -- replay -------------------------------------------------------------------------------------

SEARCH = """
import sys, random
from diswot_search.study.algorithms import create_algorithm
from search_spaces import create_space
from diswot_search.testing.algorithms import AlgorithmContract, run_algorithm
space = create_space("nasbench201")
for name in sys.argv[1:]:
    for architecture in run_algorithm(create_algorithm(name, space, seed=4), AlgorithmContract.uneven, 100):
        print(architecture)
"""


@pytest.mark.faults
def test_another_process_asks_the_same() -> None:
    names = [name for name in ALL if name != "exhaustive"]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", SEARCH, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    space = create_space("nasbench201")
    here = [
        str(architecture)
        for name in names
        for architecture in run_algorithm(create_algorithm(name, space, seed=4), AlgorithmContract.uneven, 100)
    ]
    assert done.stdout.split() == here


@pytest.mark.parametrize("name", ALL)
def test_asking_ahead_of_telling_gives_others(name: str) -> None:
    space = create_space("nasbench201")
    algorithm = create_algorithm(name, space, seed=0)
    ahead = [algorithm.ask(), algorithm.ask()]
    assert len(set(ahead[0] + ahead[1])) == len(ahead[0]) + len(ahead[1])
    for batch in ahead:
        algorithm.tell(records_of(space, batch, AlgorithmContract.uneven))
    assert algorithm.ask()


# -- names and options --------------------------------------------------------------------------


def test_unknown_algorithm_gets_near_names() -> None:
    with pytest.raises(UnknownNameError, match="evolution"):
        create_algorithm("evolutoin", create_space("cifar_resnet_s0"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("evolution", {"populaton": 3}, "near: population; allowed: population, tournament, crossover, offspring"),
        ("random", {"population": 3}, "allowed: none"),
        ("exhaustive", {"population": 3}, "allowed: none"),
        ("evolution", {"population": 1}, "population is 1"),
        ("evolution", {"population": 36.0}, r"population is 36\.0"),
        ("evolution", {"population": True}, "population is True"),
        ("evolution", {"population": 10, "tournament": 11}, "at most population, which is 10"),
        ("evolution", {"tournament": 0}, "tournament is 0"),
        ("evolution", {"offspring": 0}, "offspring is 0"),
        ("evolution", {"crossover": 1.01}, r"crossover is 1\.01"),
        ("evolution", {"crossover": float("nan")}, "crossover is nan"),
        ("evolution", {"crossover": "often"}, "crossover is 'often'"),
        ("ageing", {"population": 10, "sample": 11}, "sample is 11"),
        ("nsga2", {"crossover": -0.1}, r"crossover is -0\.1"),
        ("nsga2", {"objectives": "score"}, "objectives is 'score'"),
        ("nsga2", {"objectives": ["score"]}, "at least one of 'params', 'macs', 'latency_ms'"),
        ("nsga2", {"objectives": ["params", "macs"]}, "must be 'score' and"),
        ("nsga2", {"objectives": ["score", "flops"]}, "flops"),
        ("nsga2", {"objectives": ["score", "params", "params"]}, "each once"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_algorithm(name, create_space("cifar_resnet_s0"), **options)


def test_exhaustive_refuses_what_it_cannot_finish() -> None:
    with pytest.raises(ValueError, match="100,000,000 architectures"):
        create_algorithm("exhaustive", CountingSpace(8, 10))


def test_algorithm_of_ones_own_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution._algorithms, "_entries", dict(evolution._algorithms._entries))
    register_algorithm("hill", HillClimbing)
    algorithm = create_algorithm("hill", create_space("cifar_resnet_s0"), first=7)
    assert isinstance(algorithm, HillClimbing)
    assert algorithm.first == 7
    with pytest.raises(ValueError, match="registered already"):
        register_algorithm("evolution", HillClimbing)


# -- scores as an evaluator gives them ----------------------------------------------------------


@pytest.mark.parametrize("name", ["evolution", "ageing", "nsga2", "random", "exhaustive"])
def test_scores_of_an_evaluator_are_told_as_they_are(name: str) -> None:
    """They teach what the records of a study teach, since they belong to the architectures in the order of asking."""
    space = create_space("nasbench201", channels=4, cells=1)
    probe = ds.create_probe("digits", batch_size=4)
    evaluator = ds.Evaluator(space, None, probe, "macs", device="cpu")
    options = {} if name in ("random", "exhaustive") else {"population": 8}
    by_scores, by_records = (create_algorithm(name, space, **options) for _ in range(2))
    for index in range(4):
        asked = by_scores.ask()
        assert asked == by_records.ask()
        scores = evaluator.evaluate(asked)
        by_scores.tell(scores[:2])
        by_scores.tell(scores[2:])
        by_records.tell(_records(space, asked, scores, index)[:2])
        by_records.tell(_records(space, asked, scores, index)[2:])
    with pytest.raises(ValueError, match=r"scores were told, but 0 proposals wait"):
        by_scores.tell(scores)


def _records(space: SearchSpace, architectures: list[Architecture], scores: list[Score], start: int) -> list[Record]:
    return [
        Record(
            **vars(score),
            index=start + index,
            architecture=str(architecture),
            canonical=str(space.canonical(architecture)),
            params=space.cost(architecture).params,
            macs=space.cost(architecture).macs,
        )
        for index, (architecture, score) in enumerate(zip(architectures, scores, strict=True))
    ]


def test_a_score_without_a_value_of_its_own_is_refused() -> None:
    algorithm = create_algorithm("random", create_space("nasbench201"))
    algorithm.ask()
    with pytest.raises(ValueError, match="A score of an aggregate has no value of its own"):
        algorithm.tell([Score("ok", parts={"nwot": 1.0})])
    algorithm.tell([Score("failed", reason="it did not run")])
