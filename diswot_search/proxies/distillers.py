"""A distiller as a proxy: minus its loss between a random student and a random teacher, without any training.

None has a connector, so a student is compared in whatever shape it has; where the loss is not defined for a pair, the
proxy says so. The best value is 0, that of a student equal to its teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional as fn
from ..readings import ReadingError, Readings
from .similarity import given


def kd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the divergence of predictions softened by a temperature of 4; for equal classes."""
    return _minus(fn.kd_loss, student.logits, given(teacher).logits)


def at(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of attention maps, mean over the stages that both have, counted from the last.

    Stages that are one position wide are left out: their attention is always 1.
    """
    return _minus(_attention_loss, student.stage_features, given(teacher).stage_features)


def sp(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' row-normalised Gram matrices of the last feature map."""
    return _minus(fn.sp_loss, student.features, given(teacher).features)


def cc(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' Gaussian kernels of pooled features."""
    return _minus(fn.cc_loss, student.pooled, given(teacher).pooled)


def rkd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' distances and angles in pooled features."""
    return _minus(fn.rkd_loss, student.pooled, given(teacher).pooled)


def pkt(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the divergence of the samples' cosines of pooled features, as probabilities."""
    return _minus(fn.pkt_loss, student.pooled, given(teacher).pooled)


def nst(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the discrepancy of the distributions of channel maps in the last feature map."""
    return _minus(_selectivity_loss, student.features, given(teacher).features)


def ickd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the channels' row-normalised Gram matrices; for equal widths, in order of channels."""
    return _minus(fn.ickd_loss, student.features, given(teacher).features)


def _attention_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    pairs = zip(reversed(student), reversed(teacher), strict=False)
    losses = [fn.at_loss(first, second) for first, second in pairs if _have_patterns(first, second)]
    if not losses:
        raise ValueError("at compares patterns over positions, and no stage has more than one position in both")
    return torch.stack(losses).mean()  # not their sum: a student with fewer stages has no advantage


def _selectivity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    if not _have_patterns(student, teacher):
        raise ValueError("nst compares patterns over positions, and one of the last maps has one position only")
    return fn.nst_loss(student, teacher)


def _have_patterns(first: Tensor, second: Tensor) -> bool:
    return first.shape[2] > 1 and second.shape[2] > 1


def _minus(loss: Callable[[Any, Any], Tensor], student: Any, teacher: Any) -> float:
    try:
        return -float(loss(_exact(student), _exact(teacher)))
    except ValueError as error:
        raise ReadingError(str(error)) from error


def _exact(values: Any) -> Any:
    """In double precision: random networks are alike, and what is left of nearly equal numbers must not be rounding."""
    if isinstance(values, list):
        return [_exact(value) for value in values]
    return fn.exact(values)
