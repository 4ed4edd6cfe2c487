"""Size as a proxy: the baseline that every other score has to beat."""

from __future__ import annotations

from ..readings.core import Readings


def params(student: Readings, teacher: Readings | None = None) -> float:
    """Number of trainable parameters."""
    return float(student.cost.params)


def macs(student: Readings, teacher: Readings | None = None) -> float:
    """Number of multiply-accumulates of one image."""
    return float(student.cost.macs)
