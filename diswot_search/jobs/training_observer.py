"""The observer of a training: it shows the progress and writes the curves."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from torch import Tensor

from ..reports.progress import TrainingCurves, TrainingProgress
from ..reports.trackers import Trackers
from ..reports.training import metrics_csv
from ..training.folder import TrainingFolder
from ..training.recipe import Recipe
from ..training.result import EpochRow, read_rows


class TrainingObserver:
    """Shows the progress and writes the curves, in the main process."""

    def __init__(
        self,
        folder: TrainingFolder,
        recipe: Recipe,
        steps: int,
        progress: bool,
        classes: tuple[str, ...],
        source_weights: Mapping[str, float],
        trackers: Trackers,
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._steps = steps
        self._progress = progress
        self._classes = classes
        self._source_weights = source_weights
        self._trackers = trackers

    def watching(self, done: int) -> TrainingObserver:
        """Open the bar and the curves.

        Args:
            done: Number of steps that earlier runs have done.
        """
        folder = self._folder
        place = None if folder.path is None else folder.path / "curves"
        rows = read_rows(folder)
        self._trackers.__enter__()
        self._curves = TrainingCurves(
            place, rows, classes=self._classes, source_weights=self._source_weights, trackers=self._trackers
        )
        self._bar = TrainingProgress(self._recipe.epochs, self._steps, done=done, enabled=self._progress)
        return self

    def __enter__(self) -> None:
        self._bar.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._curves.__exit__(kind, error, trace)
        self._trackers.__exit__(kind, error, trace)

    def stepped(self, epoch: int, losses: Mapping[str, Tensor], images: int) -> None:
        self._bar.add(epoch, losses, images)

    def finished_epoch(self, row: EpochRow) -> None:
        self._curves.add(row)
        self._bar.finished_epoch(row)
        if self._folder.path is not None:
            self._folder.write("metrics.csv", metrics_csv(read_rows(self._folder), self._classes))
