"""Pictures of a training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..training.best_epoch import BEST_BY
from ..training.result import EpochRow, SourceWeighting, TrainingResult
from .style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    add_legend,
    axis_number,
    format_count,
    label_log_axis,
    legend_entries,
    legend_name,
    name_points,
    name_ticks,
    new_figure,
    set_title,
    style_axes,
    to_png,
)
from .training import MAX_CLASSES, class_names_of, explain_weights, training_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# -- pictures -----------------------------------------------------------------------------------


def plot_training(rows: Sequence[EpochRow], result: TrainingResult) -> dict[str, bytes]:
    """Plot a training.

    Args:
        rows: Rows of the epochs, in order.
        result: The result of the training.

    Returns:
        Contents of PNG files by file name, without the pictures for which there are no data.
    """
    return {name: to_png(figure) for name, figure in training_figures(rows, result).items()}


def training_figures(rows: Sequence[EpochRow], result: TrainingResult) -> dict[str, Figure]:
    """The figures of a training by file name, without those for which there are no data."""
    test, sources = result.test, result.sources
    has_data = {
        "loss.png": bool(rows),
        "accuracy.png": bool(rows),
        "reliability.png": test is not None and bool(test.bins),
        "classes.png": test is not None and 2 <= len(test.class_accuracy) <= MAX_CLASSES,
        "weights.png": sources is not None and bool(sources.models),
    }
    return {name: plot(rows, result) for name, plot in TRAINING_PICTURES.items() if has_data[name]}


def plot_losses(rows: Sequence[EpochRow], result: TrainingResult) -> Figure:
    """Plot the loss by epoch with its weighted terms, and the cross entropy of the validation images."""
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    terms = _plotted_terms(rows)
    lines = {
        "loss": _column(row.loss for row in rows),
        **{f"loss/{name}": _column(row.terms.get(name) for row in rows) for name in terms},
        "val_loss": _column(row.val_loss for row in rows),
    }
    epochs = _column(row.epoch for row in rows)
    marker = _marker(rows)
    special = {"loss": ("total", "-", "black"), "val_loss": ("validation, cross entropy", "--", GREY)}
    styles = dict(zip(terms, itertools.cycle(itertools.product(_TERM_STYLES, _TERM_COLOURS)), strict=False))
    for name, values in lines.items():
        if not np.isfinite(values).any() or (name == "loss" and len(terms) == 1):
            continue  # a loss of one term equals that term
        term = name.removeprefix("loss/")
        label, style, colour = special[name] if name in special else (legend_name(term, 34), *styles[term])
        axes.plot(epochs, values, style, color=colour, marker=marker, markersize=3, label=label)
    if _is_wide(lines.values()):
        axes.set_yscale("log")
        label_log_axis(axes.yaxis)
    axes.set_ylabel("loss, weighted as added")
    _finish(figure, axes, rows, result)
    return figure


def _plotted_terms(rows: Sequence[EpochRow]) -> list[str]:
    """The terms of the loss, without sources too small to be visible next to the total."""
    terms = dict.fromkeys(name for row in rows for name in row.terms)
    least = _MIN_SOURCE_SHARE * np.nanmax(_column(row.loss for row in rows), initial=0.0)
    return [
        name
        for name in terms
        if not name.startswith("source ")
        or np.nanmax(_column(row.terms.get(name) for row in rows), initial=0.0) >= least
    ]


def plot_accuracy(rows: Sequence[EpochRow], result: TrainingResult) -> Figure:
    """Plot the accuracy by epoch on training and validation images, with the best epoch, the test and the teacher."""
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    epochs, marker = _column(row.epoch for row in rows), _marker(rows)
    for values, colour, label in (
        (_column(row.train_accuracy for row in rows), GREY, "training, augmented"),
        (_column(row.val_accuracy for row in rows), BLUE, "validation"),
        (_balanced(rows), SKY, "validation, balanced"),
    ):
        if np.isfinite(values).any():
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=label)
    best, test, teacher = result.best, result.test, result.teacher
    if best is not None and best.epoch is not None and best.val_accuracy is not None:
        height, by = best.val_accuracy, ""
        if result.best_by != "accuracy":
            by = f" ({BEST_BY[result.best_by].name.removesuffix(' accuracy')})"
        if result.best_by == "balanced_accuracy" and best.val_balanced_accuracy is not None:
            height = best.val_balanced_accuracy
        label = f"best{by}, epoch {best.epoch}: {height:.2f} %"
        axes.plot(best.epoch, height, "*", color=ORANGE, markeredgecolor="white", markersize=14, label=label)
    if test is not None:
        label = f"test, epoch {test.epoch}: {test.accuracy:.2f} %"
        axes.axhline(test.accuracy, color=ORANGE, linestyle="--", linewidth=1.4, label=label)
    if teacher is not None and teacher.accuracy is not None:
        label = f"test, teacher: {teacher.accuracy:.2f} %"
        axes.axhline(teacher.accuracy, color=GREEN, linestyle=":", linewidth=1.8, label=label)
    axes.set_ylabel("accuracy (%)")
    _finish(figure, axes, rows, result)
    return figure


def _balanced(rows: Sequence[EpochRow]) -> NDArray[np.float64]:
    """The balanced accuracy of each epoch; NaN if all are near the accuracy, as for classes of equal size."""
    balanced, plain = _column(row.val_balanced_accuracy for row in rows), _column(row.val_accuracy for row in rows)
    return balanced if (np.abs(balanced - plain) > _VISIBLE_DIFFERENCE).any() else np.full_like(balanced, np.nan)


def plot_reliability(rows: Sequence[EpochRow], result: TrainingResult) -> Figure:
    """Plot accuracy against confidence on the test images, and the number of images by confidence."""
    test = result.test
    assert test is not None
    width = 100 / len(test.bins)
    bins = [(width * (place + 0.5), part) for place, part in enumerate(test.bins) if part.samples]
    middles = np.array([middle for middle, _ in bins])
    accuracies = [part.accuracy or 0.0 for _, part in bins]
    confidences = [part.confidence for _, part in bins]
    samples = [part.samples for _, part in bins]
    figure = new_figure(5.4, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    style_axes(upper).bar(middles, accuracies, 0.94 * width, color=BLUE, alpha=0.8, label="accuracy")
    ends = middles - 0.47 * width, middles + 0.47 * width
    upper.hlines(confidences, *ends, color=ORANGE, linewidth=2.5, label="mean confidence")
    upper.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="calibrated")
    upper.set(xlim=(0, 100), ylim=(0, 101), ylabel="accuracy (%)")
    style_axes(lower).bar(middles, samples, 0.94 * width, color=GREY)
    lower.set(ylabel="images", xlabel="confidence: largest probability (%)")
    subtitle = f"calibration error {test.calibration_error:.2f} % on {format_count(test.samples, 'test image')}"
    set_title(figure, training_title(result), subtitle)
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries))
    return figure


def plot_classes(rows: Sequence[EpochRow], result: TrainingResult) -> Figure:
    """Plot the test accuracy of each class, the best first, in enough columns to keep the names readable."""
    test = result.test
    assert test is not None
    accuracies = test.class_accuracy
    names = class_names_of(result.classes, len(accuracies))
    bars = sorted(zip(accuracies, names, strict=True), key=lambda bar: math.inf if bar[0] is None else -bar[0])
    columns = math.ceil(len(bars) / _BARS_PER_COLUMN)
    size = math.ceil(len(bars) / columns)
    figure = new_figure(3 + 3 * columns if columns > 1 else 7, 1.4 + 0.19 * max(size, 4))
    for place, axes in enumerate(figure.subplots(1, columns, sharex=True, squeeze=False)[0]):
        _plot_bars(style_axes(axes), bars[place * size : (place + 1) * size], size)
        axes.axvline(test.accuracy, color=ORANGE, linestyle="--", linewidth=1.4)
        axes.set_xlabel("accuracy (%)")
    balanced = "" if test.balanced_accuracy is None else f"; balanced {test.balanced_accuracy:.2f} %"
    subtitle = f"test accuracy of each class; dashed: {test.accuracy:.2f} % of all images{balanced}"
    set_title(figure, training_title(result), subtitle)
    return figure


def _plot_bars(axes: Axes, bars: Sequence[tuple[float | None, str]], size: int) -> None:
    """Horizontal bars from the top down, with room for `size` of them."""
    places = range(len(bars))
    axes.barh(places, [accuracy or 0.0 for accuracy, _ in bars], 0.78, color=BLUE, alpha=0.8)
    for place, (accuracy, _) in enumerate(bars):
        axes.text(102, place, "-" if accuracy is None else f"{accuracy:.1f}", va="center", fontsize=7)
    name_ticks(axes.yaxis, [name for _, name in bars], length=26)
    axes.set(xlim=(0, 116), xticks=range(0, 101, 25), ylim=(size - 0.4, -0.6))
    axes.grid(visible=False, axis="y")


def plot_weights(rows: Sequence[EpochRow], result: TrainingResult) -> Figure:
    """Plot the weight of each source against its similarity to the data, as named points."""
    sources = result.sources
    assert sources is not None
    models = sources.models
    weights = np.array([model.weight for model in models])
    similarities = _column(model.similarity for model in models)
    is_measured = np.isfinite(similarities)
    places = np.where(is_measured, similarities, _left_of(similarities[is_measured]))
    height = max(4.2, 1.6 + 0.17 * len(models))
    figure = new_figure(8, height)
    axes = style_axes(figure.add_subplot())
    spread = np.nan_to_num(_column(model.std for model in models))[is_measured]
    axes.errorbar(places[is_measured], weights[is_measured], xerr=spread, fmt="none", ecolor=GREY)
    axes.scatter(places, weights, s=36, c=[BLUE if weight else GREY for weight in weights], zorder=3)
    top = weights.max() or 1.0
    axes.set_ylim(-0.05 * top, 1.06 * top)
    name_points(axes, places, weights, [model.name for model in models], 0.17 / (height - 1.5))
    _label_similarities(axes, sources, places, is_measured)
    axes.set_ylabel("weight")
    subtitle = f"{format_count(len(models), 'source')}: {explain_weights(sources)}"
    if reason := sources.fallback or ("" if weights.any() else "no source has a weight"):
        subtitle = f"{reason}; trained on labels alone"
    set_title(figure, training_title(result), subtitle)
    return figure


def _left_of(values: NDArray[np.float64]) -> float:
    """Position of points without a value: to the left of all others."""
    return float(values.min() - 0.15 * (np.ptp(values) or 1.0)) if len(values) else 0.0


def _label_similarities(
    axes: Axes, sources: SourceWeighting, places: NDArray[np.float64], is_measured: NDArray[np.bool_]
) -> None:
    """Label the axis of similarities, with chance level and the position of sources without a similarity."""
    measure = sources.measure if is_measured.any() else None
    axes.set_xlabel(f"similarity to the data ({measure})" if measure else "similarity to the data")
    if not is_measured.any():
        axes.set_xticks([0], ["not measured"])
        return
    if places[is_measured].min() <= 0 <= places[is_measured].max():
        axes.axvline(0, color="black", linestyle="--", linewidth=1)
    if not is_measured.all():
        unknown, right = places[~is_measured][0], axes.get_xlim()[1]
        ticks = [tick for tick in axes.get_xticks() if unknown < tick <= right]
        axes.set_xticks([unknown, *ticks], ["\nunknown", *map(axis_number, ticks)])


TRAINING_PICTURES: dict[str, Callable[[Sequence[EpochRow], TrainingResult], Figure]] = {
    "loss.png": plot_losses,
    "accuracy.png": plot_accuracy,
    "reliability.png": plot_reliability,
    "classes.png": plot_classes,
    "weights.png": plot_weights,
}
"""The functions that plot the pictures of a training, by file name."""


_TERM_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
"""Colours of the terms of a loss, in order."""


_VISIBLE_DIFFERENCE = 1.0
"""Points of accuracy by which lines must differ to be drawn apart."""


_MIN_SOURCE_SHARE = 0.001
"""Least share of the loss for a source to be plotted; with a high power most sources have far less."""


_TERM_STYLES = ("-", "--", ":")
"""Line styles; the next one begins when the colours are used up."""


_BARS_PER_COLUMN = 34
"""Most bars above each other that are easy to read on one page."""


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    """The values as an array, (N,); NaN if not known."""
    return np.array([math.nan if value is None else float(value) for value in values])


def _marker(rows: Sequence[EpochRow]) -> str:
    """The marker of a line: dots if epochs are few, since one epoch makes no line."""
    return "o" if len(rows) <= 40 else ""


def _is_wide(lines: Iterable[NDArray[np.float64]]) -> bool:
    """Whether a logarithmic axis suits the values: all positive, with a range above a factor of ten."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines])
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _finish(figure: Figure, axes: Axes, rows: Sequence[EpochRow], result: TrainingResult) -> None:
    from matplotlib.ticker import MaxNLocator

    last = rows[-1].epoch
    axes.set_xlim(0.5, last + max(0.5, 0.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    set_title(figure, training_title(result))
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries))
