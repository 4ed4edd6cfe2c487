"""Networks in channels last: which tensors take that memory order, and which layers must keep the plain one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

UNSAFE_CHANNELS = 16
"""Strided 1x1 convolutions with fewer input channels than this are unsafe in channels last; see `unsafe_layers`."""


def unsafe_layers(model: nn.Module) -> list[nn.Conv2d]:
    """The layers of a network whose weight gradient writes over foreign memory in channels last on a CPU.

    They are 1x1 convolutions with a stride, one group and fewer than 16 input channels. oneDNN, which torch computes
    convolutions with, books room for as many channels as there are, but uses room for a whole block of 8 (AVX2) or 16
    (AVX-512). The process then ends with a segmentation fault or an abort, or goes on with spoilt numbers. The fault
    is in torch 2.14.1 and its oneDNN 3.x, and no version without it is known. It was reported to oneDNN (issue 6035).
    In the plain layout these layers are computed by other code.

    Args:
        model: Any network.

    Returns:
        The layers, in the order of the network's modules.

    Example:
        >>> from torch import nn
        >>> from diswot_search.networks.memory_format import unsafe_layers
        >>> unsafe_layers(nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(8, 8, 3, stride=2)))
        [Conv2d(3, 8, kernel_size=(1, 1), stride=(2, 2))]
    """
    return [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_unsafe(module)]


def to_channels_last(model: nn.Module) -> nn.Module:
    """Put a network into channels last, in place, as far as this is safe; see `unsafe_layers`.

    Tensors of other than four dimensions keep their order, which torch defines no other for. An unsafe layer keeps its
    weight in the plain order, and brings its input into that order wherever it runs on a CPU.

    Args:
        model: Any network.

    Returns:
        The same network.
    """
    unsafe = unsafe_layers(model)
    plain = {id(layer.weight) for layer in unsafe}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) in plain:
            # A plain copy, since a tensor with one channel counts as contiguous in both orders.
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        elif tensor.ndim == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    for layer in unsafe:
        if _with_plain_input not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_with_plain_input)
    return model


def _is_unsafe(layer: nn.Conv2d) -> bool:
    strided = set(layer.kernel_size) == {1} and max(layer.stride) > 1
    return strided and layer.groups == 1 and layer.in_channels < UNSAFE_CHANNELS


def _with_plain_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The arguments of a call of an unsafe layer, the input copied into the plain order; None to leave them."""
    if not args or not isinstance(args[0], Tensor) or args[0].device.type != "cpu":
        return None
    return (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
