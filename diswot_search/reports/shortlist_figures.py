"""Pictures of a shortlist: the score against what training showed, and the curves of all rungs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..resolve.shortlists import Shortlist
from ..study.finalists import DISTILLED, Finalist
from .style import BLUE, GREEN, GREY, ORANGE, add_legend, format_count, new_figure, set_title, style_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICK, BASELINES, FINALISTS = "pick", "baselines", "finalists"


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

    Networks that the study did not score are lines at their accuracy in the last rung.
    """
    last = len(shortlist.rungs)
    scored = [finalist for finalist in shortlist.finalists if finalist.score is not None]
    if not any(finalist.val_accuracy(1) is not None for finalist in scored):
        return None
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    for rung in sorted({1, last}):
        points = [(one.score, accuracy) for one in scored if (accuracy := one.val_accuracy(rung)) is not None]
        label = f"rung {rung}: {format_count(shortlist.rungs[rung - 1].epochs, 'epoch')}"
        colour, inside = (BLUE, BLUE) if rung == last else (GREY, "none")
        scores, accuracies = zip(*points, strict=True) if points else ((), ())
        axes.plot(scores, accuracies, "o", color=colour, markerfacecolor=inside, label=label)
    for finalist in shortlist.finalists:
        accuracy = finalist.val_accuracy(last)
        if finalist.score is None and accuracy is not None:
            axes.axhline(accuracy, color=GREEN, linestyle="--", linewidth=1.2, label=finalist.name)
    pick = shortlist.pick
    accuracy = pick.val_accuracy(last)
    if pick.score is not None and accuracy is not None:
        axes.plot(pick.score, accuracy, "*", color=ORANGE, markersize=14, label=PICK)
    axes.set_xlabel(f"score ({shortlist.proxy})")
    axes.set_ylabel("validation accuracy, distilled (%)")
    _finish(figure, axes, "What training showed of the scores", shortlist)
    return figure


def plot_rungs(shortlist: Shortlist) -> Figure | None:
    """Plot the validation accuracy of every distillation by epoch, a rung in each panel."""
    from matplotlib.ticker import MaxNLocator

    rungs = range(1, len(shortlist.rungs) + 1)
    if not any(trial.curve for finalist in shortlist.finalists for trial in finalist.trials):
        return None
    figure = new_figure(width=max(7.0, 3.6 * len(rungs)))
    panels = figure.subplots(1, len(rungs), sharey=True, squeeze=False)[0]
    for rung, panel in zip(rungs, panels, strict=True):
        axes = style_axes(panel)
        for finalist in sorted(shortlist.finalists, key=lambda one: (one.is_pick, one.is_baseline)):
            _draw_curves(axes, finalist, rung)
        axes.set_title(f"rung {rung}", fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_ylabel("validation accuracy (%)")
    _finish(figure, panels[-1], "The rungs, each trained to its end", shortlist, others=panels[:-1])
    return figure


SHORTLIST_PICTURES: dict[str, Callable[[Shortlist], Figure | None]] = {
    "scores.png": plot_scores,
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
            marker = "o" if len(trial.curve) == 1 else ""  # a line of one point is not seen
            axes.plot(epochs, trial.curve, line, marker=marker, color=colour, linewidth=1.4, label=name)


def _finish(figure: Figure, axes: Axes, title: str, shortlist: Shortlist, *, others: tuple[Axes, ...] = ()) -> None:
    """Add the title, and the legend without repetitions."""
    entries: dict[str, object] = {}
    for one in (axes, *others):
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    add_legend(figure, list(entries.values()), list(entries))  # type: ignore[arg-type]
    set_title(figure, title, f"{format_count(len(shortlist.finalists), 'finalist')} on {shortlist.data}")
