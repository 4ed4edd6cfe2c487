"""The job of a sweep: many trainings over a grid of options, by workers, and one table of them all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from ..comparison.trainings import FAILED
from ..data.description import DataDescription
from ..data.errors import DataError
from ..options.base import from_options
from ..options.sweep import SweepOptions
from ..options.training import DistillOptions
from ..reports.data import data_json
from ..reports.progress import ProgressBar, worker_lines
from ..resolve.executors import as_executor
from ..resolve.folders import SweepFolder
from ..runtime.configuration import differences
from ..runtime.devices import resolve_device
from ..runtime.executors.base import Placement
from ..runtime.executors.dispatch import Dispatcher
from ..runtime.failures import failure_reason
from ..runtime.files import RunFolderError, as_json
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE, INTERRUPTED
from ..runtime.worker_threads import WorkerThreads
from ..study.loop import FreeLoop
from ..training.folder import TrainingFolder
from .job import Job
from .student_facts import is_untimed, time_student
from .sweep_grid import Cell, GridError, grid_of, in_cell, options_sha256, plain_options
from .train import DistillJob, TrainJob
from .training_table import TrainingTable, table_of_sweep

RESULT = "result.json"


@from_options(SweepOptions)
def sweep(options: SweepOptions) -> TrainingTable:
    """
    Returns:
        The table, with the run folder and the result of each training.

    Raises:
        GridError: The grid is wrong, or a cell of it; the message names the cell.
        ValueError: Workers cannot be made as the options say.
        RunFolderError: A run folder cannot be used, or holds another training.
        MachineError: The machine failed; what was done is stored, and the same call continues.
    """
    return SweepJob(options).complete()


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """The end of a training, whose result is in its run folder.

    Attributes:
        reason: The reason if it failed.
        is_stopped: Whether a signal to the worker stopped it. Its state is stored, and it is to go on later.
    """

    reason: str | None = None
    is_stopped: bool = False


@dataclasses.dataclass(frozen=True)
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

    def __call__(self, placement: Placement) -> partial[_Outcome]:
        """The function that trains a cell."""
        device = placement.device
        if device is not None and device.startswith("cuda:"):
            import torch

            torch.cuda.set_device(device)
        return partial(_train, device=device, is_isolated=self.is_isolated, workers=self.workers)


def _train(cell: Cell, *, device: str | None, is_isolated: bool, workers: int) -> _Outcome:
    """Train a cell, or go on with it, in its run folder."""
    changes: dict[str, Any] = {"progress": False} | ({} if device is None else {"device": device})
    job = _job_of(cell, timed=not is_isolated, workers=workers, **changes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the check of the sweep has told them
            job.check_once()
        job.complete()
    except RunFolderError:
        raise
    except KeyboardInterrupt:
        if is_isolated:  # so that others, which store their state as well, are waited for
            return _Outcome(is_stopped=True)
        raise
    except Exception as error:
        return _Outcome(failure_reason(error, f"in the training {cell.name}"))
    return _Outcome()


def _job_of(cell: Cell, *, timed: bool = True, workers: int = 1, **changes: Any) -> DistillJob | TrainJob:
    """The job of a cell, with options that are those of its place, so that they are not written down."""
    among: dict[str, Any] = {"timed": timed, "workers": workers}
    if isinstance(cell.options, DistillOptions):
        return DistillJob(dataclasses.replace(cell.options, **changes), written=cell.options, **among)
    return TrainJob(dataclasses.replace(cell.options, **changes), written=cell.options, **among)


class _CellProgress(ProgressBar):
    """The progress bar of a sweep; outside a terminal, a line for each training."""

    ITEMS_PER_LINE = 1


class SweepJob(Job[SweepOptions, TrainingTable]):
    """The job of `sweep`."""

    def check(self) -> None:
        options = self.options
        if options.out is None:
            raise ValueError("A sweep needs a run folder: pass `out=`.")
        self.grid = grid_of(options)
        self.executor = as_executor(options, len(self.grid.cells))
        self.interruption = Interruption()
        self._descriptions: dict[str, DataDescription] = {}
        self._check_cells()
        self.program = CellTrainer(self.executor.is_isolated, self.executor.workers)
        self.executor.check(self.program)
        self.executor.connect()

    def _check_cells(self) -> None:
        """Check every cell as its own job does, one at a time, so that the memory holds the networks of one."""
        cells = self.grid.cells
        names: dict[str, str] = {}
        caught: dict[str, warnings.WarningMessage] = {}
        with _CellProgress("checking", "cells", len(cells), enabled=self.options.shows_progress) as bar:
            for cell in cells:
                with warnings.catch_warnings(record=True) as of_cell:
                    warnings.simplefilter("always", UserWarning)
                    config = self._check_cell(cell)
                caught |= {str(warning.message): warning for warning in of_cell}
                other = names.setdefault(config, cell.name)
                if other != cell.name:
                    raise GridError(f"The cells {other} and {cell.name} are the same training; leave one of them out.")
                bar.advance(replayed=False)
        for warning in caught.values():  # each once, not once for each cell
            warnings.warn(warning.message, warning.category, stacklevel=2)

    def _check_cell(self, cell: Cell) -> str:
        """Check a cell; returns what its result depends on, as text."""
        job = _job_of(cell)
        try:
            job.check_once()
        except DataError:
            raise
        except ValueError as error:
            raise in_cell(cell.name, error) from error
        if job.training.accelerator.num_processes > 1:
            raise ValueError(
                "A sweep is started in one process, and shares its trainings among workers: pass `workers=`."
            )
        config = as_json(job.training.config)
        if TrainingFolder.has_begun(cell.path):
            lines = differences(TrainingFolder.peek(cell.path).config, config)
            if lines:
                raise RunFolderError(
                    f"{cell.path} holds a training of another configuration: {'; '.join(lines)}. Choose another run "
                    "folder for the sweep."
                )
        for description in job.descriptions():
            self._descriptions.setdefault(data_json([description]), description)
        return f"{sorted(config.items())} {cell.options.device}"

    def descriptions(self) -> Sequence[DataDescription]:
        return tuple(self._descriptions.values())

    def open(self) -> SweepFolder:
        assert self.options.out is not None
        self.folder = SweepFolder({}, self.options.out)
        on_cpu = any(resolve_device(cell.options.device) == "cpu" for cell in self.grid.cells)
        self.threads = WorkerThreads(self.folder, self.executor, on_cpu=on_cpu)
        return self.folder

    def run(self) -> TrainingTable:
        folder = self.folder
        try:
            # A training in this process takes signals itself, so that its step at hand is finished and stored.
            is_isolated = self.executor.is_isolated
            with self.interruption.postponed() if is_isolated else contextlib.nullcontext():
                cells = [(cell.name, plain_options(cell), cell.values) for cell in self.grid.cells]
                self._forget_other_failures()
                folder.begin(cells, self.grid.keys, self.grid.baseline)
                try:
                    self._train_all()
                except KeyboardInterrupt:
                    folder.end(INTERRUPTED)
                    raise
            assert folder.path is not None
            table = table_of_sweep(folder.path)
            self._write(table)
        finally:
            folder.release()
        return table

    def _forget_other_failures(self) -> None:
        """Drop the failures of trainings with other options, which had no folder of their own yet to tell them."""
        stored, failed = self.folder.cells, []
        for cell in self.grid.cells:
            row = stored.get(cell.name)
            if row is not None and row["status"] == FAILED and row.get("options") != options_sha256(cell):
                failed.append(cell.name)
        self.folder.forget(failed)

    def _train_all(self) -> None:
        """Train the cells that are left, and store the row of each as soon as it is done, in whatever order."""
        options, stored, cells = self.options, self.folder.cells, self.grid.cells
        dispatcher: Dispatcher[_Outcome] = Dispatcher(
            self.executor,
            interruption=self.interruption,
            timeout_s=options.candidate_timeout_s,
            loses_what_lacks_memory=True,
        )
        below = (lambda: worker_lines(dispatcher.activities())) if options.show_workers else None
        with _CellProgress("training", "cells", len(cells), enabled=options.shows_progress, below=below) as bar:
            waiting = deque(cell for cell in cells if not self._is_finished(cell, stored.get(cell.name)))
            for _ in range(len(cells) - len(waiting)):
                bar.advance(replayed=True)

            def tell(cell: Cell, outcome: _Outcome, worker: str) -> None:
                if outcome.is_stopped:
                    waiting.append(cell)
                    return
                self._store(cell, outcome.reason, worker)
                bar.advance(replayed=False)

            loop: FreeLoop[Cell, _Outcome] = FreeLoop(
                dispatcher=dispatcher,
                ask=lambda: waiting.popleft() if waiting else None,
                tell=tell,
                lost=lambda cell, reason: _Outcome(reason),
                interruption=self.interruption,
                describe=lambda cell: f"in the training {cell.name}",
                begin=lambda cell: self.threads.compare(),
                task=lambda cell: cell,
                idle=bar.refresh if options.show_workers else lambda: None,
            )
            with dispatcher.started(self.program):
                loop.run()
        self._time_students()

    def _store(self, cell: Cell, reason: str | None, worker: str) -> None:
        status = COMPLETE if reason is None else FAILED
        self.threads.note()
        row = {"status": status, "reason": reason, "worker": worker, "options": options_sha256(cell)}
        self.folder.add(cell.name, row)

    def _time_students(self) -> None:
        """Measure the latency of the students that were trained beside others, now that no worker is at work."""
        untimed = [cell for cell in self.grid.cells if is_untimed(cell.path)]
        if not untimed:
            return
        with _CellProgress("latency", "students", len(untimed), enabled=self.options.shows_progress) as bar:
            for cell in untimed:
                self.interruption.check()
                time_student(cell.path)
                bar.advance(replayed=False)

    def _is_finished(self, cell: Cell, row: dict[str, Any] | None) -> bool:
        """Whether a cell with this row is not to be trained."""
        if row is None:
            return False
        if row["status"] == FAILED:
            return not self.options.retry_failed
        if not TrainingFolder.has_begun(cell.path):
            return False
        training = TrainingFolder.peek(cell.path)
        return training.status == COMPLETE and not training.missing_files()

    def _write(self, table: TrainingTable) -> None:
        names = [RESULT]
        for name, content in table.files():
            self.folder.write(name, content)
            names.append(name)
        self.folder.write_json(RESULT, table.to_json())
        self.folder.end(COMPLETE, names)

    def report(self, result: TrainingTable) -> Iterable[object]:
        return (result.format(), f"run folder: {os.fspath(self.options.out or '')}")
