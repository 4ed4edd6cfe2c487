"""The neural tangent kernel of one batch: inner products of the samples' gradients, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .forward import ReadingError

CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
TRANSPOSED = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})


@dataclass(frozen=True)
class _Product:
    """One call of a convolution or a linear map.

    Attributes:
        inputs: What it was given, without a graph.
        weight: The weight that it was given.
        output: What it gave.
        options: Stride, padding, dilation and groups of a convolution; None for a linear map.
    """

    inputs: Tensor
    weight: Tensor
    output: Tensor
    options: dict[str, Any] | None

    def factors(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """What the gradient of the weight is a product of, for each sample and group.

        Args:
            gradient: Of the output.

        Returns:
            Inputs (B, groups, K, P) and gradients (B, groups, C, P): of P positions, what each of the C channels of
            a group sees, and the gradient there. The weight's gradient is their product, summed over positions.
        """
        samples = len(self.inputs)
        if self.options is None:
            rows = [values.reshape(samples, -1, values.shape[-1]) for values in (self.inputs, gradient)]
            seen, arrived = (values.transpose(1, 2).unsqueeze(1) for values in rows)
            return seen, arrived
        groups = self.options["groups"]
        patches = _patches(self.inputs, self.weight.shape[2:], self.options)
        return patches.reshape(samples, groups, -1, patches.shape[-1]), gradient.reshape(
            samples, groups, gradient.shape[1] // groups, -1
        )


class Products(TorchFunctionMode):
    """Notes down every call of a convolution or a linear map."""

    def __init__(self) -> None:
        self.calls: list[_Product] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in TRANSPOSED:
            raise ReadingError("the tangent kernel of transposed convolutions is not implemented")
        if func is F.linear or func in CONVOLUTIONS:
            self._note(func, output, *args, **(kwargs or {}))
        return output

    def _note(
        self,
        func: Any,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        options = None
        if func in CONVOLUTIONS:
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            options = {name: _each(value, CONVOLUTIONS[func]) for name, value in options.items()} | {"groups": groups}
        self.calls.append(_Product(input.detach(), weight, output, options))


def _each(value: Any, dimensions: int) -> Any:
    return value if isinstance(value, str) else (tuple(value) * dimensions)[:dimensions] if isinstance(value, (tuple, list)) else (value,) * dimensions
