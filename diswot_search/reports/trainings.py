"""Reports of trainings side by side, with their seeds put together: a table in four forms, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from ..comparison.trainings import (
    FAILED,
    TrainingRow,
    TrainingSummary,
    describe_values,
    value_text,
)
from ..runtime.configuration import PACKAGES
from ..runtime.files import csv_line
from ..runtime.run_folder import COMPLETE
from ..training.seeds import Difference, Spread
from .style import (
    BLUE,
    GREY,
    ORANGE,
    add_legend,
    escape_markdown,
    format_count,
    legend_entries,
    name_ticks,
    new_figure,
    set_title,
    shortened,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PLOTTED = 60
"""Most rows in a picture; the best ones are chosen."""

_MAX_LABEL, _MAX_VALUE = 80, 28
"""Most characters of the name of a row in a picture, and of a value in it."""

_MAX_REASONS = 20
"""Most trainings without a result that are named below a table."""


# -- cells --------------------------------------------------------------------------------------


def _columns(summary: TrainingSummary, plus_minus: str) -> dict[str, Callable[[TrainingRow], str]]:
    """The columns of numbers by heading, without those that no row fills."""
    columns: dict[str, Callable[[TrainingRow], str]] = {
        "test accuracy": lambda row: _spread(row.accuracy, plus_minus) or _without_result(row),
        "seeds": lambda row: str(row.accuracy.count) if row.accuracy else "0",
        "balanced accuracy": lambda row: _spread(row.balanced_accuracy, plus_minus),
        "teacher accuracy": lambda row: "" if row.teacher_accuracy is None else f"{row.teacher_accuracy:.2f}",
        "seconds": lambda row: "" if row.seconds is None else _seconds(row.seconds),
    }
    if summary.baseline is not None:
        columns["difference"] = lambda row: "baseline" if row.is_baseline else _difference(row, row.difference)
    return {name: cell for name, cell in columns.items() if any(map(cell, summary.rows))}


def _spread(values: Spread | None, plus_minus: str) -> str:
    if values is None:
        return ""
    return f"{values.mean:.2f}" + ("" if values.std is None else f" {plus_minus} {values.std:.2f}")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def _without_result(row: TrainingRow) -> str:
    return "failed" if row.failed and not row.unfinished else "not finished"


def _difference(row: TrainingRow, difference: Difference | None) -> str:
    """A difference with its interval, and the number of pairs where it is not that of the seeds."""
    if difference is None:
        return ""
    interval = "" if difference.low is None else f" [{difference.low:+.2f}, {difference.high:+.2f}]"
    if difference.has_equal_values:
        interval = ", equal in all pairs"
    count = row.accuracy.count if row.accuracy else 0
    pairs = "" if difference.count == count else f", {format_count(difference.count, 'pair')}"
    return f"{difference.mean:+.2f}{interval}{pairs}"


def describe_difference(difference: Difference, level: float) -> str:
    """A difference of accuracies over paired seeds in words, with its interval.

    Args:
        difference: The difference, in points.
        level: Level of the interval, such as .95.

    Example:
        >>> from diswot_search.training.seeds import paired_difference
        >>> describe_difference(paired_difference([52.0, 48.0], [50.0, 45.0]), 0.95)
        '+2.50 points [-3.85, +8.85], 95 % t interval over 2 pairs'
        >>> describe_difference(paired_difference([52.0, 47.0], [50.0, 45.0]), 0.95)
        '+2.00 points (no interval) over 2 pairs'
    """
    interval = ""
    if difference.has_equal_values:
        interval = " (no interval)"
    elif difference.low is not None and difference.high is not None:
        interval = f" [{difference.low:+.2f}, {difference.high:+.2f}], {100 * level:g} % t interval"
    return f"{difference.mean:+.2f} points{interval} over {format_count(difference.count, 'pair')}"


def _cells(summary: TrainingSummary, plus_minus: str = "±") -> tuple[list[str], list[list[str]]]:
    """The headings of all columns, and the cells of all rows."""
    columns = _columns(summary, plus_minus)
    rows = [
        [*(value_text(row.values[key]) for key in summary.keys), *(cell(row) for cell in columns.values())]
        for row in summary.rows
    ]
    return [*summary.keys, *columns], rows


def explain_trainings(summary: TrainingSummary) -> Iterator[str]:
    """Sentences that say what the numbers are, and which trainings have no result."""
    yield (
        "Accuracies on test images in percent: mean ± sample standard deviation over seeds. Seconds are those of a "
        f"training with its validation{_beside(summary)}."
    )
    yield from _explain_versions(summary)
    if summary.baseline is not None:
        yield from _explain_differences(summary, summary.baseline)
    without = [cell for cell in summary.cells if cell.status != COMPLETE]
    for cell in without[:_MAX_REASONS]:
        yield f"{cell.name} failed: {cell.reason}" if cell.status == FAILED else f"{cell.name} is not finished."
    if len(without) > _MAX_REASONS:
        yield f"{len(without) - _MAX_REASONS:,} more trainings have no result."


def _beside(summary: TrainingSummary) -> str:
    """What ran beside the trainings whose seconds are shown; empty if nothing did."""
    results = [cell.result for cell in summary.cells if cell.result is not None]
    counts = sorted({result.timing.workers for result in results if result.timing is not None})
    if not counts or counts[-1] == 1:
        return ""
    return f", by {counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'} workers at once"


def _explain_versions(summary: TrainingSummary) -> Iterator[str]:
    """A sentence if trainings under different versions of a package stand side by side."""
    results = [cell.result for cell in summary.cells if cell.result is not None]
    installed = {name: sorted({one.versions[name] for one in results if name in one.versions}) for name in PACKAGES}
    if mixed := [f"{name} {' and '.join(found)}" for name, found in installed.items() if len(found) > 1]:
        yield f"Accuracies were reached under different versions, which change them as well: {', '.join(mixed)}."


def _explain_differences(summary: TrainingSummary, baseline: Mapping[str, object]) -> Iterator[str]:
    others = [key for key in summary.keys if key not in baseline]
    alike = f" and the same {', '.join(others)} (where they have one)" if others else ""
    yield (
        f"Differences to trainings with {describe_values(baseline)}{alike}: mean over pairs of the same seed, in "
        f"points, with its {100 * summary.level:g} % t interval from 2 pairs on."
    )
    if any(row.difference is None and row.accuracy is not None and not row.is_baseline for row in summary.rows):
        yield "Rows without a difference have no such baseline, more than one, or none of the same seed."


# -- forms --------------------------------------------------------------------------------------


def format_trainings(summary: TrainingSummary) -> Table:
    """Format trainings for a terminal."""
    explanations = "\n".join(explain_trainings(summary))
    table = Table(title=_title(summary), caption=Text(explanations, style="dim"), caption_justify="left")
    head, rows = _cells(summary)
    for place, name in enumerate(head):
        is_number = place >= len(summary.keys)
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row, cells in zip(summary.rows, rows, strict=True):
        table.add_row(*map(Text, cells), style="bold" if row.is_baseline else "")
    return table


def trainings_markdown(summary: TrainingSummary) -> str:
    """Trainings as a table of Markdown, with explanations below."""
    head, rows = _cells(summary)
    keys = len(summary.keys)
    lines = [head, ["---"] * keys + ["---:"] * (len(head) - keys)]
    lines[0] = [escape_markdown(name) for name in head]
    lines += [[escape_markdown(cell) for cell in row] for row in rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([table, *map(escape_markdown, explain_trainings(summary))]) + "\n"


def trainings_csv(summary: TrainingSummary) -> Iterator[str]:
    """The lines of a CSV file with a row for each combination and every number in a column of its own."""
    head, _ = _number_columns(summary.rows[0], summary) if summary.rows else ([], [])
    yield csv_line([*summary.keys, *head])
    for row in summary.rows:
        values = [None if row.values[key] is None else value_text(row.values[key]) for key in summary.keys]
        yield csv_line([*values, *_number_columns(row, summary)[1]])


def _number_columns(row: TrainingRow, summary: TrainingSummary) -> tuple[list[str], list[object]]:
    """Names and values of the numbers of a row; a missing one is None."""
    accuracy, balanced, difference = row.accuracy, row.balanced_accuracy, row.difference
    columns: dict[str, object] = {
        "accuracy_mean": accuracy and accuracy.mean,
        "accuracy_std": accuracy and accuracy.std,
        "seeds": accuracy.count if accuracy else 0,
        "balanced_accuracy_mean": balanced and balanced.mean,
        "balanced_accuracy_std": balanced and balanced.std,
        "teacher_accuracy": row.teacher_accuracy,
        "seconds_mean": row.seconds,
        "failed": row.failed,
        "unfinished": row.unfinished,
    }
    if summary.baseline is not None:
        columns |= {
            "is_baseline": int(row.is_baseline),
            "difference_mean": difference and difference.mean,
            "difference_low": difference and difference.low,
            "difference_high": difference and difference.high,
            "difference_level": summary.level,
            "pairs": difference.count if difference else 0,
        }
    return list(columns), list(columns.values())


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """A text in which LaTeX reads nothing as a command.

    Example:
        >>> print(escape_latex("50 % of a_b"))
        50 \\% of a\\_b
    """
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def trainings_latex(summary: TrainingSummary) -> str:
    """Trainings as a table of LaTeX, which needs the package booktabs; explanations are comments."""
    head, rows = _cells(summary)
    keys = len(summary.keys)
    lines = [f"% {escape_latex(line)}" for line in explain_trainings(summary)]
    lines += [f"\\begin{{tabular}}{{{'l' * keys}{'r' * (len(head) - keys)}}}", r"\toprule", _latex_row(head)]
    lines += [r"\midrule", *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    """A row; its first cell is kept apart from the line before, which takes a bracket for an argument."""
    first, *others = map(escape_latex, cells)
    if first.startswith("["):
        first = f"{{}}{first}"
    return f"{' & '.join([first, *others])} \\\\"


def _title(summary: TrainingSummary) -> Text:
    done = sum(cell.status == COMPLETE for cell in summary.cells)
    of = "" if done == len(summary.cells) else f" of {len(summary.cells):,}"
    return Text(f"{done:,}{of} {'training' if done == 1 and not of else 'trainings'}")


# -- picture ------------------------------------------------------------------------------------


def plot_trainings(summary: TrainingSummary) -> Figure | None:
    """Plot the mean accuracy of each row with its standard deviation; None if no training is complete."""
    rows = [row for row in summary.rows if row.accuracy is not None]
    if not rows:
        return None
    chosen = sorted(rows, key=lambda row: -row.accuracy.mean if row.accuracy else 0.0)[:_MAX_PLOTTED]
    shown = [row for row in rows if any(row is one for one in chosen)]
    varying = [key for key in summary.keys if len({value_text(row.values[key]) for row in shown}) > 1]
    names = [_label(row, varying or summary.keys) for row in shown]
    figure = new_figure(9, 1.5 + 0.3 * len(shown))
    axes = style_axes(figure.add_subplot())
    for label, colour, is_baseline in (("mean and standard deviation", BLUE, False), ("baseline", ORANGE, True)):
        places = [place for place, row in enumerate(shown) if row.is_baseline == is_baseline]
        spreads = [row.accuracy for row in shown if row.is_baseline == is_baseline]
        if places:
            means = [one.mean for one in spreads if one]
            stds = [one.std or 0.0 for one in spreads if one]
            axes.errorbar(means, places, xerr=stds, fmt="o", color=colour, capsize=3, markersize=5, label=label)
    _plot_teachers(axes, shown)
    name_ticks(axes.yaxis, names, length=_MAX_LABEL)
    axes.set_ylim(len(shown) - 0.5, -0.5)  # the first row at the top
    axes.set_xlabel("test accuracy, %")
    left_out = f" The best {len(shown)} of {len(rows)} are shown." if len(shown) < len(rows) else ""
    seeds = sorted({row.accuracy.count for row in shown if row.accuracy})
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    noun = "seed" if seeds == [1] else "seeds"
    set_title(figure, f"Test accuracy over {counts} {noun}.{left_out}")
    entries = legend_entries(figure)
    add_legend(figure, list(entries.values()), list(entries), size=8)
    return figure


def _label(row: TrainingRow, keys: Sequence[str]) -> str:
    """The name of a row: its values, under the names that options have in their mappings, where these differ."""
    short = [key.rpartition(".")[2] for key in keys]
    names = short if len(set(short)) == len(keys) else keys
    values = {name: row.values[key] for name, key in zip(names, keys, strict=True)}
    return describe_values(
        {key: value if value is None else shortened(value_text(value), _MAX_VALUE) for key, value in values.items()}
    )


def _plot_teachers(axes: object, rows: Sequence[TrainingRow]) -> None:
    """Mark the accuracy of the teacher of each row."""
    taught = [(place, row.teacher_accuracy) for place, row in enumerate(rows) if row.teacher_accuracy is not None]
    if taught:
        places, accuracies = np.array(taught, dtype=float).T
        axes.plot(accuracies, places, "|", color=GREY, markersize=14, markeredgewidth=2, label="teacher")  # type: ignore[attr-defined]
