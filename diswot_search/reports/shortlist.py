"""Reports of a shortlist: its finalists and the verdict, in a terminal, as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from ..resolve.shortlists import DISTIL, DO_NOT_DISTIL, Contender, Shortlist, Verdict
from ..runtime.files import csv_line
from ..study.finalists import ALONE, BASELINE, DISTILLED, Finalist
from ..study.halving import standard_error
from ..training.seeds import Difference
from .style import escape_markdown, format_count, human_number

_COLUMNS = (
    "place", "name", "origin", "is_baseline", "is_pick", "is_within_budget", "last_rung", "params", "macs", "score",
)  # fmt: skip
"""Fields of a finalist that are columns of the CSV."""


# -- the table ----------------------------------------------------------------------------------


def _heads(shortlist: Shortlist) -> list[str]:
    rungs = [f"rung {number}: {format_count(rung.epochs, 'epoch')}" for number, rung in enumerate(shortlist.rungs, 1)]
    return ["", "name", "chosen by", "params", "MACs", "score", *rungs, "test", "alone"]


def _cells(shortlist: Shortlist, finalist: Finalist) -> list[str]:
    values = [_rung(finalist, number) for number in range(1, len(shortlist.rungs) + 1)]
    return [
        "pick" if finalist.is_pick else str(finalist.place),
        finalist.name,
        _chosen_by(finalist),
        "" if finalist.params is None else human_number(finalist.params),
        "" if finalist.macs is None else human_number(finalist.macs),
        "" if finalist.score is None else f"{finalist.score:.5g}",
        *values,
        *(_percent(finalist.test_accuracy(kind)) for kind in (DISTILLED, ALONE)),
    ]


def _chosen_by(finalist: Finalist) -> str:
    is_also_baseline = finalist.is_baseline and finalist.origin != BASELINE
    return f"{finalist.origin}{' (baseline)' if is_also_baseline else ''}"


def _rung(finalist: Finalist, rung: int) -> str:
    """The validation accuracy of a finalist in a rung, with the number of seeds if they are several."""
    trials = [trial for trial in finalist.trials if trial.rung == rung and trial.kind == DISTILLED]
    accuracy = finalist.val_accuracy(rung)
    if accuracy is None:
        return "failed" if trials and all(trial.reason for trial in trials) else ""
    seeds = sum(trial.val_accuracy is not None for trial in trials)
    return f"{accuracy:.2f}" + (f" ({seeds} seeds)" if seeds > 1 else "")


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"


def _by_outcome(shortlist: Shortlist) -> list[Finalist]:
    """The pick first, then those that came furthest, the best value first."""

    def key(finalist: Finalist) -> tuple[bool, int, float, int]:
        value = finalist.value(finalist.last_rung)
        return not finalist.is_pick, -finalist.last_rung, -(value if value is not None else -1e300), finalist.place

    return sorted(shortlist.finalists, key=key)


def format_shortlist(shortlist: Shortlist) -> Table:
    """Format the finalists, those that came furthest first.

    Args:
        shortlist: The shortlist.
    """
    explanation = "\n".join(_explain(shortlist))
    table = Table(
        title=f"{format_count(len(shortlist.finalists), 'finalist')} on {shortlist.data}",
        caption=Text(explanation, style="dim"),
        caption_justify="left",
    )
    finalists = _by_outcome(shortlist)
    rows = [_cells(shortlist, finalist) for finalist in finalists]
    for place, head in enumerate(_heads(shortlist)):
        if place < 2 or any(row[place] for row in rows):
            table.add_column(head, justify="left" if place < 3 else "right", overflow="fold")
    filled = [place for place in range(len(rows[0])) if place < 2 or any(row[place] for row in rows)]
    for finalist, row in zip(finalists, rows, strict=True):
        table.add_row(*(Text(row[place]) for place in filled), style="bold" if finalist.is_pick else "")
    return table


def _explain(shortlist: Shortlist) -> Iterator[str]:
    accuracy = shortlist.pick.val_accuracy(len(shortlist.rungs))
    error = standard_error(accuracy, shortlist.val_images) if accuracy is not None and shortlist.val_images else 0.0
    yield (
        f"Rungs: accuracy on {format_count(shortlist.val_images, 'validation image')} in percent, distilled, with a "
        f"standard error of about {error:.2g} points; test and alone: mean accuracy on "
        f"{format_count(shortlist.test_images, 'test image')} over seeds, looked at once, at the end."
    )
    if shortlist.measure != "accuracy":
        yield f"Finalists are ordered by {shortlist.measure} on the validation images."


# -- in sentences -------------------------------------------------------------------------------


def introduce_finalists(finalists: Sequence[Finalist], notices: Sequence[str]) -> Iterator[str]:
    """The finalists in lines, as they are known before the first training: who takes part, who is out, and notices.

    Args:
        finalists: The finalists in order of their places.
        notices: What was left out or done otherwise, in sentences.
    """
    able = [finalist for finalist in finalists if finalist.reason is None]
    names = (f"{finalist.name} ({_chosen_by(finalist)})" for finalist in able)
    yield f"{format_count(len(able), 'finalist')}: {', '.join(names)}"
    yield from _outs(finalists)
    yield from notices


def _outs(finalists: Sequence[Finalist]) -> Iterator[str]:
    for finalist in finalists:
        if finalist.reason is not None:
            yield f"out: {finalist.name}: {finalist.reason}"


def describe_shortlist(shortlist: Shortlist) -> Iterator[str]:
    """Describe a shortlist in lines: choices, what is out, the verdict, the cost, and where all of it lies."""
    yield from _contenders("teacher", shortlist.teachers)
    yield from _contenders("distiller", shortlist.distillers)
    last = shortlist.rungs[-1]
    if last.second_seeds:
        yield f"second seeds: {', '.join(last.second_seeds)} were within the standard error of their difference"
    yield from _outs(shortlist.finalists)
    yield from shortlist.notices
    yield from _guess(shortlist)
    yield from describe_verdict(shortlist.verdict)
    cost = shortlist.cost
    failed = f", {cost.failed:,} of them failed and count up to their last whole epoch" if cost.failed else ""
    yield (
        f"cost: {cost.full_trainings:.3g} full trainings of {format_count(cost.full_epochs, 'epoch')} "
        f"({cost.rungs:.3g} for the choice, {cost.verdict:.3g} for the verdict), {cost.hours:.3g} hours in "
        f"{format_count(cost.trainings, 'training')}{failed}"
    )
    yield f"run folder: {shortlist.path}"


def _guess(shortlist: Shortlist) -> Iterator[str]:
    regret = shortlist.regret
    if regret is None:
        return
    if regret.name == shortlist.pick.name:
        yield f"guess: {regret.name}, the best by {shortlist.proxy} alone, is the pick"
    elif regret.loss is None:
        yield f"guess: {regret.name}, the best by {shortlist.proxy} alone, could not be trained"
    else:
        unit = " points" if shortlist.measure == "accuracy" else f" ({shortlist.measure})"
        yield (
            f"guess: {regret.name}, the best by {shortlist.proxy} alone, would have lost {regret.loss:.2f}{unit} "
            f"against the pick in rung {regret.rung}, on validation images"
        )


def _contenders(what: str, contenders: Sequence[Contender]) -> Iterator[str]:
    for one in sorted(
        contenders, key=lambda one: (not one.is_chosen, -(one.value if one.value is not None else -1e300))
    ):
        own = "" if one.accuracy is None else f", its own accuracy {one.accuracy:.2f} %"
        value = "failed" if one.value is None else f"students reach {one.value:.2f}"
        yield f"{what} {one.name}{' (chosen)' if one.is_chosen else ''}: {value}{own}, on validation images"


def describe_verdict(verdict: Verdict) -> Iterator[str]:
    """The verdict in lines."""
    if verdict.distilled is not None:
        alone = "" if verdict.alone is None else f"; alone {verdict.alone:.2f} %"
        seeds = format_count(len(verdict.seeds), "seed")
        yield f"verdict: {verdict.student} distilled {verdict.distilled:.2f} % of the test images{alone}, {seeds}"
    if verdict.gain is not None:
        words = {
            DISTIL: "distil it",
            DO_NOT_DISTIL: "do not distil: the interval includes zero or less",
        }.get(verdict.advice, f"this proves nothing, since {verdict.because}")
        yield f"distilled less alone: {_difference(verdict.gain, verdict.level)}: {words}"
        yield "The first seed is that of the training that chose the pick, so that the gain may look too large."
    elif verdict.because is not None:
        yield f"advice: {verdict.advice}, since {verdict.because}"
    for name, difference in verdict.against.items():
        yield f"against the baseline {name}: {_difference(difference, verdict.level)}"
    for failure in verdict.failures:
        yield f"failed in the verdict: {failure.name} {failure.kind}, seed {failure.seed}: {failure.reason}"


def _difference(difference: Difference, level: float) -> str:
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" [{difference.low:+.2f}, {difference.high:+.2f}], {100 * level:g} % t interval"
    return f"{difference.mean:+.2f} points{interval} over {format_count(difference.count, 'pair')}"


# -- files --------------------------------------------------------------------------------------


def finalists_csv(shortlist: Shortlist) -> Iterator[str]:
    """A row for each finalist, every number in a column of its own."""
    rungs = range(1, len(shortlist.rungs) + 1)
    others = sorted({name for finalist in shortlist.finalists for name in finalist.other_scores})
    yield csv_line(
        [
            *_COLUMNS,
            *(f"score_{name}" for name in others),
            *(f"{name}_{rung}" for rung in rungs for name in ("value", "val_accuracy")),
            "test_accuracy",
            "test_accuracy_alone",
            "reason",
            "architecture",
        ]
    )
    for finalist in shortlist.finalists:
        yield csv_line(
            [
                *(getattr(finalist, column) for column in _COLUMNS),
                *(finalist.other_scores.get(name) for name in others),
                *(value for rung in rungs for value in (finalist.value(rung), finalist.val_accuracy(rung))),
                finalist.test_accuracy(),
                finalist.test_accuracy(ALONE),
                finalist.reason,
                finalist.architecture,
            ]
        )


def shortlist_report(shortlist: Shortlist) -> Iterator[str]:
    """The lines of report.md."""
    yield f"# {escape_markdown(shortlist.pick.name)}, of {format_count(len(shortlist.finalists), 'finalist')}"
    yield ""
    heads = _heads(shortlist)
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' if place < 3 else '---:' for place in range(len(heads)))} |"
    for finalist in _by_outcome(shortlist):
        yield f"| {' | '.join(map(escape_markdown, _cells(shortlist, finalist)))} |"
    yield ""
    yield from _explain(shortlist)
    yield ""
    for line in describe_shortlist(shortlist):
        yield f"- {escape_markdown(line)}"
