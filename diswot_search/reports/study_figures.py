"""Pictures of a study that a page has beside those of its run folder: why the winner won, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..study.finalists import Finalist
from ..study.study import Study
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    add_legend,
    legend_entries,
    name_ticks,
    new_figure,
    set_title,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_parts(study: Study) -> Figure | None:
    """Plot where the parts of the winner's score lie among those of all candidates, as bars; None without parts.

    A bar is the share of the candidates whose part is lower, so that parts of any scale stand side by side.
    """
    best = study.best(1)
    if not best or not best[0].parts:
        return None
    names = [*best[0].parts, "score"]
    own = {**best[0].parts, "score": best[0].score}
    columns: dict[str, list[float]] = {name: [] for name in names}
    for record in study.records:
        if record.status != "ok" or record.score is None:
            continue
        columns["score"].append(record.score)
        for name, value in record.parts.items():
            if name in columns:
                columns[name].append(value)
    shares = [_share_below(np.array(columns[name]), own[name]) for name in names]
    figure = new_figure(height=1.3 + 0.34 * len(names))
    axes = style_axes(figure.add_subplot())
    axes.grid(visible=False, axis="y")
    colours = [*[BLUE] * (len(names) - 1), ORANGE]
    axes.barh(range(len(names)), shares, 0.6, color=colours)
    for place, (name, share) in enumerate(zip(names, shares, strict=True)):
        axes.text(share + 1, place, f"{own[name]:.4g}", va="center", fontsize=8)
    axes.axvline(50, color=GREY, linestyle="--", linewidth=1, label="median candidate")
    name_ticks(axes.yaxis, names, size=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("candidates that are lower (%); the number is the winner's own value")
    set_title(figure, f"The winner's {study.config.get('proxy', 'score')} by its parts")
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries), size=8)
    return figure


def _share_below(values: np.ndarray, own: float) -> float:
    """The share of values that are lower, in percent; equal ones count half."""
    if len(values) < 2:
        return 100.0
    return float(100 * ((values < own).sum() + 0.5 * ((values == own).sum() - 1)) / (len(values) - 1))


def plot_accuracies(finalists: Sequence[Finalist], where: str) -> Figure | None:
    """Plot the accuracy of finalists in the last rung that each took part in against their multiply-accumulates.

    Finalists without a cost and those that were never trained are left out; None if none is left.

    Args:
        finalists: The finalists with their trials.
        where: The data, for the title.
    """
    drawn = [one for one in finalists if one.macs is not None and one.val_accuracy(one.last_rung) is not None]
    if not drawn:
        return None
    last = max(one.last_rung for one in drawn)
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    groups = {
        "finalist, out in an earlier rung": ("o", GREY, [o for o in drawn if o.last_rung < last and not o.is_baseline]),
        "baseline": ("s", GREEN, [o for o in drawn if o.is_baseline and not o.is_pick]),
        "finalist, in the last rung": ("o", BLUE, [o for o in drawn if o.last_rung == last and not o.is_baseline]),
        "pick": ("*", ORANGE, [one for one in drawn if one.is_pick]),
    }
    for label, (marker, colour, members) in groups.items():
        if members := [one for one in members if label == "pick" or not one.is_pick]:
            x = np.array([one.macs for one in members], float)
            y = np.array([one.val_accuracy(one.last_rung) for one in members], float)
            size = 14 if marker == "*" else 7
            axes.plot(x, y, marker, color=colour, markersize=size, label=label)
    axes.set_xlabel("multiply-accumulates of one image")
    axes.set_ylabel("validation accuracy, distilled (%)")
    set_title(figure, f"Accuracy against cost {where}", "each in the last rung that it took part in")
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries), size=8)
    return figure
