"""Readings: what is read off one network on one probe, each pass run once, on first use."""

from .core import Precision, Readings, check_needs
from .forward import ReadingError, evaluation_mode, has_timm_contract

__all__ = ["Precision", "ReadingError", "Readings", "check_needs", "evaluation_mode", "has_timm_contract"]
