"""Whether the weights of a module are trained, told from the weights alone, in whatever mode the module is.

Layers start from values that training does not leave as they are: normalisation starts with equal scales and shifts and
with statistics of no image, biases start at zero or within a known bound, and weights are drawn from a uniform or a
normal distribution. Weights that no start gives are trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scipy import stats
from torch import Tensor, nn

_SAMPLE = 4096
"""Number of weights of a layer that are compared with a distribution."""

_SIGNIFICANCE = 1e-3
"""Probability below which weights are not taken to be drawn from a distribution."""

_ROUNDING = 1 + 1e-4
"""Factor by which a weight may exceed the bound of its start, for formats of lower precision."""

_NEAR_BOUND = 1.3
"""Uniform weights that end within this factor above torch's default bound are taken to have grown beyond it."""


@dataclass(frozen=True)
class WeightsVerdict:
    """Whether weights are trained, and what tells it.

    Attributes:
        trained: Whether the weights are other ones than an initialisation gives.
        reason: The evidence, a clause for messages.
    """

    trained: bool
    reason: str


def judge_weights(module: nn.Module) -> WeightsVerdict:
    """Tell trained weights from those of an initialisation.

    Args:
        module: Any module; its mode does not matter, unless its weights tell nothing.

    Example:
        >>> from torch import nn
        >>> judge_weights(nn.Linear(4, 2).eval()).trained
        False
    """
    statistics = [layer for layer in module.modules() if _has_statistics(layer)]
    if statistics and all(map(_is_untouched, statistics)):
        return WeightsVerdict(False, "its batch normalisation has seen no images")
    affine = [values for values in _affine_values(module) if values.numel() > 1]
    if affine:
        if all(map(_is_constant, affine)):
            return WeightsVerdict(False, "its normalisation layers are those of an initialisation")
        return WeightsVerdict(True, "its normalisation layers have learnt scales and shifts")
    judged = [trained for layer in module.modules() if (trained := _is_layer_trained(layer)) is not None]
    if judged:
        if any(judged):
            return WeightsVerdict(True, "its weights are other ones than an initialisation gives")
        return WeightsVerdict(False, "its weights are those of an initialisation")
    if not any(True for _ in module.parameters()):
        return WeightsVerdict(True, "it has no weights to train")
    mode = "training" if module.training else "evaluation"
    return WeightsVerdict(not module.training, f"its weights do not tell, and it is in {mode} mode")


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "running_mean", None), Tensor) and isinstance(
        getattr(layer, "running_var", None), Tensor
    )


def _is_untouched(layer: nn.Module) -> bool:
    """Whether running statistics are those before the first batch."""
    mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    return bool((mean == 0).all() & (variance == 1).all())


def _affine_values(module: nn.Module) -> Iterator[Tensor]:
    """Scales and shifts of all normalisation layers, those in code of the user's own included."""
    for layer in module.modules():
        if "norm" in type(layer).__name__.lower() or _has_statistics(layer):
            for name in ("weight", "bias"):
                values = getattr(layer, name, None)  # buffers in frozen batch normalisation
                if isinstance(values, Tensor) and values.ndim == 1:
                    yield values.detach()


def _is_constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all())


def _is_layer_trained(layer: nn.Module) -> bool | None:
    """Whether a linear layer or a convolution has other values than its start; None for any other module."""
    if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or not layer.weight.is_floating_point():
        return None
    weight = layer.weight.detach().float()
    if not weight.numel():
        return None
    bound = _ROUNDING / math.sqrt(max(weight[0].numel(), 1))
    bias = None if layer.bias is None or layer.bias.numel() < 2 else layer.bias.detach().float()
    if bias is not None and _is_constant(bias):
        return False  # the first step moves each shift by an amount of its own
    if bias is not None and bool(bias.abs().max() > bound):
        return True
    return not (bool(weight.abs().max() <= bound) or _is_drawn(weight, bound))


def _is_drawn(weight: Tensor, bound: float) -> bool:
    """Whether weights look like a draw from a normal distribution, or from a uniform one of a bound of its own."""
    values = weight.flatten().double().cpu()
    values = values[:: max(1, len(values) // _SAMPLE)]
    spread, largest = float(values.square().mean().sqrt()), float(values.abs().max())
    if not math.isfinite(spread) or spread == 0:
        return spread == 0
    if stats.kstest(values.numpy() / spread, "norm").pvalue > _SIGNIFICANCE:
        return True
    edge = largest * (1 + 1 / len(values))
    if stats.kstest(values.numpy(), stats.uniform(-edge, 2 * edge).cdf).pvalue <= _SIGNIFICANCE:
        return False
    fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
    bounds = (math.sqrt(share) for share in (6 / (fan_in + fan_out), 6 / fan_in, 3 / fan_in))  # Xavier, Kaiming, LeCun
    if any(each * (1 - 20 / len(values)) <= largest <= each * _ROUNDING for each in bounds):
        return True
    return not bound < largest < _NEAR_BOUND * bound
