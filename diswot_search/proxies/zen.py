"""Zen: how far a small change of the input carries in a network of Gaussian weights without its residual links."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..readings import Readings, evaluation_mode
from ..readings.forward import run_forward
from ..readings.recording import weighted_layers
from ..seeding import stable_seed

REPEATS = 32
IMAGES = 2
STEP = 0.01

ADDITIONS = frozenset({torch.add, Tensor.add, Tensor.add_})
"""What additions are called, those by an operator included."""


def zen(student: Readings, teacher: Readings | None = None) -> float:
    """Log of how far a small change of the input carries, rescaled by every batch normalisation; mean of 32 draws.

    Weights of convolutions and linear layers and images are standard normal, biases zero, and residual links are
    left out. The score is log mean abs(f(x + z / 100) - f(x)) for the last map f, with normal z, plus the sum over
    batch normalisations of log sqrt(v) with v the mean variance of the channels: what normalisation has divided by.
    A network without batch normalisation has the first part alone. Draws are made from the network's first
    weight, so that they are the same for the same network and others for another seed of its weights. Two images and
    their changed twins are normalised together, in single precision.

    Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021.
    """
    model, generator = student.model, torch.Generator().manual_seed(draws_seed(student.model))
    drawn, zero = _replacements(model)
    images = torch.zeros(2 * IMAGES, *student.images.shape[1:], device=student.device)
    with torch.no_grad(), evaluation_mode(model, batch_statistics=False):
        # Weights are drawn anew in place, so that they take those of the network only once.
        draws = _Draws(model, [*drawn.values()], generator)
        return float(functional_call(draws, drawn | zero, (images,)).mean())


def draws_seed(model: nn.Module) -> int:
    """The seed of a network's draws: made from the weight of its first convolution or linear layer, if it has one."""
    weights: list[Any] = [layer.weight for layer in weighted_layers(model)[:1]]
    digests = [sha256(weight.detach().float().cpu().numpy().tobytes()).hexdigest() for weight in weights]
    return stable_seed("zen", *digests)


def _replacements(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors in place of the weights, and of the biases, of convolutions and linear layers, by their names."""
    layers = weighted_layers(model)
    weights, biases = {id(layer.weight) for layer in layers}, {id(layer.bias) for layer in layers}
    named = dict(model.named_parameters(prefix="model"))
    return (
        {name: torch.zeros_like(parameter) for name, parameter in named.items() if id(parameter) in weights},
        {name: torch.zeros_like(parameter) for name, parameter in named.items() if id(parameter) in biases},
    )


class _Draws(nn.Module):
    """The score of each draw of weights and images, (draws,)."""

    def __init__(self, model: nn.Module, drawn: list[Tensor], generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        self.drawn = drawn
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        scores = []
        for _ in range(REPEATS):
            for values in [*self.drawn, images]:
                values.copy_(torch.randn(values.shape, generator=self.generator))
            images[IMAGES:] = images[:IMAGES] + STEP * images[IMAGES:]
            with GaussianMode() as mode:
                features = run_forward(self.model, mode.start(images.clone())).features
            before, after = features.chunk(2)
            scores.append((after - before).abs().mean().log() + mode.log_scale)
        return torch.stack(scores)


class GaussianMode(TorchFunctionMode):
    """Leaves residual links out, and normalises batches without scale and shift, keeping what it divided by.

    A residual link adds a tensor to something that was computed from it; of the two, only the latter is kept. Sums of
    branches, neither of which is made from the other, stay as they are.

    Attributes:
        log_scale: Sum over batch normalisations of the log of the square root of the mean variance of channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale: Tensor | float = 0.0
        self._made = 0

    def start(self, images: Tensor) -> Tensor:
        """The input, from which everything is computed."""
        return self._mark(images, 0)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = _line([*args, *kwargs.values()])
        if func in ADDITIONS and len(args) == 2 and not kwargs:
            output = _add(func, *args)
        elif func is F.batch_norm:
            output = self._normalise(*args, **kwargs)
        else:
            output = func(*args, **kwargs)
        for made in output if isinstance(output, tuple | list) else (output,):
            # What gives back its argument has made nothing new, unless it is a sum in place.
            if before and isinstance(made, Tensor) and (func is Tensor.add_ or not any(made is one for one in args)):
                self._mark(made, before)
        return output

    def _mark(self, made: Tensor, before: int) -> Tensor:
        """Note what a tensor was made from, as bits: its own is the highest."""
        made._line = before | 1 << self._made  # type: ignore[attr-defined]
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


def _line(values: Iterable[Any]) -> int:
    """Bits of all tensors that these values were made from, themselves included."""
    found = 0
    for value in values:
        found |= _line(value) if isinstance(value, tuple | list) else getattr(value, "_line", 0)
    return found


def _add(function: Any, first: Any, second: Any) -> Any:
    """The sum, or, where one of the two was made from the other, that one alone."""
    if _is_made_from(first, second):
        return first
    if _is_made_from(second, first):
        return first.copy_(second) if function is Tensor.add_ else second
    return function(first, second)


def _is_made_from(later: Any, earlier: Any) -> bool:
    before, own = getattr(later, "_line", 0), getattr(earlier, "_line", 0)
    if later is earlier or not before or not own or later.shape != earlier.shape:
        return False
    return bool(before >> (own.bit_length() - 1) & 1)
