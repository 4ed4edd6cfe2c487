"""Closed gates: parameters near zero that switch off a branch of a network before training.

Many residual branches start that way, behind a batch normalisation of scale 0, a layer scale of 1e-6 or a gain of 0.
Some classifiers start with a weight of 0. These gates open within the first steps of training, but an untrained network
is read as if the branches did not exist.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_MAX_GATE_SCALE = 0.1
"""Scales up to this are closed gates; timm's layer scales start at 1e-6 to 0.1."""


_NEAR_ZERO_SCALE = 1e-3
"""A layer is a closed gate if all its weights are below this share of the usual 1 / sqrt(inputs)."""


_NOT_GATES = ("bias", "beta", "tau", "lambda", "temperature")
"""Parts of the names of parameters that scale no branch: they are added, thresholds, or in an exponent."""


def with_open_gates(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The model if no gate is closed, otherwise a copy with its gates open.

    Scales, one number for each channel or for all, become 1. Matrices and kernels near zero get random numbers of
    variance 1 / inputs, always the same ones. Frozen parameters stay closed, as they do in training.

    Args:
        model: The network, which stays as it is.
        make: Builds such a network, for one that cannot be copied, such as a network with weight normalisation. It then
            gets the parameters and buffers of the model.
    """
    if not any(True for _ in _closed(model)):
        return model
    try:
        opened = copy.deepcopy(model)
    except RuntimeError:
        opened = make()
        if opened is model:
            raise
        opened.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter, is_scale in _closed(opened):
            if is_scale:
                parameter.fill_(1)
            else:
                inputs = parameter.shape[1:].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / inputs**0.5)
    return opened


def _closed(model: nn.Module) -> Iterator[tuple[Tensor, bool]]:
    """Scales that are one small number, and layers' weights near zero, each with whether it is a scale."""
    for module in model.modules():
        if isinstance(module, nn.PReLU):  # its weight is the slope below zero, not a scale
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if any(word in name for word in _NOT_GATES) or not parameter.requires_grad or not parameter.numel():
                continue
            values, inputs = parameter.detach(), parameter.shape[1:].numel()
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                if float(values.abs().max()) < _NEAR_ZERO_SCALE / inputs**0.5:
                    yield parameter, False
            elif inputs == 1 or (values.ndim == 4 and values.shape[1] == values.numel()):
                first = float(values.flatten()[0])
                if abs(first) <= _MAX_GATE_SCALE and bool((values == first).all()):
                    yield parameter, True
