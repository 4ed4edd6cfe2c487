"""Trainings that are parts of a larger job: each has a run folder of its own, and workers train them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..comparison.trainings import FAILED
from ..options.training import DistillOptions, TrainOptions
from ..reports.progress import ProgressBar
from ..resolve.folders import CellsFolder
from ..runtime.executors.base import Executor, Placement
from ..runtime.executors.dispatch import Dispatcher
from ..runtime.failures import failure_reason
from ..runtime.files import RunFolderError
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE
from ..study.loop import Loop
from ..training.folder import TrainingFolder
from .train import DistillJob, TrainJob


@dataclass(frozen=True)
class Cell:
    """A training that is a part of a larger job.

    Attributes:
        name: Its name; that of its folder in the folder of the job.
        values: Its values in the grid of a sweep, by the names of the grid, as JSON values.
        options: All of its options.
        written: The options for its config.yaml, if they are others: names in the place of objects.
        tests: Whether the test images are looked at; see `TrainingRun`.
    """

    name: str
    values: Mapping[str, object]
    options: DistillOptions | TrainOptions
    written: DistillOptions | TrainOptions | None = None
    tests: bool = True

    @property
    def path(self) -> str:
        """Its run folder."""
        return str(self.options.out)


@dataclass(frozen=True)
class Outcome:
    """The end of a training. The result is in its run folder.

    Attributes:
        reason: The reason if it failed.
        warnings: The texts of its warnings.
    """

    reason: str | None = None
    warnings: tuple[str, ...] = ()


class CellTrainer:
    """The program of a worker, which trains cells on its device."""

    def __call__(self, placement: Placement) -> partial[Outcome]:
        """The function that trains a cell."""
        device = placement.device
        if device is not None and device.startswith("cuda:"):
            import torch

            torch.cuda.set_device(device)
        return partial(_train, device=device)


def _train(cell: Cell, *, device: str | None) -> Outcome:
    """Train a cell, or go on with it, in its run folder."""
    changes: dict[str, Any] = {"progress": False} | ({} if device is None else {"device": device})
    job = job_of(cell, **changes)
    reason = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", UserWarning)  # the check of the job has told those of the check
        try:
            job.check_once()
            warnings.simplefilter("always", UserWarning)
            job.complete()
        except RunFolderError:
            raise
        except Exception as error:
            reason = failure_reason(error, f"in the training {cell.name}")
    for warning in caught:
        if not issubclass(warning.category, UserWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts = (str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    return Outcome(reason, tuple(dict.fromkeys(texts)))


def job_of(cell: Cell, **changes: Any) -> DistillJob | TrainJob:
    """The job of a cell, with options that are those of its place, so that they are not written down."""
    written = cell.written or cell.options
    if isinstance(cell.options, DistillOptions):
        assert isinstance(written, DistillOptions)
        return DistillJob(dataclasses.replace(cell.options, **changes), written=written, tests=cell.tests)
    assert isinstance(written, TrainOptions)
    return TrainJob(dataclasses.replace(cell.options, **changes), written=written, tests=cell.tests)


class CellProgress(ProgressBar):
    """The progress bar of trainings; outside a terminal, a line for each."""

    ITEMS_PER_LINE = 1


class Trainings:
    """Trains cells by the workers of an executor, one list of them after another. Equal warnings are told once.

    Args:
        folder: Stores the end of each.
        executor: The executor.
        interruption: Looked at before each training.
        progress: Whether progress is shown.
        timeout_s: Longest time of a training in seconds.
        retry_failed: Train again what failed in an earlier run.
    """

    def __init__(
        self,
        folder: CellsFolder,
        executor: Executor,
        interruption: Interruption,
        *,
        progress: bool,
        timeout_s: float | None = None,
        retry_failed: bool = False,
    ) -> None:
        self._folder = folder
        self._interruption = interruption
        self._shows_progress = progress
        self._retry_failed = retry_failed
        self._told: set[str] = set()
        self._dispatcher: Dispatcher[Outcome] = Dispatcher(executor, interruption=interruption, timeout_s=timeout_s)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Have the workers in this block."""
        with self._dispatcher.started(CellTrainer()):
            yield

    def train(self, cells: Sequence[Cell], what: str = "training", unit: str = "cells") -> None:
        """Train those cells that are not done, and store the end of each.

        Args:
            cells: The cells.
            what: Name of the work on the progress bar.
            unit: Name of the cells there, in the plural.

        Raises:
            KeyboardInterrupt: A signal came; what was finished in order before is stored.
            OutOfMemory, MachineError: The machine failed.
        """
        stored = self._folder.cells

        def store(cell: Cell, outcome: Outcome, worker: str) -> dict[str, Any]:
            status = COMPLETE if outcome.reason is None else FAILED
            row = {"status": status, "reason": outcome.reason, "worker": worker}
            self._folder.add(cell.name, row)
            for text in outcome.warnings:
                if text not in self._told:
                    self._told.add(text)
                    warnings.warn(text, stacklevel=2)
            return row

        with CellProgress(what, unit, len(cells), enabled=self._shows_progress) as bar:
            loop: Loop[Cell, Outcome, dict[str, Any]] = Loop(
                dispatcher=self._dispatcher,
                stored=lambda cell: self._finished(cell, stored.get(cell.name)),
                store=store,
                lost=lambda cell, reason: Outcome(reason),
                show=lambda row, replayed: bar.advance(replayed=replayed),
                interruption=self._interruption,
                describe=lambda cell: f"in the training {cell.name}",
            )
            loop.run(cells)

    def _finished(self, cell: Cell, row: dict[str, Any] | None) -> dict[str, Any] | None:
        """The row of a cell that is not to be trained; None for one that is."""
        if row is None:
            return None
        if row["status"] == FAILED:
            return None if self._retry_failed else row
        if not TrainingFolder.has_begun(cell.path):
            return None
        training = TrainingFolder.peek(cell.path)
        is_whole = training.status == COMPLETE and not training.missing_files()
        is_tested = not cell.tests or (training.result or {}).get("test") is not None
        return row if is_whole and is_tested else None
