"""Stages, tokens and head of a network, found once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .blocks import ACTIVATIONS, find_blocks
from .contract import ReadingError, classifier_layers, first_given, has_timm_contract, is_linear

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)


# -- layouts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a feature map lies in a tensor of a network.

    Attributes:
        channels: The axis of the channels.
        skipped: Class tokens and their like, which come before the others.
        grid: Height and width of the grid that tokens lie on; None where both are axes.
    """

    channels: int = 1
    skipped: int = 0
    grid: tuple[int, int] | None = None

    def to_map(self, raw: Tensor) -> Tensor:
        """The tensor as (B, C, H, W) in single precision."""
        raw = raw.float().movedim(self.channels, 1)
        if self.grid is not None:
            return raw[:, :, self.skipped :].unflatten(2, self.grid)
        return raw[:, :, None, None] if raw.ndim == 2 else raw


def _map_layout(raw: Tensor, layers: list[nn.Module], image: torch.Size, model: Any) -> Layout | None:
    """Of (B, C, H, W) or (B, H, W, C): the axes that are as the image is high and wide tell; None where nothing does.

    Args:
        raw: The tensor.
        layers: Those that gave a tensor of this shape while it was made.
        image: Height and width.
        model: The network.
    """
    first = any(isinstance(layer, _CHANNELS_FIRST) for layer in layers)
    last = any(isinstance(layer, nn.Linear) for layer in layers)
    fitting = [axis for axis, grid in ((1, raw.shape[2:]), (3, raw.shape[1:3])) if _fits(grid, image)]
    if len(fitting) == 1:
        return Layout(fitting[0])
    if first != last and (fitting or first):
        return Layout(1 if first else 3)
    if not fitting:
        return None
    return Layout(3 if str(getattr(model, "output_fmt", "")).upper().endswith("NHWC") else 1)


def _token_layout(raw: Tensor, layers: list[nn.Module], image: torch.Size, model: Any) -> Layout:
    """Of (B, tokens, C), or (B, C, tokens) where only layers that work so gave it; a column where no grid fits."""
    first = any(isinstance(layer, _CHANNELS_FIRST) for layer in layers)
    last = any(isinstance(layer, nn.Linear) for layer in layers) or raw.shape[2] == getattr(model, "num_features", None)
    axis = 1 if first and not last else 2
    tokens = raw.shape[3 - axis]
    declared = getattr(model, "num_prefix_tokens", 0)
    declared = declared if isinstance(declared, int) else 0
    # Not every network says how many class tokens it has, and those that do need not have them at every stage.
    for skipped in (declared if declared > 1 else 0, 0, declared, 1, 2):
        if 0 <= skipped < tokens and (grid := _grid(tokens - skipped, image)):
            return Layout(axis, skipped, grid)
    return Layout(axis, 0, (tokens, 1))


def _grid(count: int, image: torch.Size) -> tuple[int, int] | None:
    """The grid of this many positions that is as high and wide as the image; None where there is none."""
    grids = [(height, count // height) for height in range(1, count + 1) if count % height == 0]
    closest = min(grids, key=lambda grid: abs(grid[0] * image[1] - grid[1] * image[0]))
    return closest if _fits(closest, image) else None


def _fits(grid: Sequence[int], image: torch.Size) -> bool:
    """Whether a grid is as high and wide as the image, up to the rounding of one position."""
    return abs(grid[0] * image[1] - grid[1] * image[0]) < max(image)


# -- one run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HookPoint:
    """Where a tensor is to be had in a run.

    Attributes:
        module: The module that gives or gets it.
        call: At which of the module's calls, from 0.
        shared: Whether the module is called more than once.
        of_input: Whether the module gets it.
        changed: Whether something that works in place changes it later.
    """

    module: nn.Module
    call: int
    shared: bool
    of_input: bool
    changed: bool


@dataclass(eq=False)
class _Call:
    """One call of a module. Versions tell whether a tensor was changed in place since."""

    module: nn.Module
    number: int
    start: int
    inputs: Any
    version_in: int
    end: int = 0
    output: Any = None
    version_out: int = 0
    rectified: bool = False

    def within(self, other: _Call) -> bool:
        return other.start < self.start and self.end < other.end


@dataclass(eq=False)
class _Activation:
    """One call of an activation function, by a module or by itself."""

    at: int
    inputs: Tensor
    version_in: int
    output: Tensor
    version_out: int


class _Trace(TorchFunctionMode):
    """The calls of all modules, in the order in which they end, and of activation functions."""

    def __init__(self, blocks: set[nn.Module]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.activations: list[_Activation] = []
        self._blocks = blocks
        self._clock = itertools.count()
        self._open: list[_Call] = []
        self._numbers: Counter[nn.Module] = Counter()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._finish).remove)
            stack.enter_context(self)
            yield

    def now(self) -> int:
        return next(self._clock)

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = first_given(args, kwargs)
        self._open.append(_Call(module, self._numbers[module], self.now(), inputs, _version(inputs)))
        self._numbers[module] += 1

    def _finish(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._open.pop()
        call.end, call.output, call.version_out = self.now(), output, _version(output)
        if module in self._blocks and isinstance(output, Tensor):
            call.rectified = bool((output >= 0).all() & output.any())
        self.calls.append(call)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func not in ACTIVATIONS:
            return func(*args, **(kwargs or {}))
        inputs = first_given(args, kwargs or {})
        before = _version(inputs)
        output = func(*args, **(kwargs or {}))
        self.activations.append(_Activation(self.now(), inputs, before, output, _version(output)))
        return output

    def tap(self, call: _Call, *, of_input: bool = False) -> HookPoint:
        tensor = call.inputs if of_input else call.output
        version, at = (call.version_in, call.start) if of_input else (call.version_out, call.end)
        # What works in place in training alone, as dropout, leaves the version as it is here.
        changed = tensor._version != version or any(
            later.start >= at and later.inputs is tensor and getattr(later.module, "inplace", False) is True
            for later in self.calls
        )
        return HookPoint(call.module, call.number, self._numbers[call.module] > 1, of_input, changed)

    def last_activation(self, block: _Call) -> _Activation | None:
        """The activation whose output is the block's output."""
        for each in reversed(self.activations):
            if block.start < each.at < block.end and each.output is block.output:
                return each if each.version_out == block.version_out else None
        return None

    def before(self, activation: _Activation) -> HookPoint | None:
        """Where the activation's input is to be had: a module gets it, or has just given it; None where none does."""
        inputs, version = activation.inputs, activation.version_in
        for call in self.calls:
            if call.start < activation.at < call.end and call.inputs is inputs and call.version_in == version:
                return self.tap(call, of_input=True)
        for call in self.calls:
            if call.end < activation.at and call.output is inputs and call.version_out == version:
                return self.tap(call)
        return None


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0


# -- what is found ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """The last output of a block at one resolution.

    Attributes:
        output: Where it is.
        before: Where it is before the activation that ends the block, where one does; None where that is not to be had.
        layout: Of both.
        shape: (C, H, W).
        norm: Mean and standard deviation by channel, (2, C), that the block's last batch normalisation gives what
            comes before the activation; None where there is none.
    """

    output: HookPoint
    before: HookPoint | None
    layout: Layout
    shape: tuple[int, int, int]
    norm: Tensor | None


class Anatomy:
    """One run of a network that finds what there is to read.

    Args:
        model: A classifier in evaluation mode.
        example: Images, (B, C, H, W) with B of at least 2.
        name: What it is called in messages.

    Attributes:
        classes: How many logits it gives.
        heads: Inputs of the linear layers that make the logits, in order; those of several averaged classifiers.
        stages: From fine to coarse.
        features: Where the last feature map is; None by timm's contract, or where there is none.
        features_layout: Its layout; None where there is none.
        features_shape: (C, H, W); None likewise.
        features_changed: Whether the head changes it in place.

    Raises:
        ReadingError: The network gives no logits, or fails on the images.
    """

    def __init__(self, model: Any, example: Tensor, name: str) -> None:
        self._model = model
        self._example = example
        # Hiera's blocks see their tokens in an order of its own, which is no map.
        unrolled = any(type(module).__name__ == "Unroll" for module in model.modules())
        self._blocks = set() if unrolled else set(find_blocks(model))
        self.features: HookPoint | None = None
        self.features_layout: Layout | None = None
        self.features_shape: tuple[int, int, int] | None = None
        self.features_changed = False
        try:
            logits = model(example.clone())
            if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(example):
                self._trace, end = self._follow_contract(logits) or self._follow()
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            message = f"{name} cannot be run on images of {tuple(example.shape[1:])}: {error}"
            raise ReadingError(message) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
            raise ReadingError(f"{name} must give logits (batch, classes); it gives {_describe(logits)}.")
        self.classes = logits.shape[1]
        self.heads = self._find_heads(logits)
        if self.features_layout is None:
            self._find_features()
        self.stages = self._find_stages(end)

    def _follow_contract(self, logits: Tensor) -> tuple[_Trace, int] | None:
        """One run by timm's calls, and when its features were there; None where they do not give the logits."""
        if not has_timm_contract(self._model):
            return None
        trace = _Trace(self._blocks)
        with trace.following(self._model):
            raw = self._model.forward_features(self._example.clone())
            if not isinstance(raw, Tensor) or raw.ndim not in (2, 3, 4) or len(raw) != len(logits):
                return None
            end, version = trace.now(), raw._version
            given = self._model.forward_head(raw)
        if not isinstance(given, Tensor) or given.shape != logits.shape:
            return None
        layout = self._layout(trace, raw, trace.calls)
        if layout is None or not torch.allclose(given, logits, rtol=1e-3, atol=1e-4):
            return None
        self.features_layout, self.features_shape = layout, _shape(layout.to_map(raw))
        self.features_changed = raw._version != version
        return trace, end

    def _follow(self) -> tuple[_Trace, int]:
        trace = _Trace(self._blocks)
        with trace.following(self._model):
            self._model(self._example.clone())
        return trace, trace.now()

    def _layout(self, trace: _Trace, raw: Tensor, calls: list[_Call]) -> Layout | None:
        """How a tensor that these calls made lies; None for what is no feature map."""
        if raw.ndim == 2:
            return Layout()
        layers = [call.module for call in calls if isinstance(call.output, Tensor) and call.output.shape == raw.shape]
        find = _token_layout if raw.ndim == 3 else _map_layout
        return find(raw, layers, self._example.shape[2:], self._model)

    def _map_of(self, call: _Call) -> tuple[Layout, tuple[int, int, int]] | None:
        """Layout and shape of the feature map that a call gave; None where it gave none."""
        raw = call.output
        if not isinstance(raw, Tensor) or raw.ndim not in (3, 4) or len(raw) != len(self._example):
            return None
        made_by = [call, *(each for each in self._trace.calls if each.within(call))]
        layout = self._layout(self._trace, raw, made_by)
        return None if layout is None else (layout, _shape(layout.to_map(raw)))

    def _find_features(self) -> None:
        """Without timm's contract they are the last feature map of any module that has more than one position."""
        for call in reversed(self._trace.calls):
            found = None if call.module is self._model else self._map_of(call)
            if found is not None and found[1][1] * found[1][2] > 1:
                self.features_layout, self.features_shape = found
                self.features = self._trace.tap(call)
                return

    def _find_stages(self, end: int) -> tuple[Stage, ...]:
        """The last outputs at each resolution until a moment; none that is pooled to one position."""
        pooled = self.features_shape is not None and self.features_shape[1] * self.features_shape[2] > 1
        last: dict[int, Stage] = {}
        for call in self._trace.calls:
            if call.module in self._blocks and call.end < end and (found := self._map_of(call)):
                last[found[1][1] * found[1][2]] = self._stage(call, *found)
        return tuple(last[positions] for positions in sorted(last, reverse=True) if positions > 1 or not pooled)

    def _stage(self, block: _Call, layout: Layout, shape: tuple[int, int, int]) -> Stage:
        output = self._trace.tap(block)
        activation = self._trace.last_activation(block)
        if activation is None:
            return Stage(output, None if block.rectified else output, layout, shape, None)
        return Stage(output, self._trace.before(activation), layout, shape, self._norm_of(block))

    def _norm_of(self, block: _Call) -> Tensor | None:
        """What the last batch normalisation of the block's main path makes of its channels."""
        inside = [call for call in self._trace.calls if call.within(block)]
        norms = [call for call in inside if isinstance(call.module, nn.modules.batchnorm._BatchNorm)]
        # A shortcut starts from the block's input, as the first layer does; only one path may do so in one module.
        starting = [[n for n in norms if n is call or n.within(call)] for call in inside if call.inputs is block.inputs]
        later = [norm for norm in norms if not any(norm in path for path in starting)]
        main = later or max(starting, key=len, default=[])
        if not main or not main[-1].module.affine or main[-1].output.shape != block.output.shape:
            return None
        layer: Any = main[-1].module
        return torch.stack([layer.bias.detach(), layer.weight.detach().abs()]).float().cpu()

    def _find_heads(self, logits: Tensor) -> tuple[HookPoint, ...]:
        made = [
            call
            for call in self._trace.calls
            if is_linear(call.module)
            and isinstance(call.output, Tensor)
            and call.output.flatten(1).shape == logits.shape
        ]
        if has_timm_contract(self._model):
            layers = classifier_layers(self._model)
            made = [call for call in made if call.module in layers]
        else:
            made = made[-1:]
        return tuple(self._trace.tap(call, of_input=True) for call in made)


def _shape(mapped: Tensor) -> tuple[int, int, int]:
    channels, height, width = mapped.shape[1:]
    return channels, height, width


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
