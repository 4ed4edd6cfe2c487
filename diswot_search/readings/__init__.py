"""Readings: what is read off one network on one probe, each pass run once, on first use."""

from .core import Readings
from .forward import ReadingError, evaluation_mode, has_timm_contract
from .passes import Precision

check_needs = Readings.check_needs

__all__ = ["Precision", "ReadingError", "Readings", "check_needs", "evaluation_mode", "has_timm_contract"]
