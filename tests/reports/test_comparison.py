"""What is shown of a comparison: that tables, files and pictures say what the results say."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from rich.console import Console
from scipy.stats import spearmanr

from diswot_search.comparison.results import ProxyResult, ScoreTable, correlation_matrix, summarise
from diswot_search.readings.core import RECORDED, Readings
from diswot_search.reports.comparison import (
    PASS_NAMES,
    arrange_results,
    describe_comparison,
    format_comparison,
    to_csv,
    to_json,
    to_markdown,
    to_text,
)
from diswot_search.reports.comparison_figures import (
    COMPARISON_PICTURES,
    plot_correlations,
    plot_cost,
    plot_heatmap,
    plot_regret,
    plot_scatter,
)
from diswot_search.reports.style import to_png


def make_table(proxies: int = 3, count: int = 60, draws: int = 1, **changes: Any) -> ScoreTable:
    """Scores "p0", "p1" ... that agree with the accuracies less and less, params and macs, and a control of "p0"."""
    rng = np.random.default_rng(0)
    quality, params = rng.normal(size=count), rng.uniform(1e5, 1e6, size=count)
    scores = {"params": np.tile(params, (draws, 1)), "macs": np.tile(params[::-1] * 100, (draws, 1))}
    noise = {f"p{i}": 0.3 * (i + 1) for i in range(proxies)} | {"p0 (no teacher)": 2.0}
    scores |= {label: quality + size * rng.normal(size=(draws, count)) for label, size in noise.items()}
    timed = {label: 0.0 if label in ("params", "macs") else 0.05 + 0.01 * i for i, label in enumerate(scores)}
    values = {
        "table": "folder/cells.csv", "column": "accuracy", "space": "nasbench201", "teacher": "cifar_resnet20",
        "probe": "digits", "architectures": tuple(map(str, range(count))), "accuracies": 70 + quality,
        "params": params, "macs": params[::-1] * 100, "seeds": tuple(range(draws)), "scores": scores,
        "seconds": timed,
        "passes": {label: ("forward_pass", "images", "model") if time else () for label, time in timed.items()},
        "controls": {"p0 (no teacher)": ("p0", "no teacher")}, "left_out": {"not | trainable": 341},
        "conditions": "cpu, 1 thread, batch 64",
    }  # fmt: skip
    return ScoreTable(**values | changes)


def summary(table: ScoreTable) -> list[ProxyResult]:
    return summarise(table, bootstrap=10)


def lines_shown(table: ScoreTable, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(format_comparison(table, summary(table)))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def with_failures() -> ScoreTable:
    """A table in which all of p1 and a sixth of p2 failed."""
    table = make_table(draws=2)
    p2 = table.scores["p2"].copy()
    p2[:, :10] = np.nan
    failures = {"p1": {"ReadingError: no\n| ReLU": 120}, "p2": {"not finite": 20}}
    return replace(table, scores=table.scores | {"p1": np.full((2, 60), np.nan), "p2": p2}, failures=failures)


# -- tables -------------------------------------------------------------------------------------


def test_the_table_has_the_best_first_and_controls_beneath_their_proxy() -> None:
    rows = [line for line in lines_shown(make_table()) if line.endswith("100")]
    names = [row.split("  ")[0].strip() or row.split()[0] for row in rows]
    assert [name for name in names if name.startswith("p") and name != "params"] == ["p0", "p1", "p2"]
    assert rows[1].startswith("   no teacher ")
    assert rows[0].startswith(" p0 ")


def test_a_row_says_what_its_result_says() -> None:
    table = make_table()
    (result,) = [result for result in summary(table) if result.label == "p1"]
    (row,) = [line.split() for line in lines_shown(table) if line.startswith(" p1 ")]
    estimates = [
        result.spearman, result.kendall, result.pearson, result.best_decile["spearman"],
        result.within_bins["spearman"], result.partial_spearman, result.precision, result.regret,
    ]  # fmt: skip
    shown = [float(cell) for cell in row[1:2] + row[4:11]]
    assert shown == pytest.approx([estimate.value for estimate in estimates], abs=0.0051)
    assert [float(cell) for cell in row[2:4]] == pytest.approx([result.spearman.low, result.spearman.high], abs=6e-4)
    assert row[11:] == ["80", "ms", "100"]
    assert result.spearman.value == pytest.approx(spearmanr(table.scores["p1"][0], table.accuracies).statistic)


def test_several_seeds_have_their_spread_and_fit_into_120_columns() -> None:
    lines = lines_shown(make_table(proxies=20, draws=3))
    assert max(map(len, lines)) <= 120
    assert not any("…" in line for line in lines)
    row = next(line for line in lines if line.startswith(" p1 "))
    assert row.count("±") == 8
    assert not any("±" in line for line in lines_shown(make_table()))


def test_the_lines_beneath_say_what_is_compared_timed_and_failed() -> None:
    table = with_failures()
    text = "\n".join(describe_comparison(table, summary(table)))
    for part in (
        "60 architectures of nasbench201 by column accuracy of cells.csv; 2 seeds (0, 1); probe digits; "
        "teacher cifar_resnet20",
        "left out: not | trainable 341",
        "the k with the highest scores, k = 6;",
        "mean over 10 parameter budgets",
        "own work (an aggregate: sum of its members), all computed together",
        "one alone; cpu, 1 thread, batch 64\n",
        "time includes building + forward: p0, p1, p2\n",
        "failed, ReadingError: no | ReLU (120): p1\n",
        "failed, not finite (20): p2",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("passes", "shown"),
    [
        (("backward_pass", "forward_pass", "hessian_gradients", "labels", "layers", "model"),
         "building + forward + backward + double backward"),
        (("block_gradients", "code_gram", "cost", "forward_pass", "model", "sign_patterns"),
         "counting + building + forward + activation codes + backward through each block"),
        (("model", "ntk"), "building + per-sample gradients"),
        (("subsample", "model"), "building + forward and backward of the first images"),
    ],
)  # fmt: skip
def test_the_legend_names_passes_in_the_order_of_working_and_no_internals(passes: tuple[str, ...], shown: str) -> None:
    table = make_table(passes={"p0": passes, "p1": ("images", "labels", "of a user")})
    lines = [line for line in describe_comparison(table, summary(table)) if line.startswith("time includes")]
    assert lines == [f"time includes {shown}: p0"]


def test_what_takes_a_pass_has_a_name_in_the_legend() -> None:
    assert set(PASS_NAMES) <= {name for name in dir(Readings) if not name.startswith("_")}
    assert set(RECORDED) - set(PASS_NAMES) == {
        "block_entropies", "block_features", "block_spectra", "gradients", "last_stage", "layer_positions", "leaf_maps",
        "sensitivities", "stage_features", "stage_maps",
    }  # what is left out costs nothing that is not in a pass  # fmt: skip


def test_text_is_the_table_and_its_legend_in_the_width_asked_for() -> None:
    table = make_table()
    lines = to_text(table, summary(table)).splitlines()
    assert lines == lines_shown(table)
    assert max(map(len, to_text(table, summary(table), width=115).splitlines())) <= 115


def test_a_row_without_any_score_has_dashes_alone() -> None:
    (row,) = [line.split() for line in lines_shown(with_failures()) if line.startswith(" p1 ")]
    assert row[1:-3] == ["-"] * 8


def test_what_failed_is_last_and_its_share_is_not_rounded_up() -> None:
    table = with_failures()
    assert arrange_results(summary(table))[-1].label == "p1"
    cells = {line.split()[0]: line.split() for line in lines_shown(table) if line.startswith(" p")}
    assert cells["p1"][-1] == "0"
    assert cells["p2"][-1] == "83.3"


def test_markdown_has_a_row_for_each_result_and_all_cells() -> None:
    table = with_failures()
    text = to_markdown(table, summary(table))
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(table.scores)
    assert len({row.count("|") for row in rows}) == 1
    assert rows[0].startswith("| proxy | Spearman | 95 % | Kendall |")
    assert [row.split("|")[1].strip() for row in rows[2:4]] == ["`p0`", "↳ no teacher"]
    assert "- left out: not \\| trainable 341\n" in text
    assert text.startswith("**cells.csv, accuracy: 60 architectures, 2 seeds, teacher cifar\\_resnet20**\n")
    first = summary(table)[2]
    low, high = (f"{end:.3f}".replace("0.", ".") for end in (first.spearman.low, first.spearman.high))
    assert f"| {low} to {high} |" in rows[2]


# -- files --------------------------------------------------------------------------------------


def test_csv_gives_every_number_back() -> None:
    table = with_failures()
    results = summary(table)
    rows = list(csv.DictReader(io.StringIO(to_csv(table, results))))
    assert [row["label"] for row in rows] == list(table.scores)
    for row, result in zip(rows, results, strict=True):
        assert row["table"] == "folder/cells.csv"
        assert row["conditions"] == "cpu, 1 thread, batch 64"
        assert row["control"] == (result.control or "")
        assert (row["architectures"], row["seeds"]) == ("60", "2")
        assert float(row["regrets_3_limit"]) == result.regrets[2].limit
        assert int(row["bins_1_count"]) == result.bins[0].count
        assert int(row["failed"]) == sum(result.failures.values())
        if result.failures:
            assert json.loads(row["failures"]) == result.failures
        if np.isfinite(result.spearman.value):
            numbers = [float(row[f"spearman{end}"]) for end in ("", "_std", "_low", "_high")]
            assert numbers == list(vars(result.spearman).values())
            assert float(row["best_decile_kendall"]) == result.best_decile["kendall"].value


def test_json_gives_everything_back_and_null_for_what_is_undefined() -> None:
    table = with_failures()
    results = summary(table)
    content = json.loads(to_json(table, results))
    assert content["seeds"] == [0, 1]
    assert content["left_out"] == table.left_out
    assert content["conditions"] == table.conditions
    for stored, result in zip(content["results"], results, strict=True):
        assert stored["label"] == result.label
        assert [budget["limit"] for budget in stored["regrets"]] == [budget.limit for budget in result.regrets]
        assert [part["count"] for part in stored["bins"]] == [part.count for part in result.bins]
        assert stored["passes"] == list(result.passes)
    failed = content["results"][list(table.scores).index("p1")]
    assert failed["pearson"]["value"] is None
    labels, matrix = correlation_matrix(table)
    assert content["correlations"]["labels"] == list(labels)
    stored_matrix = np.array(content["correlations"]["spearman"], dtype=float)
    np.testing.assert_array_equal(stored_matrix, matrix)


@pytest.mark.parametrize("write", [to_csv, to_json, to_markdown])
def test_files_are_the_same_every_time(write: Any) -> None:
    first, second = (write(table, summary(table)) for table in (with_failures(), with_failures()))
    assert first == second
    assert first.endswith("\n")
    assert "nan" not in first.lower()


# -- pictures -----------------------------------------------------------------------------------


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_each_proxy_has_its_own_scatter() -> None:
    table = make_table()
    results = summary(table)
    figure = plot_scatter(table, results)
    titles = [axes.get_title().split() for axes in figure.axes]
    assert [title[0] for title in titles] == ["params", "macs", "p0", "p1", "p2"]
    values = [result.spearman.value for result in results if not result.control]
    assert [float(value) for _, value in titles] == pytest.approx(values, abs=0.0051)
    (dots,) = figure.axes[3].collections
    np.testing.assert_allclose(dots.get_offsets(), np.stack([table.scores["p1"][0], table.accuracies], axis=1))


def test_scatter_leaves_out_what_has_no_score_and_means_over_the_seeds_that_have_one() -> None:
    table = make_table(draws=2)
    p0 = table.scores["p0"].copy()
    p0[0, 0], p0[:, 1] = np.nan, (np.nan, np.inf)
    table = replace(table, scores=table.scores | {"p0": p0})
    (dots,) = plot_scatter(table, summary(table)).axes[2].collections
    shown = np.asarray(dots.get_offsets())
    assert len(shown) == 59
    assert shown[0, 0] == p0[1, 0]
    np.testing.assert_allclose(shown[1:, 0], p0[:, 2:].mean(axis=0))


def test_heavy_tails_are_spaced_by_rank() -> None:
    table = make_table()
    table = replace(
        table, scores=table.scores | {"p0": np.exp(20 * table.scores["p0"])}, accuracies=-np.exp(-9 * table.accuracies)
    )
    axes = plot_scatter(table, summary(table)).axes[2]
    shown = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_array_equal(np.sort(shown[:, 0]), np.arange(1, 61))
    np.testing.assert_array_equal(np.sort(shown[:, 1]), np.arange(60))
    np.testing.assert_array_equal(shown[:, 1].argsort(), table.accuracies.argsort())


def test_bars_are_the_correlations_with_their_intervals() -> None:
    table = make_table()
    results = arrange_results(summary(table))
    figure = plot_correlations(table, results)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [result.control or result.label for result in results]
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["Spearman", "Kendall", "Spearman"]
    for axes, name in zip(figure.axes[:2], ("spearman", "kendall"), strict=True):
        estimates = [getattr(result, name) for result in results]
        assert [bar.get_width() for bar in axes.patches] == [estimate.value for estimate in estimates]
        ends = [line.get_segments()[0][:, 0].tolist() for line in axes.collections]
        assert ends == [[estimate.low, estimate.high] for estimate in estimates]
    hatched = [bar.get_hatch() is not None for bar in figure.axes[0].patches]
    assert hatched == [result.control is not None for result in results]


@pytest.mark.parametrize(("proxies", "numbers"), [(3, 25), (20, 0)])
def test_the_heat_map_has_numbers_while_they_can_be_read(proxies: int, numbers: int) -> None:
    table = make_table(proxies)
    figure = plot_heatmap(table, summary(table))
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert sorted(names) == sorted(label for label in table.scores if label not in table.controls)
    assert len(axes.texts) == numbers
    labels, matrix = correlation_matrix(table)
    order = [labels.index(name) for name in names]
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix[np.ix_(order, order)])


def test_the_heat_map_has_those_that_agree_side_by_side() -> None:
    table = make_table(4)
    twin = table.scores["p3"] + 1e-9
    table = replace(table, scores={"p3 again": twin} | table.scores)
    figure = plot_heatmap(table, summary(table))
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert abs(names.index("p3") - names.index("p3 again")) == 1


def test_regret_names_the_best_and_the_sizes() -> None:
    table = make_table(12)
    results = summary(table)
    figure = plot_regret(table, results)
    ranked = sorted((r for r in results if r.label.startswith("p") and not r.control), key=lambda r: r.regret.value)
    best = [result.label for result in ranked if result.label != "params"][:6]
    names = [name.split(" (")[0] for name in legend_of(figure)]
    assert set(names) == {*best, "params", "macs", f"{len(results) - 8} others"}
    lines = {line.get_label().split(" (")[0]: line for line in figure.axes[0].lines}
    regrets = next(result.regrets for result in results if result.label == best[0])
    assert list(lines[best[0]].get_ydata()) == [budget.value for budget in regrets]
    assert len(figure.axes[0].lines) == len(results)


def test_cost_is_shown_against_time_and_sizes_are_lines() -> None:
    table = make_table()
    results = {result.label: result for result in summary(table)}
    figure = plot_cost(table, list(results.values()))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert sorted(texts_of(figure)) == ["p0", "p1", "p2"]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines["params"].get_ydata()) == {results["params"].spearman.value}
    best = lines["nothing cheaper is as good"]
    assert list(best.get_xdata()) == [results["p0"].seconds]
    assert list(best.get_ydata()) == [results["p0"].spearman.value]
    assert len(lines["something cheaper is as good"].get_xdata()) == 2


def test_labels_of_points_do_not_hide_each_other() -> None:
    table = make_table(30)
    table = replace(table, seconds=dict.fromkeys(table.scores, 0.05))  # all at one place of the time axis
    figure = plot_cost(table, summary(table))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the line to the point
    assert len(boxes) == 30
    assert [box.count_overlaps(boxes) for box in boxes] == [1] * 30  # itself


@pytest.mark.parametrize("name", COMPARISON_PICTURES)
def test_pictures_are_not_empty(name: str) -> None:
    table = make_table(18)
    picture = imread(io.BytesIO(to_png(COMPARISON_PICTURES[name](table, summary(table)))))
    assert picture.shape[0] >= 250
    assert picture.shape[1] >= 700
    assert picture.std() > 0.01


# -- degenerate input ---------------------------------------------------------------------------


def all_alike() -> ScoreTable:
    table = make_table(count=6)
    return replace(table, accuracies=np.full(6, 50.0), scores={name: np.ones((1, 6)) for name in table.scores})


def one_that_failed() -> ScoreTable:
    table = make_table(count=1)
    failed = {name: np.full((1, 1), np.nan) for name in table.scores if name.startswith("p0")}
    return replace(table, scores=table.scores | failed, failures={name: {"no ReLU": 1} for name in failed})


def nothing_timed() -> ScoreTable:
    return replace(make_table(), seconds={}, passes={}, controls={}, left_out={}, teacher=None)


def nothing_but_sizes() -> ScoreTable:
    table = make_table()
    return replace(table, scores={name: table.scores[name] for name in ("params", "macs")}, controls={})


@pytest.mark.parametrize("make", [all_alike, one_that_failed, nothing_timed, nothing_but_sizes, with_failures])
def test_degenerate_comparisons_are_shown(make: Any) -> None:
    table = make()
    results = summary(table)
    assert lines_shown(table)
    assert len(list(csv.reader(io.StringIO(to_csv(table, results))))) == 1 + len(table.scores)
    assert len(json.loads(to_json(table, results))["results"]) == len(table.scores)
    assert len([line for line in to_markdown(table, results).splitlines() if line.startswith("|")]) == 2 + len(results)
    for draw in COMPARISON_PICTURES.values():
        assert to_png(draw(table, results)).startswith(b"\x89PNG")


def test_scores_that_hardly_tell_architectures_apart_are_said() -> None:
    table = make_table()
    ceiling = table.scores["p1"].clip(max=np.quantile(table.scores["p1"], 0.75))
    constant = {"p0": np.zeros_like(ceiling), "p0 (no teacher)": np.zeros_like(ceiling), "p1": ceiling}
    table = replace(table, scores=table.scores | constant)
    results = {result.label: result for result in summarise(table, bootstrap=0)}
    assert results["p0"].ties == "0 for all 60 scores"
    assert results["p1"].ties == f"{ceiling.max():.6g}, the highest, for 15 of 60 scores"
    assert results["p2"].ties is None
    lines = [line for line in describe_comparison(table, list(results.values())) if "apart" in line]
    assert lines == [
        "hardly tells architectures apart, being 0 for all 60 scores: p0, p0 (no teacher)",
        f"hardly tells architectures apart, being {results['p1'].ties}: p1",
    ]
    assert json.loads(to_json(table, list(results.values())))["results"][2]["ties"] == "0 for all 60 scores"
