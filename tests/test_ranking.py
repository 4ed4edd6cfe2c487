"""Regret, size-matched agreement and partial correlation: against loops, and against published numbers."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ConstantInputWarning, rankdata, spearmanr

from diswot_search.ranking import partial_spearman, regret_at_budget, size_matched_agreement
from search_spaces import create_space, read_table

few = settings(max_examples=50, deadline=None)
rows = st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=12)
"""Few values, so that many are equal."""


def columns(table: list[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    return [r[0] for r in table], [r[1] for r in table], [r[2] for r in table]


# -- regret -------------------------------------------------------------------------------------


def regret_by_loop(scores: list[int], accuracies: list[int], sizes: list[int], quantiles: list[float]) -> float:
    regrets = []
    for quantile in quantiles:
        budget = np.quantile(sizes, quantile)
        within = [(s, a) for s, a, size in zip(scores, accuracies, sizes, strict=True) if size <= budget]
        top = max(s for s, _ in within)
        picked = [a for s, a in within if s == top]
        regrets.append(max(a for _, a in within) - sum(picked) / len(picked))
    return sum(regrets) / len(regrets)


@few
@given(table=rows, quantiles=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=3))
def test_regret_is_that_of_a_loop(table: list[tuple[int, int, int]], quantiles: list[float]) -> None:
    regret = regret_at_budget(*columns(table), quantiles)
    assert regret == pytest.approx(regret_by_loop(*columns(table), quantiles), abs=1e-12)
    assert regret >= 0


@few
@given(table=rows, seed=st.integers(0, 99))
def test_regret_does_not_depend_on_order(table: list[tuple[int, int, int]], seed: int) -> None:
    shuffled = [table[i] for i in np.random.default_rng(seed).permutation(len(table))]
    # The deciles are averaged in the same order, the ties within one in another: the last bits.
    assert regret_at_budget(*columns(shuffled)) == pytest.approx(regret_at_budget(*columns(table)), abs=1e-12)


def test_regret_is_zero_where_scores_are_accuracies() -> None:
    assert regret_at_budget([1, 2, 3], [1, 2, 3], [30, 20, 10]) == 0


def test_regret_under_one_budget() -> None:
    scores, accuracies, sizes = [1.0, 3.0, 2.0, 9.0], [70.0, 60.0, 75.0, 80.0], [1, 2, 3, 4]
    assert regret_at_budget(scores, accuracies, sizes, [0.8]) == 15  # of the first three the second is picked
    assert regret_at_budget(scores, accuracies, sizes, [1.0]) == 0
    assert regret_at_budget(scores, accuracies, sizes, [0.8, 1.0]) == 7.5


def test_equal_scores_count_by_their_mean_accuracy() -> None:
    assert regret_at_budget([1, 1, 0], [90, 80, 100], [1, 1, 1], [1.0]) == 15


def test_what_has_no_score_is_never_picked() -> None:
    nan = float("nan")
    assert regret_at_budget([nan, 1, 0], [90, 80, 70], [1, 1, 1], [1.0]) == 10
    assert regret_at_budget([nan, float("-inf")], [90, 80], [1, 1], [1.0]) == 10
    assert np.isnan(regret_at_budget([nan, 1], [90, 80], [1, 2], [0.0, 1.0]))  # nothing to pick from in the smaller


# -- pairs of one size --------------------------------------------------------------------------


@few
@given(table=rows, within=st.sampled_from([0.0, 0.25, 1.0]))
def test_size_matched_agreement_is_that_of_a_loop(table: list[tuple[int, int, int]], within: float) -> None:
    signs = []
    for i, (score, accuracy, size) in enumerate(table):
        for other_score, other_accuracy, other_size in table[:i]:
            if abs(size - other_size) <= within * min(size, other_size):
                signs.append(np.sign((score - other_score) * (accuracy - other_accuracy)))
    agreement, pairs = size_matched_agreement(*columns(table), within)
    assert pairs == len(signs)
    assert agreement == pytest.approx(np.mean(signs) if signs else np.nan, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("scores", "expected"), [([1, 2, 3], 1), ([3, 2, 1], -1), ([5, 5, 5], 0)])
def test_agreement_goes_from_minus_one_to_one(scores: list[int], expected: int) -> None:
    assert size_matched_agreement(scores, [70, 71, 72], [100, 101, 102]) == (expected, 3)


def test_without_pairs_there_is_no_agreement() -> None:
    agreement, pairs = size_matched_agreement([1, 2], [3, 4], [10, 100])
    assert np.isnan(agreement)
    assert pairs == 0


# -- partial correlation ------------------------------------------------------------------------


def spearman_of_residuals(scores: np.ndarray, accuracies: np.ndarray, given_column: np.ndarray) -> float:
    """Ranks with those of the third column regressed out of both by least squares."""
    design = np.column_stack([np.ones(len(scores)), rankdata(given_column)])
    residuals = []
    for column in (scores, accuracies):
        ranks = rankdata(column)
        residuals.append(ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0])
    return float(np.corrcoef(*residuals)[0, 1])


@few
@given(count=st.integers(4, 30), kinds=st.sampled_from([3, 100]), seed=st.integers(0, 2**32 - 1))
def test_partial_spearman_is_that_of_residuals(count: int, kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_column = rng.integers(0, kinds, count)
    given_column[:2] = 0, kinds  # never constant
    scores, accuracies = (given_column + rng.normal(0, kinds, count) for _ in range(2))
    for column in (scores, accuracies):
        assume(abs(spearmanr(column, given_column).statistic) < 0.999)  # else nothing is left over
    expected = spearman_of_residuals(scores, accuracies, given_column)
    # Taking nearly equal numbers from each other costs both sides up to six of sixteen digits.
    assert partial_spearman(scores, accuracies, given_column) == pytest.approx(expected, abs=1e-9)


def test_partial_spearman_with_what_says_nothing_is_spearman() -> None:
    scores, accuracies, unrelated = [2, 1, 4, 3], [1, 3, 2, 4], [1, 2, 2, 1]
    assert spearmanr(scores, unrelated).statistic == spearmanr(accuracies, unrelated).statistic == 0
    assert partial_spearman(scores, accuracies, unrelated) == pytest.approx(spearmanr(scores, accuracies).statistic)


def test_a_score_that_is_size_in_disguise_has_nothing_left() -> None:
    sizes = np.array([1.0, 5.0, 2.0, 8.0])
    assert partial_spearman(np.log(sizes), [1, 3, 2, 2], sizes) == 0
    assert partial_spearman(-sizes, [1, 3, 2, 2], sizes) == 0


def test_constants_and_missing_scores_are_not_a_zero_in_the_middle() -> None:
    with pytest.warns(ConstantInputWarning):
        assert np.isnan(partial_spearman([1, 1, 1, 1], [1, 3, 2, 2], [1, 2, 3, 5]))
    assert np.isnan(partial_spearman([1, float("nan"), 3, 4], [1, 3, 2, 2], [1, 2, 3, 5]))


# -- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [regret_at_budget, size_matched_agreement, partial_spearman])
@pytest.mark.parametrize("wrong", [([1, 2], [1, 2], [1]), ([], [], []), ([[1, 2]], [[1, 2]], [[1, 2]])])
def test_columns_must_be_equally_long_lists(measure: object, wrong: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="must be equally long lists, not empty; got shapes"):
        measure(*wrong)  # type: ignore[operator]


# -- published numbers --------------------------------------------------------------------------


def test_picking_the_largest_resnet_of_s0_has_its_known_regret(shared_data: Path) -> None:
    """Figures for DisWOT's S0, rounded to two digits: mean regret .27; 307 pairs within 15 %, agreement +.46."""
    table = read_table(shared_data / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    space = create_space("cifar_resnet_s0", num_classes=100)
    params = [space.cost(architecture).params for architecture in space]
    accuracies = [table[architecture] for architecture in space]
    assert round(regret_at_budget(params, accuracies, params), 2) == 0.27
    agreement, pairs = size_matched_agreement(params, accuracies, params)
    assert (round(agreement, 2), pairs) == (0.46, 307)


@pytest.mark.parametrize(("data", "params", "macs"), [("cifar10", 5.01, 6.32), ("cifar100", 7.57, 12.01)])
def test_picking_the_largest_cell_has_its_known_regret(
    shared_data: Path, data: str, params: float, macs: float
) -> None:
    """Figures for NAS-Bench-201, rounded to two digits, budgets on parameters."""
    with gzip.open(shared_data / "nasbench201.csv.gz", "rt", newline="") as file:
        cells = list(csv.DictReader(file))
    columns = ("test_accuracy", "mparams", "mmacs")
    accuracies, sizes, work = (np.array([float(cell[f"{data}_{column}"]) for cell in cells]) for column in columns)
    assert round(regret_at_budget(sizes, accuracies, sizes), 2) == params
    assert round(regret_at_budget(work, accuracies, sizes), 2) == macs
