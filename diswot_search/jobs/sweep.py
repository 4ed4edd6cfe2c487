"""The job of a sweep: many trainings over a grid of options, by workers, and one table of them all."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Sequence

from ..comparison.trainings import FAILED
from ..data.description import DataDescription
from ..data.errors import DataError
from ..options.base import from_options
from ..options.sweep import SweepOptions
from ..reports.data import data_json
from ..resolve.executors import as_executor
from ..resolve.folders import SweepFolder
from ..runtime.configuration import differences
from ..runtime.files import RunFolderError, as_json
from ..runtime.interruption import Interruption
from ..runtime.run_folder import COMPLETE, INTERRUPTED
from ..training.folder import TrainingFolder
from .job import Job
from .sweep_grid import GridError, grid_of, in_cell
from .training_cells import Cell, CellProgress, CellTrainer, Trainings, forget_other_failures, job_of, plain_options
from .training_table import TrainingTable, table_of_sweep

RESULT = "result.json"

_MAX_REASONS = 3
"""Most different failures that an error names; the table has all."""


class SweepError(RuntimeError):
    """A sweep in which every training failed."""


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


class SweepJob(Job[SweepOptions, TrainingTable]):
    """The job of `sweep`."""

    FOLDER = SweepFolder

    def check(self) -> None:
        options = self.options
        if options.out is None:
            raise ValueError("A sweep needs a run folder: pass `out=`.")
        self.grid = grid_of(options)
        self.executor = as_executor(options, len(self.grid.cells))
        self.interruption = Interruption()
        self._descriptions: dict[str, DataDescription] = {}
        self._check_cells()
        self.executor.check(CellTrainer.of(self.executor))
        self.reach(self.executor)

    def _check_cells(self) -> None:
        """Check every cell as its own job does, one at a time, so that the memory holds the networks of one."""
        cells = self.grid.cells
        names: dict[str, str] = {}
        caught: dict[str, warnings.WarningMessage] = {}
        with CellProgress("checking", "cells", len(cells), enabled=self.options.shows_progress) as bar:
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
        job = job_of(cell)
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
        return self.folder

    def run(self) -> TrainingTable:
        folder = self.folder
        try:
            # A training in this process takes signals itself, so that its step at hand is finished and stored.
            is_isolated = self.executor.is_isolated
            with self.interruption.postponed() if is_isolated else contextlib.nullcontext():
                cells = [(cell.name, plain_options(cell), cell.values) for cell in self.grid.cells]
                forget_other_failures(folder, self.grid.cells)
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

    def _train_all(self) -> None:
        options = self.options
        trainings = Trainings(
            self.folder,
            self.executor,
            self.interruption,
            progress=options.shows_progress,
            show_workers=options.show_workers,
            timeout_s=options.candidate_timeout_s,
            retry_failed=options.retry_failed,
        )
        with trainings.started():
            trainings.train(self.grid.cells)
        trainings.time_students(self.grid.cells)

    def _write(self, table: TrainingTable) -> None:
        names = [RESULT]
        for name, content in table.files():
            self.folder.write(name, content)
            names.append(name)
        self.folder.write_json(RESULT, table.to_json())
        self.folder.end(COMPLETE, names)

    def report(self, result: TrainingTable) -> Iterable[object]:
        return (result.format(), f"run folder: {os.fspath(self.options.out or '')}")

    def check_result(self, result: TrainingTable) -> None:
        """See `Job.check_result`.

        Raises:
            SweepError: Every training failed.
        """
        if any(cell.status != FAILED for cell in result.cells):
            return
        reasons = list(dict.fromkeys(str(cell.reason) for cell in result.cells))
        more = f"; and {len(reasons) - _MAX_REASONS:,} other reasons" if len(reasons) > _MAX_REASONS else ""
        count = "The only training" if len(result.cells) == 1 else f"All {len(result.cells):,} trainings"
        raise SweepError(
            f"{count} failed: {'; '.join(reasons[:_MAX_REASONS])}{more}. The table is stored; the same sweep with "
            "--retry_failed trains them again."
        )
