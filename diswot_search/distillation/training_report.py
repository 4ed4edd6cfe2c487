"""What people look at of a training: progress, tables and explanations in a terminal, curves, CSV, pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text
from torch import Tensor

from ..report import ProgressBar
from ..run_folder import csv_line, finite_only

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
