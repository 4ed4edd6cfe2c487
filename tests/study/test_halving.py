"""Successive halving: which candidates go on, which of them might be the best, and which one is picked."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diswot_search as ds
from diswot_search.study.halving import (
    SuccessiveHalving,
    going_on,
    in_doubt,
    leaders,
    order,
    rungs_of,
    seed_variance,
    standard_error,
)
from diswot_search.testing.algorithms import records_of
from search_spaces import create_space

values = st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=12)


@given(values, st.integers(1, 12))
def test_the_best_go_on_and_ties_are_broken_by_the_earlier_place(values: list[float | None], keep: int) -> None:
    kept = going_on(values, keep)
    ranked = sorted((-value, place) for place, value in enumerate(values) if value is not None)
    assert kept == sorted(place for _, place in ranked[:keep])
    assert order(values) == [place for _, place in ranked]


@given(values, st.integers(1, 12), st.sets(st.integers(0, 11)))
def test_the_best_baseline_goes_on_beside_the_best(values: list[float | None], keep: int, baselines: set[int]) -> None:
    kept = going_on(values, keep, baselines)
    best = [place for place in order(values) if place in baselines][:1]
    assert set(kept) == {*going_on(values, keep), *best}
    barred = set(going_on(values, keep, baselines, barred=baselines))
    assert barred == {*[place for place in order(values) if place not in baselines][:keep], *best}
    named = set(going_on(values, keep, barred=baselines, named=baselines))
    assert named == {place for place in order(values) if place in baselines or place in barred}


def means(*values: float) -> list[list[float]]:
    """Candidates with one seed each."""
    return [[value] for value in values]


def test_the_spread_of_images_is_that_of_a_difference_of_two_shares() -> None:
    rng = np.random.default_rng(0)
    draws = 100 * rng.binomial(400, [0.7, 0.75], size=(20_000, 2)) / 400
    expected = float(np.std(draws[:, 0] - draws[:, 1]))
    spread = math.hypot(standard_error(70.0, 400), standard_error(75.0, 400))
    assert spread == pytest.approx(expected, rel=0.02)
    for share, near in ((0.9, True), (1.1, False)):
        accuracies = means(70.0 + spread, 70.0 + (1 - share) * spread, 80.0)[:2]
        accuracies = [[value] * 2 for (value,) in accuracies]  # seeds that move nothing
        assert (leaders(accuracies, accuracies, 400) == [0, 1]) == near


def test_the_variance_of_seeds_is_pooled_over_candidates() -> None:
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(4000):
        centres = rng.normal(60, 5, size=4)
        accuracies = [
            list(rng.normal(centre, 2.0, size=count)) for centre, count in zip(centres, (2, 1, 3, 2), strict=True)
        ]
        estimate = seed_variance([*accuracies, []])
        assert estimate is not None
        estimates.append(estimate)
    assert np.mean(estimates) == pytest.approx(4.0, rel=0.05)
    assert np.var(estimates) == pytest.approx(2 * 16 / 4, rel=0.15)  # that of four degrees of freedom
    assert seed_variance([[50.0], [40.0], []]) is None


def test_the_spread_of_seeds_counts_by_their_number() -> None:
    one_each = means(60.0, 50.0, 40.0)
    assert leaders(one_each, one_each, 10**9) == [0, 1]  # the best two, while nothing is known of seeds
    moved = [[58.0, 62.0], [56.0, 58.0], [55.0]]  # variances of 8 and 2: 5 is pooled
    assert leaders(moved, moved, 10**9) == [0]
    moved[2] = [57.3]  # a single seed: 60 - 57.3 <= sqrt(5 / 2 + 5)
    assert leaders(moved, moved, 10**9) == [0, 2]
    assert in_doubt(moved, moved, 10**9) == [2]
    moved[2] = [61.0]  # a single seed above all means is not yet the best
    assert in_doubt(moved, moved, 10**9) == [2]


seeds = st.lists(st.floats(0, 100), min_size=0, max_size=2)


@given(st.lists(seeds, min_size=1, max_size=6), st.integers(1, 10_000))
def test_a_pick_is_the_best_of_means_over_two_seeds(accuracies: list[list[float]], images: int) -> None:
    places = leaders(accuracies, accuracies, images)
    trained = [place for place, own in enumerate(accuracies) if own]
    assert set(places) <= set(trained)
    doubted = in_doubt(accuracies, accuracies, images)
    assert set(doubted) <= {place for place in places if len(accuracies[place]) == 1}
    if len(trained) > 1 and not doubted:
        assert len(accuracies[places[0]]) == 2
        single = [place for place in trained if len(accuracies[place]) == 1]
        assert all(np.mean(accuracies[place]) <= np.mean(accuracies[places[0]]) for place in single)
    if len(trained) == 1:
        assert (places, doubted) == (trained, [])


# -- the rule in a simulation ---------------------------------------------------------------------

CANDIDATES, IMAGES, SEED_STD = 4, 5000, 2.0
"""Finalists of the last rung, validation images, and points by which one seed moves an accuracy."""


def pick_by_images_alone(draws: np.ndarray) -> tuple[int, int]:
    """The pick, and the number of second seeds, by a rule that knows of no seeds; (candidates, seeds) accuracies."""
    first = draws[:, 0]
    best = int(first.argmax())
    errors = [standard_error(value, IMAGES) for value in first]
    near = [
        place for place in range(len(first)) if first[best] - first[place] <= math.hypot(errors[best], errors[place])
    ]
    return (best, 0) if len(near) == 1 else (max(near, key=lambda place: float(draws[place].mean())), len(near))


def pick_by_the_rule(draws: np.ndarray) -> tuple[int, int]:
    """The same by `in_doubt` and `leaders`."""
    accuracies = [[float(first)] for first in draws[:, 0]]
    while waiting := in_doubt(accuracies, accuracies, IMAGES):
        for place in waiting:
            accuracies[place].append(float(draws[place, 1]))
    return leaders(accuracies, accuracies, IMAGES)[0], sum(len(own) - 1 for own in accuracies)


def pick_by_two_seeds_of_all(draws: np.ndarray) -> tuple[int, int]:
    return int(draws.mean(1).argmax()), len(draws)


def test_the_rule_finds_the_best_more_often_than_one_that_knows_of_no_seeds() -> None:
    """At 1.8 second seeds more; it misses little of what a second seed for all finds, at three fifths of its cost."""
    rng = np.random.default_rng(0)
    rules = (pick_by_images_alone, pick_by_the_rule, pick_by_two_seeds_of_all)
    hits, regrets, costs = np.zeros((3, len(rules), 3000))
    for place in range(hits.shape[1]):
        truth = rng.normal(65, 2.0, size=CANDIDATES)
        on_images = truth + rng.normal(0, standard_error(65, IMAGES), size=CANDIDATES)
        draws = on_images[:, None] + rng.normal(0, SEED_STD, size=(CANDIDATES, 2))
        for number, rule in enumerate(rules):
            pick, costs[number, place] = rule(draws)
            hits[number, place] = truth[pick] == truth.max()
            regrets[number, place] = truth.max() - truth[pick]
    for gains in (hits[1] - hits[0], regrets[0] - regrets[1]):
        assert gains.mean() > 3 * gains.std() / math.sqrt(len(gains))
    assert hits[1].mean() > 0.98 * hits[2].mean()
    assert regrets[1].mean() < 0.87 * regrets[0].mean()
    assert costs.mean(1) == pytest.approx([0.7, 2.5, 4.0], abs=0.15)


@pytest.mark.parametrize(
    ("shares", "keep", "message"),
    [
        ([], [], "rising shares"),
        ([0.5], [], "of which the last is 1"),
        ([0.5, 0.1, 1.0], [3, 2], "rising shares"),
        ([0.0, 1.0], [3], "above 0"),
        ([0.1, 1.0], [], "a number for each but the last, 1"),
        ([0.1, 1.0], [0], "rung_keep is 0"),
        ([0.1, 0.3, 1.0], [2, 3], "cannot keep more"),
    ],
)
def test_wrong_rungs_are_refused(shares: list[float], keep: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rungs_of(shares, keep)


def test_candidates_climb_the_rungs_by_their_values() -> None:
    space = create_space("cifar_resnet_s0")
    options: dict[str, Any] = {"candidates": 6, "shares": [0.1, 0.4, 1.0], "keep": [3, 1]}
    halving = ds.create_algorithm("halving", space, seed=1, **options)
    rungs = []
    for _ in range(4):
        asked = halving.ask()
        rungs.append((halving.budget, asked))
        halving.tell(records_of(space, asked, lambda architecture: float(space.cost(architecture).params)))
    sizes = [sorted((space.cost(one).params for one in asked), reverse=True) for _, asked in rungs]
    assert [budget for budget, _ in rungs] == [0.1, 0.4, 1.0, 0.1]
    assert sizes[1] == sizes[0][:3]
    assert sizes[2] == sizes[0][:1]
    assert not set(rungs[3][1]) & set(rungs[0][1])


def test_the_loop_of_the_example_halves_an_evaluation_of_ones_own() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(SuccessiveHalving, "example")
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    asked, evaluate = example.globs["asked"], example.globs["evaluate"]
    assert evaluate(example.globs["pick"], 1.0) == max(evaluate(one, 1.0) for one in asked)


def test_a_search_without_budgets_refuses_it() -> None:
    with pytest.raises(ValueError, match="no budget; `diswot shortlist`"):
        ds.search("cifar_resnet_s0", algorithm="halving", progress=False)
