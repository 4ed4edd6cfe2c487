"""The page of a training, and what pages of other kinds show of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from search_spaces.names import short_name

from ...training.result import EpochRow, FinalMetrics, TrainingResult
from ..style import format_count, human_number
from ..training import compare_trainings, describe_training, format_training, training_title
from ..training_figures import training_figures
from .blocks import Block, Code, Page, Section
from .common import again_section, data_blocks, filled
from .pictures import to_picture
from .tables import grid_of

_CAPTIONS = {
    "accuracy.png": (
        "Accuracy by epoch",
        "Accuracy on training and validation images by epoch, the test, the teacher.",
    ),
    "loss.png": ("Loss by epoch", "The loss by epoch with its weighted terms, and that of the validation images."),
    "classes.png": (
        "Accuracy of each class on test images",
        "Bars: the test accuracy of each class, the lowest first.",
    ),
    "reliability.png": (
        "Calibration on test images",
        "The accuracy of images whose confidence lies in each of the bins, against that confidence.",
    ),
    "weights.png": ("Weights of the sources", "The weight of each source and its similarity to the data."),
}
"""Caption and description of each picture of a training."""


def training_page(path: Path, result: TrainingResult, rows: Sequence[EpochRow], command: str | None = None) -> Page:
    """The page of a training, finished or not.

    Args:
        path: The run folder.
        result: The result, or the state before the end.
        rows: The measurements of each epoch so far.
        command: The command that continues it.
    """
    return Page(
        kind="training",
        title=training_title(result),
        verdict=training_verdict(result),
        facts=training_facts(result),
        sections=[
            *training_sections(path, result, rows),
            _measured(result),
            again_section("training", path, result.versions, command),
        ],
        data=result.to_json(),
        path=str(path),
        is_final=result.is_complete,
    )


def training_verdict(result: TrainingResult) -> str:
    """The outcome of a training in a sentence."""
    student = short_name(result.student.name)
    if result.test is None:
        best = result.best
        reached = "" if best is None or best.val_accuracy is None else f"; so far {_percent(best.val_accuracy)} of the "
        so_far = f"{reached}validation images, in epoch {best.epoch}" if best is not None and reached else ""
        planned = result.planned_epochs or result.epochs
        return f"{student}: {result.epochs} of {format_count(planned, 'epoch')} are done{so_far}."
    text = f"{student} reaches {with_interval(result.test)}"
    teacher = result.teacher
    if teacher is not None and teacher.accuracy is not None:
        text += f"; its teacher {short_name(teacher.name)} reaches {_percent(teacher.accuracy)}"
    return f"{text}."


def with_interval(test: FinalMetrics) -> str:
    """A test accuracy with its 95 % interval by the images, and the number of images.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    from scipy.stats import binomtest

    right = round(test.accuracy * test.samples / 100)
    low, high = binomtest(right, test.samples).proportion_ci(method="wilson")
    return (
        f"{_percent(test.accuracy)} [{100 * low:.2f}, {100 * high:.2f}] of {format_count(test.samples, 'test image')} "
        "(95 % interval by the draw of images)"
    )


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def training_facts(result: TrainingResult) -> dict[str, str]:
    """The facts of a student."""
    student, test, teacher = result.student, result.test, result.teacher
    latency = "" if student.latency_ms is None else f"{student.latency_ms:.2f} ms\n{student.latency or ''}"
    return filled(
        {
            "student": short_name(student.name),
            "test accuracy": _percent(test.accuracy) if test else "",
            "teacher's accuracy": _percent(teacher.accuracy) if teacher and teacher.accuracy is not None else "",
            "params": human_number(student.params) if student.params is not None else "",
            "MACs": human_number(student.macs) if student.macs is not None else "",
            "size": f"{4 * student.params / 1e6:.2f} MB in float32" if student.params is not None else "",
            "latency of what ships": latency.strip(),
            "epochs": f"{result.epochs:,}" + (f" of {result.planned_epochs:,}" if result.planned_epochs else ""),
            "data": result.data,
        }
    )


def training_sections(
    path: Path | None, result: TrainingResult, rows: Sequence[EpochRow], *, level: int = 2, prefix: str = ""
) -> Iterator[Section]:
    """The sections of a training: its numbers, curves, classes and calibration.

    Args:
        path: The run folder; None in memory.
        result: The result.
        rows: The measurements of each epoch.
        level: Level of the headings.
        prefix: Begins the names of the pictures, which differ on a page.
    """
    lines = list(describe_training(result, path))
    code = [line for line in lines if line.startswith("import ")]
    if code:
        yield Section(
            title="How to load the student", blocks=[Code(text="\n".join(code), title="In Python")], level=level
        )
    data = [] if path is None else [*data_blocks(path)]
    text = [line for line in lines if line not in code and not line.startswith("to load")]
    yield Section(title="The numbers", blocks=[grid_of(format_training(result)), *text, *data], level=level)
    figures = training_figures(rows, result)
    groups = {
        "Curves": ("accuracy.png", "loss.png", "weights.png"),
        "Classes and calibration": ("classes.png", "reliability.png"),
    }
    for title, names in groups.items():
        blocks: list[Block] = [
            to_picture(figures[name], prefix + name, *_CAPTIONS[name]) for name in names if name in figures
        ]
        if blocks:
            yield Section(title=title, blocks=blocks, level=level)


def compared_section(results: Mapping[str, TrainingResult], *, level: int = 2) -> Section:
    """Trainings side by side."""
    return Section(title="The trainings side by side", blocks=[grid_of(compare_trainings(results))], level=level)


def _measured(result: TrainingResult) -> Section:
    lines: list[Block] = [
        "test accuracy: on test images, which were looked at once, after the weights had been chosen.",
        f"the weights are those of the {result.rule} epoch"
        + (f", by {result.best_by.replace('_', ' ')} on validation images." if result.rule == "best" else "."),
        "interval: Wilson's, for the accuracy on another draw of as many images; another seed moves it as well.",
        "calibration error: the mean distance of confidence and accuracy over 15 bins of confidence.",
    ]
    timing = result.timing
    if timing is not None:
        beside = f", {timing.workers} workers at once" if timing.workers > 1 else ""
        lines.append(
            f"time: {timing.seconds:,.1f} s on {timing.device}, {timing.precision}, "
            f"{format_count(timing.threads, 'thread')}, batch {timing.batch_size}{beside}; {timing.covers}"
        )
    if result.student.latency_instability:
        lines.append(f"latency: not stable: {result.student.latency_instability}")
    return Section(title="How each number was measured", blocks=lines)
