"""What one forward pass can note down beside its result: layers, blocks, activation codes, maps of all leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..functional.similarities import exact
from ..networks.blocks import ACTIVATIONS, find_blocks, weighted_layers
from ..networks.contract import first_given

PATTERN_SAMPLES = 16
"""Samples whose signs make a neuron's pattern; as many as fit a table of all patterns."""


EXACT_SUMS = 2**24
"""Up to this, every whole number is one in single precision."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a convolution or linear layer.

    Attributes:
        layer: The layer.
        inputs: What it was given, without a graph.
        output: What it gave.
    """

    layer: nn.Module
    inputs: Tensor
    output: Tensor


class Recorder:
    """Notes down what is asked for while a network runs.

    Args:
        kinds: What to note: "layers", "blocks", "leaves", "code_gram", "sign_patterns".
        samples: Size of the batch.
    """

    def __init__(self, kinds: frozenset[str], samples: int) -> None:
        self.kinds = kinds
        self.samples = samples
        self.layers: list[LayerCall] = []
        self.entry: Tensor | None = None
        self.blocks: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self.code_gram: Tensor | None = None
        self.neurons = 0
        self.patterns: Tensor | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Take notes of what the model does in this block."""
        with ExitStack() as stack:
            if self.kinds:
                stack.enter_context(_out_of_place(model))
            for kind, modules, note in (
                ("layers", weighted_layers(model), self._note_layer),
                ("blocks", find_blocks(model), self._note_block),
                ("leaves", [m for m in model.modules() if not any(m.children())], self._note_leaf),
            ):
                if kind in self.kinds:
                    for module in modules:
                        stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            if self.kinds & {"code_gram", "sign_patterns"}:
                stack.enter_context(_ActivationMode(self._note_activation))
            yield

    def _note_layer(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self.layers.append(LayerCall(module, first_given(args, kwargs).detach(), output))

    def _note_block(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(output, tuple | list):  # as blocks that hand on the size of their map do
            output = next(filter(self._is_map, output), None)
        if self._is_map(output):
            entry = first_given(args, kwargs)
            if not self.blocks and self._is_map(entry):
                self.entry = entry
            self.blocks.append(output)

    def _note_leaf(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._is_map(output):
            self.leaves.append(output.detach()[0].clone())

    def _is_map(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim in (3, 4) and len(value) == self.samples

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


def _rows(values: Tensor, samples: int) -> Tensor:
    """Values of a batch as one row per sample, in the order of memory, which spares a copy."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(samples, -1)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


@contextmanager
def _out_of_place(model: nn.Module) -> Iterator[None]:
    """Activations leave their input as it is, so that what was noted stays what it was."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


class _ActivationMode(TorchFunctionMode):
    """Shows the input of every activation function, whether a module or a function calls it."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in ACTIVATIONS:
            self.note(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))
