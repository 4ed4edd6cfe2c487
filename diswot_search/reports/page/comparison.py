"""The page of a comparison, and of several comparisons side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from search_spaces.names import short_name

from ...comparison.results import ProxyResult, ScoreTable
from ..comparison import format_comparison, format_number, series_title, to_json, without_controls
from ..comparison_figures import COMPARISON_PICTURES
from ..style import format_count
from .blocks import Block, Grid, Page, Section
from .common import again_section, data_blocks, filled
from .pictures import to_picture
from .tables import grid_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZES = ("params", "macs")

_CAPTIONS = {
    "scatter.png": ("Score against accuracy", "A panel for each proxy: its score against accuracy, with Spearman."),
    "correlations.png": ("Correlations with their intervals", "Bars with 95 % bootstrap intervals, controls hatched."),
    "regret.png": ("Regret over budgets", "Points of accuracy lost by trusting a score, by the size of the budget."),
    "heatmap.png": ("Agreement between scores", "Spearman correlations between the scores of all proxies."),
    "cost.png": ("Correlation against cost", "Spearman against seconds for each architecture, a mark for each proxy."),
}
"""Caption and description of each picture of a comparison, in the order of the page."""

_COLOURED = ("scatter.png", "heatmap.png", "correlations.png")
"""Pictures whose colours stay the same on a dark page: texts stand on colours of their own."""


def comparison_page(path: Path, table: ScoreTable, results: Sequence[ProxyResult]) -> Page:
    """The page of a finished comparison."""
    best = _best(results)
    sections = [Section(title="The proxies", blocks=[grid_of(format_comparison(table, results))])]
    for name, (caption, alt) in _CAPTIONS.items():
        figure = _lean(name, COMPARISON_PICTURES[name], table, results)
        blocks: list[Block] = [to_picture(figure, name, caption, alt, is_plain=name in _COLOURED)]
        sections.append(Section(title=caption, blocks=blocks))
    sections += [
        Section(title="What was read", blocks=[*data_blocks(path)]),
        again_section("comparison", path, {}),
    ]
    return Page(
        kind="comparison",
        title=series_title(table),
        verdict=_verdict(table, results, best),
        facts=filled(
            {
                "best proxy": best.label if best is not None else "",
                "its Spearman": _interval(best) if best is not None else "",
                "its time": f"{best.seconds:.3g} s an architecture" if best and not math.isnan(best.seconds) else "",
                "proxies": str(len(without_controls(results))),
                "architectures": f"{len(table.architectures):,}",
                "seeds": str(len(table.seeds)),
                "teacher": short_name(table.teacher) if table.teacher else "",
            }
        ),
        sections=[one for one in sections if one.blocks],
        data=json.loads(to_json(table, results)),
        path=str(path),
    )


def _lean(
    name: str,
    plot: Callable[[ScoreTable, Sequence[ProxyResult]], Figure],
    table: ScoreTable,
    results: Sequence[ProxyResult],
) -> Figure:
    """A figure, whose points are an image where they are many, so that the file stays small."""
    figure = plot(table, results)
    if name == "scatter.png":
        for axes in figure.axes:
            for points in axes.collections:
                points.set_rasterized(True)
    return figure


def _best(results: Sequence[ProxyResult]) -> ProxyResult | None:
    """The proxy of the highest Spearman, sizes left out."""
    own = [one for one in without_controls(results) if one.label not in _SIZES and not math.isnan(one.spearman.value)]
    return max(own, key=lambda one: one.spearman.value, default=None)


def _interval(result: ProxyResult) -> str:
    value = format_number(result.spearman.value, 3)
    if math.isnan(result.spearman.low):
        return value
    return f"{value} [{format_number(result.spearman.low, 3)}, {format_number(result.spearman.high, 3)}]"


def _verdict(table: ScoreTable, results: Sequence[ProxyResult], best: ProxyResult | None) -> str:
    if best is None:
        return "No proxy has a correlation that is defined."
    sizes = [f"{one.label} alone {format_number(one.spearman.value, 3)}" for one in results if one.label in _SIZES]
    beside = f"; {', '.join(sizes)}" if sizes else ""
    interval = "" if math.isnan(best.spearman.low) else ", 95 % interval by the architectures"
    return (
        f"{best.label} orders {format_count(len(table.architectures), 'architecture')} best, by Spearman "
        f"{_interval(best)}{interval}{beside}."
    )


def unfinished_comparison_page(path: Path, status: str, scores: int) -> Page:
    """The page of a comparison that goes on or was interrupted.

    Args:
        path: The run folder.
        status: Its status.
        scores: Number of scores in its store.
    """
    return Page(
        kind="comparison",
        title=f"A comparison in {path}",
        verdict=f"The comparison is {status}: {format_count(scores, 'score')} stored; the same command continues it.",
        facts={},
        sections=[Section(title="What was read", blocks=[*data_blocks(path)]), again_section("comparison", path, {})],
        data={"status": status, "scores": scores},
        path=str(path),
        is_final=False,
    )


def side_by_side(compared: Mapping[str, tuple[ScoreTable, Sequence[ProxyResult]]]) -> Section:
    """The correlation of each proxy in several comparisons, a column for each.

    Args:
        compared: Scores and results by run folder.
    """
    columns = {
        f"{PurePath(table.table).name}, {table.column}\n{path}": {one.label: one for one in without_controls(results)}
        for path, (table, results) in compared.items()
    }
    labels = list(dict.fromkeys(label for results in columns.values() for label in results))
    means = {
        label: _mean([column[label].spearman.value for column in columns.values() if label in column])
        for label in labels
    }
    labels.sort(key=lambda label: -means[label] if not math.isnan(means[label]) else math.inf)
    rows = tuple(
        (
            label,
            *(_interval(column[label]) if label in column else "" for column in columns.values()),
            format_number(means[label], 3),
        )
        for label in labels
    )
    grid = Grid(
        heads=("proxy", *(head.replace("\n", ": ") for head in columns), "mean"),
        rows=rows,
        title="Spearman correlation with accuracy, with its 95 % interval by the architectures",
        is_number=(False, *(True for _ in columns), True),
    )
    return Section(title="Side by side", blocks=[grid])


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
