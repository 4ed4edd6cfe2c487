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

LARGEST = 0.1
"""Scales of at most this are closed gates; timm's layer scales begin at 1e-6 to 0.1."""

APART = ("bias", "beta", "tau", "lambda", "temperature")
"""What is in the name of parameters that scale no branch: they are added, thresholds, or in an exponent."""


def with_open_gates(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The model itself where no gate is closed, otherwise another one with its gates open.

    Scales, one number for each channel or for all, become 1; matrices and kernels of zeros are drawn anew, with the
    variance 1 / inputs and always the same numbers. What is frozen stays closed, as it does in training.

    Args:
        model: Stays as it is.
        make: Makes the same network again; what hands out the model itself is answered by a copy.
    """
    if not any(True for _ in _closed(model)):
        return model
    opened = make()
    if opened is model:
        opened = copy.deepcopy(model)
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
    """Scales that all are one small number, and weights of layers that are zero; whether each is a scale."""
    for module in model.modules():
        if isinstance(module, nn.PReLU):  # whose weight is a slope below zero, not a scale of all
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if any(word in name for word in APART) or not parameter.requires_grad or not parameter.numel():
                continue
            first = float(parameter.detach().flatten()[0])
            layer = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
            is_scale = not layer and parameter.shape[1:].numel() == 1
            closed = abs(first) <= LARGEST if is_scale else layer and first == 0
            if closed and bool((parameter == first).all()):
                yield parameter, is_scale
