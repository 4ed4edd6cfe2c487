"""Closed gates: parameters that begin at or near zero and keep a branch of a random network from doing anything.

Residual branches often begin so, behind a batch normalisation of scale 0, a layer scale of 1e-6 or a gain of 0, and
some classifiers begin with a weight of 0. They open within the first steps of training, but a network that is read
before looks as if those branches were not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_MAX_GATE_SCALE = 0.1
"""Scales of at most this are closed gates; timm's layer scales begin at 1e-6 to 0.1."""


_NEAR_ZERO_SCALE = 1e-3
"""Weights of layers are closed gates where all are below this, as a share of the usual 1 / sqrt(inputs)."""


_NOT_GATES = ("bias", "beta", "tau", "lambda", "temperature")
"""What is in the name of parameters that scale no branch: they are added, thresholds, or in an exponent."""


def with_open_gates(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The model itself where no gate is closed, otherwise a copy of it with its gates open.

    Scales, one number for each channel or for all, become 1; matrices and kernels of zeros, or nearly so, are drawn
    anew, with the variance 1 / inputs and always the same numbers. What is frozen stays closed, as it does in training.

    Args:
        model: Stays as it is.
        make: Makes such a network, for one that cannot be copied, as one with weight normalisation or one that keeps
            its outputs. It is given the parameters and buffers of the model.
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
    """Scales that all are one small number, and weights of layers that are all but zero; whether each is a scale."""
    for module in model.modules():
        if isinstance(module, nn.PReLU):  # whose weight is a slope below zero, not a scale of all
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
