"""Pictures of a shortlist: the score and the regret against what training showed, and the curves of all rungs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..resolve.shortlists import Shortlist, regret_against
from ..study.finalists import DISTILLED, Finalist, epochs_of_rungs
from .style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    add_legend,
    drawable,
    format_count,
    legend_entries,
    name_ticks,
    new_figure,
    set_title,
    shortened,
    style_axes,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICK, BASELINES, FINALISTS = "pick", "baselines", "finalists"

_LINE_COLOURS = (GREEN, PINK, SKY, AMBER)
"""Colours of the networks without a score."""

_RUNG_COLOURS = (GREY, SKY)
"""Colours of the rungs before the last."""


def plot_shortlist(shortlist: Shortlist) -> dict[str, bytes]:
    """Plot a shortlist.

    Args:
        shortlist: The shortlist.

    Returns:
        Contents of PNG files by file name, without the pictures for which there are no data.
    """
    figures = {name: plot(shortlist) for name, plot in SHORTLIST_PICTURES.items()}
    return {name: to_png(figure) for name, figure in figures.items() if figure is not None}


def plot_scores(shortlist: Shortlist) -> Figure | None:
    """Plot the accuracy of each finalist in the first and in the last rung against its score, with the pick marked.

    Networks that the study did not score are lines at their accuracy in the last rung, the pick too if it is one.
    """
    return plot_finalists(shortlist.finalists, shortlist.proxy, f"on {shortlist.data}")


def plot_finalists(finalists: Sequence[Finalist], score: str, where: str) -> Figure | None:
    """Plot the accuracies of finalists against their scores; see `plot_scores`.

    Args:
        finalists: The finalists with their trials.
        score: Name of the score.
        where: What they were trained on, or where that is found, for the title.
    """
    epochs = epochs_of_rungs(finalists)
    scored = [finalist for finalist in finalists if finalist.score is not None]
    if not any(finalist.val_accuracy(1) is not None for finalist in scored):
        return None
    last = max(epochs)
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    for rung in sorted({1, last}):
        points = [(one.score, accuracy) for one in scored if (accuracy := one.val_accuracy(rung)) is not None]
        label = f"rung {rung}: {format_count(epochs[rung], 'epoch')}"
        colour, inside = (BLUE, BLUE) if rung == last else (GREY, "none")
        scores, accuracies = zip(*points, strict=True) if points else ((), ())
        axes.plot(scores, accuracies, "o", color=colour, markerfacecolor=inside, label=label)
    lines = ((one, one.val_accuracy(last)) for one in finalists if one.score is None)
    unscored = [(one, accuracy) for one, accuracy in lines if accuracy is not None]
    for place, (one, accuracy) in enumerate(unscored):
        colour = ORANGE if one.is_pick else _LINE_COLOURS[place % len(_LINE_COLOURS)]
        label = f"{one.name} ({PICK})" if one.is_pick else one.name
        axes.axhline(accuracy, color=colour, linestyle="--", linewidth=1.2, label=label)
    for pick in finalists:
        accuracy = pick.val_accuracy(last)
        if pick.is_pick and pick.score is not None and accuracy is not None:
            axes.plot(pick.score, accuracy, "*", color=ORANGE, markersize=14, label=PICK)
    axes.set_xlabel(f"score ({shortened(drawable(score), 40)})", parse_math=False)
    axes.set_ylabel("validation accuracy, distilled (%)")
    _finish(figure, "What training showed of the scores", finalists, where)
    return figure


def plot_regret(shortlist: Shortlist) -> Figure | None:
    """Plot what each finalist would have lost against the pick, on the last rung that both were trained on.

    The first of them is the guess: the best of the study by its score.
    """
    epochs = epochs_of_rungs(shortlist.finalists)
    regrets = [regret_against(shortlist.pick, finalist) for finalist in shortlist.finalists]
    if all(regret.loss is None for regret in regrets):
        return None
    figure = new_figure(height=1.8 + 0.26 * len(regrets))
    axes = style_axes(figure.add_subplot())
    for rung, count in epochs.items():
        bars = [(place, regret.loss) for place, regret in enumerate(regrets) if regret.rung == rung]
        if bars:
            colour = BLUE if rung == max(epochs) else _RUNG_COLOURS[(rung - 1) % len(_RUNG_COLOURS)]
            places, losses = zip(*bars, strict=True)
            axes.barh(places, losses, 0.6, color=colour, label=f"rung {rung}: {format_count(count, 'epoch')}")
    place = shortlist.finalists.index(shortlist.pick)
    axes.plot(0, place, "*", color=ORANGE, markersize=14, label=PICK, zorder=3, clip_on=False)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_axisbelow(True)
    guess = None if shortlist.regret is None else shortlist.regret.name
    names = [finalist.name for finalist in shortlist.finalists]
    name_ticks(axes.yaxis, [f"{name} (guess)" if name == guess else name for name in names])
    axes.tick_params(axis="y", length=0, pad=9)  # clear of the star
    axes.invert_yaxis()
    unit = "points of validation accuracy" if shortlist.measure == "accuracy" else shortlist.measure.replace("_", " ")
    axes.set_xlabel(f"lost against the pick ({unit})")
    _finish(figure, "What each finalist would have lost", shortlist.finalists, f"on {shortlist.data}")
    return figure


def plot_rungs(shortlist: Shortlist) -> Figure | None:
    """Plot the validation accuracy of every distillation by epoch, a rung in each panel.

    A dot is on the epoch whose weights are kept, which is the value of the training in the tables.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = epochs_of_rungs(shortlist.finalists)
    if not any(trial.curve for finalist in shortlist.finalists for trial in finalist.trials):
        return None
    figure = new_figure(width=max(7.0, 3.6 * len(epochs)))
    panels = figure.subplots(1, len(epochs), sharey=True, squeeze=False)[0]
    for rung, panel in zip(epochs, panels, strict=True):
        axes = style_axes(panel)
        for finalist in sorted(shortlist.finalists, key=lambda one: (one.is_pick, one.is_baseline)):
            _draw_curves(axes, finalist, rung)
        axes.set_title(f"rung {rung}: {format_count(epochs[rung], 'epoch')}", fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_ylabel("validation accuracy (%)")
    where = f"on {shortlist.data}; dots: the epochs that count"
    _finish(figure, "The rungs, each trained to its end", shortlist.finalists, where)
    return figure


SHORTLIST_PICTURES: dict[str, Callable[[Shortlist], Figure | None]] = {
    "scores.png": plot_scores,
    "regret.png": plot_regret,
    "rungs.png": plot_rungs,
}
"""The functions that plot the pictures of a shortlist, by file name."""


def _draw_curves(axes: Axes, finalist: Finalist, rung: int) -> None:
    """Draw the curves of the distillations of a finalist in a rung, one for each seed."""
    name, colour, line = FINALISTS, GREY, "-"
    if finalist.is_baseline:
        name, colour, line = BASELINES, GREEN, "--"
    if finalist.is_pick:
        name, colour, line = PICK, ORANGE, "-"
    for trial in finalist.trials:
        if trial.rung == rung and trial.kind == DISTILLED and trial.curve:
            epochs = range(1, len(trial.curve) + 1)
            kept = [trial.kept_epoch - 1] if trial.kept_epoch else [len(trial.curve) - 1]
            (curve,) = axes.plot(epochs, trial.curve, line, marker="o", markevery=kept, color=colour, label=name)
            curve.set(markersize=4, linewidth=1.4)


def _finish(figure: Figure, title: str, finalists: Sequence[Finalist], where: str) -> None:
    """Add the title, and the legend without repetitions."""
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries))
    set_title(figure, title, f"{format_count(len(finalists), 'finalist')} {where}")
