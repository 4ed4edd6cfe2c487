"""Reports of a comparison: a table in a terminal, CSV, JSON, Markdown, and pictures.

Every report is a function of a `ScoreTable` and of the results that `summarise` makes of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .comparison import Estimate, ProxyResult, ScoreTable, correlation_matrix
from .report import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    format_count,
    human_number,
    label_log_axis,
    new_figure,
    style_axes,
)
from .run_folder import finite_only

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE_COLOURS = (BLUE, PINK, SKY, AMBER, "#000000", "#A08000")
"""Colours of the proxies with the least regret, the best first."""

_SIZE_COLOURS = {"params": ORANGE, "macs": GREEN}
"""Colours of the sizes, which stand out in every picture because every proxy has to beat them."""

STATISTICS: dict[str, Callable[[ProxyResult], Estimate]] = {
    "Spearman": lambda result: result.spearman,
    "Kendall": lambda result: result.kendall,
    "Pearson": lambda result: result.pearson,
    "best\n10 %": lambda result: result.best_decile["spearman"],
    "in\nbins": lambda result: result.within_bins["spearman"],
    "given\nparams": lambda result: result.partial_spearman,
    "top\nk": lambda result: result.precision,
    "regret": lambda result: result.regret,
}
"""The statistics of a table, by column heading."""

PASS_NAMES = {
    "cost": "counting",
    "model": "building",
    "forward_pass": "forward",
    "code_gram": "activation codes",
    "sign_patterns": "activation codes",
    "backward_pass": "backward",
    "hessian_gradients": "double backward",
    "input_jacobian": "backward to the images",
    "block_gradients": "backward through each block",
    "block_gains": "backward through each block",
    "half_gradients": "forward and backward on each half of the batch",
    "ntk": "per-sample gradients",
    "fisher_information": "gradients of each class",
    "excerpt": "forward and backward of the first images",
}
"""Names in the legend of the readings that take time, in the order in which they run."""


# -- tables -------------------------------------------------------------------------------------


_MAX_LEGEND_REASONS = 3
"""Most reasons for failure that a legend lists; the CSV and JSON files list all."""


def format_comparison(table: ScoreTable, results: Sequence[ProxyResult]) -> Table:
    """Format the results for a terminal of 120 columns: the best Spearman first, each proxy's controls below it.

    A legend below the table explains the columns, the comparison, the times and the failures. Numbers are followed by
    their standard deviation if there are several seeds.

    Args:
        table: The scores of the comparison.
        results: The results of `summarise` for that table.
    """
    spread = len(table.seeds) > 1
    output = Table(
        title=Text(_title(table)),
        caption=Text("\n".join(describe_comparison(table, results)), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0 if spread else 1, 0, 0),
        pad_edge=False,
    )
    headings = _headings()
    output.add_column(headings[0], overflow="fold", min_width=12)
    for heading in headings[1:]:
        output.add_column(heading, justify="right", no_wrap=True)
    for result in arrange_results(results):
        name = Text(result.label) if result.control is None else Padding(Text(result.control), (0, 0, 0, 2))
        cells = _cells(result, digits=2 if spread else 3, spread=spread)
        output.add_row(name, *map(Text, cells), style="dim" if result.control else "")
    return output


def to_text(table: ScoreTable, results: Sequence[ProxyResult], width: int = 120) -> str:
    """The table of `format_comparison` as plain text, wrapped at a width in characters."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(format_comparison(table, results))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def to_markdown(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as a Markdown table with its legend: the best Spearman first, each proxy's controls below it."""
    headings = [heading.replace("\n", " ") for heading in _headings()]
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for result in arrange_results(results):
        name = _code(result.label) if result.control is None else f"↳ {_escape(result.control)}"
        rows.append([name, *_cells(result, digits=3, spread=len(table.seeds) > 1, to=" to ")])
    lines = [f"**{_escape(_title(table))}**", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += [f"- {_escape(line)}" for line in describe_comparison(table, results)]
    return "\n".join(lines) + "\n"


def to_csv(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as CSV, one row for each and one column for each number; undefined numbers are empty.

    The columns of a statistic end in `_std`, `_low` and `_high`. Columns of a bin begin with `bins_1_`, those of a
    budget with `regrets_1_`. Every row names the comparison, so that files of several comparisons can be joined.
    """
    rows = [_compared(table) | _flatten(_countable(asdict(result))) for result in results]
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite_only(row) for row in rows)
    return text.getvalue()


def to_json(table: ScoreTable, results: Sequence[ProxyResult]) -> str:
    """The results as JSON, with the facts of the comparison and the correlations between scores; NaN becomes null."""
    labels, correlations = correlation_matrix(table)
    content = _compared(table) | {
        "seeds": table.seeds,
        "left_out": table.left_out,
        "results": [asdict(result) for result in results],
        "correlations": {"labels": labels, "spearman": correlations.tolist()},
    }
    return json.dumps(finite_only(content), indent=2, allow_nan=False) + "\n"


def describe_comparison(table: ScoreTable, results: Sequence[ProxyResult]) -> Iterator[str]:
    """The lines of the legend: the comparison, the meaning of the columns, the contents of the times, the failures."""
    yield (
        f"compared: {format_count(len(table.architectures), 'architecture')} of {table.space} by column {table.column} "
        f"of {_file_name(table)}; {format_count(len(table.seeds), 'seed')} ({', '.join(map(str, table.seeds))}); "
        f"probe {table.probe}; teacher {table.teacher or 'none'}"
    )
    if table.left_out:
        yield f"left out: {', '.join(f'{_one_line(reason)} {count:,}' for reason, count in table.left_out.items())}"
    yield (
        "Spearman, Kendall, Pearson: correlation with accuracy, sign as it is; 95 %: bootstrap interval of Spearman "
        "over architectures" + ("; ±: standard deviation over seeds" if len(table.seeds) > 1 else "")
    )
    yield (
        "Spearman also: best 10 %: among the most accurate tenth; in bins: mean over bins of similar parameters; "
        "given params: with their ranks regressed out"
    )
    top_k, budgets = results[0].top_k, len(results[0].regrets)
    yield (
        f"top k: share of the k most accurate that are among the k with the highest scores, k = {top_k:,}; regret: "
        f"points of accuracy lost by trusting the score, mean over {format_count(budgets, 'parameter budget')}"
    )
    on = f"; {table.conditions}" if table.conditions else ""
    yield (
        "time: per architecture, median, of building, the passes that the proxy touches and its own work (an "
        "aggregate: sum of its members), all computed together, where a shared pass takes somewhat longer than one "
        f"alone{on}"
    )
    for passes, labels in _group(_without_controls(results), _passes).items():
        yield f"time includes {passes}: {labels}"
    yield "scored: share of architectures and seeds that have a score, in %; failures rank below all scores"
    for reasons, labels in _group(results, _reasons).items():
        yield f"failed, {reasons}: {labels}"


def arrange_results(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    """Sort results by falling Spearman correlation, undefined ones last, each proxy's controls below it."""
    own = {result.label: (place, result.spearman.value) for place, result in enumerate(results)}

    def key(result: ProxyResult) -> tuple[float, int, bool, int]:
        place, value = own.get(result.proxy, own[result.label])
        return (math.inf if math.isnan(value) else -value), place, result.control is not None, own[result.label][0]

    return sorted(results, key=key)


def _headings() -> list[str]:
    first, *others = STATISTICS
    return ["proxy", first, "95 %", *others, "time", "scored"]


def _cells(result: ProxyResult, *, digits: int, spread: bool, to: str = " ") -> list[str]:
    """The cells of a row except its name; `to` separates the ends of an interval."""
    estimates = {heading: statistic(result) for heading, statistic in STATISTICS.items()}
    cells = []
    for heading, estimate in estimates.items():
        places = 2 if heading == "regret" else digits
        cells.append(_number(estimate.value, places))
        if spread and not math.isnan(estimate.value):
            cells[-1] += f"±{_number(estimate.std, places)}"
    interval = to.join(_number(end, digits) for end in (result.spearman.low, result.spearman.high))
    cells.insert(1, "" if math.isnan(result.spearman.low) else interval)
    return [*cells, _seconds(result.seconds), f"{math.floor(1000 * result.scored) / 10:g}"]


def _number(value: float, digits: int) -> str:
    """A number without the zero before its point: .762, -.031, 12.01; a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # adding zero turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _seconds(value: float) -> str:
    """A time with two digits, in seconds or milliseconds."""
    if math.isnan(value):
        return "-"
    if value >= 0.9995:
        return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"
    milliseconds = 1000 * value
    if milliseconds < 0.01:
        return "<.01 ms"
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{_number(milliseconds, 2)} ms"


def _group(results: Sequence[ProxyResult], text_of: Callable[[ProxyResult], str]) -> dict[str, str]:
    """Labels of the results by a text that they share; results with an empty text are left out."""
    groups: dict[str, list[str]] = {}
    for result in results:
        groups.setdefault(text_of(result), []).append(result.label)
    return {text: ", ".join(labels) for text, labels in groups.items() if text}


def _passes(result: ProxyResult) -> str:
    return " + ".join(dict.fromkeys(name for reading, name in PASS_NAMES.items() if reading in result.passes))


def _reasons(result: ProxyResult) -> str:
    """The most frequent reasons for failure, and the number of other failures.

    The others are counted together, since a message can hold a different number each time.
    """
    most_frequent = sorted(result.failures.items(), key=lambda pair: -pair[1])
    listed = [f"{_one_line(reason)} ({count:,})" for reason, count in most_frequent[:_MAX_LEGEND_REASONS]]
    others = sum(count for _, count in most_frequent[_MAX_LEGEND_REASONS:])
    return ", ".join(listed) + (f" and {others:,} for other reasons" if others else "")


def _compared(table: ScoreTable) -> dict[str, Any]:
    """The facts of the comparison that every row of a file repeats."""
    names = {name: getattr(table, name) for name in ("table", "column", "space", "teacher", "probe", "conditions")}
    return names | {"architectures": len(table.architectures), "seeds": len(table.seeds)}


def _countable(values: dict[str, Any]) -> dict[str, Any]:
    """A result with its lists of texts as one text each: passes joined, failures as JSON."""
    failures = values["failures"]
    return values | {
        "passes": " + ".join(values["passes"]),
        "failures": json.dumps(failures) if failures else "",
        "failed": sum(failures.values()),
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping; the value of an estimate takes the name of the estimate."""
    if isinstance(value, (list, tuple)):
        value = {str(place): item for place, item in enumerate(value, start=1)}
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, "_".join(part for part in (prefix, "" if key == "value" else key) if part))
    return flat


def _title(table: ScoreTable) -> str:
    parts = [format_count(len(table.architectures), "architecture"), format_count(len(table.seeds), "seed")]
    parts += [f"teacher {table.teacher}"] if table.teacher else []
    return f"{_file_name(table)}, {table.column}: {', '.join(parts)}"


def _file_name(table: ScoreTable) -> str:
    """The table's name; the last part of a path, since its folders mean nothing to other people."""
    return PurePath(table.table).name


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    return f"`{_one_line(text).replace('`', chr(39))}`".replace("|", "\\|")


def _escape(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    return "".join(f"\\{letter}" if letter in r"\`*_<>|[]~" else letter for letter in _one_line(text))


# -- pictures -----------------------------------------------------------------------------------


def plot_scatter(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the score, as a mean over the seeds that have one, against accuracy: a panel for each proxy.

    An axis on which most points would crowd together is spaced by rank.
    """
    proxies = _without_controls(results)
    columns = math.ceil(math.sqrt(1.4 * len(proxies)))
    rows = math.ceil(len(proxies) / columns)
    side = 2.6 if len(proxies) <= 8 else 1.8
    figure = new_figure(max(side * columns + 0.5, 5.0), side * 0.95 * rows + 0.9)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, result in zip(panels, proxies, strict=False):
        _plot_scatter(axes, result, _mean_score(table.scores[result.label]), table.accuracies)
    for axes in panels[len(proxies) :]:
        axes.remove()
    figure.supylabel(f"{table.column} (%){', spaced by rank' * _is_crowded(table.accuracies)}", fontsize=10)
    figure.supxlabel(
        "score, mean over seeds (by rank where the axis has no numbers); beside the name: Spearman", fontsize=9
    )
    _set_title(figure, _title(table))
    return figure


def plot_correlations(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot correlations with their intervals as bars: the best Spearman first, each proxy's controls below it."""
    rows = arrange_results(results)
    figure = new_figure(9.5, 0.2 * len(rows) + 1.5)
    kinds = {
        "Spearman": [result.spearman for result in rows],
        "Kendall": [result.kendall for result in rows],
        "Spearman, best 10 % of accuracy": [result.best_decile["spearman"] for result in rows],
    }
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, (name, estimates) in zip(panels, kinds.items(), strict=True):
        _plot_bars(axes, rows, estimates)
        axes.set_title(name, fontsize=10)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[0].set_yticks(range(len(rows)), [result.control or result.label for result in rows], fontsize=8)
    for text, result in zip(panels[0].get_yticklabels(), rows, strict=True):
        text.set_color(GREY if result.control else _SIZE_COLOURS.get(result.label, "black"))
        text.set_style("italic" if result.control else "normal")
    figure.supxlabel("lines: 95 % bootstrap intervals" + "; hatched: controls" * bool(table.controls), fontsize=9)
    _set_title(figure, _title(table))
    return figure


def plot_heatmap(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the Spearman correlations between scores, with proxies that agree next to each other."""
    proxies = {result.label for result in _without_controls(results)}
    labels, matrix = correlation_matrix(table)
    places = [place for place, label in enumerate(labels) if label in proxies]
    places = [places[index] for index in _cluster_order(matrix[np.ix_(places, places)])]
    values, names = matrix[np.ix_(places, places)], [labels[place] for place in places]
    cell = 0.4 if len(names) <= 16 else 0.22
    figure = new_figure(max(cell * len(names) + 2.5, 5.0), max(cell * len(names) + 1.8, 3.6))
    axes = figure.add_subplot()
    axes.set_facecolor(GREY)  # visible where a correlation is undefined
    image = axes.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= 16:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, _number(value, 2), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.7, label="Spearman between scores")
    _set_title(figure, _title(table))
    return figure


def plot_regret(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the regret under each budget: the best proxies and the sizes in colour, others and controls in grey."""
    means = {result.label: result.regret.value for result in results}
    ranked = sorted((r for r in _without_controls(results) if not math.isnan(means[r.label])), key=_mean_regret)
    best = [result.label for result in ranked if result.label not in _SIZE_COLOURS]
    colours = dict(zip(best, _LINE_COLOURS, strict=False)) | _SIZE_COLOURS
    figure = new_figure(8.5, 4.4)
    axes = style_axes(figure.add_subplot())
    others = [result for result in results if result.label not in colours]
    for place, result in enumerate(others):
        name = f"{len(others)} others" if not place else None
        axes.plot(*_regret_line(result), color=GREY, alpha=0.5, linewidth=0.8, label=name)
    named = [result for result in ranked if result.label in colours]
    for result in named:
        style = "--" if result.label in _SIZE_COLOURS else "-"
        label = f"{result.label} ({_number(means[result.label], 2)})"
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
    figure.legend(
        handles[first:] + handles[:first], names[first:] + names[:first],
        loc="outside right center", frameon=False, fontsize=8, title="mean over budgets",
    )  # fmt: skip
    _set_title(figure, _title(table))
    return figure


def plot_cost(table: ScoreTable, results: Sequence[ProxyResult]) -> Figure:
    """Plot the rank correlation against seconds per architecture.

    Proxies are in colour if no cheaper one correlates as well. The sizes need no network, so they are lines, which any
    time spent must exceed. Proxies without a time are left out.
    """
    defined = {r.label: (r.seconds, r.spearman.value) for r in _without_controls(results)}
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
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _set_title(figure, _title(table))
    _label_points(figure, axes, points, front)
    return figure


COMPARISON_PICTURES: dict[str, Callable[[ScoreTable, Sequence[ProxyResult]], Figure]] = {
    "scatter.png": plot_scatter,
    "correlations.png": plot_correlations,
    "heatmap.png": plot_heatmap,
    "regret.png": plot_regret,
    "cost.png": plot_cost,
}
"""The functions that plot the pictures of a comparison, by file name."""


def _without_controls(results: Sequence[ProxyResult]) -> list[ProxyResult]:
    return [result for result in results if result.control is None]


def _set_title(figure: Figure, title: str) -> None:
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), x=0.01, ha="left", fontsize=11)


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
    axes.xaxis.get_offset_text().set_fontsize(7)
    axes.set_title(textwrap.fill(f"{result.label}  {_number(result.spearman.value, 2)}", 22), fontsize=8)
    is_scored = np.isfinite(scores)
    if not is_scored.any():
        axes.text(0.5, 0.5, "no score", ha="center", va="center", color=GREY, transform=axes.transAxes)
        axes.set_xticks([])  # the other axis is shared with panels that have scores
        return
    x, y = scores[is_scored], accuracies[is_scored]
    if _is_crowded(x):
        x = rankdata(x)
        axes.set_xticks([])
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


def _label_points(
    figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]], coloured: Sequence[str]
) -> None:
    """Write a label near each point, at the closest place where it covers no other label and no point."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles the layout, so that points have their final positions
    places = {label: axes.transData.transform(point) for label, point in points.items()}
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places.values()]
    frame = axes.get_window_extent()
    scale = figure.dpi / 72
    for label in sorted(places, key=lambda label: (label not in coloured, -points[label][1])):
        colour = BLUE if label in coloured else "dimgrey"
        text = axes.annotate(
            label, points[label], xytext=(0, 0), textcoords="offset points", fontsize=7, color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        size = text.get_window_extent()
        for shift_x, shift_y in _shifts(size.width / scale):
            x, y = places[label] + scale * np.array([shift_x, shift_y])
            place = Bbox.from_bounds(x, y - size.height / 2, size.width, size.height)
            if frame.x0 <= place.x0 and place.x1 <= frame.x1 and not place.count_overlaps(taken):
                break
        text.set_position((shift_x, shift_y))
        taken.append(place)


def _shifts(width: float) -> Iterator[tuple[float, float]]:
    """Offsets in points from a dot at which its label may begin: right and left, then farther up and down."""
    for distance in range(0, 90, 8):
        for shift_y in (distance, -distance):
            for shift_x in (5.0 + distance / 4, -5.0 - distance / 4 - width, -width / 2 if distance else 5.0):
                yield shift_x, shift_y
