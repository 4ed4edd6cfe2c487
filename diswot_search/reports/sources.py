"""Reports of a ranking of sources: a table, the next steps, and a picture."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from search_spaces.registry import UnknownNameError, unknown_name_message

from ..sources.transferability import get_measure, list_measures
from .style import (
    BLUE,
    GREY,
    ORANGE,
    add_legend,
    describe_workers,
    drawable,
    legend_entries,
    name_ticks,
    new_figure,
    set_title,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sources.ranking import Measured, SourceRanking


LABELS = "labels.txt"
"""File of a ranking's run folder that lists the labelled images, unless all images are labelled."""


_NEEDS = {
    "features": "features",
    "probabilities": "a classifier",
    "reference": "features, and a reference",
}
"""Names of the inputs that a measure needs, by `needs`."""


_MAX_PANEL_COLUMNS = 3
"""Most measures that are plotted side by side."""


_MAX_NAME_LENGTH = 40
"""Most characters of a source's name in a picture."""


def format_ranking(ranking: SourceRanking, weights: Mapping[str, float] | None = None) -> Table:
    """Format the sources, the most similar first: training data, classes, measures, weight.

    Each measure is a mean over the draws of images, followed by its standard deviation if there are several draws.

    Args:
        ranking: The ranking.
        weights: Weight of each source by name; None for `ranking.weights()`.

    Example:
        >>> from rich import print
        >>> print(format_ranking(load_ranking("runs/ranking")))  # doctest: +SKIP
    """
    table = Table(title=Text(_title(ranking)))
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
            Text(name),
            Text(_short(source["trained_on"] or "") or ("" if source["trained"] else "random weights")),
            "none" if source["classes"] is None else f"{source['classes']:,}",
            *(_value(ranking.found[measure][name]) for measure in ranking.measures),
            f"{weights.get(name, 0.0):.3f}",
        )
    return table


def format_measures(pattern: str = "*") -> Table:
    """Format the transferability measures by name, with the inputs that they need and a description.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No measure matches the pattern; the message gives near names.
    """
    names = list_measures(pattern)
    if not names:
        raise UnknownNameError(unknown_name_message("measure", pattern, list_measures()))
    table = Table("name", "needs", "what it measures", title="Transferability measures")
    for measure in map(get_measure, names):
        table.add_row(measure.name, _NEEDS[measure.needs], Text(measure.summary))
    return table


def describe_ranking(ranking: SourceRanking) -> Iterator[str]:
    """Describe a ranking in lines: missing values and their reasons, chance levels, run folder, next steps."""
    for (source, measure), reason in ranking.reasons.items():
        yield f"no {measure} of {source}, which counts as weight 0 by it: {reason}"
    for name, source in ranking.facts["sources"].items():
        if not source["trained"]:
            yield f"{name} has random weights, of which nothing can be learnt: by similarity it counts as weight 0"
    if undeclared := [name for name, source in ranking.config["sources"].items() if source["mean"] is None]:
        yield (
            f"normalised like the data, since nothing says how they were trained: {', '.join(undeclared)}; where that "
            "differs, give mean and std"
        )
    if levels := ", ".join(filter(None, map(_chance, ranking.found, ranking.found.values()))):
        yield f"values of features unrelated to the labels: {levels}"
    measured = len(ranking.names) - len(ranking.unfinished)
    yield from describe_workers(Counter(ranking.workers.values()), measured, "ranking", did="measured", noun="source")
    if ranking.path is not None:
        yield f"run folder: {ranking.path}"
    yield from _next_steps(ranking)


def _title(ranking: SourceRanking) -> str:
    least, most = min(ranking.images), max(ranking.images)
    images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    draws = "1 draw" if len(ranking.images) == 1 else f"{len(ranking.images)} draws"
    target = _short(ranking.facts["target"]["name"])
    return f"Sources for {target} by {ranking.measures[0]}: {draws} of {images} labelled images"


def _short(data: str) -> str:
    """The name of a data set, without the folder of its file."""
    return PurePath(data).name or data


def _next_steps(ranking: SourceRanking) -> Iterator[str]:
    """The next steps after a ranking, in lines."""
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
            "next: look for sources with a classifier; none of those that count has one, and distillation teaches "
            "the predictions of classifiers"
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
    """Data and labels of the ranking as options of a command."""
    assert ranking.data is not None
    yield from ("--dataset", ranking.data["name"])
    for key, value in ranking.data["options"].items():
        yield from (f"--data_options.{key}", value if isinstance(value, str) else json.dumps(value))
    if ranking.config["target"]["labels"] is not None:
        yield from ("--labels", str(PurePath(str(ranking.path), LABELS)))


def _chance(measure: str, measured_sources: Mapping[str, Measured]) -> str:
    """The chance level of a measure, as a range if it depends on the source; empty if it is 0."""
    chances = [fmean(measured.chances) for measured in measured_sources.values() if measured.chances]
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
    """Plot how far each source is above features unrelated to the labels, with a panel for each measure.

    Each panel shows every draw of images, with mean and spread. All panels order the sources by the first measure, the
    most similar at the top.
    """
    names = ranking.order()[::-1]
    columns = min(_MAX_PANEL_COLUMNS, len(ranking.measures))
    rows = math.ceil(len(ranking.measures) / columns)
    longest = min(max(len(drawable(name)) for name in names), _MAX_NAME_LENGTH)
    width = 4 + 0.08 * longest + 3.2 * (columns - 1)
    figure = new_figure(width, 0.8 + rows * (0.8 + 0.27 * len(names)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, measure in zip(panels, ranking.measures, strict=False):
        _plot_measure(style_axes(axes), ranking, measure, names)
    for axes in panels[len(ranking.measures) :]:
        axes.remove()
    set_title(figure, _title(ranking))
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries), size=8)
    return figure


def _plot_measure(axes: Axes, ranking: SourceRanking, measure: str, names: tuple[str, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    weights, measured = ranking.weights(measure=measure), ranking.found[measure]
    for place, name in enumerate(names):
        similarities = np.array(measured[name].similarities)
        if not similarities.size:
            axes.text(0.02, place, "none", transform=axes.get_yaxis_transform(), color=GREY, va="center", fontsize=8)
            continue
        colour, kind = (
            (BLUE, "mean and standard deviation") if weights.get(name) else (GREY, "the same of a source of weight 0")
        )
        axes.plot(similarities, np.full(similarities.size, place), "|", color=GREY, markersize=9, label="draw")
        mean, std = similarities.mean(), similarities.std()
        axes.errorbar(mean, place, xerr=std, fmt="o", color=colour, capsize=3, markersize=5, label=kind)
    axes.axvline(0, color=ORANGE, linestyle="--", linewidth=1, label="features unrelated to the labels")
    name_ticks(axes.yaxis, names, length=_MAX_NAME_LENGTH, size=10)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel(f"{drawable(measure)} above chance", parse_math=False)
