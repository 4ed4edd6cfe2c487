"""Modes in which a network is run, and functions that are replaced so that it can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..networks.contract import evaluation_mode


@contextmanager
def run_mode(model: nn.Module, *, trained: bool, autocast: torch.device | None) -> Iterator[None]:
    """Put a network into the mode of readings for a block: evaluation mode, with batch statistics for random weights.

    Args:
        model: The network.
        trained: Whether batch normalisation uses its running statistics.
        autocast: The device on which to run under bfloat16 autocast; None for single precision.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model, batch_statistics=not trained))
        if autocast is not None:
            stack.enter_context(torch.autocast(autocast.type, dtype=torch.bfloat16))
        yield


class ConstantStatistics(TorchFunctionMode):
    """Batch normalisation treats the statistics of the batch as constants, so that a sample's gradient is its own.

    Otherwise a sum over samples after it has no gradient, because normalisation fixes that sum.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        normalise: Callable[..., object] = _normalise_by_constants if func is F.batch_norm else func
        return normalise(*args, **(kwargs or {}))


class TwiceDifferentiable(TorchFunctionMode):
    """The hard sigmoid is computed by an equal function that torch can differentiate twice."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func is F.hardsigmoid:
            return F.hardtanh((args[0] if args else (kwargs or {})["input"]) + 3, 0, 6) / 6
        return func(*args, **(kwargs or {}))


def _normalise_by_constants(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training:
        others = [dimension for dimension in range(x.ndim) if dimension != 1]
        running_var, running_mean = torch.var_mean(x.detach().float(), others, correction=0)
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
