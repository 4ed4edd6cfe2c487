"""NAS-Bench-201: 15,625 cells of four nodes and six edges, their network and their canonical form.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search", ICLR 2020.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from timm.models import register_model
from torch import nn

from .contract import ClassifierMixin
from .cost import Cost
from .registry import unknown_name_message
from .space import Architecture, ArchitectureError, Choice, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


MAX_CELLS = 1000
"""Most cells of a stage: to build more takes minutes, whatever they hold."""


EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""(target node, source node) of each edge, in the order of the text form; node 0 is the cell's input."""


class NASBench201Space(SearchSpace):
    """The cell space of NAS-Bench-201.

    Text form, the benchmark's own: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

    Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.
        channels: Width C of the first stage; the next ones have 2C and 4C.
        cells: Cells N of each of the three stages.

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> NASBench201Space(num_classes=100).size
        15625
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: tuple[int, int, int] = (3, 32, 32),
        channels: int = 16,
        cells: int = 5,
    ) -> None:
        if channels < 1 or cells < 1:
            raise ValueError(f"channels is {channels} and cells is {cells}; both must be at least 1.")
        if cells > MAX_CELLS:
            raise ValueError(f"cells is {cells}; a network of this space has at most {MAX_CELLS:,} in a stage.")
        decisions = {f"node{t}_from_node{s}": OPERATIONS for t, s in EDGES}
        super().__init__("nasbench201", decisions, num_classes=num_classes, input_size=input_size)
        self.channels = channels
        self.cells = cells

    def build(self, architecture: Architecture) -> nn.Module:
        return NASBench201Network(
            architecture.choices,
            num_classes=self.num_classes,
            in_chans=self.input_size[0],
            channels=self.channels,
            cells=self.cells,
        )

    def cost(self, architecture: Architecture) -> Cost:
        """Closed form; equal to the benchmark's table at C = 16, N = 5 and 32 x 32 images.

        Multiply-accumulates follow the benchmark's own counter: besides convolutions and the
        classifier it counts 3 for every output value of a ReLU-conv-BN or a lone BN, the kernel's area for every output
        value of an average pooling, and 17 per channel at the end.
        """
        in_chans, height, width = self.input_size
        kernels = {op: architecture.choices.count(op) for op in OPERATIONS}
        params, macs = 0, 0
        c, h, w = self.channels, height, width
        params += 9 * in_chans * c + 2 * c
        macs += (9 * in_chans + 3) * c * h * w
        for stage in range(3):
            if stage:
                previous, c, h, w = c, 2 * c, (h + 1) // 2, (w + 1) // 2
                params += 9 * previous * c + 9 * c * c + 4 * c + previous * c
                macs += (9 * previous + 3 + 9 * c + 3 + previous) * c * h * w + 4 * previous * h * w
            for area, op in ((9, "nor_conv_3x3"), (1, "nor_conv_1x1")):
                params += self.cells * kernels[op] * (area * c * c + 2 * c)
                macs += self.cells * kernels[op] * (area * c + 3) * c * h * w
            macs += self.cells * kernels["avg_pool_3x3"] * 9 * c * h * w
        params += 2 * c + (c + 1) * self.num_classes
        macs += 3 * c * h * w + 17 * c + c * self.num_classes
        return Cost(params, macs)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The cheapest cell among those whose output is the same sum of operations.

        Zero terms are dropped and sums through skip connections are flattened. This leaves 4,930 classes; one of them
        holds all 341 disconnected cells. Two equal operations on the same input are equal terms, whether or not they
        share weights.
        """
        choices = _canonical_choices()[architecture.choices]
        return Architecture(choices, self.format(choices))

    def is_trainable(self, architecture: Architecture) -> bool:
        return bool(_output_terms(architecture.choices))

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        shape = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return "nasbench201", {"arch": str(architecture), **shape, "channels": self.channels, "cells": self.cells}

    def format(self, choices: tuple[Choice, ...]) -> str:
        return format_cell(choices)

    def split(self, text: str) -> Sequence[str]:
        return split_cell(text)

    def config(self) -> dict[str, object]:
        return super().config() | {"channels": self.channels, "cells": self.cells}


def format_cell(operations: Sequence[Choice]) -> str:
    """The benchmark's string of six operations, one per edge in the order of `EDGES`."""
    ops = iter(operations)
    return "+".join("|" + "".join(f"{next(ops)}~{source}|" for source in range(target)) for target in (1, 2, 3))


def split_cell(text: str) -> list[str]:
    """The six operations of the benchmark's string; their names are not checked.

    Example:
        >>> split_cell("|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
        ['none', 'none', 'none', 'none', 'none', 'skip_connect']

    Raises:
        ArchitectureError: The string does not have the benchmark's form.
    """
    nodes = text.strip().split("+")
    if len(nodes) != 3:
        raise ArchitectureError(f"a cell has 3 nodes joined by '+', this has {len(nodes)}.")
    operations = []
    for target, node in enumerate(nodes, start=1):
        edges = node[1:-1].split("|")
        if not (node.startswith("|") and node.endswith("|")) or len(edges) != target:
            raise ArchitectureError(f"node {target} must be {target} edges between '|', got {node!r}.")
        for source, edge in enumerate(edges):
            operation, tilde, origin = edge.partition("~")
            if not tilde or origin != str(source):
                raise ArchitectureError(f"edge {source} of node {target} must end in '~{source}', got {edge!r}.")
            operations.append(operation)
    return operations


Terms = tuple[object, ...]
"""A node's value as a sorted tuple of its summands: the cell's input, or an operation on another node's terms."""


def _output_terms(operations: tuple[Choice, ...]) -> Terms:
    """The output node as a flat sum; empty if the input does not reach it."""
    nodes: list[Terms] = [("input",)]
    edges = iter(operations)
    for target in (1, 2, 3):
        terms: list[object] = []
        for source in range(target):
            operation = next(edges)
            if operation == "none" or not nodes[source]:
                continue
            if operation == "skip_connect":
                terms.extend(nodes[source])
            else:
                terms.append((operation, nodes[source]))
        nodes.append(tuple(sorted(terms, key=repr)))
    return nodes[3]


@functools.cache
def _canonical_choices() -> dict[tuple[Choice, ...], tuple[Choice, ...]]:
    """The cheapest equal of every cell: least convolution work, then fewest poolings, then first in order."""
    work = {"nor_conv_3x3": 10_000, "nor_conv_1x1": 1_000, "avg_pool_3x3": 100, "skip_connect": 1, "none": 0}
    cells = list(itertools.product(OPERATIONS, repeat=len(EDGES)))
    terms = [_output_terms(cell) for cell in cells]
    best: dict[Terms, tuple[Choice, ...]] = {}
    for cell, key in sorted(zip(cells, terms, strict=True), key=lambda pair: sum(work[op] for op in pair[0])):
        best.setdefault(key, cell)
    return {cell: best[key] for cell, key in zip(cells, terms, strict=True)}


# -- the network --------------------------------------------------------------------------------


class ReLUConvBN(nn.Sequential):
    """The benchmark's convolution: ReLU, convolution without bias, batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


def _make_edge(operation: Choice, in_channels: int, channels: int) -> nn.Module:
    if operation == "nor_conv_1x1":
        return ReLUConvBN(in_channels, channels, 1)
    if operation == "nor_conv_3x3":
        return ReLUConvBN(in_channels, channels, 3)
    if operation == "skip_connect" and in_channels != channels:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
    if operation == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    if operation in ("none", "skip_connect"):
        return nn.Identity()
    raise ValueError(unknown_name_message("operation", str(operation), OPERATIONS))


class Cell(nn.Module):
    """Four nodes, each the sum of its edges; edges whose source is zero are not computed.

    Args:
        operations: The six operations, in the order of `EDGES`.
        channels: Channels of all nodes but the input.
        in_channels: Channels of the input; as many as of the others by default. The edges that begin there change them.
    """

    def __init__(self, operations: Sequence[Choice], channels: int, in_channels: int | None = None) -> None:
        super().__init__()
        if len(operations) != len(EDGES):
            raise ValueError(f"A cell has {len(EDGES)} operations; got {len(operations)}.")
        self.operations = tuple(operations)
        before = channels if in_channels is None else in_channels
        self.edges = nn.ModuleList(
            _make_edge(op, channels if source else before, channels)
            for op, (_, source) in zip(self.operations, EDGES, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [x, None, None, None]
        for (target, source), operation, edge in zip(EDGES, self.operations, self.edges, strict=True):
            value = nodes[source]
            if operation == "none" or value is None:
                continue
            value = edge(value)
            total = nodes[target]
            nodes[target] = value if total is None else total + value
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


class ReductionBlock(nn.Module):
    """The residual block between stages: half the size, twice the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(in_channels, out_channels, 3, stride=2)
        self.conv_b = ReLUConvBN(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class NASBench201Network(ClassifierMixin, nn.Module):
    """The benchmark's network around one cell, under timm's model contract.

    Args:
        operations: The six operations of the cell.
        num_classes: Classes of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        channels: Width of the first stage.
        cells: Cells in each of the three stages.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: An unknown operation, or not six of them.
    """

    def __init__(
        self,
        operations: Sequence[Choice],
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        channels: int = 16,
        cells: int = 5,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        widths = (channels, 2 * channels, 4 * channels)
        stages: list[nn.Module] = []
        for index, width in enumerate(widths):
            blocks: list[nn.Module] = [ReductionBlock(widths[index - 1], width)] if index else []
            blocks += [Cell(operations, width) for _ in range(cells)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self._init_head(widths[-1], num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, 4C, H/4, W/4)."""
        return self.norm(self.stages(self.stem(x)))


@register_model
def nasbench201(
    pretrained: bool = False,
    arch: str = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    **kwargs: object,
) -> NASBench201Network:
    """NAS-Bench-201's network for the cell `arch`, for `timm.create_model`.

    Raises:
        ArchitectureError: `arch` is not a cell.
        RuntimeError: `pretrained` is asked for without a source of weights, or `features_only`.
    """
    operations = NASBench201Space().parse(arch).choices
    return NASBench201Network.for_timm("nasbench201", pretrained, kwargs, operations=operations)
