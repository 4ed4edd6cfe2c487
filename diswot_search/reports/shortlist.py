"""Reports of a shortlist: its finalists and the verdict, in a terminal, as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from ..resolve.shortlists import DISTIL, DO_NOT_DISTIL, Contender, Shortlist, Verdict, regret_against, why_unknown
from ..runtime.files import csv_line
from ..study.finalists import ALONE, BASELINE, DISTILLED, LARGEST, Finalist, epochs_of_rungs
from ..study.halving import standard_error
from ..training.exam import MAY_HAVE_SEEN
from ..training.result import TrainingResult
from .style import escape_markdown, format_count, format_duration, human_number
from .training import explain_student
from .trainings import describe_difference

_COLUMNS = (
    "place", "name", "origin", "is_baseline", "is_pick", "is_within_budget", "last_rung", "params", "macs", "score",
)  # fmt: skip
"""Fields of a finalist that are columns of the CSV."""

_CHOICE_HEADS = ("choice", "name", "own accuracy", "students reach", "difference", "seeds")

LOST = "lost: against the pick, in the last rung of both, over the seeds of both"
"""The explanation of the column of regrets."""

CHOSEN_BY = "chosen by: the score that gave the finalist its place, and (baseline) where it is a baseline as well"
"""The explanation of the column of origins."""


# -- the tables ---------------------------------------------------------------------------------


def _heads(epochs: Mapping[int, int]) -> list[str]:
    rungs = [f"rung {rung}: {format_count(count, 'epoch')}" for rung, count in epochs.items()]
    return ["place", "name", "chosen by", "params", "MACs", "score", *rungs, "lost", "test", "alone"]


def _rows(finalists: Sequence[Finalist], epochs: Mapping[int, int]) -> list[list[str]]:
    """The cells of finalists, those that came furthest first."""
    pick = next(finalist for finalist in finalists if finalist.is_pick)
    return [_cells(finalist, pick, epochs) for finalist in _by_outcome(finalists)]


def _cells(finalist: Finalist, pick: Finalist, epochs: Mapping[int, int]) -> list[str]:
    loss = regret_against(pick, finalist).loss
    return [
        "pick" if finalist.is_pick else str(finalist.place),
        finalist.name,
        _chosen_by(finalist),
        "" if finalist.params is None else human_number(finalist.params),
        "" if finalist.macs is None else human_number(finalist.macs),
        "" if finalist.score is None else f"{finalist.score:.5g}",
        *(_rung(finalist, rung) for rung in epochs),
        "" if loss is None or finalist.is_pick else _amount(loss),
        *(_percent(finalist.test_accuracy(kind)) for kind in (DISTILLED, ALONE)),
    ]


def _chosen_by(finalist: Finalist) -> str:
    is_also_baseline = finalist.is_baseline and finalist.origin != BASELINE
    return f"{finalist.origin}{' (baseline)' if is_also_baseline else ''}"


def _rung(finalist: Finalist, rung: int) -> str:
    """The validation accuracy of a finalist in a rung, with the number of seeds if they are several."""
    trials, accuracy = finalist.of_rung(rung), finalist.val_accuracy(rung)
    if accuracy is None:
        return "failed" if trials and all(trial.reason for trial in trials) else ""
    seeds = sum(trial.val_accuracy is not None for trial in trials)
    return f"{accuracy:.2f}" + (f" ({seeds} seeds)" if seeds > 1 else "")


def _amount(loss: float) -> str:
    """A loss in points of accuracy, or of another measure, which may be far smaller."""
    return f"{loss:.2f}" if abs(loss) >= 0.1 or not loss else f"{loss:.2g}"


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"


def _by_outcome(finalists: Sequence[Finalist]) -> list[Finalist]:
    """The pick first, then those that came furthest, the best value first."""

    def key(finalist: Finalist) -> tuple[bool, int, float, int]:
        value = finalist.value(finalist.last_rung)
        return not finalist.is_pick, -finalist.last_rung, -(value if value is not None else -1e300), finalist.place

    return sorted(finalists, key=key)


def format_shortlist(shortlist: Shortlist) -> Iterator[Table]:
    """Format a shortlist: the finalists, and the teachers and distillers that it chose from, if there were several.

    Args:
        shortlist: The shortlist.
    """
    title = f"{count_finalists(shortlist.finalists)} on {shortlist.data}"
    yield format_finalists(shortlist.finalists, title, "\n".join(_explain(shortlist)))
    for what, contenders in _choices(shortlist):
        rows = [_contender_cells(one) for one in contenders]
        title = f"{format_count(len(contenders), what)} to choose from"
        caption = "\n".join(_explain_choice(what, contenders, shortlist))
        yield _table(title, caption, _CHOICE_HEADS, rows, [one.is_chosen for one in contenders], left=2)


def count_finalists(finalists: Sequence[Finalist]) -> str:
    """The number of finalists, and of the baselines beside them, which take none of the places that were asked for."""
    beside = sum(one.origin in (BASELINE, LARGEST) for one in finalists)
    counts = [format_count(len(finalists) - beside, "finalist")] * (beside < len(finalists))
    return " and ".join([*counts, *([format_count(beside, "baseline")] if beside else [])])


def format_finalists(finalists: Sequence[Finalist], title: str, caption: str = "") -> Table:
    """Format finalists with what came of their trainings, those that came furthest first.

    Args:
        finalists: The finalists in order of their places.
        title: The title of the table.
        caption: The text below it.
    """
    epochs = epochs_of_rungs(finalists)
    is_bold = [finalist.is_pick for finalist in _by_outcome(finalists)]
    return _table(title, caption, _heads(epochs), _rows(finalists, epochs), is_bold, left=3)


def _table(
    title: str, caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], is_bold: Sequence[bool], left: int
) -> Table:
    """A table without the columns that are empty; as many of the first are left-aligned."""
    table = Table(title=title, caption=Text(caption, style="dim"), caption_justify="left")
    filled = [place for place in range(len(heads)) if place < 2 or any(row[place] for row in rows)]
    for place in filled:
        table.add_column(heads[place], justify="left" if place < left else "right", overflow="fold")
    for row, bold in zip(rows, is_bold, strict=True):
        table.add_row(*(Text(row[place]) for place in filled), style="bold" if bold else "")
    return table


def _explain(shortlist: Shortlist) -> Iterator[str]:
    accuracy = shortlist.pick.val_accuracy(len(shortlist.rungs))
    error = standard_error(accuracy, shortlist.val_images) if accuracy is not None and shortlist.val_images else 0.0
    yield (
        f"Rungs: accuracy on {format_count(shortlist.val_images, 'validation image')} in percent, distilled, with a "
        f"standard error of about {error:.2g} points by the images; "
        f"{explain_origins(shortlist.finalists)}{LOST}; test and alone: mean accuracy on "
        f"{format_count(shortlist.test_images, 'test image')} over seeds, looked at once, at the end."
    )
    if shortlist.measure != "accuracy":
        yield f"Finalists are ordered by {shortlist.measure} on the validation images."


def explain_origins(finalists: Sequence[Finalist]) -> str:
    """The explanation of baselines that have a place by a score, with the sign that ends it; empty without any."""
    return f"{CHOSEN_BY}; " * any(_chosen_by(one).endswith("(baseline)") for one in finalists)


# -- teachers and distillers to choose from -----------------------------------------------------


def _choices(shortlist: Shortlist) -> Iterator[tuple[str, list[Contender]]]:
    """The teachers and the distillers that were chosen from, the best first."""

    def key(contender: Contender) -> tuple[bool, float]:
        return not contender.is_chosen, -(contender.value if contender.value is not None else -1e300)

    for what, contenders in (("teacher", shortlist.teachers), ("distiller", shortlist.distillers)):
        if contenders:
            yield what, sorted(contenders, key=key)


def _contender_cells(contender: Contender) -> list[str]:
    difference = contender.difference
    spread = "" if difference is None or difference.std is None else f" ± {difference.std:.2f}"
    return [
        "chosen" if contender.is_chosen else "",
        contender.name,
        _percent(contender.accuracy),
        "failed" if contender.value is None else f"{contender.value:.2f}",
        "" if difference is None or contender.value is None else f"{difference.mean:+.2f}{spread}",
        str(sum(trial.value is not None for trial in contender.trials)),
    ]


def _explain_choice(what: str, contenders: Sequence[Contender], shortlist: Shortlist) -> Iterator[str]:
    first = contenders[0]
    epochs = format_count(first.trials[0].epochs, "epoch")
    has_own = any(one.accuracy is not None for one in contenders)
    own = f"own accuracy: of the teacher itself, in percent ({MAY_HAVE_SEEN}); " * has_own
    is_loss = shortlist.measure == "loss"
    unit = "accuracy, in percent" if shortlist.measure == "accuracy" else f"{'minus ' * is_loss}{shortlist.measure}"
    yield (
        f"Each {what} taught {first.student} for {epochs}, with the same seeds. On the validation images: {own}"
        f"students reach: mean {unit}; difference: to the chosen one, mean ± standard deviation over the seeds. "
        "Trainings that were only for this choice are in no row of a finalist."
    )
    for one in contenders:
        for trial in one.trials:
            if trial.reason is not None:
                yield f"{one.name} failed with seed {trial.seed}: {trial.reason}"


# -- in sentences -------------------------------------------------------------------------------


def introduce_finalists(finalists: Sequence[Finalist], notices: Sequence[str]) -> Iterator[str]:
    """The finalists in lines, as they are known before the first training: who takes part, who is out, and notices.

    Args:
        finalists: The finalists in order of their places.
        notices: What was left out or done otherwise, in sentences.
    """
    able = [finalist for finalist in finalists if finalist.reason is None]
    names = (f"{finalist.name} ({_chosen_by(finalist)})" for finalist in able)
    yield f"{count_finalists(able)}: {', '.join(names)}"
    yield from _outs(finalists)
    yield from notices


def _outs(finalists: Sequence[Finalist]) -> Iterator[str]:
    for finalist in finalists:
        if finalist.reason is not None:
            yield f"out: {finalist.name}: {finalist.reason}"


def describe_shortlist(shortlist: Shortlist, *, is_stage: bool = False) -> Iterator[str]:
    """Describe a shortlist in lines: second seeds, what is out, the verdict, the cost, and where all of it lies.

    Args:
        shortlist: The shortlist.
        is_stage: Whether it is a stage of a pipeline, whose report names the run folder at its end.
    """
    last = shortlist.rungs[-1]
    if last.second_seeds:
        size = "" if last.seed_std is None else f"; one seed moves an accuracy by about {last.seed_std:.2g} points"
        yield f"second seeds: {', '.join(last.second_seeds)}, which might have been the best{size}"
    yield from _outs(shortlist.finalists)
    yield from shortlist.notices
    yield from _guess(shortlist)
    yield from describe_verdict(shortlist.verdict)
    yield from _caution(shortlist)
    cost = shortlist.cost
    choices = f"{cost.choices:.3g} only to choose teacher and distiller, " if cost.choices else ""
    failed = f", {cost.failed:,} of them failed and count up to their last whole epoch" if cost.failed else ""
    yield (
        f"cost: as much as {cost.full_trainings:.3g} full trainings of {format_count(cost.full_epochs, 'epoch')} "
        f"({cost.rungs:.3g} for the rungs, {choices}{cost.verdict:.3g} for the verdict), in "
        f"{format_count(cost.trainings, 'training')} of {format_duration(3600 * cost.hours)} together{failed}"
    )
    if not is_stage:
        yield f"run folder: {shortlist.path}"
        yield from explain_student(shortlist.path)


def explain_seeds(shortlist: Shortlist | None, trainings: Mapping[str, TrainingResult]) -> str:
    """A sentence on the seeds of trainings beside a verdict over more of them; empty if these are all.

    Args:
        shortlist: The shortlist with the verdict; None without one.
        trainings: The trainings that are shown.
    """
    seeds = sorted({result.seed for result in trainings.values()})
    if shortlist is None or len(shortlist.verdict.seeds) <= len(seeds):
        return ""
    names, of_verdict = (", ".join(map(str, some)) for some in (seeds, sorted(shortlist.verdict.seeds)))
    return f"these are trainings with seed {names} alone; the verdict is over the seeds {of_verdict}"


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
            f"guess: {regret.name}, the best by {shortlist.proxy} alone, would have lost {_amount(regret.loss)}{unit} "
            f"against the pick in rung {regret.rung}, on validation images"
        )


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
        yield f"distilled less alone: {describe_difference(verdict.gain, verdict.level)}: {words}"
    elif verdict.because is not None:
        yield f"advice: {verdict.advice}, since {verdict.because}"
    for name, difference in verdict.against.items():
        because = why_unknown(difference)
        proof = "" if because is None else f": this proves nothing, since {because}"
        yield f"against the baseline {name}: {describe_difference(difference, verdict.level)}{proof}"
    for failure in verdict.failures:
        yield f"failed in the verdict: {failure.name} {failure.kind}, seed {failure.seed}: {failure.reason}"


def _caution(shortlist: Shortlist) -> Iterator[str]:
    """The seeds of the verdict whose trainings chose the pick among others, which favours it."""
    seeds = shortlist.choice_seeds
    if not seeds or (shortlist.verdict.gain is None and not shortlist.verdict.against):
        return
    names = " and ".join(map(str, seeds))
    were = f"The training with seed {names}" if len(seeds) == 1 else f"The trainings with seeds {names}"
    yield f"{were} chose the pick on validation images, so that its lead may look too large."


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
            "lost",
            "lost_rung",
            "test_accuracy",
            "test_accuracy_alone",
            "reason",
            "architecture",
        ]
    )
    for finalist in shortlist.finalists:
        regret = regret_against(shortlist.pick, finalist)
        yield csv_line(
            [
                *(getattr(finalist, column) for column in _COLUMNS),
                *(finalist.other_scores.get(name) for name in others),
                *(value for rung in rungs for value in (finalist.value(rung), finalist.val_accuracy(rung))),
                regret.loss,
                regret.rung,
                finalist.test_accuracy(),
                finalist.test_accuracy(ALONE),
                finalist.reason,
                finalist.architecture,
            ]
        )


def contenders_csv(shortlist: Shortlist) -> Iterator[str]:
    """A row for each teacher and each distiller that was chosen from."""
    yield csv_line(
        ["kind", "name", "student", "is_chosen", "accuracy", "value", "difference", "difference_std", "seeds", "reason"]
    )
    for kind, contenders in _choices(shortlist):
        for one in contenders:
            seeds = sum(trial.value is not None for trial in one.trials)
            reason = next((trial.reason for trial in one.trials if trial.reason is not None), None)
            difference = (None, None) if one.difference is None else (one.difference.mean, one.difference.std)
            yield csv_line(
                [kind, one.name, one.student, one.is_chosen, one.accuracy, one.value, *difference, seeds, reason]
            )


def shortlist_report(shortlist: Shortlist) -> Iterator[str]:
    """The lines of report.md."""
    yield f"# {escape_markdown(shortlist.pick.name)}, of {count_finalists(shortlist.finalists)}"
    yield ""
    epochs = epochs_of_rungs(shortlist.finalists)
    yield from _markdown_table(_heads(epochs), _rows(shortlist.finalists, epochs), left=3)
    yield ""
    yield from _explain(shortlist)
    yield ""
    for what, contenders in _choices(shortlist):
        yield f"## {format_count(len(contenders), what)} to choose from"
        yield ""
        yield from _markdown_table(_CHOICE_HEADS, [_contender_cells(one) for one in contenders], left=2)
        yield ""
        yield from map(escape_markdown, _explain_choice(what, contenders, shortlist))
        yield ""
    if shortlist.teachers or shortlist.distillers:
        yield "## The verdict"
        yield ""
    for line in describe_shortlist(shortlist):
        yield f"- {escape_markdown(line)}"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """The lines of a table; as many of the first columns are left-aligned."""
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' if place < left else '---:' for place in range(len(heads)))} |"
    for row in rows:
        yield f"| {' | '.join(map(escape_markdown, row))} |"
