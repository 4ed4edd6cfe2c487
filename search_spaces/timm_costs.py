"""Costs of the built-in families of timm in closed form: what `count_cost` counts, without a network.

Each function walks through the layers of its family as timm builds them. The tests compare them with counting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import make_divisible
from timm.models._efficientnet_builder import round_channels
from timm.models.regnet import adjust_widths_groups_comp, generate_regnet
from timm.models.resnet import Bottleneck

from .cost import Cost

ClosedForm = Callable[[Mapping[str, Any], int, tuple[int, int, int]], Cost]
"""The cost for the arguments of a network, its number of classes, and the channels, height and width of an image."""


class Tally:
    """Adds up the layers of a network that images pass through.

    Args:
        channels, height, width: Size of an image, and later of the feature map.

    Raises:
        ValueError: A layer gets a feature map that is too small for it.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.params = self.macs = self._buffer_bytes = 0

    @property
    def positions(self) -> int:
        """Number of positions of the feature map."""
        return self.height * self.width

    @property
    def cost(self) -> Cost:
        return Cost(self.params, self.macs, 4 * self.params + self._buffer_bytes)

    def conv(
        self, out: int, kernel: int, stride: int = 1, *, padding: int | None = None, groups: int = 1, bias: bool = False
    ) -> None:
        """A convolution; by default padded so that only the stride makes the map smaller."""
        pad = kernel // 2 if padding is None else padding
        self.height, self.width = ((size + 2 * pad - kernel) // stride + 1 for size in (self.height, self.width))
        if min(self.height, self.width) < 1:
            raise ValueError(f"The images are too small for a convolution of {kernel}x{kernel} pixels.")
        weights = out * (self.channels // groups) * kernel * kernel
        self.params += weights + out * bias
        self.macs += weights * self.positions
        self.channels = out

    def batch_norm(self) -> None:
        self.params += 2 * self.channels
        self._buffer_bytes += 8 * self.channels + 8  # mean and variance, and an integer that counts batches

    def conv_norm(self, out: int, kernel: int, stride: int = 1, *, groups: int = 1) -> None:
        self.conv(out, kernel, stride, groups=groups)
        self.batch_norm()

    def pool(self, kernel: int, stride: int) -> None:
        self.height, self.width = (
            (size + 2 * (kernel // 2) - kernel) // stride + 1 for size in (self.height, self.width)
        )

    def linear(self, inputs: int, outputs: int, positions: int = 1) -> None:
        """A linear layer with biases on so many positions."""
        self.params += inputs * outputs + outputs
        self.macs += inputs * outputs * positions

    def squeeze_excite(self, reduced: int) -> None:
        """Two linear layers on the mean of the map."""
        self.linear(self.channels, reduced)
        self.linear(reduced, self.channels)

    def shortcut(self, out: int, stride: int) -> None:
        """A 1x1 convolution with normalisation beside a block; the map is left as it is."""
        size = self.channels, self.height, self.width
        self.conv_norm(out, 1, stride)
        self.channels, self.height, self.width = size

    def transformer_block(self, dim: int, tokens: int, mlp_ratio: float) -> None:
        hidden = int(dim * mlp_ratio)
        self.linear(dim, 3 * dim, tokens)
        self.macs += 2 * tokens * tokens * dim  # queries with keys, and weights with values
        self.linear(dim, dim, tokens)
        self.linear(dim, hidden, tokens)
        self.linear(hidden, dim, tokens)
        self.params += 4 * dim  # two normalisations


def resnet(
    arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int], *, small: bool = False
) -> Cost:
    """ResNets; `small` has the stem for small images."""
    tally = Tally(*input_size)
    if small:
        tally.conv_norm(64, 3)
    else:
        tally.conv_norm(64, 7, 2)
        tally.pool(3, 2)
    deep = arguments["block"] is Bottleneck
    for stage, (planes, blocks) in enumerate(zip(arguments["channels"], arguments["layers"], strict=True)):
        out = planes * (4 if deep else 1)
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            if stride > 1 or tally.channels != out:
                tally.shortcut(out, stride)
            if deep:
                tally.conv_norm(planes, 1)
                tally.conv_norm(planes, 3, stride)
                tally.conv_norm(out, 1)
            else:
                tally.conv_norm(planes, 3, stride)
                tally.conv_norm(out, 3)
    tally.linear(tally.channels, num_classes)
    return tally.cost


def _inverted_residuals(
    tally: Tally,
    arguments: Mapping[str, Any],
    outs: Sequence[int],
    squeezed: Sequence[bool],
    reduced_of: Callable[[int, int], int],
) -> None:
    """Stages of inverted residuals; `reduced_of` gives the channels of squeeze-and-excitation of a block.

    Args:
        reduced_of: Takes the channels that enter the block, and those inside.
    """
    decisions = (arguments[name] for name in ("depth", "kernel", "expansion", "strides"))
    for out, has_squeeze, depth, kernel, expansion, stride in zip(outs, squeezed, *decisions, strict=True):
        for block in range(depth):
            entering = tally.channels
            inside = make_divisible(entering * expansion)
            tally.conv_norm(inside, 1)
            tally.conv_norm(inside, kernel, 1 if block else stride, groups=inside)
            if has_squeeze:
                tally.squeeze_excite(reduced_of(entering, inside))
            tally.conv_norm(out, 1)


def mobilenetv3(
    arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int], *, stem_stride: int = 2
) -> Cost:
    """MobileNetV3s."""
    tally = Tally(*input_size)
    width = functools.partial(round_channels, multiplier=arguments["width"])
    tally.conv_norm(width(16), 3, stem_stride)
    tally.conv_norm(tally.channels, 3, groups=tally.channels)
    tally.conv_norm(width(16), 1)
    outs = [width(channels) for channels in (24, 40, 80, 112, 160)]
    squeezed = (False, True, False, True, True)
    _inverted_residuals(tally, arguments, outs, squeezed, lambda entering, inside: round_channels(inside * 0.25))
    tally.conv_norm(width(960), 1)
    tally.linear(tally.channels, 1280)
    tally.linear(1280, num_classes)
    return tally.cost


def efficientnet(
    arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int], *, stem_stride: int = 2
) -> Cost:
    """EfficientNets."""
    tally = Tally(*input_size)
    width = functools.partial(round_channels, multiplier=arguments["width"])
    tally.conv_norm(width(32), 3, stem_stride)
    tally.conv_norm(tally.channels, 3, groups=tally.channels)
    tally.squeeze_excite(round(tally.channels * 0.25))
    tally.conv_norm(width(16), 1)
    body = {name: list(arguments[name]) for name in ("depth", "kernel", "expansion", "strides")}
    last = {"depth": [1], "kernel": [3], "expansion": [6], "strides": [1]}
    outs = [width(channels) for channels in (24, 40, 80, 112, 192, 320)]
    stages = {name: body[name] + last[name] for name in body}
    _inverted_residuals(tally, stages, outs, [True] * 6, lambda entering, inside: round(entering * 0.25))
    tally.conv_norm(width(1280), 1)
    tally.linear(tally.channels, num_classes)
    return tally.cost


def regnet(
    arguments: Mapping[str, Any],
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    strides: tuple[int, int] = (2, 2),
) -> Cost:
    """RegNets; `strides` are those of the stem and of the first stage."""
    tally = Tally(*input_size)
    tally.conv_norm(32, 3, strides[0])
    for stage, (out, depth, group_size) in enumerate(_regnet_stages(**arguments)):
        for block in range(depth):
            entering = tally.channels
            stride = 1 if block else (2 if stage else strides[1])
            if not block:
                tally.shortcut(out, stride)
            tally.conv_norm(out, 1)
            tally.conv_norm(out, 3, stride, groups=out // group_size)
            if arguments["se_ratio"]:
                tally.squeeze_excite(round(entering * arguments["se_ratio"]))
            tally.conv_norm(out, 1)
    tally.linear(tally.channels, num_classes)
    return tally.cost


def _regnet_stages(*, w0: int, wm: float, depth: int, group_size: int, **others: object) -> list[tuple[int, int, int]]:
    """Width, depth and group size of each stage; see `timm_families`."""
    slope = w0 * (wm**3 - 1) / (depth - 1)
    widths, stages, group_sizes = generate_regnet(slope, w0, wm, depth, group_size)
    unique, depths = torch.unique(torch.tensor(widths), return_counts=True)
    outs, groups = adjust_widths_groups_comp(unique.tolist(), [1.0] * stages, group_sizes)
    return list(zip(outs, depths.tolist(), groups, strict=True))


def convnext(arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int]) -> Cost:
    """ConvNeXts."""
    tally = Tally(*input_size)
    patch = arguments.get("patch_size", 4)
    tally.conv(arguments["dims"][0], patch, patch, padding=0, bias=True)
    tally.params += 2 * tally.channels
    stages = zip(arguments["dims"], arguments["depths"], arguments["kernel_sizes"], strict=True)
    for stage, (dim, depth, kernel) in enumerate(stages):
        if stage:
            tally.params += 2 * tally.channels
            tally.conv(dim, 2, 2, padding=0, bias=True)
        for _ in range(depth):
            tally.conv(dim, kernel, groups=dim, bias=True)
            tally.conv(4 * dim, 1, bias=True)
            tally.conv(dim, 1, bias=True)
            # normalisation and layer scale, and a weight and a bias of global response normalisation
            tally.params += 3 * dim + (8 * dim if arguments["use_grn"] else 0)
    tally.params += 2 * tally.channels
    tally.linear(tally.channels, num_classes)
    return tally.cost


def vit(arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int]) -> Cost:
    """Vision transformers."""
    tally = Tally(*input_size)
    dim, patch = arguments["embed_dim"], arguments["patch_size"]
    tally.conv(dim, patch, patch, padding=0, bias=True)
    has_token = arguments.get("class_token", True)
    tokens = tally.positions + has_token
    tally.params += dim * (tokens + has_token)  # embeddings of positions and of the class
    for _ in range(arguments["depth"]):
        tally.transformer_block(dim, tokens, arguments["mlp_ratio"])
    tally.params += 2 * dim
    tally.linear(dim, num_classes)
    return tally.cost


def pit(arguments: Mapping[str, Any], num_classes: int, input_size: tuple[int, int, int]) -> Cost:
    """Pooling vision transformers."""
    tally = Tally(*input_size)
    dims = [base * heads for base, heads in zip(arguments["base_dims"], arguments["heads"], strict=True)]
    tally.conv(dims[0], arguments.get("patch_size", 16), arguments.get("stride", 8), padding=0, bias=True)
    tally.params += dims[0] * (tally.positions + 1)
    for stage, (dim, depth) in enumerate(zip(dims, arguments["depth"], strict=True)):
        if stage:
            tally.linear(tally.channels, dim)
            tally.conv(dim, 3, 2, groups=tally.channels, bias=True)
        for _ in range(depth):
            tally.transformer_block(dim, tally.positions + 1, arguments["mlp_ratio"])
    tally.params += 2 * tally.channels
    tally.linear(tally.channels, num_classes)
    return tally.cost
