"""Rank statistics: against loops, SciPy and literal resampling, and against published numbers."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, multivariate_normal, pearsonr, rankdata, spearmanr

from diswot_search.comparison import statistics as ranking
from diswot_search.comparison.statistics import (
    best_decile,
    bootstrap_correlations,
    draw_resamples,
    kendall,
    parameter_bins,
    partial_spearman,
    pearson,
    percentile_interval,
    precision_at_k,
    regret_at_budget,
    regret_curve,
    size_matched_agreement,
    spearman,
)
from search_spaces import create_space, read_table

NAN = float("nan")
few = settings(max_examples=50)
rows = st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=12)
"""Few values, so that many are equal."""
scored = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0, NAN]), st.integers(1, 4)), min_size=1, max_size=7)
"""Scores, some of them failed, and accuracies."""


def columns(table: list[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    return [r[0] for r in table], [r[1] for r in table], [r[2] for r in table]


# -- correlation --------------------------------------------------------------------------------


def tau_by_loop(scores: Sequence[float], accuracies: Sequence[float]) -> float:
    """Tau-b from its definition, over all pairs."""
    signs = [
        (np.sign(scores[i] - scores[j]), np.sign(accuracies[i] - accuracies[j]))
        for i, j in combinations(range(len(scores)), 2)
    ]
    untied = [sum(1 for pair in signs if pair[side]) for side in (0, 1)]
    return float(sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1])) if all(untied) else NAN


def with_failures_last(scores: Sequence[float]) -> list[float]:
    return [0.0 if np.isnan(score) else score for score in scores]


@few
@given(table=scored)
def test_rank_correlations_are_those_of_loops_with_failures_last(table: list[tuple[float, int]]) -> None:
    scores, accuracies = [r[0] for r in table], [r[1] for r in table]
    last = with_failures_last(scores)
    ranks = rankdata(last), rankdata(accuracies)
    varied = len(set(last)) > 1 and len(set(accuracies)) > 1
    assert kendall(scores, accuracies) == pytest.approx(tau_by_loop(last, accuracies), abs=1e-12, nan_ok=True)
    expected = np.corrcoef(*ranks)[0, 1] if varied else NAN
    assert spearman(scores, accuracies) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@few
@given(table=scored)
def test_pearson_leaves_failures_out(table: list[tuple[float, int]]) -> None:
    kept = [r for r in table if not np.isnan(r[0])]
    varied = all(len({r[side] for r in kept}) > 1 for side in (0, 1))
    expected = np.corrcoef(np.array(kept).T)[0, 1] if varied else NAN
    assert pearson([r[0] for r in table], [r[1] for r in table]) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("correlation", [kendall, spearman, pearson])
@pytest.mark.parametrize("scores", [[7.0], [7.0, 7.0, 7.0], [NAN, NAN], [0.1 + 0.2] * 9])
def test_a_constant_has_no_correlation(correlation: Callable[..., float], scores: list[float]) -> None:
    accuracies = list(range(len(scores)))
    assert np.isnan(correlation(scores, accuracies))
    assert np.isnan(correlation(accuracies, scores))


def test_constant_up_to_rounding_is_constant_in_values_but_not_in_ranks() -> None:
    scores = [0.3, 0.1 + 0.2, 0.3]
    assert np.isnan(pearson(scores, [1, 2, 3]))
    assert spearman(scores, [1, 3, 2]) == pytest.approx(np.sqrt(3) / 2)


def test_scores_of_any_magnitude_correlate() -> None:
    assert pearson([1e300, 3e300, 2e300], [1, 3, 2]) == pytest.approx(1)
    assert pearson([1e-300, 3e-300, 2e-300], [1, 3, 2]) == pytest.approx(1)
    assert spearman([1, float("-inf"), NAN, float("inf")], [3, 2, 1, 4]) == pytest.approx(1)
    assert pearson([1, float("-inf"), 2, float("inf"), 5], [1, 9, 2, 0, 5]) == pytest.approx(1)


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


def test_regret_by_budget_names_its_limits() -> None:
    curve = regret_curve([1.0, 3.0, 2.0, 9.0], [70.0, 60.0, 75.0, 80.0], [1, 2, 3, 4], [0.8, 1.0])
    assert curve == [(0.8, pytest.approx(3.4), 15.0), (1.0, 4.0, 0.0)]
    (_, _, regret), _ = regret_curve([NAN, 1], [90, 80], [1, 2], [0.0, 1.0])
    assert np.isnan(regret)


# -- top k --------------------------------------------------------------------------------------


def precision_over_all_cuts(scores: list[float], accuracies: list[int], k: int) -> float:
    """Mean over all ways of breaking the ties."""

    def tops(values: Sequence[float]) -> list[set[int]]:
        subsets = [set(subset) for subset in combinations(range(len(values)), k)]
        others = [set(range(len(values))) - subset for subset in subsets]
        return [
            subset
            for subset, other in zip(subsets, others, strict=True)
            if not other or min(values[i] for i in subset) >= max(values[i] for i in other)
        ]

    failed = {i for i, score in enumerate(scores) if np.isnan(score)}
    cuts = product(tops(with_failures_last(scores)), tops(accuracies))
    return float(np.mean([len((chosen - failed) & best) / k for chosen, best in cuts]))


@few
@given(table=scored, data=st.data())
def test_precision_is_the_mean_over_all_cuts(table: list[tuple[float, int]], data: st.DataObject) -> None:
    scores, accuracies = [r[0] for r in table], [r[1] for r in table]
    k = data.draw(st.integers(1, len(table)))
    expected = NAN if np.isnan(scores).all() else precision_over_all_cuts(scores, accuracies, k)
    assert precision_at_k(scores, accuracies, k) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_precision_of_the_accuracies_themselves_is_one_and_of_nothing_is_chance() -> None:
    assert precision_at_k([5, 6, 7, 8], [70, 71, 72, 73], 2) == 1
    assert precision_at_k([8, 7, 6, 5], [70, 71, 72, 73], 2) == 0
    assert precision_at_k([1, 1, 1, 1], [70, 71, 72, 73], 1) == 0.25
    assert precision_at_k([NAN, NAN, NAN, 1], [70, 71, 72, 73], 2) == 0.5
    assert np.isnan(precision_at_k([NAN, NAN], [70, 71], 2))


@pytest.mark.parametrize("k", [0, 4])
def test_precision_needs_a_possible_k(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be 1 to 3, the number of architectures; got {k}"):
        precision_at_k([1, 2, 3], [1, 2, 3], k)


# -- parts of the space -------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (8, 1), (10, 1), (11, 2), (1000, 100), (15625, 1563)])
def test_best_decile_is_a_tenth_rounded_up(count: int, expected: int) -> None:
    accuracies = np.random.default_rng(0).permutation(count)
    mask = best_decile(accuracies)
    assert mask.sum() == expected
    assert accuracies[mask].min() == count - expected


def test_best_decile_keeps_ties_together() -> None:
    assert best_decile([3, 9, 9, 9, 1, 1, 1, 1, 1, 1]).tolist() == [False, True, True, True] + [False] * 6
    assert best_decile([5.0] * 20).all()


@few
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=40), bins=st.integers(1, 6))
def test_bins_ascend_and_keep_equal_sizes_together(sizes: list[int], bins: int) -> None:
    bin_of = parameter_bins(sizes, bins)
    assert set(bin_of) <= set(range(bins))
    in_order = sorted(zip(sizes, bin_of.tolist(), strict=True))
    assert [b for _, b in in_order] == sorted(b for _, b in in_order)
    assert len(set(in_order)) == len(set(sizes))


@few
@given(count=st.integers(1, 60), bins=st.integers(1, 6))
def test_bins_of_different_sizes_are_equally_full(count: int, bins: int) -> None:
    filled = np.bincount(parameter_bins(np.arange(count) * 7, bins), minlength=bins)
    assert filled.max() - filled.min() <= 1


def test_bins_need_a_number() -> None:
    assert set(parameter_bins([5, 5, 5], 4)) == {0}
    with pytest.raises(ValueError, match="at least one bin; got 0"):
        parameter_bins([1, 2], 0)


# -- bootstrap ----------------------------------------------------------------------------------


def scipy_statistics(scores: np.ndarray, accuracies: np.ndarray, third: np.ndarray) -> dict[str, float]:
    """The four from SciPy and NumPy, of architectures written out as often as they were drawn."""
    last = np.array(with_failures_last(scores.tolist()))
    kept = ~np.isnan(scores)
    varied = len(set(last)) > 1 and len(set(accuracies)) > 1
    values = len(set(scores[kept])) > 1 and len(set(accuracies[kept])) > 1
    partial = NAN
    if varied and len(set(third)) > 1:
        r_sa, r_sg, r_ag = (
            spearmanr(*pair).statistic for pair in ((last, accuracies), (last, third), (accuracies, third))
        )
        rest = (1 - r_sg**2) * (1 - r_ag**2)
        partial = (r_sa - r_sg * r_ag) / np.sqrt(rest) if rest > 1e-12 else 0.0
    return {
        "kendall": kendalltau(last, accuracies).statistic if varied else NAN,
        "spearman": spearmanr(last, accuracies).statistic if varied else NAN,
        "pearson": pearsonr(scores[kept], accuracies[kept]).statistic if values else NAN,
        "partial_spearman": partial,
    }


@pytest.mark.parametrize("kinds", [3, 10_000])
@pytest.mark.parametrize("failing", [0.0, 0.3])
@pytest.mark.parametrize("count", [2, 5, 37])
def test_bootstrap_is_literal_resampling(count: int, failing: float, kinds: int) -> None:
    rng = np.random.default_rng(count)
    accuracies, third = rng.integers(0, kinds, (2, count)).astype(float)
    scores = rng.integers(1, kinds + 1, (3, count)).astype(float) ** 3
    scores[rng.random(scores.shape) < failing] = NAN
    counts = draw_resamples(count, 25, seed=1)
    found = bootstrap_correlations(scores, accuracies, third, counts)
    for resample in range(25):
        drawn = np.repeat(np.arange(count), counts[:, resample])
        for row in range(3):
            expected = scipy_statistics(scores[row][drawn], accuracies[drawn], third[drawn])
            assert {name: found[name][row, resample] for name in found} == pytest.approx(
                expected, abs=1e-12, nan_ok=True
            )


def test_bootstrap_of_a_part_is_literal_resampling_of_what_was_drawn_from_it() -> None:
    rng = np.random.default_rng(0)
    accuracies, third, scores = rng.normal(size=(3, 12))
    counts = draw_resamples(12, 60, seed=0)
    part = np.arange(12) < 3  # so few that some resamples have none of them
    assert (counts[part].sum(axis=0) == 0).any()
    found = bootstrap_correlations([scores[part]], accuracies[part], third[part], counts[part])
    for resample in range(60):
        drawn = np.repeat(np.arange(3), counts[:3, resample])
        expected = scipy_statistics(scores[drawn], accuracies[drawn], third[drawn])
        assert {name: found[name][0, resample] for name in found} == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_bootstrap_is_the_same_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    accuracies, third, scores = rng.normal(size=(3, 30))
    counts = draw_resamples(30, 20, seed=0)
    at_once = bootstrap_correlations([scores], accuracies, third, counts)
    monkeypatch.setattr(ranking, "_NUMBERS_PER_BLOCK", 7 * 30)
    in_blocks = bootstrap_correlations([scores], accuracies, third, counts)
    for name in at_once:
        np.testing.assert_allclose(in_blocks[name], at_once[name], rtol=0, atol=1e-12)


def test_an_outlier_of_another_magnitude_does_not_swallow_the_others() -> None:
    """Resamples without it have the correlation of the others, to the last digits."""
    scores, accuracies = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 1e15]), np.array([1.0, 3.0, 2.0, 4.0, 5.0, 6.0])
    counts = np.array([[1, 1, 1, 1, 1, 0]], dtype=np.int32).T
    found = bootstrap_correlations([scores], accuracies, accuracies, counts)["pearson"][0, 0]
    assert found == pytest.approx(pearsonr(scores[:5], accuracies[:5]).statistic, abs=1e-12)


def test_a_constant_in_a_resample_is_one_though_its_mean_is_rounded() -> None:
    scores, accuracies = np.array([0.1] * 23 + [0.7]), np.arange(24.0)
    counts = np.vstack([draw_resamples(23, 50, seed=0), np.zeros((1, 50), dtype=np.int32)])  # never the last
    found = bootstrap_correlations([scores, accuracies], accuracies, accuracies, counts)
    for values in found.values():
        assert np.isnan(values[0]).all()
    assert found["pearson"][1] == pytest.approx(np.ones(50))


def test_failed_scores_have_no_correlation_in_any_resample() -> None:
    found = bootstrap_correlations([[NAN] * 4], [1, 2, 3, 4], [4, 2, 3, 1], draw_resamples(4, 5, seed=0))
    assert {name: np.isnan(values).all() for name, values in found.items()} == dict.fromkeys(found, True)


def test_resamples_draw_as_many_as_there_are_and_follow_their_seed() -> None:
    counts = draw_resamples(40, 200, seed=3)
    assert (counts.sum(axis=0) == 40).all()
    np.testing.assert_array_equal(counts[:, :50], draw_resamples(40, 50, seed=3))
    assert (counts[:, :50] != draw_resamples(40, 50, seed=4)).any()
    # An architecture is left out with probability (1 - 1/40)^40; 8,000 counts move that by .006.
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 40) ** 40, abs=0.02)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Of normal pairs with correlation .6, whose tau and rho are known in closed form."""
    truth = {
        "kendall": 2 / np.pi * np.arcsin(0.6),
        "spearman": 6 / np.pi * np.arcsin(0.3),
        "pearson": 0.6,
    }
    pairs = multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]]).rvs((200, 80), random_state=0)
    covered = dict.fromkeys(truth, 0)
    for seed, sample in enumerate(pairs):
        counts = draw_resamples(80, 200, seed)
        found = bootstrap_correlations([sample[:, 0]], sample[:, 1], sample[:, 1], counts)
        for name, value in truth.items():
            low, high = percentile_interval(found[name][0], 0.9)
            covered[name] += low <= value <= high
    assert all(0.83 <= hits / 200 <= 0.96 for hits in covered.values()), covered


def test_interval_is_between_percentiles_of_what_is_defined() -> None:
    values = np.arange(101.0)
    assert percentile_interval(values, 0.9) == pytest.approx((5, 95))
    assert percentile_interval([*values, NAN], 0.9) == pytest.approx((5, 95))
    assert np.isnan(percentile_interval([*values, *[NAN] * 20], 0.9)).all()
    assert np.isnan(percentile_interval([])).all()


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


def test_failures_agree_as_the_worst() -> None:
    assert size_matched_agreement([NAN, 1, 2], [70, 71, 72], [100, 101, 102]) == (1, 3)
    assert size_matched_agreement([NAN, NAN, 2], [70, 71, 72], [100, 101, 102]) == (pytest.approx(2 / 3), 3)
    assert np.isnan(size_matched_agreement([NAN] * 3, [70, 71, 72], [100, 101, 102])[0])


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


def test_constants_leave_nothing_defined_and_failures_rank_last() -> None:
    assert np.isnan(partial_spearman([1, 1, 1, 1], [1, 3, 2, 2], [1, 2, 3, 5]))
    assert np.isnan(partial_spearman([1, 2, 3, 4], [1, 3, 2, 2], [5, 5, 5, 5]))
    last = partial_spearman([2, 1, 4, 3], [1, 3, 2, 4], [1, 2, 2, 1])
    assert partial_spearman([2, NAN, 4, 3], [1, 3, 2, 4], [1, 2, 2, 1]) == last


# -- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [regret_at_budget, size_matched_agreement, partial_spearman, regret_curve])
@pytest.mark.parametrize("wrong", [([1, 2], [1, 2], [1]), ([], [], []), ([[1, 2]], [[1, 2]], [[1, 2]])])
def test_columns_must_be_equally_long_lists(measure: object, wrong: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="must be equally long lists, not empty; got shapes"):
        measure(*wrong)  # type: ignore[operator]


@pytest.mark.parametrize("correlation", [kendall, spearman, pearson])
@pytest.mark.parametrize("wrong", [([1, 2], [1]), ([], []), ([[1, 2]], [[1, 2]])])
def test_correlations_need_equally_long_lists(correlation: object, wrong: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="must be equally long lists, not empty; got shapes"):
        correlation(*wrong)  # type: ignore[operator]


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


def test_what_orders_the_resnets_of_s0(shared_data: Path) -> None:
    """Kendall with distilled accuracy of parameters .873, MACs .657, plain accuracy .836."""
    path = shared_data / "cifar_resnet_s0.csv"
    distilled, plain = (read_table(path, f"cifar100_{kind}_accuracy") for kind in ("kd", "vanilla"))
    space = create_space("cifar_resnet_s0", num_classes=100)
    costs = [space.cost(architecture) for architecture in space]
    accuracies = [distilled[architecture] for architecture in space]
    assert round(kendall([cost.params for cost in costs], accuracies), 3) == 0.873
    assert round(kendall([cost.macs for cost in costs], accuracies), 3) == 0.657
    assert round(kendall([plain[architecture] for architecture in space], accuracies), 3) == 0.836


@pytest.fixture(scope="module")
def cells(shared_data: Path) -> list[dict[str, str]]:
    with gzip.open(shared_data / "nasbench201.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def cell_columns(cells: list[dict[str, str]], data: str) -> list[np.ndarray]:
    """Test accuracy, parameters, MACs."""
    columns = ("test_accuracy", "mparams", "mmacs")
    return [np.array([float(cell[f"{data}_{column}"]) for cell in cells]) for column in columns]


@pytest.mark.parametrize(("data", "params", "macs"), [("cifar10", 5.01, 6.32), ("cifar100", 7.57, 12.01)])
def test_picking_the_largest_cell_has_its_known_regret(
    cells: list[dict[str, str]], data: str, params: float, macs: float
) -> None:
    """Figures for NAS-Bench-201, rounded to two digits, budgets on parameters."""
    accuracies, sizes, work = cell_columns(cells, data)
    assert round(regret_at_budget(sizes, accuracies, sizes), 2) == params
    assert round(regret_at_budget(work, accuracies, sizes), 2) == macs


@pytest.mark.parametrize(
    ("data", "params", "macs"),
    [("cifar10", (0.753, 0.578), (0.732, 0.541)), ("cifar100", (0.728, 0.553), (0.707, 0.517))],
)
def test_how_size_orders_all_cells(
    cells: list[dict[str, str]], data: str, params: tuple[float, float], macs: tuple[float, float]
) -> None:
    """Spearman and Kendall over all 15,625 cells: of parameters as published, of MACs as recomputed."""
    accuracies, sizes, work = cell_columns(cells, data)
    assert (round(spearman(sizes, accuracies), 3), round(kendall(sizes, accuracies), 3)) == params
    assert (round(spearman(work, accuracies), 3), round(kendall(work, accuracies), 3)) == macs


def has_no_dead_edge(cell: str) -> bool:
    """Whether every edge with an operation lies on a path from input to output, and there is one."""
    nodes = [[term.split("~") for term in node.strip("|").split("|")] for node in cell.split("+")]
    edges = [(int(start), end) for end, terms in enumerate(nodes, 1) for op, start in terms if op != "none"]
    reached, needed = {0}, {3}
    for start, end in edges:
        reached |= {end} if start in reached else set()
    for start, end in reversed(edges):
        needed |= {start} if end in needed else set()
    return bool(edges) and all(start in reached and end in needed for start, end in edges)


@pytest.mark.parametrize(("data", "rho", "tau"), [("cifar10", 0.799, 0.623), ("cifar100", 0.763, 0.586)])
def test_published_values_of_macs_are_those_of_convolutions_in_cells_without_dead_edges(
    cells: list[dict[str, str]], data: str, rho: float, tau: float
) -> None:
    """VKDNW, CVPR 2025. Convolutions order the cells as parameters do; the benchmark's MACs charge pooling as well."""
    alive = [cell for cell in cells if has_no_dead_edge(cell["arch"])]
    assert len(alive) == 9444
    accuracies, sizes, work = cell_columns(alive, data)
    assert spearman(sizes, accuracies) == pytest.approx(rho, abs=0.003)
    assert kendall(sizes, accuracies) == pytest.approx(tau, abs=0.003)
    assert spearman(work, accuracies) < rho - 0.02


def test_in_the_best_decile_of_cells_size_says_little(cells: list[dict[str, str]]) -> None:
    accuracies, sizes, _ = cell_columns(cells, "cifar100")
    best = best_decile(accuracies)
    assert round(spearman(sizes[best], accuracies[best]), 2) == 0.25
