"""The neural tangent kernel of one batch: inner products of the samples' gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight
from torch.overrides import TorchFunctionMode

from ..networks.contract import ReadingError

WEIGHT_GRADIENTS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.conv1d: conv1d_weight,
    F.conv2d: conv2d_weight,
    F.conv3d: conv3d_weight,
}
"""The functions that give the gradient of a convolution's weight."""


Steps = int | tuple[int, ...]
"""A number for all axes of positions, or one for each."""


TRANSPOSED = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})


@dataclass(frozen=True)
class Product:
    """One call of a linear map or a convolution.

    Attributes:
        function: The function that was called.
        inputs: Its input, without a graph; padded already if the padding is given by name.
        weight: Its weight.
        shape: The shape of its output.
        edge: The place in the graph where the gradient of its output arrives, whatever changes the output in place.
        options: Stride, padding, dilation and groups of a convolution; empty for a linear map.
    """

    function: Callable[..., Tensor]
    inputs: Tensor
    weight: Tensor
    shape: torch.Size
    edge: GradientEdge
    options: dict[str, Any]

    def weight_gradients(self, arrived: Tensor, samples: int) -> Tensor:
        """Gradients of the weight for each sample, (B, weights), from those of the output."""
        if not self.options:
            return (_rows(arrived, samples).mT @ _rows(self.inputs, samples)).flatten(1)
        differentiate, shape, each = WEIGHT_GRADIENTS[self.function], self.weight.shape, len(arrived) // samples
        pairs = zip(self.inputs.split(each), arrived.split(each), strict=True)
        return torch.stack([differentiate(one, shape, gradient, **self.options).flatten() for one, gradient in pairs])

    def kernel(self, arrived: Tensor, samples: int) -> Tensor:
        """Inner products of `weight_gradients`, (B, B), without computing these.

        A weight gradient is a sum over positions of outer products. The inner product of two is therefore the sum over
        pairs of positions of (inputs . inputs') (gradients . gradients'). That is cheap for few positions and many
        weights.
        """
        seen = self.inputs
        if self.options:
            unfolding = {name: value for name, value in self.options.items() if name != "groups"}
            seen = F.unfold(seen, self.weight.shape[2:], **unfolding).mT
            arrived = arrived.flatten(2).mT
        seen, arrived = seen.reshape(-1, seen.shape[-1]), arrived.reshape(-1, arrived.shape[-1])
        products = (seen @ seen.T) * (arrived @ arrived.T)
        return products.view(samples, -1, samples, len(seen) // samples).sum((1, 3))

    def has_few_positions(self, samples: int) -> bool:
        """Whether `kernel` costs less than the Gram matrix of `weight_gradients`."""
        if self.options and (self.function is not F.conv2d or self.options["groups"] != 1):
            return False
        weights, channels = self.weight.numel(), len(self.weight)
        positions = self.shape.numel() // (samples * channels)
        return samples * positions**2 * (weights // channels + channels) < weights * (positions + samples)


class Products(TorchFunctionMode):
    """Records the calls of linear maps and convolutions that can be differentiated."""

    def __init__(self) -> None:
        self.calls: list[Product] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in TRANSPOSED:
            raise ReadingError("the tangent kernel of a transposed convolution is not implemented")
        if func is F.linear and output.requires_grad:
            self._note_linear(output, *args, **kwargs)
        elif func in WEIGHT_GRADIENTS and output.requires_grad:
            self._note_convolution(func, output, *args, **kwargs)
        return output

    def _note_linear(self, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        self.calls.append(
            Product(F.linear, input.detach().float(), weight, output.shape, get_gradient_edge(output), {})
        )

    def _note_convolution(
        self,
        function: Callable[..., Tensor],
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Steps = 1,
        padding: Steps | str = 0,
        dilation: Steps = 1,
        groups: int = 1,
    ) -> None:
        inputs = input.detach().float()
        if isinstance(padding, str):
            inputs, padding = _padded(inputs, weight, padding, dilation), 0
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.calls.append(Product(function, inputs, weight, output.shape, get_gradient_edge(output), options))


def tangent_kernel(logits: Tensor, calls: Sequence[Product]) -> Tensor:
    """Inner products of the samples' gradients of their summed logits with respect to all weights, (B, B).

    Args:
        logits: Logits (B, N) with a graph, of samples that do not depend on each other.
        calls: All calls of linear maps and convolutions that lead to them. Calls without one or more rows for every
            sample, such as those on a table of positions, are left out.

    Raises:
        ReadingError: No call is left.
    """
    samples = len(logits)
    calls = [call for call in calls if call.shape[0] % samples == 0]
    if not calls:
        raise ReadingError("no convolution or linear layer is run on the samples")
    arrived = torch.autograd.grad(logits.sum(), [call.edge for call in calls], allow_unused=True)
    by_weight: dict[int, list[tuple[Product, Tensor]]] = {}
    for call, gradient in zip(calls, arrived, strict=True):
        if gradient is not None:
            by_weight.setdefault(id(call.weight), []).append((call, gradient.float()))
    kernel = torch.zeros(samples, samples, device=logits.device)
    for uses in by_weight.values():
        (call, gradient), *others = uses
        if call.has_few_positions(samples) and not others:
            kernel += call.kernel(gradient, samples)
        else:
            gradients = torch.stack([use.weight_gradients(values, samples) for use, values in uses]).sum(0)
            kernel += gradients @ gradients.T
    return kernel


def _rows(values: Tensor, samples: int) -> Tensor:
    """(B, ..., C) as (B, positions, C)."""
    return values.reshape(samples, -1, values.shape[-1])


def _padded(inputs: Tensor, weight: Tensor, padding: str, dilation: Steps) -> Tensor:
    """The input of a convolution with the padding named "same" or "valid"."""
    sides: list[int] = []
    if padding == "same":
        steps = (dilation,) * inputs.ndim if isinstance(dilation, int) else tuple(dilation) * inputs.ndim
        for size, step in reversed(list(zip(weight.shape[2:], steps, strict=False))):
            total = step * (size - 1)
            sides += [total // 2, total - total // 2]
    return F.pad(inputs, sides)
