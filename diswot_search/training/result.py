"""The result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        result: What `result.json` holds: accuracies with the rule of the epoch, calibration, agreement, cost, timing.
        rows: What is known of each epoch, in order.
        path: The run folder; None in memory.
        student: The trained network, on the CPU, in evaluation mode.
    """

    result: dict[str, Any]
    rows: list[dict[str, Any]]
    path: Path | None
    student: nn.Module

    def __repr__(self) -> str:
        name = self.result["student"]["name"]
        return f"Training({name}, {len(self.rows)} epochs, test accuracy {self.accuracy:.2f} %, path={self.path})"

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent."""
        return float(self.result["test"]["accuracy"])
