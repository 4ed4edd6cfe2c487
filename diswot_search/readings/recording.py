"""Records that a forward pass makes on its way: layers, blocks, activation codes, maps of all leaves."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..functional.similarities import exact
from ..networks.blocks import ACTIVATIONS, find_blocks, weighted_layers
from ..networks.contract import first_given
from ..networks.layouts import Layout, as_size, declared_layout, find_layout, first_map

PATTERN_SAMPLES = 16
"""The number of samples whose signs make a neuron's pattern; it allows a table of all patterns."""


EXACT_SUMS = 2**24
"""Single precision represents every whole number up to this one."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a convolution or linear layer.

    Attributes:
        layer: The layer.
        inputs: Its input, without a graph.
        output: Its output.
    """

    layer: nn.Module
    inputs: Tensor
    output: Tensor


@dataclass(frozen=True)
class MapRecord:
    """A feature map as a block gives or gets it.

    Attributes:
        raw: The tensor (B, ., .) or (B, ., ., .).
        layout: Its layout.
        is_map: Whether the layout was found. If not, it is the network's declared one, and the tensor is no stage.
    """

    raw: Tensor
    layout: Layout
    is_map: bool = True

    @property
    def rows(self) -> Tensor:
        """All tokens, class tokens included, without a graph, (B, C, T)."""
        return self.layout.to_rows(self.raw.detach())


class Recorder:
    """Records what readings need while a network runs.

    Args:
        kinds: The records to make: "layers", "positions", "blocks", "leaves", "code_gram", "sign_patterns".
        inputs: The batch.

    Attributes:
        layers: The calls of convolutions and linear layers.
        positions: The number of positions of one sample at which each of these layers has been applied, by its `id`.
        entry: The input of the first block; None if it is no feature map.
        blocks: The outputs of the blocks in the order of running.
        body: The number of blocks that ran before the features were made.
        leaves: The output of each innermost module for the first sample, (1, ...).
        code_gram: See the reading of this name.
        neurons: See the reading of this name.
        patterns: Which patterns of signs occurred.
        seconds: The time of each record that counts as the cost of a reading.
    """

    def __init__(self, kinds: frozenset[str], inputs: Tensor) -> None:
        self.kinds = kinds
        self.samples = len(inputs)
        self.layers: list[LayerCall] = []
        self.positions: defaultdict[int, float] = defaultdict(float)
        self.entry: MapRecord | None = None
        self.blocks: list[MapRecord] = []
        self.body: int | None = None
        self.leaves: list[MapRecord] = []
        self.code_gram: Tensor | None = None
        self.neurons = 0
        self.patterns: Tensor | None = None
        self.seconds: dict[str, float] = {}
        self._size = as_size(inputs)
        self._model: nn.Module | None = None

    def mark_features(self) -> None:
        """Note that the features are made: later blocks belong to the head."""
        self.body = len(self.blocks)

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Record what the model does in this block."""
        self._model = model
        with ExitStack() as stack:
            stack.callback(setattr, self, "_model", None)
            if self.kinds:
                stack.enter_context(out_of_place(model))
            for kind, find, note in (
                ("layers", weighted_layers, self._note_layer),
                ("positions", weighted_layers, self._note_positions),
                ("blocks", find_blocks, self._note_block),
                ("leaves", _leaves, self._note_leaf),
            ):
                if kind in self.kinds:
                    for module in find(model):
                        stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            if self.kinds & {"code_gram", "sign_patterns"}:
                stack.enter_context(_ActivationMode(self._note_activation))
            yield

    def _note_layer(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: Tensor
    ) -> None:
        self.layers.append(LayerCall(module, first_given(args, kwargs).detach(), output))

    def _note_positions(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: Tensor
    ) -> None:
        # A transposed convolution applies its weight at the positions of its input.
        values = first_given(args, kwargs) if isinstance(module, nn.modules.conv._ConvTransposeNd) else output
        channels = values.shape[-1 if isinstance(module, nn.Linear) else 1]
        self.positions[id(module)] += values.numel() / channels / self.samples

    def _note_block(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: object
    ) -> None:
        raw = first_map(output, self.samples)
        if raw is not None:
            entry = first_given(args, kwargs)
            if not self.blocks and isinstance(entry, Tensor) and first_map(entry, self.samples) is entry:
                self.entry = self._record(entry, module)
            self.blocks.append(self._record(raw, module))

    def _note_leaf(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: object
    ) -> None:
        if isinstance(output, Tensor) and first_map(output, self.samples) is output:
            self.leaves.append(self._record(output.detach()[:1].clone(), module))

    def _record(self, raw: Tensor, module: nn.Module) -> MapRecord:
        layout = find_layout(raw, module, self._size, self._model)
        return MapRecord(raw, layout or declared_layout(raw, self._model), layout is not None)

    def _note_activation(self, inputs: Tensor) -> None:
        if inputs.numel() % self.samples or inputs.numel() == self.samples:
            return
        codes = _rows(inputs.detach() > 0, self.samples)
        for kind, note in (("code_gram", self._add_agreement), ("sign_patterns", self._add_patterns)):
            if kind in self.kinds:
                started = time.perf_counter()
                with _without_autocast(inputs.device):  # counts are whole numbers that bfloat16 would round
                    note(codes)
                self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - started

    def _add_agreement(self, codes: Tensor) -> None:
        # Zeros and ones are exact in any format that a device multiplies in, TF32 included; sums are single precision.
        both = exact(sum(on @ on.T for on in codes.float().split(EXACT_SUMS, 1)))
        active = both.diagonal()
        # Neurons on in both samples and neurons off in both: one product serves for both counts.
        agreement = 2 * both - active - active[:, None] + codes.shape[1]
        self.code_gram = agreement if self.code_gram is None else self.code_gram + agreement
        self.neurons += codes.shape[1]

    def _add_patterns(self, codes: Tensor) -> None:
        codes = codes[:PATTERN_SAMPLES]
        if self.patterns is None:
            self.patterns = torch.zeros(2 ** len(codes), dtype=torch.bool, device=codes.device)
        place_values = 2.0 ** torch.arange(len(codes), device=codes.device)
        self.patterns[(place_values @ codes.float()).long()] = True


def _leaves(model: nn.Module) -> list[nn.Module]:
    """The innermost modules."""
    return [module for module in model.modules() if not any(module.children())]


def _rows(values: Tensor, samples: int) -> Tensor:
    """Values of a batch as one row per sample, in the order of memory, which saves a copy."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(samples, -1)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Let activations leave their input unchanged in the block, so that what is kept of it keeps its values."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


class _ActivationMode(TorchFunctionMode):
    """Passes on the input of every activation function, whether a module or a function calls it."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        self.note = note

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func in ACTIVATIONS:
            self.note(args[0] if args else (kwargs or {})["input"])
        return func(*args, **(kwargs or {}))
