"""What an architecture costs: parameters and multiply-accumulates, without running it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Size and work of one architecture.

    Attributes:
        params: Number of trainable parameters.
        macs: Multiply-accumulates of one forward pass of one image.
    """

    params: int
    macs: int


def count_cost(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Count the parameters and multiply-accumulates of a network.

    Convolutions, linear layers, matrix products and attention are counted; normalisation,
    activations and pooling are not (timm and most papers count in the same way).

    Args:
        model: The network, on any device, `meta` included (then nothing is computed).
        input_size: Channels, height and width of one image.
    """
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image = torch.empty(1, *input_size, device=device)
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        for module in was_training:
            module.training = True
    return Cost(params, counter.get_total_flops() // 2)


def count_cost_of(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Cost:
    """Count the cost of the network that `build` makes, on the `meta` device where it allows that.

    Some networks compute with real numbers while they are built or run; these are built on the CPU.
    Torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                return count_cost(build(), input_size)
        except (RuntimeError, TypeError, ValueError):
            return count_cost(build(), input_size)
