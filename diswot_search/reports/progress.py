"""Progress on a terminal or as lines of a log, and curves for TensorBoard."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch import Tensor

from ..runtime.executors.dispatch import Activity
from ..study.records import Record
from ..training.result import EpochRow
from .event_file import EventFile
from .trackers import Trackers
from .training import MAX_CLASSES, class_names_of

if TYPE_CHECKING:
    from typing_extensions import Self


# -- progress -----------------------------------------------------------------------------------


class _LinesBelow(Progress):
    """A progress bar with lines below it, which are made anew whenever the bar is drawn."""

    below: Callable[[], Iterable[str]] = tuple

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.below():
            yield Text(line, no_wrap=True, overflow="ellipsis")


def worker_lines(activities: Iterable[Activity]) -> Iterator[str]:
    """A line for each worker.

    Example:
        >>> list(worker_lines([Activity("worker 0", 3, "in 1-2-2", 0.5), Activity("worker 1", 1200)]))
        ['worker 0: 3 done, in 1-2-2 for 0.5 s', 'worker 1: 1,200 done, waiting']
    """
    for one in activities:
        yield f"{one.worker}: {one.done:,} done, {f'{one.where} for {one.seconds:.1f} s' if one.where else 'waiting'}"


class ProgressBar:
    """A progress bar with speed and time left; outside a terminal, lines of the same.

    A line is written after `ITEMS_PER_LINE` new items or `SECONDS_PER_LINE`, whichever comes first. Items that were
    read from the store are not told.

    Args:
        what: Name of the work, shown before the bar.
        unit: Name of the counted items, in the plural.
        total: Number of items in all.
        enabled: False shows neither the bar nor lines.
        console: The console to draw on; standard error by default.
        below: Gives lines to show below the bar, or after each line.
    """

    BAR: ClassVar[type[Progress]] = _LinesBelow
    ITEMS_PER_LINE: ClassVar[int] = 100
    SECONDS_PER_LINE: ClassVar[float] = 30.0

    def __init__(
        self,
        what: str,
        unit: str,
        total: int,
        *,
        enabled: bool = True,
        console: Console | None = None,
        below: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        console = console or Console(stderr=True)
        self._console, self._what = console, what
        self._writes_lines = enabled and not console.is_terminal
        self._last_line = time.monotonic()
        self._unit = unit
        self._total = total
        self._done = self._new = self._told = 0
        self._started = time.monotonic()
        self._bar = self.BAR(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("elapsed"),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self._below = below or tuple
        if isinstance(self._bar, _LinesBelow):
            self._bar.below = self._below
        self._task = self._bar.add_task(what, total=total, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bar.disable:  # rich before version 15 ends even a disabled bar with an empty line
            self._bar.stop()

    def begin(self) -> None:
        """Take the speed from now on: the workers are ready."""
        self._started = time.monotonic()

    def advance(self, *, replayed: bool) -> None:
        """Count one item.

        Args:
            replayed: Whether the item was read from the store, which does not count towards the speed.
        """
        self._done += 1
        if replayed:
            self._started = time.monotonic()
        else:
            self._new += 1
        self.refresh(is_due=not replayed and self._new % self.ITEMS_PER_LINE == 0)

    def refresh(self, *, is_due: bool = False) -> None:
        """Show the present state: in the bar, or in a line if one is due.

        Args:
            is_due: Whether a line is due although the last one is not long ago.
        """
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._done, state=self.state())
        elif is_due or time.monotonic() - self._last_line >= self.SECONDS_PER_LINE:
            self.write_line(self.count(), self.state())
            for line in self._below():
                self.write_line(line)

    def count(self) -> str:
        """How many items are done, for a line of the log."""
        return f"{self._done:,}/{self._total:,} {self._unit}"

    def write_line(self, *parts: str) -> None:
        """Write a line of the log, outside a terminal only."""
        if self._writes_lines:
            self._last_line, self._told = time.monotonic(), self._done
            line = "  ".join(filter(None, [self._what, *parts]))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def state(self) -> str:
        """Speed and time left; empty before the first new item."""
        seconds = time.monotonic() - self._started
        if not self._new or seconds <= 0:
            return ""
        rate = self._new / seconds
        left = round((self._total - self._done) / rate)
        return f"{rate:.3g} {self._unit}/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


class CostProgress(ProgressBar):
    """The progress bar of counting costs. Many a cost is counted in no time, so lines come by time alone."""

    ITEMS_PER_LINE = sys.maxsize


class SearchProgress(ProgressBar):
    """The progress bar of a search, with the best score so far.

    Outside a terminal, a line says that the search has begun, and one how far it came.

    Args:
        total: Number of evaluations in all.
        enabled: False shows neither the bar nor lines.
        console: The console to draw on; standard error by default.
        below: Gives lines to show below the bar, or after each line.
    """

    def __init__(
        self,
        total: int,
        *,
        enabled: bool = True,
        console: Console | None = None,
        below: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        super().__init__("searching", "candidates", total, enabled=enabled, console=console, below=below)
        self._best: float | None = None
        self._failed = 0
        self._tried = ""

    def __enter__(self) -> Self:
        self.write_line(f"{self._total:,} {self._unit} to score")
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._told != self._done:
            self.write_line(self.count(), self.state())

    def tried(self, tried: int, within: int) -> None:
        """Show how many architectures were tried, and how many of them are within the budget, where not all are."""
        self._tried = f"{tried:,} architectures tried, {within:,} within the budget" if within < tried else ""
        self.refresh()

    def add(self, record: Record, *, replayed: bool, best: Record | None = None) -> None:
        """Count one evaluation.

        Args:
            record: The evaluated architecture.
            replayed: Whether it was read from the store, which does not count towards the speed.
            best: The best record so far, for scores that depend on the other scored architectures.
        """
        if best is not None:
            self._best = best.score
        elif record.score is not None and (self._best is None or record.score > self._best):
            self._best = record.score
        self._failed += record.status != "ok"
        self.advance(replayed=replayed)

    def count(self) -> str:
        return f"{self._done:,} of {self._total:,} {self._unit} scored"

    def state(self) -> str:
        """Best score so far, failures, architectures tried, candidates per second and time left, if there are any."""
        best = "" if self._best is None else f"best {self._best:.5g}"
        failed = f"{self._failed:,} failed" if self._failed else ""
        return "  ".join(filter(None, [best, failed, self._tried, super().state()]))


# -- curves -------------------------------------------------------------------------------------


class Curves:
    """Scalars by evaluation for TensorBoard, in the order in which they were finished.

    Every run writes them anew, because a search replays its stored evaluations first. So no step is missing or
    repeated, even if an earlier run was killed.

    Args:
        folder: Folder of the event files; None writes nothing.
        trackers: Get the same scalars.
    """

    def __init__(self, folder: Path | None, trackers: Trackers | None = None) -> None:
        self._trackers = trackers or Trackers()
        self._writer: EventFile | None = None
        self._best = -float("inf")
        if folder is None:
            return
        self._writer = EventFile(folder)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, record: Record, *, best: Record | None = None) -> None:
        """Add the scalars of the next record.

        Args:
            record: The evaluated architecture.
            best: The best record so far, for scores that depend on the other scored architectures. Then each score is
                the one at the time of its evaluation. The curves also show the parts of the best score, since only the
                parts can be compared over time.
        """
        values: dict[str, float | None] = {
            **{f"cost/{name}": value for name, value in record.costs().items()},
            "seconds per evaluation": record.seconds,
        }
        if record.score is not None:
            self._best = max(self._best, record.score)
            values |= {"score/evaluation": record.score, "score/best": self._best if best is None else best.score}
            values |= {f"best/{name}": value for name, value in (best.parts if best else {}).items()}
        scalars = {name: value for name, value in values.items() if value is not None}
        step = record.index if record.finished is None else record.finished  # trackers drop steps that go back
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add(name, value, step)
        self._trackers.log(scalars, step)


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
        enabled: False shows neither the bar nor lines.
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

    def finished_epoch(self, row: EpochRow) -> None:
        """Show the end of an epoch: its validation accuracy, or a line of the log outside a terminal."""
        if row.val_accuracy is not None:
            self._accuracy = row.val_accuracy
        if not self._bar.disable:
            self._bar.update(self._task, details=self.details())
        else:
            self.write_line(self._summary(row.epoch, row.terms), self.state())

    def state(self) -> str:
        """Images per second and time left; empty before the first step."""
        seconds = time.monotonic() - self._started
        if not self._new or seconds <= 0:
            return ""
        left = round((self._total - self._done) * seconds / self._new)
        return f"{self._images / seconds:,.0f} images/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def details(self) -> str:
        """Epoch, last validation accuracy and weighted terms of the loss, without those that are not known yet."""
        return self._summary(self._epoch, {name: float(value) for name, value in self._losses.items()})

    def _summary(self, epoch: int, terms: Mapping[str, float]) -> str:
        total = " + ".join(f"{name} {value:.3g}" for name, value in terms.items())
        parts = [
            f"epoch {epoch}/{self._epochs}" if epoch else "",
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
        trackers: Get the same scalars.
    """

    def __init__(
        self,
        folder: Path | None,
        rows: Iterable[EpochRow] = (),
        *,
        classes: Sequence[str] = (),
        source_weights: Mapping[str, float] | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self._classes = classes
        self._trackers = trackers or Trackers()
        self._writer = None if folder is None else EventFile(folder)
        if source_weights:
            self._add({f"source_weight/{name}": weight for name, weight in source_weights.items()}, 0)
        for row in rows:
            self.add(row)

    def __enter__(self) -> TrainingCurves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: EpochRow) -> None:
        """Add the scalars of the next epoch at its step, and write them to the disk."""
        values = _scalars(row)
        accuracies = row.val_class_accuracy or ()
        if len(accuracies) <= MAX_CLASSES:
            names = class_names_of(self._classes, len(accuracies))
            values |= {f"class_accuracy/{name}": value for name, value in zip(names, accuracies, strict=True)}
        self._add({tag: value for tag, value in values.items() if value is not None}, row.step)

    def _add(self, scalars: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            for tag, value in scalars.items():
                self._writer.add(tag, value, step)
        self._trackers.log(scalars, step)


def _scalars(row: EpochRow) -> dict[str, float | None]:
    """The scalars of an epoch by their names in TensorBoard, without class accuracies."""
    return {
        "lr": row.lr,
        "loss/total": row.loss,
        **{f"loss/{name}": value for name, value in row.terms.items()},
        **{f"{name}/unlabelled": value for name, value in row.notes.items()},
        "accuracy/train": row.train_accuracy,
        "accuracy/val": row.val_accuracy,
        "accuracy/val_balanced": row.val_balanced_accuracy,
        "macro_f1/val": row.val_macro_f1,
        "loss/val": row.val_loss,
        "images_per_second": row.images_per_second,
    }
