"""Distillers as proxies: minus the distillation loss between an untrained student and its teacher.

Proxy and distiller read networks by the same definitions (`diswot_search.networks.features`), at the same places, so
they give the same number. `at` and `nst` are means over the stages, and the distillers' sums: a sum would favour
students with fewer stages. There are no connectors, so features are compared in the shape that each network gives them.
If a loss is not defined for a pair of networks, the proxy raises a `ReadingError` that says why. The best value is 0,
for equal networks.
The losses and their papers are in `diswot_search.functional.losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..functional import losses, similarities
from ..functional.shapes import match_in_rows
from ..networks.contract import ReadingError
from ..networks.layouts import FeatureMap
from ..readings.core import Readings
from .similarity import require_teacher

T = TypeVar("T")


def kd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the divergence of predictions softened by a temperature of 4; both networks need the same classes."""
    return _minus(losses.kd_loss, student.logits, require_teacher(teacher).logits)


def at(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of attention maps, averaged over the stages that both have, counted from the last.

    Stages with a single position are left out, because their attention is always 1.

    Raises:
        ReadingError: No stage has more than one position in both networks.
    """
    return _minus(partial(_mean_over_stages, losses.at_loss), student.stage_maps, require_teacher(teacher).stage_maps)


def sp(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' row-normalised Gram matrices of the last stage."""
    return _minus(losses.sp_loss, student.stage_maps[-1].rows, require_teacher(teacher).stage_maps[-1].rows)


def cc(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' Gaussian kernels of pooled features."""
    return _minus(losses.cc_loss, student.pooled, require_teacher(teacher).pooled)


def rkd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the samples' distances and angles in pooled features."""
    return _minus(losses.rkd_loss, student.pooled, require_teacher(teacher).pooled)


def pkt(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the divergence of the samples' cosines of pooled features, as probabilities."""
    return _minus(losses.pkt_loss, student.pooled, require_teacher(teacher).pooled)


def nst(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the discrepancy of the distributions of channel maps, averaged over the stages that both have.

    Stages are counted from the last. Stages with a single position are left out, because their maps are equal up to
    sign.

    Raises:
        ReadingError: No stage has more than one position in both networks.
    """
    return _minus(partial(_mean_over_stages, losses.nst_loss), student.stage_maps, require_teacher(teacher).stage_maps)


def ickd(student: Readings, teacher: Readings | None = None) -> float:
    """Minus the difference of the channels' row-normalised Gram matrices of the last stage; the widths must be equal.

    Channels are compared by their index, so their order matters.

    Raises:
        ReadingError: The numbers of channels differ.

    Source: Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation", ICCV 2021.
    """
    return _minus(_correlation_loss, student.stage_maps[-1], require_teacher(teacher).stage_maps[-1])


def _mean_over_stages(
    loss: Callable[[Tensor, Tensor], Tensor], student: list[FeatureMap], teacher: list[FeatureMap]
) -> Tensor:
    pairs = [_matched(*pair) for pair in zip(reversed(student), reversed(teacher), strict=False)]
    by_stage = [loss(*pair) for pair in pairs if pair[0].shape[2] > 1]
    if not by_stage:
        raise ValueError("the loss compares patterns over positions, and no stage has more than one position in both")
    return torch.stack(by_stage).mean()


def _correlation_loss(student: FeatureMap, teacher: FeatureMap) -> Tensor:
    return losses.ickd_loss(*_matched(student, teacher))


def _matched(student: FeatureMap, teacher: FeatureMap) -> tuple[Tensor, Tensor]:
    """Rows of two maps on a common grid, (B, C, P) and (B, C', P), in double precision."""
    return match_in_rows(*(_exact(each.rows).unflatten(2, each.values.shape[2:]) for each in (student, teacher)))


def _minus(loss: Callable[[T, T], Tensor], student: T, teacher: T) -> float:
    try:
        return -float(loss(_exact(student), _exact(teacher)))
    except ValueError as error:
        raise ReadingError(str(error)) from error


def _exact(values: object) -> Any:
    """Tensors in double precision. Random networks are alike, and differences of nearly equal numbers lose digits."""
    return similarities.exact(values) if isinstance(values, Tensor) else values
