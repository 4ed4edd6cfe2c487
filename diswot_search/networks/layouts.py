"""Layouts: how a feature map lies in a tensor of a network, and which of its tokens are positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """How a feature map lies in a tensor (B, ...).

    Attributes:
        channels: The axis of the channels.
        skipped: Number of class tokens and other extra tokens before the positions.
        grid: Height and width of the grid that tokens lie on; None if both are axes of the tensor.
    """

    channels: int = 1
    skipped: int = 0
    grid: tuple[int, int] | None = None

    def to_map(self, raw: Tensor) -> Tensor:
        """The positions of a tensor as (B, C, H, W) in single precision, without class tokens."""
        raw = raw.float().movedim(self.channels, 1)  # a view of its own, also in place: it fixes the order of gradients
        if self.grid is not None:
            return raw[:, :, self.skipped :].unflatten(2, self.grid)
        return raw[:, :, None, None] if raw.ndim == 2 else raw

    def to_rows(self, raw: Tensor) -> Tensor:
        """All tokens of a tensor as (B, C, T) in single precision, class tokens included."""
        raw = raw.float() if self.channels == 1 else raw.float().movedim(self.channels, 1)
        return raw[:, :, None] if raw.ndim == 2 else raw.flatten(2)


@dataclass(frozen=True)
class FeatureMap:
    """A batch of feature maps, or of sequences of tokens.

    Attributes:
        values: The features (B, C, H, W) in single precision. A sequence of L tokens without a grid has H = L, W = 1.
        mask: The positions (B, H W) that hold something, as Booleans; None if all do. Padding of text does not.

    Example:
        >>> import torch
        >>> FeatureMap(torch.ones(2, 8, 4, 4)).rows.shape
        torch.Size([2, 8, 16])
    """

    values: Tensor
    mask: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The features (B, C, P) with P = H W; zero where the mask has no position, so that sums leave it out."""
        rows = self.values.flatten(2)
        return rows if self.mask is None else rows * self.mask[:, None]

    @property
    def tokens(self) -> Tensor:
        """The features as tokens (B, P, C)."""
        return self.rows.transpose(1, 2)

    @property
    def positions(self) -> int:
        """The number of positions, P, padding included."""
        return self.values.shape[2] * self.values.shape[3]

    def mean(self) -> Tensor:
        """The mean over positions that hold something, (B, C)."""
        if self.mask is None:
            return self.rows.mean(2)
        return self.rows.sum(2) / self.mask.sum(1, keepdim=True).clamp_min(1)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> FeatureMap:
        """The same with other rows, which `change` makes from these; masks follow the samples."""
        rows = change(self.rows)
        mask = None if self.mask is None else change(self.mask)
        return FeatureMap(rows.unflatten(2, self.values.shape[2:]), mask)


def find_layout(raw: Tensor, module: nn.Module, size: Sequence[int], model: nn.Module | None) -> Layout | None:
    """Find out how a feature map lies in a tensor.

    Args:
        raw: The tensor (B, ...).
        module: The module that gave it. Its layers tell where the channels are if the shape does not.
        size: Height and width of the images; empty for text, whose tokens have no grid.
        model: The network.

    Returns:
        The layout; None if the tensor is no feature map.
    """
    if raw.ndim == 2:
        return Layout()
    if raw.ndim == 3:
        return _token_layout(raw, module, tuple(size), model)
    return _map_layout(raw, module, tuple(size), model) if raw.ndim == 4 else None


def declared_layout(raw: Tensor, model: nn.Module | None) -> Layout:
    """The layout of a map (B, ., ., .) or (B, .) according to the network's `output_fmt`; by default NCHW."""
    return Layout(3 if raw.ndim == 4 and _declares_channels_last(model) else 1)


def _map_layout(raw: Tensor, module: nn.Module, size: tuple[int, ...], model: nn.Module | None) -> Layout | None:
    """The layout of (B, C, H, W) or (B, H, W, C): the axes in proportion to the image are height and width."""
    fitting = [axis for axis, grid in ((1, raw.shape[2:]), (3, raw.shape[1:3])) if _fits(grid, size)]
    if len(fitting) == 1:
        return Layout(fitting[0])
    first, last = _layers_with_channels(raw, module)
    if first != last and (fitting or first):
        return Layout(1 if first else 3)
    return declared_layout(raw, model) if fitting else None


def _token_layout(raw: Tensor, module: nn.Module, size: tuple[int, ...], model: nn.Module | None) -> Layout:
    """The layout of (B, tokens, C), or of (B, C, tokens) if only layers with that order give it."""
    axis = 2
    if raw.shape[2] != getattr(model, "num_features", None):
        first, last = _layers_with_channels(raw, module)
        axis = 1 if first and not last else 2
    tokens = raw.shape[3 - axis]
    declared = _class_tokens(model)
    if declared >= tokens:  # the network gives class tokens only
        return Layout(axis, 0, (tokens, 1))
    # Not every network declares its class tokens, and a network with class tokens need not have them at every stage.
    for skipped in (declared if declared > 1 else 0, 0, declared, 1, 2):
        if skipped < tokens and (grid := _grid(tokens - skipped, size)):
            return Layout(axis, skipped, grid)
    return Layout(axis, 0, (tokens, 1))


def _class_tokens(model: nn.Module | None) -> int:
    """The number of class tokens, and of others before the positions, that a network declares."""
    declared = getattr(model, "num_prefix_tokens", None)
    if isinstance(declared, int):
        return declared
    token = getattr(model, "cls_token", None)
    return token.shape[1] if isinstance(token, Tensor) and token.ndim == 3 else 0


def _declares_channels_last(model: nn.Module | None) -> bool:
    return str(getattr(model, "output_fmt", "")).upper().endswith("NHWC")


def _layers_with_channels(raw: Tensor, module: nn.Module) -> tuple[bool, bool]:
    """Whether a module has layers that give such a tensor with channels first, and ones with channels last."""
    first = last = False
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            first |= layer.out_channels == raw.shape[1] and len(layer.kernel_size) == raw.ndim - 2
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            fixed = {nn.BatchNorm1d: 3, nn.BatchNorm2d: 4}
            dimensions = next((ndim for kind, ndim in fixed.items() if isinstance(layer, kind)), raw.ndim)
            first |= layer.num_features == raw.shape[1] and dimensions == raw.ndim
        elif isinstance(layer, nn.Linear):
            last |= layer.out_features == raw.shape[-1]
    return first, last


@lru_cache(maxsize=1024)
def _grid(count: int, size: tuple[int, ...]) -> tuple[int, int] | None:
    """The grid of this many positions in proportion to the image; None if no grid fits."""
    if not size:
        return None
    grids = [(height, count // height) for height in range(1, count + 1) if count % height == 0]
    closest = min(grids, key=lambda grid: abs(grid[0] * size[1] - grid[1] * size[0]))
    return closest if _fits(closest, size) else None


def _fits(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid is in proportion to the image, up to the rounding of one position."""
    return bool(size) and abs(grid[0] * size[1] - grid[1] * size[0]) < max(size)


# -- stages -------------------------------------------------------------------------------------


def stage_places(positions: Sequence[int], feature_positions: int | None) -> list[int]:
    """The indices of the maps that are stages: the last one at each number of positions, from fine to coarse.

    Args:
        positions: The number of positions of each block's map, in the order of running.
        feature_positions: The number of positions of the last feature map; None without one. If it has several,
            maps with one position are pooled, and thus no stages.
    """
    last = {count: place for place, count in enumerate(positions)}
    pooled = feature_positions is not None and feature_positions > 1
    return [last[count] for count in sorted(last, reverse=True) if count > 1 or not pooled]


def first_map(output: object, samples: int) -> Tensor | None:
    """The feature map that a module gives: its output, or the first map in it if it is a tuple or a list.

    Args:
        output: The output of a module.
        samples: The size of the batch.

    Returns:
        A tensor (samples, ., .) or (samples, ., ., .), or None.
    """
    candidates = output if isinstance(output, tuple | list) else (output,)
    maps = (each for each in candidates if isinstance(each, Tensor) and each.ndim in (3, 4) and len(each) == samples)
    return next(maps, None)


def as_size(inputs: Tensor) -> torch.Size:
    """Height and width of images (B, C, H, W); empty for text (B, L)."""
    return inputs.shape[2:] if inputs.ndim == 4 else torch.Size()
