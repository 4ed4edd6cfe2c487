"""The rows of a comparison: against the plain statistics, literal resampling, and in degenerate tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, spearmanr

from diswot_search.comparison.results import Estimate, ProxyResult, ScoreTable, correlation_matrix, summarise
from diswot_search.comparison.statistics import (
    best_decile,
    draw_resamples,
    parameter_bins,
    partial_spearman,
    precision_at_k,
    regret_at_budget,
    regret_curve,
    size_matched_agreement,
)
from search_spaces import create_space, read_table

NAN = float("nan")


def make_table(count: int = 60, draws: int = 3, *, kinds: int = 25, seed: int = 0) -> ScoreTable:
    """Accuracies, sizes, a good score, a bad one, and one that fails at times; few sizes, so that many are equal."""
    rng = np.random.default_rng(seed)
    accuracies = rng.normal(70, 5, count).round(1)
    params = 1e4 * (rng.integers(1, kinds + 1, count) + kinds * (accuracies > 70))
    failing = accuracies + rng.normal(0, 5, (draws, count))
    failing[:, ::7] = NAN
    scores = {
        "params": np.tile(params, (draws, 1)),
        "good": accuracies + rng.normal(0, 2, (draws, count)),
        "bad": rng.normal(size=(draws, count)),
        "failing": failing,
    }
    return ScoreTable(
        table="made up",
        column="accuracy",
        space="none",
        teacher=None,
        probe="none",
        architectures=tuple(f"a{i}" for i in range(count)),
        accuracies=accuracies,
        params=params,
        macs=params * 100,
        seeds=tuple(range(draws)),
        scores=scores,
    )


def summary(table: ScoreTable, **options: float) -> dict[str, ProxyResult]:
    return {result.label: result for result in summarise(table, **{"bootstrap": 50} | options)}  # type: ignore[arg-type]


def only(table: ScoreTable, **scores: np.ndarray) -> ScoreTable:
    return replace(table, scores=scores)


def assert_mean_and_spread(estimate: Estimate, values: list[float]) -> None:
    assert estimate.value == pytest.approx(np.mean(values), abs=1e-12)
    assert estimate.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)


# -- values -------------------------------------------------------------------------------------


def test_values_are_means_and_spreads_over_the_seeds() -> None:
    table = make_table()
    result, accuracies, params = summary(table)["good"], table.accuracies, table.params
    scores = table.scores["good"]
    best = best_decile(accuracies)
    for name, reference in (("kendall", kendalltau), ("spearman", spearmanr), ("pearson", pearsonr)):
        assert_mean_and_spread(getattr(result, name), [reference(s, accuracies).statistic for s in scores])
        assert_mean_and_spread(result.best_decile[name], [reference(s[best], accuracies[best])[0] for s in scores])
    assert_mean_and_spread(result.partial_spearman, [partial_spearman(s, accuracies, params) for s in scores])
    assert_mean_and_spread(result.precision, [precision_at_k(s, accuracies, 6) for s in scores])
    assert_mean_and_spread(result.regret, [regret_at_budget(s, accuracies, params) for s in scores])
    assert_mean_and_spread(result.agreement, [size_matched_agreement(s, accuracies, params)[0] for s in scores])
    assert (result.top_k, result.scored, result.proxy, result.control) == (6, 1.0, "good", None)
    assert [(r.quantile, r.limit) for r in result.regrets] == [c[:2] for c in regret_curve(scores[0], params, params)]
    third = [regret_curve(s, accuracies, params)[2][2] for s in scores]
    assert (result.regrets[2].value, result.regrets[2].std) == pytest.approx((np.mean(third), np.std(third, ddof=1)))


def test_bins_are_those_of_the_parameters() -> None:
    table = make_table()
    result = summary(table, bins=3)["good"]
    bin_of = parameter_bins(table.params, 3)
    for index, found in enumerate(result.bins):
        members = bin_of == index
        pairs = [(scores[members], table.accuracies[members]) for scores in table.scores["good"]]
        assert (found.smallest, found.largest) == (table.params[members].min(), table.params[members].max())
        assert found.count == members.sum()
        assert found.kendall == pytest.approx(np.mean([kendalltau(*pair).statistic for pair in pairs]))
        assert found.spearman == pytest.approx(np.mean([spearmanr(*pair).statistic for pair in pairs]))
        assert found.pearson == pytest.approx(np.mean([pearsonr(*pair).statistic for pair in pairs]))
    assert result.within_bins["spearman"].value == pytest.approx(np.mean([found.spearman for found in result.bins]))
    assert len(result.bins) == 3


def test_small_bins_are_skipped_and_undefined_ones_left_out_of_the_mean() -> None:
    table = make_table(22, 2)
    sizes = np.array([1.0] * 9 + [2.0] * 9 + [3.0] * 4)
    scores = table.scores["good"].copy()
    scores[:, :9] = 5
    result = summary(only(replace(table, params=sizes), good=scores), bins=3)["good"]
    assert [(found.smallest, found.count) for found in result.bins] == [(1, 9), (2, 9)]
    assert np.isnan(result.bins[0].kendall)
    assert result.within_bins["kendall"].value == pytest.approx(result.bins[1].kendall)


def test_what_a_table_says_of_its_scores_is_handed_on() -> None:
    table = make_table()
    table = replace(
        table,
        scores={"kd": table.scores["good"], "kd (shuffled)": table.scores["failing"]},
        seconds={"kd": 0.5},
        passes={"kd": ("forward",)},
        failures={"kd (shuffled)": {"nan": 27}},
        controls={"kd (shuffled)": ("kd", "shuffled")},
    )
    proxy, control = summarise(table, bootstrap=0)
    assert (proxy.label, proxy.proxy, proxy.control) == ("kd", "kd", None)
    assert (control.label, control.proxy, control.control) == ("kd (shuffled)", "kd", "shuffled")
    assert (proxy.seconds, proxy.passes, proxy.failures) == (0.5, ("forward",), {})
    assert (np.isnan(control.seconds), control.passes, control.failures) == (True, (), {"nan": 27})
    assert (proxy.scored, control.scored) == (1, pytest.approx(51 / 60))


def test_failures_rank_last_and_are_never_picked() -> None:
    table = make_table(draws=1)
    scores = table.scores["failing"]
    lowest = np.where(np.isnan(scores), np.nanmin(scores) - 1, scores)
    results = summary(only(table, failing=scores, lowest=lowest))
    for name in ("kendall", "spearman", "partial_spearman", "agreement", "regret"):
        assert getattr(results["failing"], name) == pytest.approx(getattr(results["lowest"], name), nan_ok=True)
    kept = ~np.isnan(scores[0])
    assert results["failing"].pearson.value == pytest.approx(
        pearsonr(scores[0][kept], table.accuracies[kept]).statistic
    )


def test_signs_are_never_flipped() -> None:
    table = make_table()
    results = summary(only(table, good=table.scores["good"], upside_down=-table.scores["good"]))
    good, opposite = results["good"], results["upside_down"]
    for name in ("kendall", "spearman", "pearson", "partial_spearman"):
        there, back = getattr(good, name), getattr(opposite, name)
        assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert good.kendall.value > 0.5
    assert opposite.regret.value > good.regret.value


# -- intervals ----------------------------------------------------------------------------------


def test_intervals_are_percentiles_of_seed_means_in_literal_resamples() -> None:
    table = make_table(25, 2)
    result = summary(table, bootstrap=40, seed=5)["good"]
    counts = draw_resamples(25, 40, seed=5)
    for name, reference in (("kendall", kendalltau), ("spearman", spearmanr), ("pearson", pearsonr)):
        means = []
        for resample in counts.T:
            drawn = np.repeat(np.arange(25), resample)
            means.append(np.mean([reference(s[drawn], table.accuracies[drawn])[0] for s in table.scores["good"]]))
        estimate = getattr(result, name)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)


def test_intervals_within_bins_are_those_of_the_mean_over_bins() -> None:
    table = make_table(40, 1, kinds=40)
    result = summary(table, bootstrap=30, bins=2)["good"]
    bin_of, means = parameter_bins(table.params, 2), []
    for resample in draw_resamples(40, 30, seed=0).T:
        drawn = np.repeat(np.arange(40), resample)
        halves = [drawn[bin_of[drawn] == index] for index in (0, 1)]
        means.append(np.mean([kendalltau(table.scores["good"][0][half], table.accuracies[half])[0] for half in halves]))
    estimate = result.within_bins["kendall"]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)


def test_an_interval_depends_on_no_other_score_and_on_the_seed_alone() -> None:
    table = make_table()
    together, alone = summary(table)["good"], summary(only(table, good=table.scores["good"]))["good"]
    assert repr(together) == repr(alone)  # not ==, because NaN is in them
    assert summary(table, seed=1)["good"].kendall != together.kendall
    assert summary(table, seed=1)["good"].kendall.value == together.kendall.value


def test_equal_rows_of_several_labels_and_seeds_each_have_their_own_place() -> None:
    table = make_table(30, 3)
    good, bad = table.scores["good"], table.scores["bad"]
    mixed = summary(only(table, first=good[[0, 1, 0]], second=bad, third=good[[1, 0, 0]]))
    assert_mean_and_spread(mixed["first"].kendall, [kendalltau(good[i], table.accuracies)[0] for i in (0, 1, 0)])
    assert (mixed["first"].kendall.low, mixed["first"].kendall.high) == pytest.approx(
        (mixed["third"].kendall.low, mixed["third"].kendall.high)
    )
    assert repr(mixed["second"]) == repr(summary(only(table, second=bad))["second"])


@pytest.mark.parametrize("bootstrap", [0, 50])
def test_progress_is_told_once_for_each_score(bootstrap: int) -> None:
    told = []
    results = summarise(make_table(), bootstrap=bootstrap, progress=lambda: told.append(1))
    assert len(told) == len(results) == 4


def test_no_resamples_give_no_interval() -> None:
    table = make_table()
    none, some = summary(table, bootstrap=0)["good"].spearman, summary(table)["good"].spearman
    assert some.low < some.value < some.high
    assert (np.isnan(none.low), np.isnan(none.high), none.value) == (True, True, some.value)


def test_what_hangs_on_a_maximum_has_no_interval() -> None:
    result = summary(make_table())["good"]
    for name in ("precision", "regret", "agreement"):
        assert np.isnan([getattr(result, name).low, getattr(result, name).high]).all()
        assert not np.isnan([getattr(result, name).value, getattr(result, name).std]).any()


@settings(max_examples=20)
@given(count=st.integers(2, 12), draws=st.integers(1, 3), seed=st.integers(0, 999), failing=st.floats(0, 1))
def test_any_table_gives_rows_in_range(count: int, draws: int, seed: int, failing: float) -> None:
    table = make_table(count, draws, kinds=2, seed=seed)
    scores = np.random.default_rng(seed).integers(0, 3, (draws, count)).astype(float)
    scores[np.random.default_rng(seed).random(scores.shape) < failing] = NAN
    (result,) = summarise(only(table, some=scores), bootstrap=10)
    estimates = [result.kendall, result.spearman, result.pearson, result.partial_spearman, result.agreement]
    for estimate in [*estimates, *result.best_decile.values(), *result.within_bins.values()]:
        numbers = np.array([estimate.value, estimate.low, estimate.high])
        assert (np.isnan(numbers) | (abs(numbers) <= 1 + 1e-12)).all()
        assert np.isnan(estimate.low) == np.isnan(estimate.high)
    assert np.isnan(result.precision.value) == np.isnan(scores).all(axis=1).any()
    assert np.isnan(result.precision.value) or 0 <= result.precision.value <= 1
    assert np.isnan(result.regret.value) or result.regret.value >= 0


# -- degenerate tables --------------------------------------------------------------------------


def test_one_seed_has_no_spread() -> None:
    result = summary(make_table(draws=1))["good"]
    assert result.kendall.std == result.precision.std == result.regret.std == result.regrets[0].std == 0
    assert result.kendall.low < result.kendall.value < result.kendall.high


@pytest.mark.parametrize("value", [NAN, 3.0])
def test_failed_or_constant_scores_have_no_correlation(value: float) -> None:
    table = make_table(20, 2)
    (result,) = summarise(only(table, same=np.full((2, 20), value)), bootstrap=20)
    for estimate in (result.kendall, result.spearman, result.pearson, result.partial_spearman):
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
    assert np.isnan(result.within_bins["kendall"].value)
    if np.isnan(value):
        assert np.isnan([result.regret.value, result.precision.value, result.agreement.value]).all()
        assert result.scored == 0
    else:
        assert result.precision.value == pytest.approx(0.1)
        assert result.agreement.value == 0


def test_a_seed_without_scores_leaves_the_mean_undefined() -> None:
    table = make_table(20, 2)
    scores = table.scores["good"].copy()
    scores[1] = NAN
    (result,) = summarise(only(table, half=scores), bootstrap=20)
    assert np.isnan([result.kendall.value, result.kendall.low, result.regret.value]).all()
    assert result.scored == 0.5


@pytest.mark.parametrize("count", [1, 2, 8])
def test_few_architectures(count: int) -> None:
    result = summary(make_table(count, 2))["good"]
    assert result.top_k == 1
    assert np.isnan(result.best_decile["kendall"].value)  # one architecture
    assert result.regret.value >= 0
    if count < 5:
        assert result.bins == []
        assert np.isnan(result.within_bins["kendall"].value)


def test_architectures_of_one_size_share_a_bin() -> None:
    table = make_table(20, 2)
    table = only(replace(table, params=np.full(20, 5e5)), good=table.scores["good"])
    result = summary(table)["good"]
    assert [(found.smallest, found.largest, found.count) for found in result.bins] == [(5e5, 5e5, 20)]
    assert result.within_bins["kendall"] == result.kendall
    assert np.isnan(result.partial_spearman.value)
    assert len({regret.value for regret in result.regrets}) == 1


def test_size_given_size_says_nothing() -> None:
    result = summary(make_table())["params"]
    assert result.kendall.value > 0.2
    assert result.kendall.std == 0
    assert (result.partial_spearman.value, result.partial_spearman.low, result.partial_spearman.high) == (0, 0, 0)


# -- between scores -----------------------------------------------------------------------------


def test_correlations_between_scores_are_those_of_their_seed_means() -> None:
    table = make_table()
    labels, matrix = correlation_matrix(table)
    assert labels == ("params", "good", "bad", "failing")
    means = [table.scores[label].mean(axis=0) for label in labels[:3]]
    for i, j in np.ndindex(3, 3):
        assert matrix[i, j] == pytest.approx(spearmanr(means[i], means[j]).statistic)
    np.testing.assert_array_equal(matrix, matrix.T)
    failing = table.scores["failing"].mean(axis=0)
    last = np.where(np.isnan(failing), -1e9, failing)
    assert matrix[3, 1] == pytest.approx(spearmanr(last, means[1]).statistic)


def test_seeds_that_failed_are_left_out_of_the_mean_and_constants_correlate_with_nothing() -> None:
    table = make_table(10, 2)
    partly = table.scores["good"].copy()
    partly[1] = NAN
    first = np.tile(partly[0], (2, 1))
    _, matrix = correlation_matrix(only(table, partly=partly, first=first, constant=np.ones((2, 10))))
    assert matrix[0, 1] == pytest.approx(1)
    assert np.isnan(matrix[2]).all()


# -- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"bootstrap": -1}, "bootstrap must be at least 0, the number of resamples; got -1"),
        ({"top_k": 0}, "top_k must be 1 to 60, the number of architectures; got 0"),
        ({"top_k": 61}, "top_k must be 1 to 60, the number of architectures; got 61"),
        ({"bins": 0}, "bins must be at least 1; got 0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summary(make_table(), **option)


def test_tables_that_do_not_fit_are_refused() -> None:
    table = make_table(4, 2)
    with pytest.raises(ValueError, match="needs architectures and seeds; got 4 and 0"):
        replace(table, seeds=())
    with pytest.raises(ValueError, match=r"accuracies must have shape \(4,\); got \(3,\)"):
        replace(table, accuracies=np.ones(3))
    with pytest.raises(ValueError, match=r"Scores of 'x' must have shape \(2, 4\); got \(4, 2\)"):
        replace(table, scores={"x": np.ones((4, 2))})
    with pytest.raises(ValueError, match="params must be finite numbers"):
        replace(table, params=np.array([1, 2, NAN, 3]))
    with pytest.raises(ValueError, match="'x' is a control of 'good', but not both have scores"):
        replace(table, controls={"x": ("good", "shuffled")})


def test_no_scores_give_no_rows() -> None:
    assert summarise(only(make_table())) == []
    labels, matrix = correlation_matrix(only(make_table()))
    assert (labels, matrix.shape) == ((), (0, 0))


# -- published numbers --------------------------------------------------------------------------


def test_size_on_s0_has_its_known_figures(shared_data: Path) -> None:
    """Kendall .873 of parameters, .657 of MACs; mean regret .27; agreement +.46 among equals in size."""
    accuracy_of = read_table(shared_data / "cifar_resnet_s0.csv", "cifar100_kd_accuracy")
    space = create_space("cifar_resnet_s0", num_classes=100)
    costs = [space.cost(architecture) for architecture in space]
    params, macs = (np.array([getattr(cost, name) for cost in costs], dtype=float) for name in ("params", "macs"))
    table = ScoreTable(
        table="cifar_resnet_s0.csv",
        column="cifar100_kd_accuracy",
        space=space.name,
        teacher=None,
        probe="none",
        architectures=tuple(str(architecture) for architecture in space),
        accuracies=np.array([accuracy_of[architecture] for architecture in space]),
        params=params,
        macs=macs,
        seeds=(0,),
        scores={"params": params[None], "macs": macs[None]},
    )
    by_params, by_macs = summarise(table)
    assert (round(by_params.kendall.value, 3), round(by_macs.kendall.value, 3)) == (0.873, 0.657)
    assert by_params.kendall.low < 0.873 < by_params.kendall.high
    assert by_macs.kendall.high < by_params.kendall.low
    assert (round(by_params.regret.value, 2), round(by_params.agreement.value, 2)) == (0.27, 0.46)
    assert by_params.partial_spearman.value == 0


def test_a_best_decile_of_few_says_nothing() -> None:
    few, enough = (summary(make_table(count, 1, kinds=count))["good"].best_decile["spearman"] for count in (40, 50))
    assert np.isnan([few.value, few.low, few.high]).all()
    assert not np.isnan(enough.value)
