"""Successive halving: which candidates go on, and which of them are within their spread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diswot_search as ds
from diswot_search.study.halving import going_on, is_within_spread, leaders, order, rungs_of, standard_error
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


def test_the_spread_is_that_of_a_difference_of_two_shares() -> None:
    rng = np.random.default_rng(0)
    draws = 100 * rng.binomial(400, [0.7, 0.75], size=(20_000, 2)) / 400
    expected = float(np.std(draws[:, 0] - draws[:, 1]))
    spread = math.hypot(standard_error(70.0, 400), standard_error(75.0, 400))
    assert spread == pytest.approx(expected, rel=0.02)
    assert is_within_spread(70.0, 70.0 + 0.9 * spread, 400)
    assert not is_within_spread(70.0, 70.0 + 1.1 * spread, 400)
    assert leaders([70.0, 71.0, None, 50.0], [70.0, 71.0, None, 50.0], 400) == [1, 0]


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


def test_a_search_without_budgets_refuses_it() -> None:
    with pytest.raises(ValueError, match="no budget; `diswot shortlist`"):
        ds.search("cifar_resnet_s0", algorithm="halving", progress=False)
