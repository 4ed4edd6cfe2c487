"""Closed gates: parameters near zero that switch off a branch of a network before training.

Many residual branches start that way, behind a batch normalisation of scale 0, a layer scale of 1e-6 or a gain of 0.
Some classifiers start with a weight of 0. These gates open within the first steps of training, but an untrained network
is read as if the branches did not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_MAX_GATE_SCALE = 0.1
"""Scales up to this are closed gates; timm's layer scales start at 1e-6 to 0.1."""


_NEAR_ZERO_SCALE = 1e-3
"""A layer is a closed gate if all its weights are below this share of the usual 1 / sqrt(inputs)."""


_NOT_GATES = ("bias", "beta", "tau", "lambda", "temperature")
"""Parts of the names of parameters that scale no branch: they are added, thresholds, or in an exponent."""


@contextmanager
def open_gates(model: nn.Module) -> Iterator[None]:
    """Open the closed gates of a network for a block; the network is the same afterwards.

    Scales, one number for each channel or for all, become 1. Matrices and kernels near zero get random numbers of
    variance 1 / inputs, always the same ones. Frozen parameters stay closed, as they do in training.

    The gates are parameters of their own. Nothing is copied, since a copy of a network takes longer than its reading,
    and graphs that were made before stay valid.

    Args:
        model: The network.

    Example:
        >>> norm = nn.BatchNorm2d(2)
        >>> norm.weight = nn.Parameter(torch.zeros(2))
        >>> with open_gates(norm):
        ...     norm.weight.tolist()
        [1.0, 1.0]
        >>> norm.weight.tolist()
        [0.0, 0.0]
    """
    generator = torch.Generator().manual_seed(0)
    closed: list[tuple[nn.Module, str, nn.Parameter]] = []
    opened: dict[int, nn.Parameter] = {}  # a parameter that several modules share stays shared
    for module, name, is_scale in _closed(model):
        parameter = getattr(module, name)
        closed.append((module, name, parameter))
        if id(parameter) not in opened:
            opened[id(parameter)] = _opened(parameter, is_scale, generator)
    try:
        for module, name, parameter in closed:
            setattr(module, name, opened[id(parameter)])
        yield
    finally:
        for module, name, parameter in closed:
            setattr(module, name, parameter)


def _opened(parameter: Tensor, is_scale: bool, generator: torch.Generator) -> nn.Parameter:
    if is_scale:
        return nn.Parameter(torch.ones_like(parameter))
    inputs = parameter.shape[1:].numel()
    values = torch.randn(parameter.shape, generator=generator) / inputs**0.5
    return nn.Parameter(torch.empty_like(parameter).copy_(values))


def _closed(model: nn.Module) -> Iterator[tuple[nn.Module, str, bool]]:
    """Modules and names of the scales that are one small number, and of layers' weights near zero; which is a scale."""
    for module in model.modules():
        if isinstance(module, nn.PReLU):  # its weight is the slope below zero, not a scale
            continue
        for name, parameter in module._parameters.items():  # `named_parameters` takes longer than all else here
            if parameter is None or not parameter.requires_grad or not parameter.numel():
                continue
            if any(word in name for word in _NOT_GATES):
                continue
            values, inputs = parameter.detach(), parameter.shape[1:].numel()
            is_layer = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
            limit = _NEAR_ZERO_SCALE / inputs**0.5 if is_layer else _MAX_GATE_SCALE
            first = float(values[(0,) * values.ndim])
            if is_layer:
                # The first number tells most weights apart without a look at the others.
                if abs(first) < limit and float(values.abs().max()) < limit:
                    yield module, name, False
                continue
            is_scale = inputs == 1 or (values.ndim == 4 and values.shape[1] == values.numel())
            if is_scale and abs(first) <= limit and bool((values == first).all()):
                yield module, name, True
