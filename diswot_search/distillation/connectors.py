"""Building blocks of distillers: checked options, paired stages, maps on a common grid, and connectors."""

from __future__ import annotations

import math
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import DistillerError, Setting

T = TypeVar("T")


# -- options ------------------------------------------------------------------------------------


def check_count(option: str, value: object) -> int:
    """Check that an option is a whole number of at least 1, and return it.

    Args:
        option: The option's name in the message.
        value: The option's value.

    Raises:
        DistillerError: The value is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DistillerError(f"{option} is {value!r}; it must be a whole number of at least 1.")
    return value


# -- stages -------------------------------------------------------------------------------------


def check_stage(setting: Setting, stage: object) -> int:
    """Check the option `stage`, and return it.

    Args:
        setting: The two networks.
        stage: A stage that both networks have, counted from the last: -1, -2, ...

    Raises:
        DistillerError: There is no such stage; the message lists the stages that both networks have.
    """
    if _is_stage(stage, setting):
        return stage
    raise DistillerError(f"stage is {stage!r}; it must be a stage, counted from the last: {_choices(setting)}.")


def check_stages(setting: Setting, stages: object) -> tuple[int, ...]:
    """Check the option `stages`, and return the stages in order from the first to the last.

    Args:
        setting: The two networks.
        stages: A list of stages, counted from the last, such as [-2, -1]; None for all stages that both networks
            have.

    Raises:
        DistillerError: The list is empty, repeats a stage, or has a stage that a network lacks.
    """
    if stages is None:
        return tuple(common_stages(setting))
    if isinstance(stages, list | tuple):
        valid = [stage for stage in stages if _is_stage(stage, setting)]
        if stages and len(set(valid)) == len(stages):
            return tuple(sorted(valid))
    raise DistillerError(
        f"stages is {stages!r}; it must be a list of different stages, counted from the last: {_choices(setting)}."
    )


def _is_stage(stage: object, setting: Setting) -> TypeGuard[int]:
    return isinstance(stage, int) and not isinstance(stage, bool) and stage in common_stages(setting)


def _choices(setting: Setting) -> str:
    stages = ", ".join(map(str, reversed(common_stages(setting))))
    return f"{setting.student.name} and {setting.teacher.name} both have {stages}"


def common_stages(setting: Setting) -> range:
    """List the stages that both networks have, counted from the last: -2, -1 if the shorter network has two."""
    return range(-min(len(setting.student.stages), len(setting.teacher.stages)), 0)


def patterned_stages(setting: Setting, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Keep the stages whose maps have more than one position in both networks.

    Args:
        setting: The two networks.
        stages: Stages that both networks have, counted from the last.

    Raises:
        DistillerError: No stage is left.
    """
    patterned = tuple(stage for stage in stages if math.prod(common_grid(setting, stage)) > 1)
    if not patterned:
        raise DistillerError(
            f"Patterns over positions need several positions, but the stages {', '.join(map(str, stages))} have one "
            f"position only in {setting.student.name} or {setting.teacher.name}."
        )
    return patterned


def common_grid(setting: Setting, stage: int) -> tuple[int, int]:
    """Return the height and the width at which the maps of a stage are compared: the smaller of each."""
    (_, *first), (_, *second) = setting.student.stages[stage], setting.teacher.stages[stage]
    return min(first[0], second[0]), min(first[1], second[1])


def required(value: T | None) -> T:
    """Return features, or their width, unless they are missing.

    Raises:
        DistillerError: The features are None.
    """
    if value is None:
        raise DistillerError("The features lack a part that the distiller reads; add the part to its `reads`.")
    return value


def pooled_widths(setting: Setting) -> tuple[int, int]:
    """Return the widths of the student's and the teacher's pooled features.

    Raises:
        DistillerError: A network has no pooled features.
    """
    return required(setting.student.pooled), required(setting.teacher.pooled)


# -- connectors ---------------------------------------------------------------------------------


def conv_connector(channels: int, out_channels: int, kernel_size: int = 1) -> nn.Sequential:
    """Create a convolution that keeps the grid, followed by batch normalisation."""
    # The normalisation removes any bias before it.
    conv = nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, BatchNormOfMany(out_channels))


class BatchNormOfMany(nn.BatchNorm2d):
    """Batch normalisation that uses the running statistics if a channel has a single value, which has no deviation."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps (B, C, H, W)."""
        if maps.numel() > self.num_features:
            return super().forward(maps)
        mean, var = required(self.running_mean), required(self.running_var)
        return F.batch_norm(maps, mean, var, self.weight, self.bias, eps=self.eps)


class UnitProjection(nn.Linear):
    """A linear layer with outputs of norm one."""

    def forward(self, features: Tensor) -> Tensor:
        """Project features (B, D) to unit vectors (B, E)."""
        return F.normalize(super().forward(features), dim=1)


class AttentionFusion(nn.Module):
    """Fuses a stage with the maps passed on by the later stages, weighting each with an attention map.

    Args:
        channels: Number of channels of the stage.
        width: Number of channels that are passed on to the earlier stage.
        out_channels: Number of channels of the result.
        last: Whether this is the last stage, which has no later one.

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
        """Fuse a stage with the later stages.

        Args:
            stage: Maps (B, channels, H, W).
            later: Maps (B, width, H', W') passed on by the later stage; None for the last stage.

        Returns:
            Maps (B, out_channels, H, W) to compare with the teacher, and maps (B, width, H, W) to pass on.
        """
        fused = self.reduce(stage)
        if self.attend is not None and later is not None:
            later = F.interpolate(later, fused.shape[2:], mode="nearest")
            attention = self.attend(torch.cat([fused, later], 1))
            fused = fused * attention[:, :1] + later * attention[:, 1:]
        return self.expand(fused), fused
