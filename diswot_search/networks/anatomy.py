"""Anatomy: where a network's stages, last feature map, classifier and blocks are, found by one run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .blocks import ACTIVATIONS, find_stage_blocks
from .contract import (
    ReadingError,
    classifier_layers,
    describe,
    first_given,
    has_timm_contract,
    is_linear,
    pick_scores,
)
from .layouts import Layout, as_size, declared_layout, find_layout, first_map, stage_places

# -- one run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HookPoint:
    """The place of a tensor in a run.

    Attributes:
        module: The module whose input or output it is.
        call: The number of the call of the module, from 0.
        shared: Whether the module is called more than once.
        of_input: Whether it is the module's input.
        changed: Whether an operation in place changes it later.
    """

    module: nn.Module
    call: int
    shared: bool
    of_input: bool
    changed: bool


@dataclass(eq=False)
class _Call:
    """One call of a module. Versions tell whether a tensor is changed in place later."""

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
    """One call of an activation function, by a module or as a function."""

    at: int
    inputs: Tensor
    version_in: int
    output: Tensor
    version_out: int


class _Trace(TorchFunctionMode):
    """The calls of all modules, in the order in which they end, and of activation functions."""

    def __init__(self, blocks: set[nn.Module], samples: int) -> None:
        super().__init__()
        self._samples = samples
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

    def _begin(self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        inputs = first_given(args, kwargs)
        self._open.append(_Call(module, self._numbers[module], self.now(), inputs, _version(inputs)))
        self._numbers[module] += 1

    def _finish(self, module: nn.Module, args: object, output: object) -> None:
        call = self._open.pop()
        if isinstance(output, tuple | list):
            output = first_map(output, self._samples)
        call.end, call.output, call.version_out = self.now(), output, _version(output)
        if module in self._blocks and isinstance(output, Tensor):
            call.rectified = bool((output >= 0).all() & output.any())
        self.calls.append(call)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func not in ACTIVATIONS:
            return func(*args, **(kwargs or {}))
        inputs = first_given(args, kwargs or {})
        before = _version(inputs)
        output = func(*args, **(kwargs or {}))
        self.activations.append(_Activation(self.now(), inputs, before, output, _version(output)))
        return output

    def point(self, call: _Call, *, of_input: bool = False) -> HookPoint:
        tensor = call.inputs if of_input else call.output
        version, at = (call.version_in, call.start) if of_input else (call.version_out, call.end)
        # Dropout in place works in training only, so the version does not show it here.
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
        """The hook point of the activation's input, a module's input or output; None if there is no such module."""
        inputs, version = activation.inputs, activation.version_in
        for call in self.calls:
            if call.start < activation.at < call.end and call.inputs is inputs and call.version_in == version:
                return self.point(call, of_input=True)
        for call in self.calls:
            if call.end < activation.at and call.output is inputs and call.version_out == version:
                return self.point(call)
        return None


def _version(value: object) -> int:
    return value._version if isinstance(value, Tensor) else 0


# -- the anatomy --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """The last output of a block at one resolution.

    Attributes:
        output: Its hook point.
        before: The hook point of the input of the activation that ends the block, or `output` if no activation does.
            None if that input cannot be read.
        layout: The layout of both.
        shape: The shape (C, H, W).
        norm: Mean and standard deviation by channel, (2, C), that the block's last batch normalisation gives to the
            input of the activation; None without one.
    """

    output: HookPoint
    before: HookPoint | None
    layout: Layout
    shape: tuple[int, int, int]
    norm: Tensor | None


@dataclass(frozen=True)
class Head:
    """A linear layer that gives the logits, or one of several whose logits are averaged.

    Attributes:
        point: The hook point of its input.
        pick: Takes the rows of samples from the input; see `contract.pick_scores`.
    """

    point: HookPoint
    pick: Callable[[Tensor], Tensor]


class Anatomy:
    """The parts of a network that can be read, found by one run. `networks.features` defines them.

    Args:
        model: A classifier in evaluation mode.
        example: Images (B, C, H, W) or texts (B, L), with B of at least 2.
        name: The network's name in messages.

    Attributes:
        classes: The number of logits.
        heads: The layers that give the logits, in the order of running.
        stages: The stages from fine to coarse.
        features: The hook point of the last feature map; None if `forward_features` gives it, or if there is none.
        features_layout: The layout of the last feature map; None if there is none.
        features_shape: The shape (C, H, W) of the last feature map; None if there is none.
        features_changed: Whether the head changes the last feature map in place.

    Raises:
        ReadingError: The network gives no logits, or fails on the example.
    """

    def __init__(self, model: nn.Module, example: Tensor, name: str) -> None:
        self._model = model
        self._example = example
        self._blocks = set(find_stage_blocks(model))
        self._has_several_maps = False
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
            raise ReadingError(f"{name} must give logits (batch, classes); it gives {describe(logits)}.")
        self.classes = logits.shape[1]
        self.heads = self._find_heads(logits)
        if self.features_layout is None and not self._has_several_maps:
            self._find_features()
        self.stages = self._find_stages(end)

    def _follow_contract(self, logits: Tensor) -> tuple[_Trace, int] | None:
        """One run by timm's calls, and the moment when its features are made; None if they do not give the logits."""
        if not has_timm_contract(self._model):
            return None
        trace = _Trace(self._blocks, len(logits))
        with trace.following(self._model):
            raw = self._model.forward_features(self._example.clone())
            if not isinstance(raw, Tensor):
                self._has_several_maps = True
                return None
            if raw.ndim not in (2, 3, 4) or len(raw) != len(logits):
                return None
            end, version = trace.now(), raw._version
            head_logits = self._model.forward_head(raw)
        if not isinstance(head_logits, Tensor) or head_logits.shape != logits.shape:
            return None
        if not torch.allclose(head_logits, logits, rtol=1e-3, atol=1e-4):
            return None
        layout = self._layout(raw, self._model) or declared_layout(raw, self._model)
        self.features_layout, self.features_shape = layout, _shape(layout.to_map(raw))
        self.features_changed = raw._version != version
        return trace, end

    def _follow(self) -> tuple[_Trace, int]:
        trace = _Trace(self._blocks, len(self._example))
        with trace.following(self._model):
            self._model(self._example.clone())
        return trace, trace.now()

    def _layout(self, raw: Tensor, module: nn.Module) -> Layout | None:
        return find_layout(raw, module, as_size(self._example), self._model)

    def _map_of(self, call: _Call) -> tuple[Layout, tuple[int, int, int]] | None:
        """Layout and shape of the feature map that a call gives; None if it gives none."""
        raw = call.output
        if not isinstance(raw, Tensor) or raw.ndim not in (3, 4) or len(raw) != len(self._example):
            return None
        layout = self._layout(raw, call.module)
        return None if layout is None else (layout, _shape(layout.to_map(raw)))

    def _find_features(self) -> None:
        """Without timm's contract, find the last feature map of any module that has more than one position."""
        for call in reversed(self._trace.calls):
            feature_map = None if call.module is self._model else self._map_of(call)
            if feature_map is not None and feature_map[1][1] * feature_map[1][2] > 1:
                self.features_layout, self.features_shape = feature_map
                self.features = self._trace.point(call)
                return

    def _find_stages(self, end: int) -> tuple[Stage, ...]:
        """The stages among the blocks that end before a moment."""
        blocks = [call for call in self._trace.calls if call.module in self._blocks and call.end < end]
        maps = [(call, feature_map) for call in blocks if (feature_map := self._map_of(call))]
        positions = [shape[1] * shape[2] for _, (_, shape) in maps]
        last = None if self.features_shape is None else self.features_shape[1] * self.features_shape[2]
        return tuple(self._stage(maps[place][0], *maps[place][1]) for place in stage_places(positions, last))

    def _stage(self, block: _Call, layout: Layout, shape: tuple[int, int, int]) -> Stage:
        output = self._trace.point(block)
        activation = self._trace.last_activation(block)
        if activation is None:
            return Stage(output, None if block.rectified else output, layout, shape, None)
        return Stage(output, self._trace.before(activation), layout, shape, self._norm_of(block))

    def _norm_of(self, block: _Call) -> Tensor | None:
        """Mean and standard deviation that the last batch normalisation on the block's main path gives its channels."""
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

    def _find_heads(self, logits: Tensor) -> tuple[Head, ...]:
        layers = classifier_layers(self._model) if has_timm_contract(self._model) else None
        heads = []
        for call in self._trace.calls:
            if not is_linear(call.module) or not isinstance(call.output, Tensor):
                continue
            pick = pick_scores(call.output, logits)
            if pick is not None and (layers is None or call.module in layers):
                heads.append(Head(self._trace.point(call, of_input=True), pick))
        return tuple(heads if layers is not None else heads[-1:])


def _shape(mapped: Tensor) -> tuple[int, int, int]:
    channels, height, width = mapped.shape[1:]
    return channels, height, width
