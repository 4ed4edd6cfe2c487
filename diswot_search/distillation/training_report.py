"""Reports of a training: progress and tables in a terminal, curves for TensorBoard, CSV, pictures."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..report import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    ProgressBar,
    format_count,
    human_number,
    label_log_axis,
    new_figure,
    style_axes,
    to_png,
)
from ..run_folder import csv_line, finite_only
from .base import get_distiller, list_distillers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
"""The facts of one epoch: `epoch` from 1, `step` (optimiser steps done), `lr`, `loss`, `loss/NAME` of each weighted
term, `train_accuracy` and `val_accuracy` in percent, `val_loss`, `images_per_second` and `seconds`. Optional:
`val_class_accuracy`, a list of percentages with None for a class without images, and `confident`, the percentage of
unlabelled images that FixMatch learns from."""

_TENSORBOARD_TAGS = {
    "loss": "loss/total",
    "lr": "lr",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "val_loss": "loss/val",
    "images_per_second": "images_per_second",
    "confident": "confident/unlabelled",
}
"""Names of the columns in TensorBoard; a term of the loss keeps its name."""

_MAX_CLASSES = 100
"""Most classes that get curves and bars of their own; more could not be told apart."""

_MAX_TRAININGS_IN_COLUMNS = 3
"""Most trainings that are compared in columns; if there are more, each gets a row."""

Result = Mapping[str, Any]
"""The content of `result.json`; facts that are not known, or not yet, are None or missing."""

# -- progress -----------------------------------------------------------------------------------


class _TwoLines(Progress):
    """A progress bar with its `details` on the line below."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields.get("details", ""), no_wrap=True, overflow="ellipsis")


class TrainingProgress(ProgressBar):
    """The progress bar of a training over all steps, with epoch, accuracy and loss on the line below.

    Images per second and time left are measured since the start, validation included.

    Args:
        epochs: Number of epochs in all.
        steps: Number of optimiser steps in all.
        done: Number of steps that an earlier run has done.
        enabled: False keeps the bar silent in a terminal, too.
        console: The console to draw on; standard error by default.
    """

    BAR = _TwoLines
    SECONDS_BETWEEN_UPDATES: ClassVar[float] = 0.2
    """Least time between two updates of the bar."""

    def __init__(
        self, epochs: int, steps: int, *, done: int = 0, enabled: bool = True, console: Console | None = None
    ) -> None:
        super().__init__("training", "images", steps, enabled=enabled, console=console)
        self._epochs, self._epoch = epochs, 0
        self._images = 0
        self._losses: dict[str, float | Tensor] = {}
        self._accuracy: float | None = None
        self._shown = -math.inf
        self._done = done
        if not self._bar.disable:
            self._bar.update(self._task, completed=done)

    def add(self, epoch: int, losses: Mapping[str, float | Tensor], images: int) -> None:
        """Count one step.

        Args:
            epoch: Epoch of the step, from 1.
            losses: Weighted terms of the loss by name. They are read only when the bar is updated, because reading a
                value from a device waits until it is computed.
            images: Number of images of the step, over all processes.
        """
        self._epoch, self._images = epoch, self._images + images
        self._losses = {name: x.detach() if isinstance(x, Tensor) else x for name, x in losses.items()}
        self._done += 1
        self._new += 1
        now = time.monotonic()
        if not self._bar.disable and (now - self._shown >= self.SECONDS_BETWEEN_UPDATES or self._done == self._total):
            self._shown = now
            self._bar.update(self._task, completed=self._done, state=self.state(), details=self.details())

    def validated(self, accuracy: float) -> None:
        """Show a new validation accuracy, in percent."""
        self._accuracy = accuracy
        if not self._bar.disable:
            self._bar.update(self._task, details=self.details())

    def state(self) -> str:
        """Images per second and time left; empty before the first step."""
        seconds = time.monotonic() - self._started
        if not self._new or seconds <= 0:
            return ""
        left = round((self._total - self._done) * seconds / self._new)
        return f"{self._images / seconds:,.0f} images/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def details(self) -> str:
        """Epoch, last validation accuracy and weighted terms of the loss, without those that are not known yet."""
        terms = {name: float(value) for name, value in self._losses.items()}
        total = " + ".join(f"{name} {value:.3g}" for name, value in terms.items())
        parts = [
            f"epoch {self._epoch}/{self._epochs}" if self._epoch else "",
            "" if self._accuracy is None else f"validation {self._accuracy:.1f} %",
            f"loss {sum(terms.values()):.3g} = {total}" if terms else "",
        ]
        return "  ".join(filter(None, parts))


# -- curves and metrics -------------------------------------------------------------------------


class TrainingCurves:
    """Scalars by step for TensorBoard.

    Every run first writes the stored rows anew, then adds its own. So no row is missing or repeated, even if an
    earlier run was killed before all of its events were on the disk.

    Args:
        folder: Folder of the event files; None writes nothing.
        rows: Rows of the epochs that are done.
        classes: Names of the classes; without names, classes are numbered.
        source_weights: Weight of each source by its name; weights are constant over a training.
    """

    def __init__(
        self,
        folder: Path | None,
        rows: Iterable[Row] = (),
        *,
        classes: Sequence[str] = (),
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self._writer: Any = None
        self._classes = classes
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for name, weight in (source_weights or {}).items():
            self._writer.add_scalar(f"source_weight/{name}", weight, global_step=0)
        for row in rows:
            self.add(row)

    def __enter__(self) -> TrainingCurves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Row) -> None:
        """Add the scalars of the next epoch at its step, and write them to the disk."""
        if self._writer is None:
            return
        values = {
            _TENSORBOARD_TAGS.get(name, name if name.startswith("loss/") else None): value
            for name, value in row.items()
        }
        accuracies = row.get("val_class_accuracy") or ()
        if len(accuracies) <= _MAX_CLASSES:
            names = _class_names(self._classes, len(accuracies))
            values |= {f"class_accuracy/{name}": value for name, value in zip(names, accuracies, strict=True)}
        for tag, value in values.items():
            if tag is not None and value is not None:
                self._writer.add_scalar(tag, value, global_step=row["step"])
        self._writer.flush()


def _class_names(classes: Sequence[str], count: int) -> Sequence[str]:
    """Names of the classes; their numbers if names are missing or not unique."""
    return classes if len(classes) == len(set(classes)) == count else [str(place) for place in range(count)]


def metrics_csv(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of `metrics.csv`: a row for each epoch, without lists; values that are not finite are empty.

    Args:
        rows: Rows of the epochs, in order.

    Example:
        >>> "".join(metrics_csv([{"epoch": 1, "loss": 2.5}])).split()
        ['epoch,loss', '1,2.5']
    """
    lists = {name for row in rows for name, value in row.items() if isinstance(value, (list, tuple))}
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in lists))
    yield csv_line(columns)
    for row in rows:
        values = finite_only(row)
        yield csv_line([values.get(name) for name in columns])


# -- tables -------------------------------------------------------------------------------------


def format_training(result: Result) -> Table:
    """Format a training: student, teacher or sources, labels, loss, accuracies, calibration, agreement, cost, time.

    Args:
        result: The content of `result.json`.
    """
    table = Table(title=Text(_title(result)), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in _facts(result).items():
        if fact:
            table.add_row(name, fact if isinstance(fact, Table) else Text(fact))
    return table


def describe_training(result: Result, path: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Describe a training in lines: its end, the epoch of its numbers, and Python that loads the student.

    Args:
        result: The content of `result.json`.
        path: The run folder; None without one.
    """
    complete = result["status"] == "complete"
    if not complete:
        done = f"{_epochs(result)} done, {format_count(result['steps'], 'step')}"
        yield f"interrupted or running: {done}; the same command continues"
    if (teacher := result.get("teacher")) and teacher.get("trained") is False:
        yield f"the teacher {teacher['name']} has random weights: it was neither trained nor given a checkpoint"
    if reason := (result.get("sources") or {}).get("fallback"):
        yield f"{reason}; the student was trained on its labels alone"
    if test := result.get("test"):
        chosen = _RULE_WORDS[result["rule"]]
        yield f"the student is that of epoch {test['epoch']}, {chosen}; it was tested after it was chosen"
        yield (
            f"one of {test['samples']:,} test images is {100 / test['samples']:.2g} points of accuracy, and another "
            f"draw of as many would move it by about {_standard_error(test):.2g}"
        )
    if path is not None:
        yield f"run folder: {path}"
    if path is not None and complete:
        yield "to load the student in Python:"
        yield f"import diswot_search; model = diswot_search.load_student({str(path)!r})"


_RULE_WORDS = {"last": "the last", "best": "the best on validation images"}
"""Description of the epoch that a rule chooses, by rule."""


def compare_trainings(results: Mapping[str, Result]) -> Table:
    """Format trainings side by side, each number with its difference from the first training.

    Args:
        results: The content of `result.json` by name of the training, such as "student alone" and "distilled".

    Raises:
        ValueError: There are no trainings.
    """
    if not results:
        raise ValueError("There are no trainings to compare; give the results of at least one.")
    facts = {name: [value(result) for result in results.values()] for name, value in _COMPARED_FACTS.items()}
    stated = {name: [value or "-" for value in values] for name, values in facts.items() if any(values)}
    return (_in_columns if len(results) <= _MAX_TRAININGS_IN_COLUMNS else _in_rows)(results, stated)


def _in_columns(results: Mapping[str, Result], facts: Mapping[str, Sequence[str]]) -> Table:
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


def _in_rows(results: Mapping[str, Result], facts: Mapping[str, Sequence[str]]) -> Table:
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


def _compared(name: str, results: Mapping[str, Result], *, differences: bool = True) -> list[str]:
    """A number of each training, with its difference from the first one; empty if no training has it."""
    group, key, unit, digits = _COMPARED_NUMBERS[name]
    values = [_number(result, group, key) for result in results.values()]
    if all(value is None for value in values):
        return []
    return [
        _with_difference(value, values[0] if place and differences else None, unit, digits)
        for place, value in enumerate(values)
    ]


_COMPARED_FACTS: dict[str, Callable[[Result], str | None]] = {
    "student": lambda result: (result.get("student") or {}).get("name"),
    "teacher": lambda result: " and ".join(_teachers(result)),
    "labels": lambda result: _labelled(result),
    "loss": lambda result: " + ".join(_loss(result)),
    "epochs": lambda result: f"{result['epochs']:,}",
}
"""Facts above the numbers of a comparison, by name."""

_COMPARED_NUMBERS = {
    "test accuracy": ("test", "accuracy", " %", 2),
    "test accuracy, top 5": ("test", "top5", " %", 2),
    "test loss": ("test", "nll", "", 4),
    "calibration error": ("test", "calibration_error", " %", 2),
    "agreement with the teacher": ("agreement", "percent", " %", 2),
    "best validation accuracy": ("best", "val_accuracy", " %", 2),
    "seconds": ("timing", "seconds", "", 1),
}
"""Numbers of a comparison by name: group and key in a result, unit and decimal places."""


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
        summary = (inspect.getdoc(distiller) or "").partition("\n")[0]
        table.add_row(
            name, ", ".join(distiller.reads), f"{distiller.weight:g}", f"{distiller.ce_weight:g}", Text(summary)
        )
    return table


def _title(result: Result) -> str:
    student = (result.get("student") or {}).get("name", "training")
    teachers = " and ".join(_teachers(result))
    with_what = f"under {teachers}" if teachers else "with FixMatch" if _uses_fixmatch(result) else "alone"
    status = "" if result["status"] == "complete" else ", unfinished"
    return f"{student} {with_what}: {_epochs(result)}{status}"


def _teachers(result: Result) -> list[str]:
    """Short names of the teacher and the sources that the student learns from."""
    teacher, sources = result.get("teacher") or {}, result.get("sources") or {}
    models = sources.get("models") or ()
    unused = sources.get("fallback") or sources.get("lam") == 1
    used = [] if unused else [model["name"] for model in models if model.get("weight")]
    names = [teacher["name"]] if teacher else []
    if len(used) == 1:
        names.append(used[0] if len(models) == 1 else f"{used[0]}, one of {len(models)} sources")
    elif used:
        names.append(f"{len(used)} sources ({_weighting(sources)})")
    return names


def _weighting(sources: Mapping[str, Any]) -> str:
    """The rule that weights the sources, in a few words."""
    weighting = sources.get("weighting")
    return weighting if isinstance(weighting, str) else "weights by hand"


def _uses_fixmatch(result: Result) -> bool:
    return result.get("unlabelled") == "fixmatch"


def _epochs(result: Result) -> str:
    """Number of finished epochs, with the planned number if it differs."""
    planned = result.get("planned_epochs", result["epochs"])
    of = "" if planned == result["epochs"] else f"{result['epochs']} of "
    return of + format_count(planned, "epoch")


def _facts(result: Result) -> dict[str, str | Table]:
    """Cells of the table by heading; empty if not known."""
    sources = result.get("sources") or {}
    part = {name: result.get(name) or {} for name in ("student", "teacher", "test", "agreement", "last", "best")}
    test, agreement = part["test"], part["agreement"]
    chosen = f"{format_count(test['samples'], 'image')}, epoch {test['epoch']}" if test else ""
    return {
        "student": _network(part["student"]),
        "teacher": _network(part["teacher"]),
        "data": result.get("data") or "",
        "labels": _labels(result),
        "sources": _sources_table(sources) if sources.get("models") else "",
        "  their weights": _weights_explained(sources) if sources.get("models") else "",
        "loss": " + ".join(_loss(result)),
        "confident images": _format(
            part["last"].get("confident"), ".2f", " % of the unlabelled ones in the last epoch"
        ),
        "test accuracy": f"{test['accuracy']:.2f} % of {chosen}" if test else "",
        "  among the first five": _format(test.get("top5"), ".2f", " %"),
        "  of the teacher": _format(part["teacher"].get("accuracy"), ".2f", " %"),
        "validation accuracy": ", ".join(
            f"{name} {part[name]['val_accuracy']:.2f} % (epoch {part[name]['epoch']})"
            for name in ("last", "best")
            if part[name].get("val_accuracy") is not None
        ),
        "test loss": _format(test.get("nll"), ".4f", " nats"),
        "calibration error": _format(test.get("calibration_error"), ".2f", " %"),
        "agreement with the teacher": _format(agreement.get("percent"), ".2f", " % of test images"),
        "divergence from the teacher": _format(agreement.get("divergence"), ".4f", " nats"),
        "training": _work(result),
        "seed": _format(result.get("seed"), "d", ""),
    }


def _network(facts: Mapping[str, Any]) -> str:
    """Name and cost of a network, without facts that are not known."""
    parts = [
        facts.get("name", ""),
        f"{human_number(facts['params'])} parameters" if facts.get("params") else "",
        f"{human_number(facts['macs'])} MACs" if facts.get("macs") else "",
        _format(facts.get("latency_ms"), ".2f", " ms"),
    ]
    return ", ".join(filter(None, parts))


def _labels(result: Result) -> str:
    """Numbers of labelled images and classes; empty if all images are labelled."""
    labels = result.get("labels")
    if not labels:
        return ""
    validation = f", and all {labels['validation']:,} to validate on" if labels.get("validation") else ""
    return f"{_labelled(result)} images are labelled{validation}, {format_count(labels['classes'], 'class')}"


def _labelled(result: Result) -> str:
    labels = result.get("labels")
    return f"{labels['labelled']:,} of {labels['images']:,}" if labels else ""


def _sources_table(sources: Mapping[str, Any]) -> Table:
    """The sources by falling weight: similarity, weight, and last loss of the student against each."""
    measured = any(model.get("similarity") is not None for model in sources["models"])
    heading = f"similarity ({sources['measure']})" if measured and sources.get("measure") else "similarity"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", overflow="fold")
    for column in (heading, "weight", "last loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in sorted(sources["models"], key=lambda model: (-_weight(model), -_similarity(model))):
        spread = f" ± {model['std']:.2g}" if model.get("std") is not None else ""
        similarity, loss = _format(model.get("similarity"), ".3g", spread), _format(model.get("loss"), ".4f", "")
        table.add_row(Text(model["name"]), similarity or "-", _short_weight(_weight(model)), loss or "-")
    return table


def _weights_explained(sources: Mapping[str, Any]) -> str:
    """The rule that weights the sources, and the views of the images that they see."""
    power = sources.get("power")
    parts = [
        _weighting(sources),
        f"power {float(power):g}" if power is not None and sources.get("weighting") == "weighted" else "",
        f"{sources['view']} views" if sources.get("view") else "",
        "not used" if sources.get("fallback") else "",
    ]
    return ", ".join(filter(None, parts))


def _weight(model: Mapping[str, Any]) -> float:
    return float(model.get("weight") or 0.0)


def _similarity(model: Mapping[str, Any]) -> float:
    """The similarity of a source; minus infinity if not known."""
    similarity = model.get("similarity")
    return -math.inf if similarity is None else float(similarity)


def _short_weight(weight: float) -> str:
    return "0" if not weight else "< 0.001" if weight < 0.001 else f"{weight:.3f}"


def _loss(result: Result) -> list[str]:
    """The weighted terms of the loss."""
    weights = {"cross entropy": result.get("ce_weight", 1.0), **(result.get("distillers") or {})}
    sources = result.get("sources") or {}
    if sources and not sources.get("fallback"):
        weights["sources"] = round(1 - sources.get("lam", 0.0), 12)  # 1 - 0.8 is not 0.2
    if _uses_fixmatch(result):
        weights["FixMatch"] = 1
    return [name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items() if weight]


def _work(result: Result) -> str:
    """Steps, time and speed of a training, and its hardware."""
    timing = result.get("timing") or {}
    parts = [
        format_count(result["steps"], "step"),
        f"batch {timing['batch_size']}" if timing.get("batch_size") else "",
        _format(timing.get("seconds"), ",.1f", " s"),
        _format(timing.get("images_per_second"), ",.0f", " images/s"),
        str(timing.get("device") or ""),
        format_count(timing["processes"], "process") if timing.get("processes", 1) > 1 else "",
        format_count(timing["threads"], "thread") if timing.get("threads") else "",
        str(timing.get("precision") or ""),
    ]
    return ", ".join(filter(None, parts))


def _explain_comparison(results: Mapping[str, Result]) -> Iterator[str]:
    first, *others = results
    if others:
        yield f"in brackets: difference from {first}, of percentages in points"
    tests = [result["test"] for result in results.values() if result.get("test")]
    if tests:
        largest = max(map(_standard_error, tests))
        yield f"another draw of as many test images would move an accuracy by about {largest:.2g} points"


def _standard_error(test: Mapping[str, Any]) -> float:
    """Standard error of an accuracy in points; not zero even if every image is right.

    Source: Agresti and Coull, "Approximate is better than exact for interval estimation of binomial proportions", 1998,
    with two successes and two failures added.
    """
    samples = test["samples"] + 4
    share = (test["accuracy"] / 100 * test["samples"] + 2) / samples
    return 100 * math.sqrt(share * (1 - share) / samples)


def _number(result: Result, group: str, key: str) -> float | None:
    value = (result.get(group) or {}).get(key)
    return None if value is None else float(value)


def _with_difference(value: float | None, reference: float | None, unit: str, digits: int) -> str:
    if value is None:
        return "-"
    difference = "" if reference is None else f" ({value - reference:+.{digits}f})"
    return f"{value:,.{digits}f}{unit}{difference}"


def _format(value: float | None, how: str, unit: str) -> str:
    return "" if value is None else f"{value:{how}}{unit}"


# -- pictures -----------------------------------------------------------------------------------


def draw_training(rows: Sequence[Row], result: Result) -> dict[str, bytes]:
    """Plot a training.

    Args:
        rows: Rows of the epochs, in order.
        result: The content of `result.json`.

    Returns:
        Contents of PNG files by file name, without the pictures for which there are no data.
    """
    test, sources = result.get("test") or {}, result.get("sources") or {}
    has_data = {
        "loss.png": bool(rows),
        "accuracy.png": bool(rows),
        "reliability.png": bool(test.get("bins")),
        "classes.png": 2 <= len(test.get("class_accuracy") or ()) <= _MAX_CLASSES,
        "weights.png": bool(sources.get("models")),
    }
    return {name: to_png(plot(rows, result)) for name, plot in TRAINING_PICTURES.items() if has_data[name]}


def plot_losses(rows: Sequence[Row], result: Result) -> Figure:
    """Plot the loss by epoch with its weighted terms, and the cross entropy of the validation images."""
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    terms = _plotted_terms(rows)
    lines = {name: _column(rows, name) for name in ("loss", *terms, "val_loss")}
    epochs = _column(rows, "epoch")
    marker = _marker(rows)
    special = {"loss": ("total", "-", "black"), "val_loss": ("validation, cross entropy", "--", GREY)}
    styles = dict(zip(terms, itertools.cycle(itertools.product(_TERM_STYLES, _TERM_COLOURS)), strict=False))
    for name, values in lines.items():
        if not np.isfinite(values).any() or (name == "loss" and len(terms) == 1):
            continue  # a loss of one term equals that term
        label, style, colour = special.get(name) or (_shortened(name.removeprefix("loss/"), 34), *styles[name])
        axes.plot(epochs, values, style, color=colour, marker=marker, markersize=3, label=label)
    if _is_wide(lines.values()):
        axes.set_yscale("log")
        label_log_axis(axes.yaxis)
    axes.set_ylabel("loss, weighted as added")
    _finish(figure, axes, rows, result)
    return figure


def _plotted_terms(rows: Sequence[Row]) -> list[str]:
    """The terms of the loss, without sources too small to be visible next to the total."""
    terms = dict.fromkeys(name for row in rows for name in row if name.startswith("loss/"))
    least = _MIN_SOURCE_SHARE * np.nanmax(_column(rows, "loss"), initial=0.0)
    return [
        name
        for name in terms
        if not name.startswith("loss/source ") or np.nanmax(_column(rows, name), initial=0.0) >= least
    ]


def plot_accuracy(rows: Sequence[Row], result: Result) -> Figure:
    """Plot the accuracy by epoch on training and validation images, with the best epoch, the test and the teacher."""
    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    epochs, marker = _column(rows, "epoch"), _marker(rows)
    for name, colour, label in (
        ("train_accuracy", GREY, "training, augmented"),
        ("val_accuracy", BLUE, "validation"),
    ):
        if np.isfinite(values := _column(rows, name)).any():
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=label)
    best, test, teacher = (result.get(name) or {} for name in ("best", "test", "teacher"))
    if best.get("val_accuracy") is not None:
        label = f"best, epoch {best['epoch']}: {best['val_accuracy']:.2f} %"
        axes.plot(
            best["epoch"], best["val_accuracy"], "*", color=ORANGE, markeredgecolor="white", markersize=14, label=label
        )
    if test:
        label = f"test, epoch {test['epoch']}: {test['accuracy']:.2f} %"
        axes.axhline(test["accuracy"], color=ORANGE, linestyle="--", linewidth=1.4, label=label)
    if teacher.get("accuracy") is not None:
        label = f"test, teacher: {teacher['accuracy']:.2f} %"
        axes.axhline(teacher["accuracy"], color=GREEN, linestyle=":", linewidth=1.8, label=label)
    axes.set_ylabel("accuracy (%)")
    _finish(figure, axes, rows, result)
    return figure


def plot_reliability(rows: Sequence[Row], result: Result) -> Figure:
    """Plot accuracy against confidence on the test images, and the number of images by confidence."""
    test = result["test"]
    width = 100 / len(test["bins"])
    bins = [(width * (place + 0.5), part) for place, part in enumerate(test["bins"]) if part["samples"]]
    middles = np.array([middle for middle, _ in bins])
    accuracies, confidences, samples = (
        [part[name] for _, part in bins] for name in ("accuracy", "confidence", "samples")
    )
    figure = new_figure(5.4, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    style_axes(upper).bar(middles, accuracies, 0.94 * width, color=BLUE, alpha=0.8, label="accuracy")
    ends = middles - 0.47 * width, middles + 0.47 * width
    upper.hlines(confidences, *ends, color=ORANGE, linewidth=2.5, label="mean confidence")
    upper.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="calibrated")
    upper.set(xlim=(0, 100), ylim=(0, 101), ylabel="accuracy (%)")
    style_axes(lower).bar(middles, samples, 0.94 * width, color=GREY)
    lower.set(ylabel="images", xlabel="confidence: largest probability (%)")
    subtitle = f"calibration error {test['calibration_error']:.2f} % on {format_count(test['samples'], 'test image')}"
    upper.set_title(f"{_title(result)}\n{subtitle}", fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_classes(rows: Sequence[Row], result: Result) -> Figure:
    """Plot the test accuracy of each class, the best first, in enough columns to keep the names readable."""
    accuracies = result["test"]["class_accuracy"]
    names = [_shortened(name, 26) for name in _class_names(result.get("classes") or (), len(accuracies))]
    bars = sorted(zip(accuracies, names, strict=True), key=lambda bar: math.inf if bar[0] is None else -bar[0])
    columns = math.ceil(len(bars) / _BARS_PER_COLUMN)
    size = math.ceil(len(bars) / columns)
    figure = new_figure(3 + 3 * columns if columns > 1 else 7, 1.4 + 0.19 * max(size, 4))
    for place, axes in enumerate(figure.subplots(1, columns, sharex=True, squeeze=False)[0]):
        _plot_bars(style_axes(axes), bars[place * size : (place + 1) * size], size)
        axes.axvline(result["test"]["accuracy"], color=ORANGE, linestyle="--", linewidth=1.4)
        axes.set_xlabel("accuracy (%)")
    subtitle = f"test accuracy of each class; dashed: {result['test']['accuracy']:.2f} % of all images"
    figure.suptitle(f"{_wrapped_title(result)}\n{subtitle}", fontsize=11, x=0.01, ha="left")
    return figure


def _plot_bars(axes: Axes, bars: Sequence[tuple[float | None, str]], size: int) -> None:
    """Horizontal bars from the top down, with room for `size` of them."""
    places = range(len(bars))
    axes.barh(places, [accuracy or 0.0 for accuracy, _ in bars], 0.78, color=BLUE, alpha=0.8)
    for place, (accuracy, _) in enumerate(bars):
        axes.text(102, place, "-" if accuracy is None else f"{accuracy:.1f}", va="center", fontsize=7)
    axes.set_yticks(places, [name for _, name in bars], fontsize=8, parse_math=False)
    axes.set(xlim=(0, 116), xticks=range(0, 101, 25), ylim=(size - 0.4, -0.6))
    axes.grid(visible=False, axis="y")


def plot_weights(rows: Sequence[Row], result: Result) -> Figure:
    """Plot the weight of each source against its similarity to the data, as named points."""
    sources = result["sources"]
    models = sources["models"]
    weights = np.array([_weight(model) for model in models])
    similarities = _column(models, "similarity")
    is_measured = np.isfinite(similarities)
    places = np.where(is_measured, similarities, _left_of(similarities[is_measured]))
    height = max(4.2, 1.6 + 0.17 * len(models))
    figure = new_figure(8, height)
    axes = style_axes(figure.add_subplot())
    spread = np.nan_to_num(_column(models, "std"))[is_measured]
    axes.errorbar(places[is_measured], weights[is_measured], xerr=spread, fmt="none", ecolor=GREY)
    axes.scatter(places, weights, s=36, c=[BLUE if weight else GREY for weight in weights], zorder=3)
    top = weights.max() or 1.0
    axes.set_ylim(-0.05 * top, 1.06 * top)
    _name_points(axes, places, weights, [_shortened(model["name"], 34) for model in models], 0.17 / (height - 1.5))
    _label_similarities(axes, sources, places, is_measured)
    axes.set_ylabel("weight")
    subtitle = f"{format_count(len(models), 'source')}: {_weights_explained(sources)}"
    if reason := sources.get("fallback") or ("" if weights.any() else "no source has a weight"):
        subtitle = f"{reason}; trained on labels alone"
    title = f"{_wrapped_title(result)}\n{textwrap.fill(subtitle, 80)}"
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    return figure


def _left_of(values: NDArray[np.float64]) -> float:
    """Position of points without a value: to the left of all others."""
    return float(values.min() - 0.15 * (np.ptp(values) or 1.0)) if len(values) else 0.0


def _name_points(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Sequence[str], distance: float
) -> None:
    """Write names in a column right of the axes, each with a line to its point.

    The total length of the lines is the least possible, so that no two of them cross.

    Args:
        axes: Axes of the points.
        x: (N,) horizontal coordinates of the points.
        y: (N,) vertical coordinates.
        names: N names.
        distance: Least distance of two names, as a share of the height of the axes.
    """
    from scipy.optimize import linear_sum_assignment

    points = np.stack([_share(x, axes.get_xlim()), _share(y, axes.get_ylim())], axis=1)
    heights = np.sort(points[:, 1])
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + distance)
    heights[-1] = min(heights[-1], 1.0)
    for place in reversed(range(len(heights) - 1)):
        heights[place] = min(heights[place], heights[place + 1] - distance)
    ends = np.stack([np.full_like(heights, 1.04), heights], axis=1)
    lengths = np.linalg.norm(points[:, None] - ends, axis=2)
    for point, end in zip(*linear_sum_assignment(lengths), strict=True):
        axes.annotate(
            names[point], (x[point], y[point]), (1.04, heights[end]), textcoords="axes fraction", va="center",
            fontsize=8, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 3},
        )  # fmt: skip


def _share(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """The position of values between two limits, from 0 to 1."""
    return (values - limits[0]) / (limits[1] - limits[0])


def _label_similarities(
    axes: Axes, sources: Mapping[str, Any], places: NDArray[np.float64], is_measured: NDArray[np.bool_]
) -> None:
    """Label the axis of similarities, with chance level and the position of sources without a similarity."""
    measure = sources.get("measure") if is_measured.any() else None
    axes.set_xlabel(f"similarity to the data ({measure})" if measure else "similarity to the data")
    if not is_measured.any():
        axes.set_xticks([0], ["not measured"])
        return
    if places[is_measured].min() <= 0 <= places[is_measured].max():
        axes.axvline(0, color="black", linestyle="--", linewidth=1)
    if not is_measured.all():
        unknown, right = places[~is_measured][0], axes.get_xlim()[1]
        ticks = [tick for tick in axes.get_xticks() if unknown < tick <= right]
        axes.set_xticks([unknown, *ticks], ["\nunknown", *(f"{tick:g}" for tick in ticks)])


def _shortened(text: str, length: int) -> str:
    """A text of limited length: a longer one loses its middle, since names differ at their ends."""
    letters = length - 3
    return text if len(text) <= length else f"{text[: letters - letters // 2]}...{text[-(letters // 2) :]}"


TRAINING_PICTURES: dict[str, Callable[[Sequence[Row], Result], Figure]] = {
    "loss.png": plot_losses,
    "accuracy.png": plot_accuracy,
    "reliability.png": plot_reliability,
    "classes.png": plot_classes,
    "weights.png": plot_weights,
}
"""The functions that plot the pictures of a training, by file name."""

_TERM_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
"""Colours of the terms of a loss, in order."""

_MIN_SOURCE_SHARE = 0.001
"""Least share of the loss for a source to be plotted; with a high power most sources have far less."""

_TERM_STYLES = ("-", "--", ":")
"""Line styles; the next one begins when the colours are used up."""

_BARS_PER_COLUMN = 34
"""Most bars above each other that are easy to read on one page."""


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A value of each row, (N,); NaN if not known."""
    return np.array([math.nan if row.get(name) is None else float(row[name]) for row in rows])


def _marker(rows: Sequence[Row]) -> str:
    """The marker of a line: dots if epochs are few, since one epoch makes no line."""
    return "o" if len(rows) <= 40 else ""


def _is_wide(lines: Iterable[NDArray[np.float64]]) -> bool:
    """Whether a logarithmic axis suits the values: all positive, with a range above a factor of ten."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines])
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _finish(figure: Figure, axes: Axes, rows: Sequence[Row], result: Result) -> None:
    from matplotlib.ticker import MaxNLocator

    last = rows[-1]["epoch"]
    axes.set_xlim(0.5, last + max(0.5, 0.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_title(_wrapped_title(result), fontsize=11, loc="left")
    labels = axes.get_legend_handles_labels()[1]
    columns = 3 if max(map(len, labels), default=0) <= 24 else 2
    figure.set_figheight(figure.get_figheight() + 0.22 * max(0, math.ceil(len(labels) / columns) - 3))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def _wrapped_title(result: Result) -> str:
    return textwrap.fill(_title(result), 80)
