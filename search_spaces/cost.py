"""The cost of an architecture: parameters and multiply-accumulates, counted without running it where possible."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from .fixed_sizes import sizes_named
from .input_spec import InputSpec, as_input_spec


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates of one architecture.

    Attributes:
        params: Number of trainable parameters.
        macs: Multiply-accumulates of one forward pass of one sample.
    """

    params: int
    macs: int


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
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = as_input_spec(input_size).example(device=device)
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        # Parameters are detached, because the counter's hooks fail on parameters that require gradients. Attention runs
        # as matrix products, because not every torch version counts all fused kernels.
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        modes = torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _ShapesOnly(), sizes_named(model, example.shape)
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            counter = stack.enter_context(FlopCounterMode(display=False))
            functional_call(model, parameters, (example,))
    finally:
        for module in was_training:
            module.training = True
    return Cost(params, counter.get_total_flops() // 2)


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


def count_cost_of(build: Callable[[], nn.Module], input_spec: InputSpec) -> Cost:
    """Count the cost of the network that `build` makes, on the `meta` device if the network allows it.

    Networks that compute with real numbers while they are built or run are built on the CPU. Torch's global generator
    is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                return count_cost(build(), input_spec)
        except (RuntimeError, TypeError, ValueError):  # a tensor without values was asked for them
            return count_cost(build(), input_spec)
