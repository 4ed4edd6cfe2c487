"""Trainings that are parts of a larger job: each has a run folder of its own, and workers train them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ..comparison.trainings import FAILED
from ..options.training import DistillOptions, TrainOptions
from ..reports.progress import ProgressBar, worker_lines
from ..reports.trackers import TrackerError
from ..resolve.folders import CellsFolder
from ..runtime.configuration import config_sha256
from ..runtime.devices import resolve_device
from ..runtime.executors.base import Executor, Placement
from ..runtime.executors.dispatch import Dispatcher
from ..runtime.failures import failure_reason
from ..runtime.files import RunFolderError
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE
from ..runtime.worker_threads import WorkerThreads
from ..study.loop import FreeLoop
from ..training.folder import TrainingFolder
from .student_facts import is_untimed, time_student
from .train import DistillJob, TrainJob

WITHOUT_EFFECT = ("out", "imports", "progress", "quiet", "checkpoint_minutes", "trackers", "tracker_options")
"""Options of a training that change no result."""


@dataclass(frozen=True)
class Cell:
    """A training that is a part of a larger job.

    Attributes:
        name: Its name; that of its folder in the folder of the job.
        values: Its values in the grid of a sweep, by the names of the grid, as JSON values.
        options: All of its options.
        written: The options for its config.yaml, if they are others: names in the place of objects.
        tests: Whether the test images are looked at; see `TrainingRun`.
        end: Key of its end in the store of the job, if that is not its name: a training that is done and is now tested
            has an end of its own, so that a failure while testing leaves what is known of the training.
    """

    name: str
    values: Mapping[str, object]
    options: DistillOptions | TrainOptions
    written: DistillOptions | TrainOptions | None = None
    tests: bool = True
    end: str | None = None

    @property
    def key(self) -> str:
        """The key of its end in the store of the job."""
        return self.end or self.name

    @property
    def path(self) -> str:
        """Its run folder."""
        return str(self.options.out)


@dataclass(frozen=True)
class Outcome:
    """The end of a training. The result is in its run folder.

    Attributes:
        reason: The reason if it failed.
        is_stopped: Whether a signal to the worker stopped it. Its state is stored, and it is to go on later.
        warnings: The texts of its warnings.
    """

    reason: str | None = None
    is_stopped: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellTrainer:
    """The program of a worker, which trains cells on its device.

    Attributes:
        is_isolated: Whether it is a worker beside others. Then the latency of students is left to the owner.
        workers: Number of all workers.
        grace_s: Seconds within which a training stores its state on SIGTERM: those of a step and a checkpoint.
    """

    is_isolated: bool
    workers: int
    grace_s: ClassVar[float] = 4.0

    @classmethod
    def of(cls, executor: Executor) -> CellTrainer:
        """The program for the workers of an executor."""
        return cls(executor.is_isolated, executor.workers)

    def __call__(self, placement: Placement) -> partial[Outcome]:
        """The function that trains a cell."""
        device = placement.device
        if device is not None and device.startswith("cuda:"):
            import torch

            torch.cuda.set_device(device)
        return partial(_train, device=device, is_isolated=self.is_isolated, workers=self.workers)


def _train(cell: Cell, *, device: str | None, is_isolated: bool, workers: int) -> Outcome:
    """Train a cell, or go on with it, in its run folder. A tracker that cannot start is no failure of the training."""
    changes: dict[str, Any] = {"progress": False} | ({} if device is None else {"device": device})
    make = partial(job_of, cell, timed=not is_isolated, workers=workers, **changes)
    reason, is_stopped = None, False
    with warnings.catch_warnings(record=True) as caught:
        try:
            try:
                _complete(make())
            except TrackerError as error:
                warnings.simplefilter("always", UserWarning)
                warnings.warn(f"{cell.name} is trained without trackers: {error}", stacklevel=2)
                _complete(make(trackers=None, tracker_options=None))
        except RunFolderError:
            raise
        except KeyboardInterrupt:
            if not is_isolated:
                raise
            is_stopped = True  # so that others, which store their state as well, are waited for
        except Exception as error:
            reason = failure_reason(error, f"in the training {cell.name}")
    for warning in caught:
        if not issubclass(warning.category, UserWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts = (str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    return Outcome(reason, is_stopped, tuple(dict.fromkeys(texts)))


def _complete(job: DistillJob | TrainJob) -> None:
    """Check and run a job, without the warnings of the check, which the check of the larger job has told."""
    warnings.simplefilter("ignore", UserWarning)
    job.check_once()
    warnings.simplefilter("always", UserWarning)
    job.complete()


def job_of(cell: Cell, *, timed: bool = True, workers: int = 1, **changes: Any) -> DistillJob | TrainJob:
    """The job of a cell, with options that are those of its place, so that they are not written down."""
    written = cell.written or cell.options
    conduct: dict[str, Any] = {"timed": timed, "workers": workers, "tests": cell.tests}
    if isinstance(cell.options, DistillOptions):
        assert isinstance(written, DistillOptions)
        return DistillJob(dataclasses.replace(cell.options, **changes), written=written, **conduct)
    assert isinstance(written, TrainOptions)
    return TrainJob(dataclasses.replace(cell.options, **changes), written=written, **conduct)


def plain_options(cell: Cell) -> dict[str, Any]:
    """All options of a cell as its config.yaml has them."""
    return {field.name: getattr(cell.options, field.name) for field in dataclasses.fields(cell.options)}


def options_sha256(cell: Cell) -> str:
    """SHA-256, in hex, of the options of a cell that its result depends on."""
    return config_sha256({name: value for name, value in plain_options(cell).items() if name not in WITHOUT_EFFECT})


def forget_other_failures(folder: CellsFolder, cells: Sequence[Cell]) -> None:
    """Drop the failures of trainings with other options, which had no folder of their own yet to tell them."""
    stored, failed = folder.cells, []
    for cell in cells:
        row = stored.get(cell.key)
        if row is not None and row["status"] == FAILED and row.get("options") != options_sha256(cell):
            failed.append(cell.key)
    folder.forget(failed)


class CellProgress(ProgressBar):
    """The progress bar of trainings; outside a terminal, a line for each."""

    ITEMS_PER_LINE = 1


class Trainings:
    """Trains cells by the workers of an executor, one list of them after another.

    The end of each is stored as soon as it comes, in whatever order. A cell that lacks memory although it is alone has
    failed. Equal warnings are told once.

    Args:
        folder: Stores the end of each.
        executor: The executor.
        interruption: Looked at before each training.
        progress: Whether progress is shown.
        show_workers: Whether a line for each worker is shown with it.
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
        show_workers: bool = False,
        timeout_s: float | None = None,
        retry_failed: bool = False,
    ) -> None:
        self._folder = folder
        self._executor = executor
        self._interruption = interruption
        self._shows_progress, self._shows_workers = progress, show_workers
        self._retry_failed = retry_failed
        self._told: set[str] = set()
        self._threads: WorkerThreads | None = None
        self._dispatcher: Dispatcher[Outcome] = Dispatcher(
            executor, interruption=interruption, timeout_s=timeout_s, loses_what_lacks_memory=True
        )

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Have the workers in this block."""
        with self._dispatcher.started(CellTrainer.of(self._executor)):
            yield

    def train(self, cells: Sequence[Cell], what: str = "training", unit: str = "cells") -> None:
        """Train those cells that are not done, and store the end of each.

        Args:
            cells: The cells.
            what: Name of the work on the progress bar.
            unit: Name of the cells there, in the plural.

        Raises:
            KeyboardInterrupt: A signal came; what was finished before is stored.
            MachineError: The machine failed.
        """
        stored, threads = self._folder.cells, self._threads_of(cells)
        waiting = deque(cell for cell in cells if not self._is_finished(cell, stored.get(cell.key)))
        below = (lambda: worker_lines(self._dispatcher.activities())) if self._shows_workers else None
        with CellProgress(what, unit, len(cells), enabled=self._shows_progress, below=below) as bar:
            for _ in range(len(cells) - len(waiting)):
                bar.advance(replayed=True)

            def tell(cell: Cell, outcome: Outcome, worker: str | None) -> None:
                if outcome.is_stopped:
                    waiting.append(cell)
                    return
                threads.note()
                self._store(cell, outcome, worker)
                bar.advance(replayed=False)

            loop: FreeLoop[Cell, Outcome] = FreeLoop(
                dispatcher=self._dispatcher,
                ask=lambda: waiting.popleft() if waiting else None,
                tell=tell,
                lost=lambda cell, reason: Outcome(reason),
                interruption=self._interruption,
                describe=lambda cell: f"in the training {cell.name}",
                begin=lambda cell: threads.compare(),
                task=lambda cell: cell,
                idle=bar.refresh if self._shows_workers else lambda: None,
            )
            loop.run()

    def time_students(self, cells: Sequence[Cell]) -> None:
        """Measure the latency of students that were trained beside others, now that no worker is at work."""
        untimed = [cell for cell in cells if is_untimed(cell.path)]
        if not untimed:
            return
        with CellProgress("latency", "students", len(untimed), enabled=self._shows_progress) as bar:
            for cell in untimed:
                self._interruption.check()
                time_student(cell.path)
                bar.advance(replayed=False)

    def _threads_of(self, cells: Sequence[Cell]) -> WorkerThreads:
        if self._threads is None:
            devices = self._executor.devices or [resolve_device(cell.options.device) for cell in cells]
            on_cpu = any(device.startswith("cpu") for device in devices)
            self._threads = WorkerThreads(self._folder, self._executor, on_cpu=on_cpu)
        return self._threads

    def _store(self, cell: Cell, outcome: Outcome, worker: str | None) -> None:
        status = COMPLETE if outcome.reason is None else FAILED
        row = {"status": status, "reason": outcome.reason, "worker": worker, "options": options_sha256(cell)}
        self._folder.add(cell.key, row)
        for text in outcome.warnings:
            if text not in self._told:
                self._told.add(text)
                warnings.warn(text, stacklevel=2)

    def _is_finished(self, cell: Cell, row: Mapping[str, Any] | None) -> bool:
        """Whether a cell with this row is not to be trained."""
        if row is None:
            return False
        if row["status"] == FAILED:
            return not self._retry_failed
        if not TrainingFolder.has_begun(cell.path):
            return False
        training = TrainingFolder.peek(cell.path)
        is_whole = training.status == COMPLETE and not training.missing_files()
        return is_whole and (not cell.tests or (training.result or {}).get("test") is not None)
