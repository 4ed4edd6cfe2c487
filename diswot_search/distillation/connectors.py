"""What distillers are made of beside losses: stages in pairs, maps on one grid, connectors, checked options."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import DistillerError, Setting

T = TypeVar("T")

# -- options ------------------------------------------------------------------------------------


def check_count(option: str, value: Any) -> int:
    """An option that must be a whole number of at least 1.

    Raises:
        DistillerError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DistillerError(f"{option} is {value!r}; it must be a whole number of at least 1.")
    return value


# -- stages -------------------------------------------------------------------------------------


def check_stage(setting: Setting, stage: Any) -> int:
    """The option `stage`, which must be one of both networks, counted from the last: -1, -2, ...

    Raises:
        DistillerError: It is none; the message names those that both have.
    """
    if not _is_stage(setting, stage):
        raise DistillerError(f"stage is {stage!r}; it must be a stage, counted from the last: {_known(setting)}.")
    return stage


def check_stages(setting: Setting, stages: Any) -> tuple[int, ...]:
    """The option `stages`, a list of such stages; None stands for all that both networks have.

    Returns:
        In order from the first to the last.

    Raises:
        DistillerError: It lists none, one twice, or one that a network lacks.
    """
    if stages is None:
        return tuple(common_stages(setting))
    listed = isinstance(stages, list | tuple) and all(_is_stage(setting, stage) for stage in stages)
    if not listed or not stages or len(set(stages)) < len(stages):
        raise DistillerError(
            f"stages is {stages!r}; it must be a list of different stages, counted from the last: {_known(setting)}."
        )
    return tuple(sorted(stages))


def _is_stage(setting: Setting, stage: Any) -> bool:
    return isinstance(stage, int) and not isinstance(stage, bool) and stage in common_stages(setting)


def _known(setting: Setting) -> str:
    stages = ", ".join(map(str, reversed(common_stages(setting))))
    return f"{setting.student.name} and {setting.teacher.name} both have {stages}"


def common_stages(setting: Setting) -> range:
    """The stages that both networks have, counted from the last: -2, -1 where one of them has two."""
    return range(-min(len(setting.student.stages), len(setting.teacher.stages)), 0)


def patterned_stages(setting: Setting, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Those of these stages whose maps have more than one position in both networks.

    Raises:
        DistillerError: None has.
    """
    found = tuple(stage for stage in stages if math.prod(common_grid(setting, stage)) > 1)
    if not found:
        raise DistillerError(
            f"Patterns over positions are compared, but the stages {', '.join(map(str, stages))} have one position "
            f"only in {setting.student.name} or {setting.teacher.name}."
        )
    return found


def common_grid(setting: Setting, stage: int) -> tuple[int, int]:
    """Height and width on which the maps of a stage are compared: the smaller ones."""
    (_, *first), (_, *second) = setting.student.stages[stage], setting.teacher.stages[stage]
    return min(first[0], second[0]), min(first[1], second[1])


def match_grids(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of maps, (B, C, H, W) and (B, C', H', W'), on one grid: that of the smaller height and width.

    Tokens whose grid is not known lie in a column, which is thus compared with the rows of the other map.
    """
    grid = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    matched = [maps if maps.shape[2:] == grid else F.adaptive_avg_pool2d(maps, grid) for maps in (first, second)]
    return matched[0], matched[1]


def match_in_rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same, with the positions of the grid in a row: (B, C, P) and (B, C', P)."""
    first, second = match_grids(first, second)
    return first.flatten(2), second.flatten(2)


def required(what: T | None) -> T:
    """Features, or a width of them, that a distiller reads, which must be there.

    Raises:
        DistillerError: They were not read.
    """
    if what is None:
        raise DistillerError("The features lack what the distiller reads.")
    return what


def pooled_widths(setting: Setting) -> tuple[int, int]:
    """Width of the pooled features of student and teacher, for a distiller that reads them.

    Raises:
        DistillerError: One of them has none.
    """
    return required(setting.student.pooled), required(setting.teacher.pooled)


# -- connectors ---------------------------------------------------------------------------------


def conv_connector(channels: int, out_channels: int, kernel_size: int = 1) -> nn.Sequential:
    """A convolution that keeps the grid, and batch normalisation."""
    # Normalisation takes away any bias before it.
    conv = nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, BatchNormOfMany(out_channels))


class BatchNormOfMany(nn.BatchNorm2d):
    """Batch normalisation; where a channel has one value, which has no deviation, by the running statistics."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if maps.numel() > self.num_features:
            return super().forward(maps)
        mean, var = required(self.running_mean), required(self.running_var)
        return F.batch_norm(maps, mean, var, self.weight, self.bias, eps=self.eps)


class UnitProjection(nn.Linear):
    """A linear layer whose outputs are scaled to norm one."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, E)."""
        return F.normalize(super().forward(features), dim=1)


class AttentionFusion(nn.Module):
    """A stage fused with what came from the later ones, by an attention map for each of the two.

    Args:
        channels: Of the stage.
        width: Of what is passed on to the stage before.
        out_channels: Of the result.
        last: Whether there is no later stage.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021.
    """

    def __init__(self, channels: int, width: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        self.reduce = conv_connector(channels, width)
        self.expand = conv_connector(width, out_channels, kernel_size=3)
        for connector in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(connector.get_parameter("0.weight"), a=1)
        self.attend = None if last else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())

    def forward(self, stage: Tensor, later: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher, and what is passed on; both on the grid of the stage."""
        fused = self.reduce(stage)
        if self.attend is not None and later is not None:
            later = F.interpolate(later, fused.shape[2:], mode="nearest")
            attention = self.attend(torch.cat([fused, later], 1))
            fused = fused * attention[:, :1] + later * attention[:, 1:]
        return self.expand(fused), fused
