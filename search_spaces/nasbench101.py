"""NAS-Bench-101: cells as graphs of up to seven vertices and nine edges, their network, canonical form and hash.

Source: Ying, Klein, Christiansen, Real, Murphy and Hutter, "NAS-Bench-101: Towards Reproducible Neural Architecture
Search", ICML 2019.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models import register_model
from torch import nn

from .contract import ClassifierMixin
from .cost import Cost
from .registry import unknown_name_message
from .space import Architecture, ArchitectureError, Choice, SearchSpace

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
"""Operations in the order of the benchmark's labels; it calls the first two `conv3x3-bn-relu` and `conv1x1-bn-relu`."""


MAX_EDGES = 9
"""Most edges of a cell once dead vertices are removed."""


MAX_CELLS = 1000
"""Most cells of a stage: to build more takes minutes, whatever they hold."""


OUTPUT = 6
"""Number of the output vertex; the input is 0, and 1 to 5 have operations."""


EDGES = tuple((source, target) for target in range(1, OUTPUT + 1) for source in range(target))
"""(source, target) of each edge: an upper triangular matrix, column by column, as the benchmark numbers its bits."""


CHEAPEST = "maxpool3x3~0|maxpool3x3~1|maxpool3x3~1|maxpool3x3~1|output~1~2~3~4"
"""A cell of least cost: the input is projected once, to a fourth of the channels; more branches take too many edges."""


_KERNELS = {"conv3x3": 3, "conv1x1": 1}


@dataclass(frozen=True)
class Cell:
    """A cell without dead vertices: all lie on a path from the input to the output.

    Attributes:
        sources: The vertices that lead into each vertex but the input, in rising order; the last one is the output.
        operations: The operation of each vertex between input and output.
    """

    sources: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(source, target) of each edge."""
        return [(source, target) for target, sources in enumerate(self.sources, start=1) for source in sources]


class NASBench101Space(SearchSpace):
    """The cell space of NAS-Bench-101: 423,624 cells up to isomorphism.

    Text form: each vertex with the vertices that lead into it, numbered from 0, the input, and the output last, as in
    `conv1x1~0|conv3x3~0~1|output~1~2`. Vertices without edges may be left out at the end.

    The decisions are the 21 edges and 5 operations of seven vertices. Vertices that are on no path from the input to
    the output are dead and are not built. An architecture has such a path, and at most nine edges on paths.

    Source: Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019.

    Args:
        num_classes: Classes of the classifier.
        input_size: Channels, height and width of one image.
        channels: Width C of the first stage; the next ones have 2C and 4C.
        cells: Cells of each of the three stages.

    Raises:
        ValueError: A number is below 1, or `channels` is below 5, so that five branches cannot share them.

    Example:
        >>> space = NASBench101Space()
        >>> inception = space.parse("conv1x1~0|conv3x3~0|conv3x3~0|conv3x3~3|maxpool3x3~0|output~1~2~4~5")
        >>> space.cost(inception).params
        2694282
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: tuple[int, int, int] = (3, 32, 32),
        channels: int = 128,
        cells: int = 3,
    ) -> None:
        if channels < OUTPUT - 1:
            raise ValueError(
                f"channels is {channels}; it must be at least {OUTPUT - 1}, one for each branch of a cell."
            )
        if not 1 <= cells <= MAX_CELLS:
            raise ValueError(f"cells is {cells}; it must be from 1 to {MAX_CELLS:,}.")
        edges: dict[str, tuple[Choice, ...]] = {f"node{target}_from_node{source}": (0, 1) for source, target in EDGES}
        operations: dict[str, tuple[Choice, ...]] = {f"node{v}_operation": OPERATIONS for v in range(1, OUTPUT)}
        super().__init__("nasbench101", edges | operations, num_classes=num_classes, input_size=input_size)
        self.channels = channels
        self.cells = cells

    # -- cells ----------------------------------------------------------------------------------

    def cell(self, architecture: Architecture) -> Cell:
        """The graph of an architecture without its dead vertices."""
        return _pruned(architecture.choices)

    def from_matrix(self, matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> Architecture:
        """The architecture of the benchmark's matrix and operations.

        Args:
            matrix: Square and upper triangular, of two to seven vertices: 1 for an edge from the vertex of the row to
                that of the column.
            operations: The operation of each vertex, `input` and `output` included, by our names or the benchmark's.

        Raises:
            ArchitectureError: They are no cell of the benchmark.

        Example:
            >>> str(NASBench101Space().from_matrix([[0, 1], [0, 0]], ["input", "output"]))
            'output~0'
        """
        size = len(operations)
        if not 2 <= size <= OUTPUT + 1 or len(matrix) != size or any(len(row) != size for row in matrix):
            rows = [len(row) for row in matrix]
            raise ArchitectureError(
                f"A cell of {self.name} has 2 to {OUTPUT + 1} vertices and as many rows and columns; got {size} "
                f"operations and rows of {rows}."
            )
        edges = [(row, column) for row in range(size) for column in range(size) if matrix[row][column]]
        if below := [edge for edge in edges if edge[0] >= edge[1]]:
            raise ArchitectureError(
                f"The matrix of a cell of {self.name} is upper triangular; got the edge {below[0]}."
            )
        ones = {(source, target if target < size - 1 else OUTPUT) for source, target in edges}
        inner = [operation.removesuffix("-bn-relu") for operation in operations[1:-1]]
        inner += [OPERATIONS[0]] * (OUTPUT - 1 - len(inner))
        return self.architecture([*(int(edge in ones) for edge in EDGES), *inner])

    def module_hash(self, architecture: Architecture) -> str:
        """The benchmark's own key of a cell: an MD5 hash that isomorphic cells share, as 32 hexadecimal digits."""
        cell = self.cell(architecture)
        count = len(cell.sources) + 1
        before = [(), *cell.sources]
        after = [[target for target in range(count) if vertex in before[target]] for vertex in range(count)]
        labels = [-1, *map(OPERATIONS.index, cell.operations), -2]
        keys = [_md5(str((len(after[v]), len(before[v]), labels[v]))) for v in range(count)]
        for _ in range(count):
            keys = [
                _md5("|".join(["".join(sorted(keys[w] for w in side[v])) for side in (before, after)] + [keys[v]]))
                for v in range(count)
            ]
        return _md5(str(sorted(keys)))

    # -- network and cost -----------------------------------------------------------------------

    def build(self, architecture: Architecture) -> nn.Module:
        return NASBench101Network(
            self.cell(architecture),
            num_classes=self.num_classes,
            in_chans=self.input_size[0],
            channels=self.channels,
            cells=self.cells,
        )

    def cost(self, architecture: Architecture) -> Cost:
        """Closed form; parameters equal the benchmark's `trainable_parameters` of a cell with this order of vertices.

        Isomorphic cells can differ in a few parameters, because channels that a division leaves over go to the first
        branches. The benchmark trained the canonical form.
        """
        cell = self.cell(architecture)
        in_chans, height, width = self.input_size
        params = (9 * in_chans + 2) * self.channels
        macs = 9 * in_chans * self.channels * height * width
        before = self.channels
        for stage in range(3):
            channels = self.channels << stage
            if stage:
                height, width = (height + 1) // 2, (width + 1) // 2
            for inputs, times in ((before, 1), (channels, self.cells - 1)):
                weights, outputs = _work(cell, inputs, channels)
                params += times * (weights + 2 * outputs)
                macs += times * weights * height * width
            before = channels
        return Cost(params + (before + 1) * self.num_classes, macs + before * self.num_classes)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The isomorphic cell that the benchmark trained: the first one in its order, without dead vertices."""
        choices = _canonical_choices(architecture.choices)
        return Architecture(choices, self.format(choices))

    def timm_model(self, architecture: Architecture) -> tuple[str, dict[str, object]]:
        shape = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return "nasbench101", {"arch": str(architecture), **shape, "channels": self.channels, "cells": self.cells}

    # -- choices and text -----------------------------------------------------------------------

    def violation(self, choices: Sequence[Choice]) -> str | None:
        live = _live(choices)
        if not live:
            return "no path leads from the input to the output."
        count = sum(bool(on) and s in live and t in live for on, (s, t) in zip(choices, EDGES, strict=False))
        return f"{count} edges are on paths; at most {MAX_EDGES} may be." if count > MAX_EDGES else None

    @property
    def starts(self) -> list[Architecture]:
        return [self.parse(CHEAPEST)]

    @property
    def size(self) -> int:
        return len(_valid_matrices()) * len(OPERATIONS) ** (OUTPUT - 1)

    def at(self, index: int) -> Architecture:
        matrix, rest = divmod(index, len(OPERATIONS) ** (OUTPUT - 1))
        operations: list[str] = []
        for _ in range(OUTPUT - 1):
            rest, place = divmod(rest, len(OPERATIONS))
            operations.insert(0, OPERATIONS[place])
        choices: tuple[Choice, ...] = (*_edges_of(int(_valid_matrices()[matrix])), *operations)
        return Architecture(choices, self.format(choices))

    def __iter__(self) -> Iterator[Architecture]:
        for number in _valid_matrices():
            edges = _edges_of(int(number))
            for operations in itertools.product(OPERATIONS, repeat=OUTPUT - 1):
                choices: tuple[Choice, ...] = (*edges, *operations)
                yield Architecture(choices, self.format(choices))

    def sample(self, rng: random.Random) -> Architecture:
        """A random cell: valid matrices are drawn evenly, and operations uniformly.

        Args:
            rng: The source of randomness; no other is used.
        """
        return self.at(rng.randrange(self.size))

    def mutate(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """A cell with one decision changed; as long as dead vertices alone are touched, another one is changed too.

        Of an architecture without dead vertices, exactly one edge or operation changes. A dead vertex comes to life by
        two edges.
        """
        cell = self.cell(architecture)
        while True:
            choices = list(architecture.choices)
            for position in rng.sample(range(len(choices)), len(choices)):
                allowed: tuple[Choice, ...] = (0, 1) if position < len(EDGES) else OPERATIONS
                choices[position] = rng.choice([choice for choice in allowed if choice != choices[position]])
                if self.violation(choices) is not None:
                    break
                if _pruned(tuple(choices)) != cell:
                    return Architecture(tuple(choices), self.format(tuple(choices)))

    def format(self, choices: tuple[Choice, ...]) -> str:
        sources: list[list[int]] = [[] for _ in range(OUTPUT + 1)]
        written = 0
        for on, (source, target) in zip(choices, EDGES, strict=False):
            if on:
                sources[target].append(source)
                written = max(written, source, target if target < OUTPUT else 0)
        operations = choices[len(EDGES) :]
        named = [v for v, operation in enumerate(operations, start=1) if operation != OPERATIONS[0]]
        names = [*map(str, operations[: max([written, *named])]), "output"]
        ends = [*range(1, len(names)), OUTPUT]
        return "|".join("~".join([name, *map(str, sources[v])]) for name, v in zip(names, ends, strict=True))

    def split(self, text: str) -> Sequence[str]:
        vertices = text.strip().split("|")
        if len(vertices) > OUTPUT or vertices[-1].partition("~")[0] != "output":
            raise ArchitectureError(
                f"a cell is up to {OUTPUT - 1} vertices and the output, joined by '|'; the last of these "
                f"{len(vertices)} is {vertices[-1]!r}."
            )
        ones, names = set(), []
        for vertex, part in enumerate(vertices, start=1):
            name, *numbers = part.split("~")
            names.append(name)
            expected = [str(source) for source in range(vertex) if str(source) in numbers]
            if numbers != expected:
                raise ArchitectureError(
                    f"vertex {vertex}, {part!r}, must be an operation and, each after a '~', vertices from 0 to "
                    f"{vertex - 1} in rising order."
                )
            ones |= {(int(number), vertex if vertex < len(vertices) else OUTPUT) for number in numbers}
        names[-1:] = [OPERATIONS[0]] * (OUTPUT - len(names))
        return [*(str(int(edge in ones)) for edge in EDGES), *names]

    def config(self) -> dict[str, object]:
        return super().config() | {"channels": self.channels, "cells": self.cells}


# -- graphs -------------------------------------------------------------------------------------


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _live(choices: Sequence[Choice]) -> list[int]:
    """The vertices on a path from the input to the output, in rising order; none if there is no path."""
    edges = [edge for on, edge in zip(choices, EDGES, strict=False) if on]
    reached, needed = {0}, {OUTPUT}
    for source, target in edges:  # in the order of their targets
        if source in reached:
            reached.add(target)
    for source, target in sorted(edges, reverse=True):
        if target in needed:
            needed.add(source)
    return sorted(reached & needed) if OUTPUT in reached else []


def _pruned(choices: tuple[Choice, ...]) -> Cell:
    """The cell of valid choices, its live vertices numbered anew."""
    places = {vertex: place for place, vertex in enumerate(_live(choices))}
    sources: list[list[int]] = [[] for _ in places]
    for on, (source, target) in zip(choices, EDGES, strict=False):
        if on and source in places and target in places:
            sources[places[target]].append(places[source])
    operations = choices[len(EDGES) :]
    inner = [str(operations[vertex - 1]) for vertex in places if 0 < vertex < OUTPUT]
    return Cell(tuple(map(tuple, sources[1:])), tuple(inner))


@functools.lru_cache(maxsize=1 << 16)
def _canonical_choices(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The choices of the isomorphic cell that comes first by the bits of its matrix, then by its labels."""
    cell = _pruned(choices)
    edges, last = cell.edges, len(cell.sources)
    labels = [OPERATIONS.index(operation) for operation in cell.operations]
    orders = []
    for order in itertools.permutations(range(1, last)):
        places = (0, *order, last)
        moved = [(places[source], places[target]) for source, target in edges]
        if all(source < target for source, target in moved):
            bits = sum(1 << (source + target * (target - 1) // 2) for source, target in moved)
            orders.append((bits, sorted(zip(order, labels, strict=True)), moved))
    _, placed, moved = min(orders)
    ones = {(source, target if target < last else OUTPUT) for source, target in moved}
    operations = [OPERATIONS[label] for _, label in placed]
    operations += [OPERATIONS[0]] * (OUTPUT - last)
    return (*(int(edge in ones) for edge in EDGES), *operations)


def _edges_of(number: int) -> tuple[int, ...]:
    """The edges of a matrix's number, whose highest bit is the first edge."""
    return tuple(number >> place & 1 for place in reversed(range(len(EDGES))))


@functools.cache
def _valid_matrices() -> np.ndarray:
    """The numbers of all matrices with a path from the input to the output and at most nine edges on paths, rising."""
    numbers = np.arange(1 << len(EDGES), dtype=np.int32)
    on = {edge: (numbers >> place & 1).astype(bool) for place, edge in enumerate(reversed(EDGES))}
    reached = {0: np.ones(len(numbers), dtype=bool)}
    for vertex in range(1, OUTPUT + 1):
        reached[vertex] = np.logical_or.reduce([reached[s] & on[s, vertex] for s in range(vertex)])
    needed = {OUTPUT: reached[OUTPUT]}
    for vertex in reversed(range(OUTPUT)):
        needed[vertex] = np.logical_or.reduce([needed[t] & on[vertex, t] for t in range(vertex + 1, OUTPUT + 1)])
    live = {vertex: reached[vertex] & needed[vertex] for vertex in reached}
    counts = np.zeros(len(numbers), dtype=np.int8)
    for (source, target), is_on in on.items():
        counts += live[source] & live[target] & is_on
    return numbers[reached[OUTPUT] & (counts <= MAX_EDGES)]


# -- channels and work --------------------------------------------------------------------------


def vertex_channels(cell: Cell, channels: int) -> list[int]:
    """Channels of each vertex between input and output, by the benchmark's rule.

    The output's channels are shared evenly among the vertices that lead to it, and what the division leaves over goes
    to the first of them, one each. Every other vertex has as many as the widest vertex that it leads to.

    Args:
        cell: The cell.
        channels: Channels of the output.

    Example:
        >>> vertex_channels(Cell(((0,), (0,), (0,), (1, 2, 3)), ("conv3x3",) * 3), 128)
        [43, 43, 42]
    """
    last = len(cell.sources)
    widths = [0] * last
    branches = [source for source in cell.sources[-1] if source]
    for place, vertex in enumerate(branches):
        widths[vertex] = channels // len(branches) + (place < channels % len(branches))
    for vertex in reversed(range(1, last)):
        if vertex not in branches:
            widths[vertex] = max(widths[t] for t in range(vertex + 1, last) if vertex in cell.sources[t - 1])
    return widths[1:]


def _work(cell: Cell, inputs: int, channels: int) -> tuple[int, int]:
    """Weights of the convolutions of a cell, and their output channels, each of which has a batch normalisation."""
    weights = outputs = 0
    widths = [*vertex_channels(cell, channels), channels]
    for width, sources, operation in zip(widths, cell.sources, [*cell.operations, None], strict=True):
        if 0 in sources:
            weights += inputs * width
            outputs += width
        if operation in _KERNELS:
            weights += (_KERNELS[operation] * width) ** 2
            outputs += width
    return weights, outputs


# -- the network --------------------------------------------------------------------------------


class ConvBNReLU(nn.Sequential):
    """The benchmark's convolution: without bias, then batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


def _make_operation(operation: str, channels: int) -> nn.Module:
    if operation in _KERNELS:
        return ConvBNReLU(channels, channels, _KERNELS[operation])
    if operation == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    raise ValueError(unknown_name_message("operation", operation, OPERATIONS))


class CellModule(nn.Module):
    """A cell: vertices add what leads into them, and the output joins its branches.

    The input is projected to the width of each vertex that it leads to. Of a wider vertex, the first channels are
    taken.

    Args:
        cell: The graph.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, cell: Cell, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.cell = cell
        self.widths = [*vertex_channels(cell, out_channels), out_channels]
        self.projections = nn.ModuleDict(
            {
                str(vertex): ConvBNReLU(in_channels, self.widths[vertex - 1], 1)
                for vertex, sources in enumerate(cell.sources, start=1)
                if 0 in sources
            }
        )
        self.operations = nn.ModuleList(
            _make_operation(operation, width)
            for operation, width in zip(cell.operations, self.widths[:-1], strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for vertex, operation in enumerate(self.operations, start=1):
            width = self.widths[vertex - 1]
            parts = [values[source] for source in self.cell.sources[vertex - 1] if source]
            parts = [part if part.shape[1] == width else part[:, :width] for part in parts]
            values.append(operation(self._with_projection(parts, vertex, x)))
        branches = [values[source] for source in self.cell.sources[-1] if source]
        joined = branches if len(branches) < 2 else [torch.cat(branches, dim=1)]
        return self._with_projection(joined, len(values), x)

    def _with_projection(self, parts: list[torch.Tensor], vertex: int, x: torch.Tensor) -> torch.Tensor:
        """The sum of some values and the projected input, if that leads to a vertex."""
        key = str(vertex)
        terms = [*parts, self.projections[key](x)] if key in self.projections else parts
        return functools.reduce(torch.add, terms)


class NASBench101Network(ClassifierMixin, nn.Module):
    """The benchmark's network around one cell, under timm's model contract.

    Batch normalisation keeps torch's momentum: the benchmark's, .003 in torch's terms, suits its long trainings alone.

    Args:
        cell: The graph of the cell.
        num_classes: Classes of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        channels: Width of the first stage.
        cells: Cells in each of the three stages.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: An unknown operation.

    Example:
        >>> from search_spaces import create_space
        >>> space = create_space("nasbench101")
        >>> isinstance(space.build(space.at(0)), NASBench101Network)
        True
    """

    def __init__(
        self,
        cell: Cell,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        channels: int = 128,
        cells: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = ConvBNReLU(in_chans, channels, 3)
        stages: list[nn.Module] = []
        before = channels
        for stage in range(3):
            width = channels << stage
            blocks: list[nn.Module] = [nn.MaxPool2d(2, stride=2, ceil_mode=True)] if stage else []
            blocks += [CellModule(cell, width if place else before, width) for place in range(cells)]
            stages.append(nn.Sequential(*blocks))
            before = width
        self.stages = nn.Sequential(*stages)
        self._init_head(before, num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, 4C, H/4, W/4)."""
        return self.stages(self.stem(x))


INCEPTION = "conv1x1~0|conv3x3~0|conv3x3~0|conv3x3~3|maxpool3x3~0|output~1~2~4~5"
"""The cell that the benchmark's authors give as an example."""


@register_model
def nasbench101(pretrained: bool = False, arch: str = INCEPTION, **kwargs: object) -> NASBench101Network:
    """NAS-Bench-101's network for the cell `arch`, for `timm.create_model`.

    Raises:
        ArchitectureError: `arch` is not a cell.
        RuntimeError: `pretrained` is asked for without a source of weights, or `features_only`.
    """
    space = NASBench101Space()
    return NASBench101Network.for_timm("nasbench101", pretrained, kwargs, cell=space.cell(space.parse(arch)))
