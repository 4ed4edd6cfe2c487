"""The cost of an architecture: parameters, multiply-accumulates and memory, counted without running it if possible."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch._ops import OpOverload
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .fixed_sizes import sizes_named
from .input_spec import InputSpec, as_input_spec


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates of one architecture.

    Attributes:
        params: Number of trainable parameters.
        macs: Multiply-accumulates of one forward pass of one sample.
        weight_bytes: Bytes of parameters and buffers in float32; None if they were not counted.

    Example:
        >>> Cost(params=10, macs=20).params
        10
    """

    params: int
    macs: int
    weight_bytes: int | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Memory:
    """Memory of one forward pass.

    Attributes:
        weights: Bytes of parameters and buffers.
        activations: Largest number of bytes that must be kept of the batch and of what is computed from it.

    Example:
        >>> Memory(weights=40, activations=8).activations
        8
    """

    weights: int
    activations: int


def count_cost(model: nn.Module, input_size: InputSpec | Sequence[int]) -> Cost:
    """Count the parameters and multiply-accumulates of a network.

    Convolutions, linear layers, matrix products and attention are counted; normalisation,
    activations and pooling are not. timm and most papers count in the same way.

    Args:
        model: The network, on any device. On the `meta` device nothing is computed.
        input_size: The input spec, or channels, height and width of one image.

    Returns:
        The cost of a batch of one sample, in evaluation mode. The modes of the modules are left as they were.

    Raises:
        InputSpecError: `input_size` is neither a spec nor three whole numbers of at least 1.

    Example:
        >>> count_cost(nn.Conv2d(3, 8, kernel_size=3), (3, 8, 8))
        Cost(params=224, macs=7776)
    """
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counter = FlopCounterMode(display=False)
    _run(model, as_input_spec(input_size), 1, _ShapesOnly(), counter)
    return Cost(params, counter.get_total_flops() // 2, _weight_bytes(model))


def count_memory(model: nn.Module, input_size: InputSpec | Sequence[int], batch_size: int = 1) -> Memory:
    """Count the memory of one forward pass, as a runtime needs it that keeps no value longer than it is used.

    Normalisations and activation functions take no memory of their own, since runtimes fold them into the operation
    before or compute them in place. Space that an operation needs for itself is not counted, nor are copies that a
    runtime makes of what torch views, such as transposed tokens.

    This is what must be there, and no resident memory of a process: that is larger by the loader's copies of the
    weights, by some 2 MB of a session, and by what an arena holds ready. On 12 networks of 4 families in onnxruntime,
    the count was .34 of the growth of resident memory in the median (.24 to .52), .70 of it without what the loader
    had freed (.24 to .99), and .80 of the smallest need (.24 to 1.06); see `experiments/memory.py`.

    Args:
        model: The network, on any device. On the `meta` device nothing is computed.
        input_size: The input spec, or channels, height and width of one image.
        batch_size: Number of samples.

    Returns:
        Bytes, in evaluation mode. The modes of the modules are left as they were.

    Example:
        >>> count_memory(nn.Conv2d(3, 8, kernel_size=3), (3, 8, 8))
        Memory(weights=896, activations=1920)
    """
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    lifetimes = _Lifetimes(weights)
    _run(model, as_input_spec(input_size), batch_size, _AsFused(), lifetimes)
    return Memory(_weight_bytes(model), lifetimes.peak())


def _run(
    model: nn.Module, input_spec: InputSpec, batch_size: int, *modes: contextlib.AbstractContextManager[object]
) -> None:
    """One forward pass in evaluation mode, for its shapes only, under some modes."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = input_spec.example(batch_size, device=device)
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        # Parameters are detached, because the counter's hooks fail on parameters that require gradients. Attention runs
        # as matrix products, because not every torch version counts all fused kernels.
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(sizes_named(model, example.shape))
            for mode in modes:
                stack.enter_context(mode)
            functional_call(model, parameters, (example,))
    finally:
        for module in was_training:
            module.training = True


def _weight_bytes(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


_IN_PLACE = {
    *("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::relu", "aten::clamp", "aten::hardtanh"),
    *("aten::sigmoid", "aten::hardsigmoid", "aten::tanh", "aten::_softmax", "aten::_safe_softmax"),
}
"""Operations whose result runtimes write over an input that is not used again."""


@dataclass(frozen=True)
class _Operation:
    """One operation: the storages that it reads and makes, and whether it can write into one that it reads."""

    reads: list[int]
    makes: list[int]
    in_place: bool


class _Lifetimes(TorchDispatchMode):
    """Notes which operation makes and which uses each value.

    Args:
        weights: Storages that are no activations.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self._bytes: dict[int, int] = {}
        self._kept: list[torch.UntypedStorage] = []  # so that no other gets the same address
        self._operations: list[_Operation] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        reads = self._storages_in((args, kwargs))
        makes = [storage for storage in self._storages_in(result) if storage not in reads]
        in_place = func.name().partition(".")[0].rstrip("_") in _IN_PLACE
        self._operations.append(_Operation(reads, makes, in_place))
        return result

    def _storages_in(self, value: object) -> list[int]:
        storages = {storage._cdata: storage for storage in (t.untyped_storage() for t in _tensors_in(value))}
        activations = {address: s for address, s in storages.items() if address not in self._weights}
        self._kept += [storage for address, storage in activations.items() if address not in self._bytes]
        self._bytes |= {address: storage.nbytes() for address, storage in activations.items()}
        return list(activations)

    def peak(self) -> int:
        """The most bytes that are in use at one operation."""
        first, last = self._uses()
        changes = [0] * (len(self._operations) + 1)
        for address, step in first.items():
            changes[step] += self._bytes[address]
            changes[last[address] + 1] -= self._bytes[address]
        return max(itertools.accumulate(changes))

    def _uses(self) -> tuple[dict[int, int], dict[int, int]]:
        """First and last use of each space; an operation that works in place takes over one that is not used again."""
        last = {address: step for step, op in enumerate(self._operations) for address in (*op.reads, *op.makes)}
        space: dict[int, int] = {}
        first: dict[int, int] = {}
        for step, operation in enumerate(self._operations):
            for address in operation.reads:
                space.setdefault(address, address)
                first.setdefault(space[address], step)
            free = [
                address
                for address in operation.reads
                if operation.in_place and max(last[a] for a in space if space[a] == space[address]) == step
            ]
            for address in operation.makes:
                fitting = [other for other in free if self._bytes[other] == self._bytes[address]]
                space[address] = space[fitting[0]] if fitting else address
                first.setdefault(space[address], step)
        for address, root in space.items():
            last[root] = max(last[root], last[address])
        return first, last


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors_in(entry)


class _ShapesOnly(TorchFunctionMode):
    """Functions that change values and not shapes return their input.

    These functions are not counted, and on the `meta` device they would take most of the time.
    """

    skipped = (
        *(F.batch_norm, F.group_norm, F.layer_norm, F.softmax, torch.softmax, torch.Tensor.softmax),
        *(F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid),
        *(F.sigmoid, torch.sigmoid, torch.Tensor.sigmoid, torch.Tensor.sigmoid_),
    )

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return args[0] if args and func in self.skipped else func(*args, **(kwargs or {}))


class _AsFused(TorchFunctionMode):
    """Functions take the memory that they take in a runtime which folds some into the convolution before them."""

    folded = (F.batch_norm, F.relu, F.relu6)
    gated = (F.gelu, F.silu, F.hardswish, F.mish)  # the input is kept while its gate is computed

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[torch.Tensor, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if args and func in self.folded:
            return args[0]
        return args[0] * args[0].sigmoid() if args and func in self.gated else func(*args, **(kwargs or {}))


T = TypeVar("T")


def count_cost_of(build: Callable[[], nn.Module], input_spec: InputSpec) -> Cost:
    """Count the cost of the network that `build` makes, on the `meta` device if the network allows it.

    Networks that compute with real numbers while they are built or run are built on the CPU. Torch's global generator
    is left as it was.
    """
    return _without_values(lambda: count_cost(build(), input_spec))


def count_memory_of(build: Callable[[], nn.Module], input_spec: InputSpec, batch_size: int = 1) -> Memory:
    """Count the memory of the network that `build` makes, in the way of `count_cost_of`."""
    return _without_values(lambda: count_memory(build(), input_spec, batch_size))


def _without_values(count: Callable[[], T]) -> T:
    """Count on the `meta` device, or on the CPU where a network needs values."""
    with torch.random.fork_rng(devices=[]):
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                return count()
        except (RuntimeError, TypeError, ValueError):  # a tensor without values was asked for them
            return count()
