"""What people look at of a training: progress, tables and explanations in a terminal, curves, CSV, pictures."""

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

from ..report import BLUE, GREEN, GREY, ORANGE, ProgressBar, human_number, new_figure, style_axes, to_png
from ..run_folder import csv_line, finite_only
from .base import get_distiller, list_distillers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
"""What is told of an epoch: `epoch` from 1, `step` (optimiser steps done), `lr`, `loss`, `loss/NAME` of each weighted
term, `train_accuracy` and `val_accuracy` in percent, `val_loss`, `images_per_second`, `seconds`."""

TAGS = {
    "loss": "loss/total",
    "lr": "lr",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "val_loss": "loss/val",
    "images_per_second": "images_per_second",
}
"""What a column is called in TensorBoard; a term of the loss has the same name there."""


Result = Mapping[str, Any]
"""What `result.json` says of a training; what is not known, or not yet, is None or missing."""

# -- progress -----------------------------------------------------------------------------------


class _TwoLines(Progress):
    """A bar with its `details` beneath it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields.get("details", ""), no_wrap=True, overflow="ellipsis")


class TrainingProgress(ProgressBar):
    """The bar of a training over all steps: images per second and time left, beneath it epoch, accuracy and loss.

    Speed and time left are those since the start, validation included.

    Args:
        epochs: Epochs in all.
        steps: Optimiser steps in all.
        done: Steps that were done before.
        enabled, console: As for `ProgressBar`.
    """

    BAR = _TwoLines
    SECONDS_SHOWN: ClassVar[float] = 0.2
    """How long a state is shown at least."""

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
            epoch: The epoch that it belongs to, from 1.
            losses: The weighted terms by name. They are read only when they are shown, a few times in a second: to
                read one from a device waits until it is computed.
            images: Images that it was computed on, over all processes.
        """
        self._epoch, self._images = epoch, self._images + images
        self._losses = {name: x.detach() if isinstance(x, Tensor) else x for name, x in losses.items()}
        self._done += 1
        self._new += 1
        now = time.monotonic()
        if not self._bar.disable and (now - self._shown >= self.SECONDS_SHOWN or self._done == self._total):
            self._shown = now
            self._bar.update(self._task, completed=self._done, state=self.state(), details=self.details())

    def validated(self, accuracy: float) -> None:
        """Show another validation accuracy, in percent."""
        self._accuracy = accuracy
        if not self._bar.disable:
            self._bar.update(self._task, details=self.details())

    def state(self) -> str:
        """Images per second and time left, as far as they are known."""
        seconds = time.monotonic() - self._started
        if not self._new or seconds <= 0:
            return ""
        left = round((self._total - self._done) * seconds / self._new)
        return f"{self._images / seconds:,.0f} images/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def details(self) -> str:
        """Epoch, last validation accuracy and weighted terms of the loss, as far as they are known."""
        terms = {name: float(value) for name, value in self._losses.items()}
        shown = " + ".join(f"{name} {value:.3g}" for name, value in terms.items())
        parts = [
            f"epoch {self._epoch}/{self._epochs}" if self._epoch else "",
            "" if self._accuracy is None else f"validation {self._accuracy:.1f} %",
            f"loss {sum(terms.values()):.3g} = {shown}" if terms else "",
        ]
        return "  ".join(filter(None, parts))


# -- curves and metrics -------------------------------------------------------------------------


class TrainingCurves:
    """Scalars by step for TensorBoard, written anew by every run from the rows that are stored, then one by one.

    So none is missing or there twice, whenever an earlier run was killed and however much of it was on the disk.

    Args:
        folder: Where the event files are; None writes nothing.
        rows: The epochs that are done.
    """

    def __init__(self, folder: Path | None, rows: Iterable[Row] = ()) -> None:
        self._writer: Any = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
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
        """Add the scalars of the next epoch at its step; they are on the disk afterwards."""
        if self._writer is None:
            return
        for name, value in row.items():
            tag = TAGS.get(name, name if name.startswith("loss/") else None)
            if tag is not None and value is not None:
                self._writer.add_scalar(tag, value, global_step=row["step"])
        self._writer.flush()


def metrics_csv(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of `metrics.csv`: a row for each epoch, empty where it has no finite value.

    Args:
        rows: The epochs in order.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    yield csv_line(columns)
    for row in rows:
        values = finite_only(row)
        yield csv_line([values.get(name) for name in columns])


# -- tables -------------------------------------------------------------------------------------


def format_training(result: Result) -> Table:
    """Student, teacher, loss, accuracies, calibration, agreement with the teacher, cost and time of a training."""
    table = Table(title=Text(_title(result)), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, shown in _facts(result).items():
        if shown:
            table.add_row(name, Text(shown))
    return table


def describe_training(result: Result, path: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """How a training ended, which epoch its numbers are of, and Python that loads the student, in lines.

    Args:
        result: What `result.json` says.
        path: The run folder, if there is one.
    """
    complete = result["status"] == "complete"
    if not complete:
        done = f"{_epochs(result)} done, {_count(result['steps'], 'step')}"
        yield f"interrupted or running: {done}; the same command continues"
    if (teacher := result.get("teacher")) and teacher.get("trained") is False:
        yield f"the teacher {teacher['name']} has random weights: it was neither trained nor given a checkpoint"
    if test := result.get("test"):
        chosen = RULES[result["rule"]]
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


RULES = {"last": "the last", "best": "the best on validation images"}
"""Which epoch's student is kept, by rule."""


def compare_trainings(results: Mapping[str, Result]) -> Table:
    """Trainings side by side, each number with its difference from the first training.

    Args:
        results: What `result.json` says of each, by what it is called, such as "student alone" and "distilled".

    Raises:
        ValueError: There are none.
    """
    if not results:
        raise ValueError("There are no trainings to compare.")
    table = Table(caption=Text("\n".join(_explain_comparison(results)), style="dim"), caption_justify="left")
    table.add_column(no_wrap=True)
    for name in results:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, value in {
        "student": lambda result: (result.get("student") or {}).get("name"),
        "teacher": lambda result: (result.get("teacher") or {}).get("name"),
        "loss": lambda result: " + ".join(_loss(result)),
        "epochs": lambda result: f"{result['epochs']:,}",
    }.items():
        table.add_row(name, *(Text(value(result) or "-") for result in results.values()))
    table.add_section()
    for name, (group, key, unit, digits) in COMPARED.items():
        values = [_number(result, group, key) for result in results.values()]
        if any(value is not None for value in values):
            cells = [_shown(value, values[0] if place else None, unit, digits) for place, value in enumerate(values)]
            table.add_row(name, *map(Text, cells), style="bold" if name == "test accuracy" else "")
    return table


COMPARED = {
    "test accuracy": ("test", "accuracy", " %", 2),
    "test accuracy, top 5": ("test", "top5", " %", 2),
    "test loss": ("test", "nll", "", 4),
    "calibration error": ("test", "calibration_error", " %", 2),
    "agreement with the teacher": ("agreement", "percent", " %", 2),
    "best validation accuracy": ("best", "val_accuracy", " %", 2),
    "seconds": ("timing", "seconds", "", 1),
}
"""What is compared between trainings: its name, where it is in a result, its unit and its decimal places."""


def format_distillers(pattern: str = "*") -> Table:
    """The distillers by name: what they read, their customary weight and that of the cross entropy, what they are.

    Args:
        pattern: A shell pattern that names must match.

    Raises:
        UnknownNameError: No name does; near ones are given.
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
    student, teacher = result.get("student") or {}, result.get("teacher") or {}
    parts = [student.get("name", "training"), *([f"under {teacher['name']}"] if teacher else ["alone"])]
    status = "" if result["status"] == "complete" else ", unfinished"
    return f"{' '.join(parts)}: {_epochs(result)}{status}"


def _epochs(result: Result) -> str:
    """How many are done, and of how many where that is another number."""
    planned = result.get("planned_epochs", result["epochs"])
    of = "" if planned == result["epochs"] else f"{result['epochs']} of "
    return of + _count(planned, "epoch")


def _facts(result: Result) -> dict[str, str]:
    """What the table says, by heading; empty what is not known."""
    part = {name: result.get(name) or {} for name in ("student", "teacher", "test", "agreement", "last", "best")}
    test, agreement = part["test"], part["agreement"]
    chosen = f"{_count(test['samples'], 'image')}, epoch {test['epoch']}" if test else ""
    return {
        "student": _network(part["student"]),
        "teacher": _network(part["teacher"]),
        "data": result.get("data") or "",
        "loss": " + ".join(_loss(result)),
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
    """Name and cost of a network, as far as they are known."""
    parts = [
        facts.get("name", ""),
        f"{human_number(facts['params'])} parameters" if facts.get("params") else "",
        f"{human_number(facts['macs'])} MACs" if facts.get("macs") else "",
        _format(facts.get("latency_ms"), ".2f", " ms"),
    ]
    return ", ".join(filter(None, parts))


def _loss(result: Result) -> list[str]:
    """The weighted terms of the loss."""
    weights = {"cross entropy": result.get("ce_weight", 1.0), **(result.get("distillers") or {})}
    return [name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items() if weight]


def _work(result: Result) -> str:
    """How long it took, how fast it was and on what."""
    timing = result.get("timing") or {}
    parts = [
        _count(result["steps"], "step"),
        f"batch {timing['batch_size']}" if timing.get("batch_size") else "",
        _format(timing.get("seconds"), ",.1f", " s"),
        _format(timing.get("images_per_second"), ",.0f", " images/s"),
        str(timing.get("device") or ""),
        _count(timing["processes"], "process") if timing.get("processes", 1) > 1 else "",
        _count(timing["threads"], "thread") if timing.get("threads") else "",
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
    """Standard error of an accuracy in points, not zero where all is right; Source: Agresti and Coull, 1998."""
    samples = test["samples"] + 4
    share = (test["accuracy"] / 100 * test["samples"] + 2) / samples
    return 100 * math.sqrt(share * (1 - share) / samples)


def _number(result: Result, group: str, key: str) -> float | None:
    value = (result.get(group) or {}).get(key)
    return None if value is None else float(value)


def _shown(value: float | None, reference: float | None, unit: str, digits: int) -> str:
    if value is None:
        return "-"
    difference = "" if reference is None else f" ({value - reference:+.{digits}f})"
    return f"{value:,.{digits}f}{unit}{difference}"


def _format(value: float | None, how: str, unit: str) -> str:
    return "" if value is None else f"{value:{how}}{unit}"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


# -- pictures -----------------------------------------------------------------------------------


def draw_training(rows: Sequence[Row], result: Result) -> dict[str, bytes]:
    """The pictures of a training as PNG, by file name: those for which there is something to show.

    Args:
        rows: The epochs in order.
        result: What `result.json` says.
    """
    bins = (result.get("test") or {}).get("bins")
    wanted = [*(["loss.png", "accuracy.png"] if rows else []), *(["reliability.png"] if bins else [])]
    return {name: to_png(TRAINING_PICTURES[name](rows, result)) for name in wanted}


def plot_losses(rows: Sequence[Row], result: Result) -> Figure:
    """The loss by epoch with its weighted terms, and the cross entropy of the validation images."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure()
    axes = style_axes(figure.add_subplot())
    terms = list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss/")))
    lines = {name: _column(rows, name) for name in ("loss", *terms, "val_loss")}
    epochs = _column(rows, "epoch")
    marker = _marker(rows)
    special = {"loss": ("total", "black", "-"), "val_loss": ("validation, cross entropy", GREY, "--")}
    colours = dict(zip(terms, itertools.cycle(TERM_COLOURS), strict=False))
    for name, values in lines.items():
        if not np.isfinite(values).any() or (name == "loss" and len(terms) == 1):
            continue  # a loss of one term is that term
        label, colour, style = special.get(name) or (name.removeprefix("loss/"), colours[name], "-")
        axes.plot(epochs, values, style, color=colour, marker=marker, markersize=3, label=label)
    if _is_wide(lines.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("loss, weighted as added")
    _finish(figure, axes, rows, result)
    return figure


def plot_accuracy(rows: Sequence[Row], result: Result) -> Figure:
    """Accuracy by epoch on training and validation images, with the best epoch, the test and the teacher."""
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
    """Accuracy against confidence on the test images, and how many there are of each confidence."""
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
    shown = f"calibration error {test['calibration_error']:.2f} % on {_count(test['samples'], 'test image')}"
    upper.set_title(f"{_title(result)}\n{shown}", fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


TRAINING_PICTURES: dict[str, Callable[[Sequence[Row], Result], Figure]] = {
    "loss.png": plot_losses,
    "accuracy.png": plot_accuracy,
    "reliability.png": plot_reliability,
}
"""The pictures of a training, by file name."""

TERM_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
"""More colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008)."""


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A value by epoch, NaN where it is not known."""
    return np.array([math.nan if row.get(name) is None else float(row[name]) for row in rows])


def _marker(rows: Sequence[Row]) -> str:
    """Points where epochs are few, since one alone makes no line."""
    return "o" if len(rows) <= 40 else ""


def _is_wide(lines: Iterable[NDArray[np.float64]]) -> bool:
    """Whether the values are positive and span more than a factor of ten, so that a log axis shows more of them."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines])
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def _finish(figure: Figure, axes: Axes, rows: Sequence[Row], result: Result) -> None:
    from matplotlib.ticker import MaxNLocator

    last = rows[-1]["epoch"]
    axes.set_xlim(0.5, last + max(0.5, 0.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_title(textwrap.fill(_title(result), 80), fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
