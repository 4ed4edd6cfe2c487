"""Zen: how strongly a network of Gaussian weights without residual links reacts to a small change of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..networks.blocks import weighted_layers
from ..networks.contract import call_with_tensors, evaluation_mode
from ..networks.forward import run_forward
from ..readings.core import Readings
from ..runtime.seeding import stable_seed

WEIGHT_DRAWS = 32


_IMAGES = 2


_STEP = 0.01


_ADDITIONS = frozenset({torch.add, Tensor.add, Tensor.add_})
"""The functions that add two tensors; torch also reports the operators `+` and `+=` as these."""


def zen(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the reaction to a small change of the input, rescaled by every batch normalisation; mean of 32 draws.

    The weights of convolutions and linear layers and the images are standard normal, biases are zero, and residual
    links are left out. The score is log mean abs(f(x + z / 100) - f(x)) for the last feature map f, with normal z, plus
    the sum over batch normalisations of log sqrt(v). Here v is the mean variance of the channels, by which
    normalisation has divided. A network without batch normalisation has the first part only.

    The draws are seeded by the network's first weight: the same network gets the same draws, and another seed of its
    weights gets others. Two images and their changed copies are normalised together, in single precision.

    Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021.
    """
    model, generator = student.model, torch.Generator().manual_seed(draws_seed(student.model))
    drawn, zero = _replacements(model)
    images = torch.zeros(2 * _IMAGES, *student.images.shape[1:], device=student.device)
    with torch.no_grad(), evaluation_mode(model, batch_statistics=False):
        # All draws share one set of tensors in place of the weights, so memory grows by one copy only.
        draws = _Draws(model, [*drawn.values()], generator)
        return float(call_with_tensors(draws, drawn | zero, images).mean())


def draws_seed(model: nn.Module) -> int:
    """The seed of a network's draws, made from the weight of its first convolution or linear layer, if it has one."""
    weights: list[Any] = [layer.weight for layer in weighted_layers(model)[:1]]
    digests = [sha256(weight.detach().float().cpu().numpy().tobytes()).hexdigest() for weight in weights]
    return stable_seed("zen", *digests)


def _replacements(model: nn.Module) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Zero tensors to replace the weights, and the biases, of convolutions and linear layers, by `id` of those."""
    layers = weighted_layers(model)
    weights, biases = {id(layer.weight) for layer in layers}, {id(layer.bias) for layer in layers}
    parameters = list(model.parameters())
    return (
        {id(parameter): torch.zeros_like(parameter) for parameter in parameters if id(parameter) in weights},
        {id(parameter): torch.zeros_like(parameter) for parameter in parameters if id(parameter) in biases},
    )


class _Draws(nn.Module):
    """Computes the score of each draw of weights and images, (draws,)."""

    def __init__(self, model: nn.Module, drawn: list[Tensor], generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        self.drawn = drawn
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        scores = []
        for _ in range(WEIGHT_DRAWS):
            for values in [*self.drawn, images]:
                values.copy_(torch.randn(values.shape, generator=self.generator))
            images[_IMAGES:] = images[:_IMAGES] + _STEP * images[_IMAGES:]
            with GaussianMode() as mode:
                features = run_forward(self.model, mode.start(images.clone())).features.rows
            before, after = features.chunk(2)
            scores.append((after - before).abs().mean().log() + mode.log_scale)
        return torch.stack(scores)


class GaussianMode(TorchFunctionMode):
    """Leaves out residual links, and normalises batches without scale and shift while recording the divisors.

    A residual link adds a tensor to another one that was computed from it. Only the computed one is kept. A sum of
    branches that were not computed from each other stays a sum.

    To know which tensor was computed from which, every tensor carries its ancestry as an integer, one bit for each
    tensor that was made before it and led to it.

    Attributes:
        log_scale: Sum over batch normalisations of the log of the square root of the mean variance of channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale: Tensor | float = 0.0
        self._made = 0

    def start(self, images: Tensor) -> Tensor:
        """Mark the input, from which everything is computed, and return it."""
        return self._mark(images, 0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        before = _ancestry([*args, *kwargs.values()])
        if func in _ADDITIONS and len(args) == 2 and not kwargs:
            output = _add(func, *args)
        elif func is F.batch_norm:
            output = self._normalise(*args, **kwargs)
        else:
            output = func(*args, **kwargs)
        for made in output if isinstance(output, tuple | list) else (output,):
            # A function that returns its argument has made nothing new, unless it has added in place.
            if before and isinstance(made, Tensor) and (func is Tensor.add_ or not any(made is one for one in args)):
                self._mark(made, before)
        return output

    def _mark(self, made: Tensor, before: int) -> Tensor:
        """Store the ancestry of a tensor: the bits of its ancestors, and its own as the highest."""
        made._ancestry = before | 1 << self._made  # type: ignore[attr-defined]
        self._made += 1
        return made

    def _normalise(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        mean, variance = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        normalised = F.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=eps)
        self.log_scale = self.log_scale + variance.mean().log() / 2
        return normalised


def _ancestry(values: Iterable[object]) -> int:
    """The bits of these values and of all tensors from which they were made."""
    bits = 0
    for value in values:
        bits |= _ancestry(value) if isinstance(value, tuple | list) else getattr(value, "_ancestry", 0)
    return bits


def _add(function: Callable[..., object], first: Any, second: Any) -> object:
    """The sum, or only the later of the two if one was made from the other."""
    if _is_made_from(first, second):
        return first
    if _is_made_from(second, first):
        return first.copy_(second) if function is Tensor.add_ else second
    return function(first, second)


def _is_made_from(later: Any, earlier: Any) -> bool:
    before, own = getattr(later, "_ancestry", 0), getattr(earlier, "_ancestry", 0)
    if later is earlier or not before or not own or later.shape != earlier.shape:
        return False
    return bool(before >> (own.bit_length() - 1) & 1)
