"""Reports of a training: progress and tables in a terminal, curves for TensorBoard, CSV, pictures."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from search_spaces.names import short_name

from ..distillation.base import get_distiller, list_distillers
from ..networks.saved import own_code_of
from ..options.base import own_docstring
from ..runtime.files import csv_line
from ..training.best_epoch import BEST_BY
from ..training.result import EpochRow, FinalMetrics, SourceFacts, SourceWeighting, StudentFacts, TrainingResult
from .style import axis_number, format_count, human_number, shortened

V = TypeVar("V")


MAX_CLASSES = 100
"""Most classes that get curves and bars of their own; more could not be told apart."""


_MAX_LISTED_CLASSES = 10
"""Most classes whose numbers a table lists one by one."""


_MAX_CLASS_NAME = 40
"""Most characters of a class's name in a table."""


_MAX_TRAININGS_IN_COLUMNS = 3
"""Most trainings that are compared in columns; if there are more, each gets a row."""


def class_names_of(classes: Sequence[str], count: int) -> Sequence[str]:
    """Names of the classes; their numbers if names are missing or not unique."""
    return classes if len(classes) == len(set(classes)) == count else [str(place) for place in range(count)]


def metrics_csv(rows: Sequence[EpochRow], classes: Sequence[str] = ()) -> Iterator[str]:
    """The lines of `metrics.csv`: a row for each epoch; a missing value is empty.

    Args:
        rows: Rows of the epochs, in order.
        classes: Names of the classes, whose validation accuracies get a column each, `val_accuracy/NAME`. There are
            none without names, and for more than `MAX_CLASSES` classes.
    """
    values = [row.to_json() | _class_columns(row, classes) for row in rows]
    columns = list(dict.fromkeys(name for row in values for name in row if name != "val_class_accuracy"))
    yield csv_line(columns)
    for row in values:
        yield csv_line([row.get(name) for name in columns])


def _class_columns(row: EpochRow, classes: Sequence[str]) -> dict[str, float | None]:
    """The validation accuracy of each class, by column."""
    accuracies = row.val_class_accuracy or ()
    if not classes or len(accuracies) > MAX_CLASSES:
        return {}
    names = class_names_of(classes, len(accuracies))
    return {f"val_accuracy/{name}": accuracy for name, accuracy in zip(names, accuracies, strict=True)}


# -- tables -------------------------------------------------------------------------------------


def format_training(result: TrainingResult) -> Table:
    """Format a training: student, teacher or sources, labels, loss, accuracies, calibration, agreement, cost, time.

    Args:
        result: The result of the training.
    """
    table = Table(title=Text(training_title(result)), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in _facts(result).items():
        if fact:
            table.add_row(name, fact if isinstance(fact, Table) else Text(fact))
    return table


def describe_training(result: TrainingResult, path: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Describe a training in lines: its end, the epoch of its numbers, and Python that loads the student.

    Args:
        result: The result of the training.
        path: The run folder; None without one.
    """
    if not result.is_complete:
        done = f"{_epochs(result)} done, {format_count(result.steps, 'step')}"
        yield f"interrupted or running: {done}; the same command continues"
    if result.teacher is not None and result.teacher.trained is False:
        name = short_name(result.teacher.name)
        yield f"the teacher {name} has random weights: it was neither trained nor given a checkpoint"
    if result.sources is not None and result.sources.fallback:
        yield f"{result.sources.fallback}; the student was trained on its labels alone"
    if (test := result.test) is not None:
        chosen = _RULE_WORDS[result.rule]
        if result.rule == "best" and result.best_by != "accuracy":
            chosen += f" by {BEST_BY[result.best_by].name}"
        yield f"the student is that of epoch {test.epoch}, {chosen}; it was tested after it was chosen"
        yield (
            f"one of {test.samples:,} test images is {100 / test.samples:.2g} points of accuracy, and another "
            f"draw of as many would move it by about {_standard_error(test):.2g}"
        )
    if path is not None:
        yield f"run folder: {path}"
    if path is not None and result.is_complete:
        yield from explain_student(path)


def explain_student(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines that say how to export the student of a run folder, and the line of Python that loads it.

    Args:
        path: The run folder of a training, of a shortlist or of a pipeline.
    """
    yield f"to export the student: diswot export {shlex.quote(str(path))}"
    yield "to load the student in Python:"
    code = "".join(f" diswot_search.import_code({name!r});" for name in own_code_of(path))
    yield f"import diswot_search;{code} model = diswot_search.load_student({str(path)!r})"


_RULE_WORDS = {"last": "the last", "best": "the best on validation images"}
"""Description of the epoch that a rule chooses, by rule."""


def compare_trainings(results: Mapping[str, TrainingResult], note: str = "") -> Table:
    """Format trainings side by side, each number with its difference from the first training.

    Args:
        results: The results by name of the training, such as "student alone" and "distilled".
        note: A sentence below the table.

    Raises:
        ValueError: There are no trainings.
    """
    if not results:
        raise ValueError("There are no trainings to compare; give the results of at least one.")
    facts = {name: [value(result) for result in results.values()] for name, value in _COMPARED_FACTS.items()}
    stated = {name: [value or "-" for value in values] for name, values in facts.items() if any(values)}
    table = (_in_columns if len(results) <= _MAX_TRAININGS_IN_COLUMNS else _in_rows)(results, stated)
    if note:
        table.caption = Text("\n".join(filter(None, (str(table.caption or ""), note))), style="dim")
    return table


def _in_columns(results: Mapping[str, TrainingResult], facts: Mapping[str, Sequence[str]]) -> Table:
    """A column for each training."""
    table = _comparison(_explain_comparison(results))
    table.add_column(no_wrap=True)
    for name in results:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, values in facts.items():
        table.add_row(name, *map(Text, values))
    table.add_section()
    for name in _COMPARED_NUMBERS:
        if cells := _compared(name, results):
            table.add_row(name, *map(Text, cells), style="bold" if name == "test accuracy" else "")
    return table


def _in_rows(results: Mapping[str, TrainingResult], facts: Mapping[str, Sequence[str]]) -> Table:
    """A row for each training, with its main facts and numbers; facts that all share are in the caption."""
    alike = [f"{name} {values[0]}" for name, values in facts.items() if len(set(values)) == 1]
    table = _comparison([*([f"all: {', '.join(alike)}"] if alike else []), *_explain_comparison(results)])
    table.add_column(overflow="fold")
    columns = [[Text(name) for name in results]]
    for name, values in facts.items():
        if len(set(values)) > 1:
            table.add_column(name, overflow="fold")
            columns.append([Text(value) for value in values])
    for name in ("test accuracy", "test loss"):
        if cells := _compared(name, results, differences=name == "test accuracy"):
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
            columns.append([Text(cell) for cell in cells])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _comparison(explanations: Iterable[str]) -> Table:
    return Table(caption=Text("\n".join(explanations), style="dim"), caption_justify="left")


def _compared(name: str, results: Mapping[str, TrainingResult], *, differences: bool = True) -> list[str]:
    """A number of each training, with its difference from the first one; empty if no training has it."""
    number, unit, digits = _COMPARED_NUMBERS[name]
    values = [number(result) for result in results.values()]
    if all(value is None for value in values):
        return []
    return [
        _with_difference(value, values[0] if place and differences else None, unit, digits)
        for place, value in enumerate(values)
    ]


_COMPARED_FACTS: dict[str, Callable[[TrainingResult], str | None]] = {
    "student": lambda result: short_name(result.student.name),
    "teacher": lambda result: " and ".join(_teachers(result)),
    "labels": lambda result: _labelled(result),
    "loss": lambda result: " + ".join(_loss(result)),
    "epochs": lambda result: f"{result.epochs:,}",
}
"""Facts above the numbers of a comparison, by name."""


_COMPARED_NUMBERS: dict[str, tuple[Callable[[TrainingResult], float | None], str, int]] = {
    "test accuracy": (lambda result: result.test.accuracy if result.test else None, " %", 2),
    "balanced test accuracy": (lambda result: result.test.balanced_accuracy if result.test else None, " %", 2),
    "test macro-F1": (lambda result: result.test.macro_f1 if result.test else None, " %", 2),
    "test accuracy, top 5": (lambda result: result.test.top5 if result.test else None, " %", 2),
    "test loss": (lambda result: result.test.nll if result.test else None, "", 4),
    "calibration error": (lambda result: result.test.calibration_error if result.test else None, " %", 2),
    "agreement with the teacher": (lambda result: result.agreement.percent if result.agreement else None, " %", 2),
    "best validation accuracy": (lambda result: result.best.val_accuracy if result.best else None, " %", 2),
    "seconds": (lambda result: result.timing.seconds if result.timing else None, "", 1),
}
"""Numbers of a comparison by name: the number, its unit and decimal places."""


def format_distillers(pattern: str = "*") -> Table:
    """Format the distillers by name: features they read, usual weights of distiller and cross entropy, description.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No distiller matches the pattern; the message gives near names.
    """
    table = Table("name", "reads", title="Distillers")
    table.add_column("weight", justify="right")
    table.add_column("of cross entropy", justify="right")
    table.add_column("what it is")
    for name in list_distillers(pattern):
        distiller = get_distiller(name)
        summary = own_docstring(distiller).partition("\n")[0]
        table.add_row(
            name, ", ".join(distiller.reads), f"{distiller.weight:g}", f"{distiller.ce_weight:g}", Text(summary)
        )
    return table


def training_title(result: TrainingResult) -> str:
    teachers = " and ".join(_teachers(result))
    with_what = f"under {teachers}" if teachers else "with FixMatch" if _uses_fixmatch(result) else "alone"
    status = "" if result.is_complete else ", unfinished"
    return f"{short_name(result.student.name)} {with_what}: {_epochs(result)}{status}"


def _teachers(result: TrainingResult) -> list[str]:
    """Short names of the teacher and the sources that the student learns from."""
    names = [] if result.teacher is None else [short_name(result.teacher.name)]
    sources = result.sources
    if sources is None or sources.fallback or sources.lam == 1:
        return names
    used = [model.name for model in sources.models if model.weight]
    if len(used) == 1:
        names.append(used[0] if len(sources.models) == 1 else f"{used[0]}, one of {len(sources.models)} sources")
    elif used:
        names.append(f"{len(used)} sources ({_weighting(sources)})")
    return names


def _weighting(sources: SourceWeighting) -> str:
    """The rule that weights the sources, in a few words."""
    return sources.weighting if isinstance(sources.weighting, str) else "weights by hand"


def _uses_fixmatch(result: TrainingResult) -> bool:
    return result.unlabelled == "fixmatch"


def _epochs(result: TrainingResult) -> str:
    """Number of finished epochs, with the planned number if it differs."""
    planned = result.epochs if result.planned_epochs is None else result.planned_epochs
    of = "" if planned == result.epochs else f"{result.epochs} of "
    return of + format_count(planned, "epoch")


def _facts(result: TrainingResult) -> dict[str, str | Table]:
    """Cells of the table by heading; empty if not known."""
    sources = result.sources if result.sources and result.sources.models else None
    return {
        "student": _student(result.student),
        "teacher": result.teacher.name if result.teacher else "",
        "data": result.data,
        "labels": _labels(result),
        "sources": _sources_table(sources) if sources else "",
        "  their weights": explain_weights(sources) if sources else "",
        "loss": " + ".join(_loss(result)),
        "class weights": _class_weights(result),
        **_accuracies(result),
        **_probabilities(result),
        "training": _work(result),
        "seed": str(result.seed),
    }


def _accuracies(result: TrainingResult) -> dict[str, str]:
    test, confident = result.test, result.last.notes.get("confident") if result.last else None
    return {
        "confident images": _format(confident, ".2f", " % of the unlabelled ones in the last epoch"),
        "test accuracy": (
            f"{test.accuracy:.2f} % of {format_count(test.samples, 'image')}, epoch {test.epoch}" if test else ""
        ),
        "  balanced": _format(test.balanced_accuracy if test else None, ".2f", " %, each class counts alike"),
        "  macro-F1": _format(test.macro_f1 if test else None, ".2f", " %"),
        "  of the classes": _class_accuracies(result),
        "  among the first five": _format(test.top5 if test else None, ".2f", " %"),
        "  of the teacher": _format(result.teacher.accuracy if result.teacher else None, ".2f", " %"),
        **_validation(result),
    }


def _validation(result: TrainingResult) -> dict[str, str]:
    """The last and the best epoch by each measure on validation images, the accuracy first."""
    best = "best" if result.best_by == "accuracy" else f"best by {BEST_BY[result.best_by].name}"
    epochs = [(name, epoch) for name, epoch in (("last", result.last), (best, result.best)) if epoch is not None]
    rows = {
        "validation accuracy": [(name, epoch, epoch.val_accuracy) for name, epoch in epochs],
        "  balanced, validation": [(name, epoch, epoch.val_balanced_accuracy) for name, epoch in epochs],
        "  macro-F1, validation": [(name, epoch, epoch.val_macro_f1) for name, epoch in epochs],
    }
    return {
        heading: ", ".join(
            f"{name} {value:.2f} % (epoch {epoch.epoch})" for name, epoch, value in cells if value is not None
        )
        for heading, cells in rows.items()
    }


def _class_accuracies(result: TrainingResult) -> str:
    """The test accuracy of each class; of many classes only the lowest ones."""
    values = result.test.class_accuracy if result.test else ()
    known = [(name, value) for name, value in _by_class(values, result.classes) if value is not None]
    if len(known) <= _MAX_LISTED_CLASSES:
        return ", ".join(f"{name}: {value:.1f} %" for name, value in known)
    lowest = sorted(known, key=lambda pair: pair[1])[:_MAX_LISTED_CLASSES]
    listed = ", ".join(f"{name}: {value:.1f} %" for name, value in lowest)
    return f"lowest of {len(known):,}: {listed}"


def _class_weights(result: TrainingResult) -> str:
    """The weight of each class; of many classes the range."""
    weights = result.class_weights or ()
    if len(weights) <= _MAX_LISTED_CLASSES:
        return ", ".join(f"{name}: {weight:.3g}" for name, weight in _by_class(weights, result.classes))
    return f"{min(weights):.3g} to {max(weights):.3g}"


def _by_class(values: Sequence[V], classes: Sequence[str]) -> Iterator[tuple[str, V]]:
    """Pairs of a class, its name cut to a length that fits a table, and its value."""
    names = class_names_of(classes, len(values))
    return zip((shortened(name, _MAX_CLASS_NAME) for name in names), values, strict=True)


def _probabilities(result: TrainingResult) -> dict[str, str]:
    """Likelihood and calibration on the test images, and agreement with the teacher."""
    cells = {}
    if (test := result.test) is not None:
        cells["test loss"] = _nats(test.nll)
        cells["calibration error"] = _format(test.calibration_error, ".2f", " %")
    if (agreement := result.agreement) is not None:
        cells["agreement with the teacher"] = _format(agreement.percent, ".2f", " % of test images")
        cells["divergence from the teacher"] = _nats(agreement.divergence)
    return cells


def _nats(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{_fixed(value, 4)} nats"


def _student(student: StudentFacts) -> str:
    """Name and cost of the student, without facts that are not known."""
    parts = [
        student.name,
        f"{human_number(student.params)} parameters" if student.params else "",
        f"{human_number(student.macs)} MACs" if student.macs else "",
        _format(student.latency_ms, ".3g", f" ms ({_measurement(student)})" if student.latency else " ms"),
    ]
    return ", ".join(filter(None, parts))


def _measurement(student: StudentFacts) -> str:
    """The conditions of the latency, the median of its passes, and why it is not stable if it is not."""
    median = student.latency_median_ms
    parts = [
        student.latency,
        "" if median is None else f"quickest pass, {median:.3g} ms in the median",
        f"unstable: {student.latency_instability}" if student.latency_instability else "",
    ]
    return ", ".join(filter(None, parts))


def _labels(result: TrainingResult) -> str:
    """Numbers of labelled images and classes; empty if all images are labelled."""
    labels = result.labels
    if labels is None:
        return ""
    validation = f", and all {labels.validation:,} to validate on" if labels.validation else ""
    return f"{_labelled(result)} images are labelled{validation}, {format_count(labels.classes, 'class')}"


def _labelled(result: TrainingResult) -> str:
    labels = result.labels
    return f"{labels.labelled:,} of {labels.images:,}" if labels else ""


def _sources_table(sources: SourceWeighting) -> Table:
    """The sources by falling weight: similarity, weight, and last loss of the student against each."""
    measured = any(model.similarity is not None for model in sources.models)
    heading = f"similarity ({sources.measure})" if measured and sources.measure else "similarity"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", overflow="fold")
    for column in (heading, "weight", "last loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in sorted(sources.models, key=lambda model: (-model.weight, -_similarity(model))):
        spread = f" ± {model.std:.2g}" if model.std is not None else ""
        similarity, loss = _format(model.similarity, ".3g", spread), _nats(model.loss).removesuffix(" nats")
        table.add_row(Text(model.name), similarity or "-", _short_weight(model.weight), loss or "-")
    return table


def explain_weights(sources: SourceWeighting) -> str:
    """The rule that weights the sources, and the views of the images that they see."""
    is_power = sources.power is not None and sources.weighting == "weighted"
    parts = [
        _weighting(sources),
        f"power {sources.power:g}" if is_power else "",
        f"{sources.view} views" if sources.view else "",
        "not used" if sources.fallback else "",
    ]
    return ", ".join(filter(None, parts))


def _similarity(model: SourceFacts) -> float:
    """The similarity of a source; minus infinity if not known."""
    return -math.inf if model.similarity is None else model.similarity


def _short_weight(weight: float) -> str:
    return "0" if not weight else "< 0.001" if weight < 0.001 else f"{weight:.3f}"


def _loss(result: TrainingResult) -> list[str]:
    """The weighted terms of the loss."""
    weights = {"cross entropy": result.ce_weight, **result.distillers}
    if result.sources is not None and not result.sources.fallback:
        weights["sources"] = round(1 - result.sources.lam, 12)  # 1 - 0.8 is not 0.2
    if _uses_fixmatch(result):
        weights["FixMatch"] = 1
    return [name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items() if weight]


def _work(result: TrainingResult) -> str:
    """Steps, time and speed of a training, and its hardware."""
    steps, timing = format_count(result.steps, "step"), result.timing
    if timing is None:
        return steps
    parts = [
        steps,
        f"batch {timing.batch_size}",
        _format(timing.seconds, ",.1f", " s"),
        _format(timing.images_per_second, ",.0f", " images/s"),
        timing.device,
        format_count(timing.processes, "process") if timing.processes > 1 else "",
        format_count(timing.threads, "thread"),
        f"{timing.workers:,} workers at once" if timing.workers > 1 else "",
        timing.precision,
    ]
    return ", ".join(filter(None, parts))


def _explain_comparison(results: Mapping[str, TrainingResult]) -> Iterator[str]:
    first, *others = results
    if others:
        yield f"in brackets: difference from {first}, of percentages in points"
    tests = [result.test for result in results.values() if result.test]
    if tests:
        largest = max(map(_standard_error, tests))
        yield f"another draw of as many test images would move an accuracy by about {largest:.2g} points"


def _standard_error(test: FinalMetrics) -> float:
    """Standard error of an accuracy in points; not zero even if every image is right.

    Source: Agresti and Coull, "Approximate is better than exact for interval estimation of binomial proportions", 1998,
    with two successes and two failures added.
    """
    samples = test.samples + 4
    share = (test.accuracy / 100 * test.samples + 2) / samples
    return 100 * math.sqrt(share * (1 - share) / samples)


def _with_difference(value: float | None, reference: float | None, unit: str, digits: int) -> str:
    if value is None or math.isnan(value):
        return "-"
    change = None if reference is None else value - reference
    difference = "" if change is None else f" ({'' if change < 0 else '+'}{_fixed(change, digits)})"
    return f"{_fixed(value, digits)}{unit}{difference}"


def _fixed(value: float, digits: int) -> str:
    """A number with so many decimals; a very large one, as the loss of a diverged network is, with four digits."""
    return axis_number(value) if 1e6 <= abs(value) < math.inf else f"{value:,.{digits}f}"


def _format(value: float | None, how: str, unit: str) -> str:
    return "" if value is None or math.isnan(value) else f"{value:{how}}{unit}"
