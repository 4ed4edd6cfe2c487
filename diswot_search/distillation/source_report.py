"""What people look at of a ranking of sources: a table, what to do next, and a picture."""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from search_spaces.registry import UnknownNameError, unknown_name_message

from ..report import BLUE, GREY, ORANGE, new_figure, style_axes
from .relatedness import get_measure, list_measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .source_ranking import Measured, SourceRanking

LABELS = "labels.txt"
"""The file of a ranking's run folder that says which images have labels, where not all have."""

_NEEDS = {
    "features": "features",
    "probabilities": "a classifier",
    "reference": "features, and a reference",
}

_COLUMNS = 3
"""Measures that are drawn side by side."""

_NAME_WIDTH = 40
"""Characters of a source's name that are drawn."""


def format_ranking(ranking: SourceRanking, weights: Mapping[str, float] | None = None) -> Table:
    """The sources, the most similar first: classes, what they were trained on, measures, weight.

    A measure is the mean over the draws with its standard deviation.

    Args:
        ranking: The ranking.
        weights: What each source counts, by name; by default `ranking.weights()`.
    """
    table = Table(title=_title(ranking))
    table.add_column("source", overflow="fold")
    table.add_column("trained on")
    table.add_column("classes", justify="right")
    for measure in ranking.measures:
        table.add_column(measure, justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    weights = ranking.weights() if weights is None else weights
    for name in ranking.order():
        source = ranking.facts["sources"][name]
        table.add_row(
            name,
            _short(source["trained_on"] or "") or ("" if source["trained"] else "random weights"),
            "none" if source["classes"] is None else f"{source['classes']:,}",
            *(_value(ranking.found[measure][name]) for measure in ranking.measures),
            f"{weights.get(name, 0.0):.3f}",
        )
    return table


def format_measures(pattern: str = "*") -> Table:
    """The measures by name: what they need, and what they measure.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No name does; near ones are given.
    """
    names = list_measures(pattern)
    if not names:
        raise UnknownNameError(unknown_name_message("measure", pattern, list_measures()))
    table = Table("name", "needs", "what it measures", title="Measures of how near a source is")
    for measure in map(get_measure, names):
        table.add_row(measure.name, _NEEDS[measure.needs], Text(measure.summary))
    return table


def describe_ranking(ranking: SourceRanking) -> Iterator[str]:
    """What is not to be had and why, what values mean, where the files are, and what to do next, in lines."""
    for (source, measure), reason in ranking.reasons.items():
        yield f"no {measure} of {source}, which counts as weight 0 by it: {reason}"
    for name, source in ranking.facts["sources"].items():
        if not source["trained"]:
            yield f"{name} has random weights, of which nothing can be learnt: by similarity it counts as weight 0"
    if unsaid := [name for name, source in ranking.config["sources"].items() if source["mean"] is None]:
        yield (
            f"normalised as the data is, since nothing says how they were trained: {', '.join(unsaid)}; where that "
            "differs, give mean and std"
        )
    if shown := ", ".join(filter(None, map(_chance, ranking.found, ranking.found.values()))):
        yield f"what features unrelated to the labels have: {shown}"
    if ranking.path is not None:
        yield f"run folder: {ranking.path}"
    yield from _next(ranking)


def _title(ranking: SourceRanking) -> str:
    least, most = min(ranking.images), max(ranking.images)
    images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    draws = "1 draw" if len(ranking.images) == 1 else f"{len(ranking.images)} draws"
    target = _short(ranking.facts["target"]["name"])
    return f"Sources for {target} by {ranking.measures[0]}: {draws} of {images} labelled images"


def _short(data: str) -> str:
    """The name of a data set without the folder of its file."""
    return PurePath(data).name or data


def _next(ranking: SourceRanking) -> Iterator[str]:
    """What to do with the ranking, in lines."""
    if ranking.unfinished:
        measured = len(ranking.names) - len(ranking.unfinished)
        yield f"not finished: {measured} of {len(ranking.names)} sources are measured; run the same again"
    elif not any(source["trained"] for source in ranking.facts["sources"].values()):
        yield "next: look for other sources, or give checkpoints of these; none of them has trained weights"
    elif not (weights := ranking.weights()):
        yield (
            f"next: look for other sources; by {ranking.measures[0]} none of these tells more of the target than "
            "chance does, so that distillation would train on labels alone"
        )
    elif not any(ranking.facts["sources"][name]["classes"] for name, weight in weights.items() if weight):
        yield (
            "next: look for sources with a classifier; none of those that count has one, whose predictions "
            "distillation would teach"
        )
    elif ranking.path is None:
        yield "next: ds.distill(STUDENT, dataset=..., sources=ranking) teaches a student by these weights"
    elif ranking.data is None:
        call = f"ds.distill(STUDENT, dataset=SPLITS, sources={str(ranking.path)!r})"
        yield f"next: {call} teaches a student by these weights"
    else:
        command = ["diswot", "distill", *_data_arguments(ranking), "--sources", str(ranking.path)]
        search = ["diswot", "search", "--teacher", str(ranking.path), "--proxy", "diswot"]
        yield f"next: {shlex.join(search)}  # finds a student"
        yield f"then: {shlex.join(command)}  # teaches it by these weights"


def _data_arguments(ranking: SourceRanking) -> Iterator[str]:
    """The ranking's data and labels as options of a command."""
    assert ranking.data is not None
    yield from ("--dataset", ranking.data["name"])
    for key, value in ranking.data["options"].items():
        yield from (f"--data_options.{key}", value if isinstance(value, str) else json.dumps(value))
    if ranking.config["target"]["labels"] is not None:
        yield from ("--labels", str(PurePath(str(ranking.path), LABELS)))


def _chance(measure: str, found: Mapping[str, Measured]) -> str:
    """By what value a source is no better than chance, which may depend on the source; nothing where that is 0."""
    chances = [fmean(measured.chances) for measured in found.values() if measured.chances]
    if not any(chances):
        return ""
    least, most = (f"{chance:.3g}" for chance in (min(chances), max(chances)))
    return f"{measure} {least}" if least == most else f"{measure} {least} to {most}"


def _value(measured: Measured) -> str:
    if measured.reason is not None:
        return "none"
    mean = f"{fmean(measured.values):.4g}"
    return mean if len(measured.values) == 1 else f"{mean} ± {pstdev(measured.values):.2g}"


def plot_ranking(ranking: SourceRanking) -> Figure:
    """How far each source is above features unrelated to the labels, a panel for each measure.

    Every draw is shown, with mean and spread. The sources are in the order of the first measure, the most similar at
    the top.
    """
    names = ranking.order()[::-1]
    columns = min(_COLUMNS, len(ranking.measures))
    rows = math.ceil(len(ranking.measures) / columns)
    longest = min(max(map(len, names)), _NAME_WIDTH)
    width = 4 + 0.08 * longest + 3.2 * (columns - 1)
    title = textwrap.wrap(_title(ranking), int(width / 0.1))
    side_by_side = int(width / 2.8)
    around = 0.4 + 0.2 * len(title) + 0.2 * math.ceil(4 / side_by_side)
    figure = new_figure(width, around + rows * (0.8 + 0.27 * len(names)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, measure in zip(panels, ranking.measures, strict=False):
        _draw_measure(style_axes(axes), ranking, measure, names)
    for axes in panels[len(ranking.measures) :]:
        axes.remove()
    figure.suptitle("\n".join(title), fontsize=11, x=0.01, ha="left")
    kinds = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(kinds.values(), kinds, loc="outside lower left", ncols=side_by_side, frameon=False, fontsize=8)
    return figure


def _draw_measure(axes: Axes, ranking: SourceRanking, measure: str, names: tuple[str, ...]) -> None:
    weights, found = ranking.weights(measure=measure), ranking.found[measure]
    for place, name in enumerate(names):
        of_source = np.array(found[name].similarities)
        if not of_source.size:
            axes.text(0.02, place, "none", transform=axes.get_yaxis_transform(), color=GREY, va="center", fontsize=8)
            continue
        color, kind = (
            (BLUE, "mean and standard deviation") if weights.get(name) else (GREY, "the same of a source of weight 0")
        )
        axes.plot(of_source, np.full(of_source.size, place), "|", color=GREY, markersize=9, label="draw")
        axes.errorbar(
            of_source.mean(), place, xerr=of_source.std(), fmt="o", color=color, capsize=3, markersize=5, label=kind
        )  # fmt: skip
    axes.axvline(0, color=ORANGE, linestyle="--", linewidth=1, label="features unrelated to the labels")
    axes.set_yticks(range(len(names)), [_clipped(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"{measure} above chance")


def _clipped(name: str) -> str:
    """The name, of a long one its two ends, which are what tells paths and tags apart."""
    half = (_NAME_WIDTH - 3) // 2
    return name if len(name) <= _NAME_WIDTH else f"{name[:half]}...{name[-half:]}"
