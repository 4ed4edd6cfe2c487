"""The progress of a training, and the measures that choose its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.registry import unknown_name_message


@dataclass(frozen=True)
class Measure:
    """A measure on validation images that chooses the best epoch.

    Attributes:
        name: The name in reports.
        column: The field of `EpochRow`.
        is_loss: Whether lower is better.
    """

    name: str
    column: str
    is_loss: bool = False

    def merit(self, row: Mapping[str, Any]) -> float | None:
        """The value of an epoch, where higher is better; None without validation images.

        Args:
            row: The epoch's row as JSON values.
        """
        value = row.get(self.column)
        return value if value is None or not self.is_loss else -value


BEST_BY: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", "val_accuracy"),
    "balanced_accuracy": Measure("balanced accuracy", "val_balanced_accuracy"),
    "macro_f1": Measure("macro-F1", "val_macro_f1"),
    "loss": Measure("loss", "val_loss", is_loss=True),
}
"""The measures by the name of the option."""


def check_best_by(best_by: str) -> None:
    """Refuse an unknown measure.

    Raises:
        ValueError: There is no such measure; the message names those that there are.
    """
    if best_by not in BEST_BY:
        raise ValueError(unknown_name_message("measure of the best epoch", str(best_by), tuple(BEST_BY)))


@dataclass
class Progress:
    """The progress of a training.

    Attributes:
        step: Optimiser steps that are done.
        seconds: Time of all finished epochs, evaluation included.
        epoch_seconds: Training time of the current epoch so far.
        best_epoch: The best epoch on validation images, from 1; the first of equal ones.
        best_accuracy: Its validation accuracy, in percent.
        best_merit: Its value of the measure that chooses, where higher is better.
    """

    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int | None = None
    best_accuracy: float | None = None
    best_merit: float | None = None

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Progress:
        """The progress that a checkpoint holds; older ones chose by accuracy and store no merit."""
        return cls(**{"best_merit": values["best_accuracy"], **values})

    def note(self, row: Mapping[str, Any], best_by: str) -> None:
        """Take a finished epoch for the best one if it is better than all before.

        Args:
            row: The epoch's row as JSON values.
            best_by: One of `BEST_BY`.
        """
        merit = BEST_BY[best_by].merit(row)
        if merit is not None and (self.best_merit is None or merit > self.best_merit):
            self.best_epoch, self.best_accuracy, self.best_merit = row["epoch"], row["val_accuracy"], merit
