"""Pictures of a comparison."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..comparison.results import Estimate, ProxyResult, ScoreTable, correlation_matrix
from .comparison import arrange_results, format_number, series_title, without_controls
from .style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    add_legend,
    add_side_legend,
    axis_number,
    drawable,
    format_count,
    human_number,
    label_log_axis,
    label_points,
    legend_entries,
    legend_name,
    name_ticks,
    new_figure,
    set_title,
    shortened,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LINE_COLOURS = (BLUE, PINK, SKY, AMBER, "#000000", "#A08000")
"""Colours of the proxies with the least regret, the best first."""


_SIZE_COLOURS = {"params": ORANGE, "macs": GREEN}
"""Colours of the sizes, which stand out in every picture because every proxy has to beat them."""


# -- pictures -----------------------------------------------------------------------------------


def plot_scatter(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the score, as a mean over the seeds that have one, against accuracy: a panel for each proxy.

    An axis on which most points would crowd together is spaced by rank.
    """
    proxies = without_controls(results)
    columns = math.ceil(math.sqrt(1.4 * len(proxies)))
    rows = math.ceil(len(proxies) / columns)
    side = 2.6 if len(proxies) <= 8 else 1.8
    figure = new_figure(max(side * columns + 0.5, 5.0), side * 0.95 * rows + 0.9)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, result in zip(panels, proxies, strict=False):
        _plot_scatter(axes, result, _mean_score(table.scores[result.label]), table.accuracies)
    for axes in panels[len(proxies) :]:
        axes.remove()
    column = f"{shortened(drawable(table.column), 34)} (%)"
    ranked = ", spaced by rank" * _is_crowded(table.accuracies)
    figure.supylabel(column + ranked, fontsize=10, parse_math=False)
    figure.supxlabel("score, mean over seeds (uneven numbers: spaced by rank)\nbeside the name: Spearman", fontsize=9)
    set_title(figure, series_title(table))
    return figure


def plot_correlations(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot correlations with their intervals as bars: the best Spearman first, each proxy's controls below it."""
    rows = arrange_results(results)
    figure = new_figure(9.5, 0.2 * len(rows) + 1.5)
    kinds = {
        "Spearman": [result.spearman for result in rows],
        "Kendall": [result.kendall for result in rows],
        "Spearman\nbest 10 % of accuracy": [result.best_decile["spearman"] for result in rows],
    }
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, (name, estimates) in zip(panels, kinds.items(), strict=True):
        _plot_bars(axes, rows, estimates)
        axes.set_title(name, fontsize=10)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    name_ticks(panels[0].yaxis, [result.control or result.label for result in rows])
    for text, result in zip(panels[0].get_yticklabels(), rows, strict=True):
        text.set_color(GREY if result.control else _SIZE_COLOURS.get(result.label, "black"))
        text.set_style("italic" if result.control else "normal")
    figure.supxlabel("lines: 95 % bootstrap intervals" + "; hatched: controls" * bool(table.controls), fontsize=9)
    set_title(figure, series_title(table))
    return figure


def plot_heatmap(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the Spearman correlations between scores, with proxies that agree next to each other."""
    proxies = {result.label for result in without_controls(results)}
    labels, matrix = correlation_matrix(table)
    places = [place for place, label in enumerate(labels) if label in proxies]
    places = [places[index] for index in _cluster_order(matrix[np.ix_(places, places)])]
    values, names = matrix[np.ix_(places, places)], [labels[place] for place in places]
    cell = 0.4 if len(names) <= 16 else 0.22
    figure = new_figure(max(cell * len(names) + 2.5, 5.0), max(cell * len(names) + 1.8, 3.6))
    axes = figure.add_subplot()
    axes.set_facecolor(GREY)  # visible where a correlation is undefined
    image = axes.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1)
    name_ticks(axes.xaxis, names, length=28, rotation=90)
    name_ticks(axes.yaxis, names, length=28)
    if len(names) <= 16:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, format_number(value, 2), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.7, label="Spearman between scores")
    set_title(figure, series_title(table))
    return figure


def plot_regret(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the regret under each budget: the best proxies and the sizes in colour, others and controls in grey."""
    means = {result.label: result.regret.value for result in results}
    ranked = sorted((r for r in without_controls(results) if not math.isnan(means[r.label])), key=_mean_regret)
    best = [result.label for result in ranked if result.label not in _SIZE_COLOURS]
    colours = dict(zip(best, _LINE_COLOURS, strict=False)) | _SIZE_COLOURS
    figure = new_figure(8.5, 4.4)
    axes = style_axes(figure.add_subplot())
    others = [result for result in results if result.label not in colours]
    for place, result in enumerate(others):
        name = format_count(len(others), "other") if not place else None
        axes.plot(*_regret_line(result), color=GREY, alpha=0.5, linewidth=0.8, label=name)
    named = [result for result in ranked if result.label in colours]
    for result in named:
        style = "--" if result.label in _SIZE_COLOURS else "-"
        label = legend_name(f"{result.label} ({format_number(means[result.label], 2)})", 30)
        axes.plot(*_regret_line(result), f"o{style}", color=colours[result.label], markersize=4, label=label)
    worst = max((value for result in named for value in _regret_line(result)[1]), default=0.0)
    axes.set_ylim(0, 1.1 * worst or 1.0)  # a bad one among the others may leave the picture
    budgets = results[0].regrets
    ticks = [f"{100 * budget.quantile:g} %\n{human_number(budget.limit)}" for budget in budgets]
    axes.set_xticks([100 * budget.quantile for budget in budgets], ticks, fontsize=8)
    axes.set_xlabel("budget: share of the architectures within it, and its parameters")
    axes.set_ylabel("regret (points of accuracy)")
    handles, names = axes.get_legend_handles_labels()
    first = 1 if others else 0  # the others are plotted first, below the rest, and named last
    add_side_legend(figure, handles[first:] + handles[:first], names[first:] + names[:first], "mean over budgets")
    set_title(figure, series_title(table))
    return figure


def plot_cost(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the rank correlation against seconds per architecture.

    Proxies are in colour if no cheaper one correlates as well. The sizes need no network, so they are lines, which any
    time spent must exceed. Proxies without a time are left out.
    """
    defined = {r.label: (r.seconds, r.spearman.value) for r in without_controls(results)}
    defined = {label: point for label, point in defined.items() if not math.isnan(point[1])}
    sizes = {label: value for label, (_, value) in defined.items() if label in _SIZE_COLOURS}
    points = {label: point for label, point in defined.items() if label not in sizes and point[0] > 0}
    rivals = [*points.values(), *((0.0, value) for value in sizes.values())]
    front = [label for label, (t, value) in points.items() if not any(s < t and v >= value for s, v in rivals)]
    figure = new_figure(9, 5.5)
    axes = style_axes(figure.add_subplot())
    for label, value in sizes.items():
        axes.axhline(value, color=_SIZE_COLOURS[label], linestyle="--", linewidth=1.2, label=label)
    for colour, name, labels in (
        (BLUE, "nothing cheaper is as good", front),
        (GREY, "something cheaper is as good", [label for label in points if label not in front]),
    ):
        if labels:
            seconds, values = zip(*(points[label] for label in labels), strict=True)
            axes.plot(seconds, values, "o", color=colour, markersize=5, label=name)
    if points:
        axes.set_xscale("log")
        label_log_axis(axes.xaxis)
        axes.margins(x=0.12, y=0.08)
    axes.set_xlabel("seconds per architecture: building, its passes and its own work, measured beside all others")
    axes.set_ylabel("Spearman")
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries))
    set_title(figure, series_title(table))
    label_points(figure, axes, points, front)
    return figure


COMPARISON_PICTURES: dict[str, Callable[[ScoreTable, Sequence[ProxyResult]], Figure]] = {
    "scatter.png": plot_scatter,
    "correlations.png": plot_correlations,
    "heatmap.png": plot_heatmap,
    "regret.png": plot_regret,
    "cost.png": plot_cost,
}
"""The functions that plot the pictures of a comparison, by file name."""


def _mean_score(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the seeds with a finite score, (S, K) -> (K,); NaN where no seed has one."""
    finite = np.isfinite(scores)
    sums = np.where(finite, scores, 0.0).sum(axis=0)
    return np.divide(sums, finite.sum(axis=0), out=np.full(scores.shape[1], np.nan), where=finite.any(axis=0))


def _plot_scatter(
    axes: Axes, result: ProxyResult, scores: NDArray[np.float64], accuracies: NDArray[np.float64]
) -> None:
    from matplotlib.ticker import MaxNLocator
    from scipy.stats import rankdata

    style_axes(axes)
    axes.tick_params(labelsize=7)
    title = f"{shortened(drawable(result.label), 56)}  {format_number(result.spearman.value, 2)}"
    axes.set_title(textwrap.fill(title, 22), fontsize=8, parse_math=False)
    is_scored = np.isfinite(scores)
    if not is_scored.any():
        axes.text(0.5, 0.5, "no score", ha="center", va="center", color=GREY, transform=axes.transAxes)
        axes.set_xticks([])  # the other axis is shared with panels that have scores
        return
    x, y = scores[is_scored], accuracies[is_scored]
    if _is_crowded(x):
        levels = np.quantile(x, (0, 0.5, 1), method="nearest")
        axes.set_xticks(np.searchsorted(np.sort(x), levels) + 1, [axis_number(level, 2) for level in levels])
        x = rankdata(x)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    if _is_crowded(accuracies):
        levels = np.quantile(accuracies, (0, 0.25, 0.5, 0.75, 1))
        axes.set_yticks(np.searchsorted(np.sort(accuracies), levels), [f"{level:.1f}" for level in levels])
        y = rankdata(accuracies)[is_scored] - 1
    colour = _SIZE_COLOURS.get(result.label, BLUE)
    size, alpha = (10.0, 0.7) if len(x) <= 200 else (3.0, 0.35)
    axes.scatter(x, y, s=size, color=colour, alpha=alpha, linewidths=0)


def _is_crowded(values: NDArray[np.float64]) -> bool:
    """Whether nine tenths of the values lie within a quarter of the full range."""
    low, high = np.quantile(values, (0.05, 0.95))
    return bool(high - low < 0.25 * np.ptp(values))


def _plot_bars(axes: Axes, results: Sequence[ProxyResult], estimates: Sequence[Estimate]) -> None:
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(labelsize=8)
    for place, (result, estimate) in enumerate(zip(results, estimates, strict=True)):
        if math.isnan(estimate.value):
            axes.text(0, place, " undefined", va="center", fontsize=7, color=GREY)
            continue
        if result.control:
            axes.barh(place, estimate.value, height=0.5, color="white", edgecolor=GREY, hatch="/////", linewidth=0.6)
        else:
            axes.barh(place, estimate.value, height=0.75, color=_SIZE_COLOURS.get(result.label, BLUE), alpha=0.8)
        if not math.isnan(estimate.low):
            axes.hlines(place, estimate.low, estimate.high, color="black", linewidth=1.2)


def _cluster_order(matrix: NDArray[np.float64]) -> list[int]:
    """An order that places correlated rows close to each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(matrix) < 3:
        return list(range(len(matrix)))
    distances = 1 - np.nan_to_num(matrix)
    pairs = distances[np.triu_indices(len(matrix), k=1)]
    return leaves_list(linkage(np.maximum(pairs, 0), "average", optimal_ordering=True)).tolist()


def _mean_regret(result: ProxyResult) -> float:
    return result.regret.value


def _regret_line(result: ProxyResult) -> tuple[list[float], list[float]]:
    return [100 * budget.quantile for budget in result.regrets], [budget.value for budget in result.regrets]
