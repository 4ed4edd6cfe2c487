"""Proxies of weights and gradients: how large, how sensitive and how alike they are before any training.

W is the weight of a convolution or linear layer, and g is the gradient of the mean cross entropy on the probe with
respect to it. Sums run over these layers, so biases and the scales of normalisation do not count. If no weight gets a
gradient, as in a disconnected cell, the proxies that use g raise a `ReadingError`: a score of zero would rank in the
middle wherever scores can have either sign.

The cost on top of a plain forward pass:

* `l2_norm`: nothing.
* `synflow`: one image forward and backward in double precision.
* `zico`: half the batch forward and backward, twice.
* All others share one forward pass with a graph. `grad_norm`, `plain`, `snip`, `grasp` and `fisher` share one backward
  pass of it, `jacov` and `epe_nas` share another, and `grasp` takes a second derivative.

Source of functions that name no other: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, which
sums the pruning scores of weights to score a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import similarities
from ..networks.blocks import weighted_layers
from ..networks.contract import ReadingError, call_with_tensors, evaluation_mode
from ..readings.core import Readings
from ..readings.gates import open_gates
from ..readings.recording import out_of_place
from .scaled_flow import ScaledFlow, exponent_of

_STABILISER = 1e-5
"""Added to eigenvalues and to correlations, so that their logarithm is finite."""


_MANY_CLASSES = 101
"""The number of classes from which `epe_nas` compares classes instead of adding them up."""


# -- weights ------------------------------------------------------------------------------------


def l2_norm(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the L2 norm of the weight.

    Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021.
    """
    return float(_sum(weight.norm() for weight in _weights(student)))


def synflow(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the sum of |W dR/dW|, where R is the response to an image of ones without cancelling signs.

    R is the sum of the logits, in double precision, with the absolute values of all parameters and with normalisation
    (batch, layer, group, instance and RMS) replaced by the identity. Attention keeps its softmax. It is nearly
    saturated then, so queries and keys count little. Values above 2^64 are carried with their scale apart, so that deep
    networks have a score, too; see `scaled_flow`. If nothing arrives, as in a network whose classifier starts at zero,
    the network is scored with its gates open; see `readings.gates`.

    Raises:
        ReadingError: R is not finite, as in a network that divides by zero once normalisation is gone; or values within
            one tensor, which share their scale, differ by more than double precision can hold. That is so with some
            weights of CoaT with parallel blocks (`coat_tiny`, `coat_mini`, `coat_small`): each block squares its image
            tokens, and leaves the class tokens, which alone are classified, behind.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020.
    """
    score, exponent = _log_flow(student.model, student)
    if score == -math.inf:
        with open_gates(student.model):
            score, exponent = _log_flow(student.model, student)
    if score == -math.inf and exponent:
        raise ReadingError(
            "without normalisation, values within one tensor (such as class tokens and image tokens) differ by more "
            f"than double precision can hold, beside a largest of 2^{exponent:,.0f}, so synflow is not defined"
        )
    return score


def _log_flow(model: nn.Module, student: Readings) -> tuple[float, float]:
    """The log of the sum of |W dR/dW| over the weights of a network, and the exponent that the response is kept with.

    The log is minus infinity if the sum is zero.
    """
    tensors = {id(parameter): similarities.exact(parameter.detach()).abs() for parameter in model.parameters()}
    tensors |= {id(buffer): similarities.exact(buffer.detach()) for buffer in model.buffers()}
    layer_weights = {id(layer.weight) for layer in weighted_layers(model)}
    weights = [tensors[id(parameter)] for parameter in model.parameters() if id(parameter) in layer_weights]
    ones = similarities.exact(torch.ones(1, *student.probe.input_size, device=student.device))
    for weight in weights:
        weight.requires_grad_()
    modes = evaluation_mode(model, batch_statistics=False), _own_caches(model), out_of_place(model), ScaledFlow()
    with torch.enable_grad(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        logits = call_with_tensors(model, tensors, ones)
        flow = logits.sum()
    gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    total = _sum((w.detach() * g).abs().sum() for w, g in zip(weights, gradients, strict=True))
    if not bool(total.isfinite()):
        raise ReadingError("without normalisation the response is not finite, so synflow is not defined")
    exponent = exponent_of(logits)
    return float(total.log()) + exponent * math.log(2), exponent


# -- weights and their gradients ----------------------------------------------------------------


def grad_norm(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the L2 norm of the gradient.

    Raises:
        ReadingError: No layer gets a gradient.

    Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021.
    """
    return float(_sum(gradient.norm() for gradient in _gradients(student)))


def plain(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of W g: how fast the loss would rise if all weights grew in proportion.

    Raises:
        ReadingError: No layer gets a gradient.

    Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021.
    """
    return float(_sum((w * g).sum() for w, g in zip(_weights(student), _gradients(student), strict=True)))


def snip(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of |W g|: the change of the loss, to first order, when each weight is removed in turn.

    Raises:
        ReadingError: No layer gets a gradient.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019.
    """
    return float(_sum((w * g).abs().sum() for w, g in zip(_weights(student), _gradients(student), strict=True)))


def grasp(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of -W (H g), with H the Hessian of the loss.

    Raises:
        ReadingError: No layer gets a gradient.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020. The sign is
    the opposite of the paper's, as is usual where whole networks are scored.
    """
    _gradients(student)  # for its error
    return -float(_sum((w * h).sum() for w, h in zip(_weights(student), student.hessian_gradients, strict=True)))


def zico(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the log of sum(mean |g| / std g), both over the two halves of the batch.

    The standard deviation is that of the population. Weights whose gradient is the same on both halves are left out,
    and so are layers in which that holds for every weight.

    Raises:
        ReadingError: No weight has a gradient that differs between the halves, or the batch is too small to be halved.

    Source: Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", ICLR 2023.
    """
    ratios = [_inverse_variation(first, second) for first, second in zip(*student.half_gradients, strict=True)]
    layers = [ratio.sum().log() for ratio in ratios if len(ratio)]
    if not layers:
        raise ReadingError("no weight has a gradient that differs from one half of the batch to the other")
    return float(_sum(layers))


def _inverse_variation(first: Tensor, second: Tensor) -> Tensor:
    """Mean magnitude over standard deviation of two gradients of each weight, where they differ."""
    differ = first != second
    first, second = first[differ], second[differ]
    # For two numbers the mean magnitude is half the sum of magnitudes, and the deviation is half the distance.
    return (first.abs() + second.abs()) / (first - second).abs()


# -- activations and images ---------------------------------------------------------------------


def fisher(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over channels of the batch mean of (sum over positions of a d)^2 / 2, with d the gradient of an activation a.

    Raises:
        ReadingError: No layer gets a gradient.

    Source: Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget",
    ICLR 2020.
    """
    _gradients(student)  # for its error
    return float(_sum(layer.square().mean(0).sum() / 2 for layer in student.sensitivities if len(layer)))


def jacov(student: Readings, teacher: Readings | None = None) -> float:
    """Spread of the eigenvalues v of the images' gradient correlations: -sum(log(v + k) + 1 / (v + k)), k = 1e-5.

    The gradient of an image is that of the sum of all logits. The score is high if the network behaves differently
    around different images.

    Raises:
        ValueError: The gradient of an image is zero, or the same for every pixel.

    Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021, first version.
    """
    values = torch.linalg.eigvalsh(similarities.correlations(student.input_jacobian)).clamp_min(0) + _STABILISER
    return -float((values.log() + values.reciprocal()).sum())


def epe_nas(student: Readings, teacher: Readings | None = None) -> float:
    """Magnitude, over classes, of the summed logs of the correlations between gradients of images of the same class.

    The score of a class is the sum of log(|correlation| + 1e-5) over all pairs of its images. The pair of an image with
    itself contributes 0 to the fifth decimal. Up to 100 classes, the network's score is the sum of the magnitudes of
    its classes' scores. With more classes, each class's score is divided by its number of images, and the network's
    score is the sum of the distances between classes over the number of classes. Classes with one image are then left
    out.

    Raises:
        ReadingError: No class has two images in the probe, or fewer than two classes have, of more than 100.
        ValueError: The gradient of an image is zero, or the same for every pixel.

    Source: Lopes, Alirezazadeh and Alexandre, "EPE-NAS: Efficient Performance Estimation Without Training for Neural
    Architecture Search", ICANN 2021, and its code.
    """
    jacobian, labels = student.input_jacobian, student.labels
    classes = [jacobian[labels == label] for label in labels.unique()]
    many = student.logits.shape[1] >= _MANY_CLASSES
    required, usable = 1 + many, sum(len(rows) > 1 for rows in classes)
    if usable < required:
        raise ReadingError(f"the probe must have two or more images in at least {required} classes, it has in {usable}")
    if many:
        scores = torch.stack([_log_correlations(rows) / len(rows) for rows in classes if len(rows) > 1])
        return float((scores - scores[:, None]).abs().sum() / len(scores))
    return float(_sum(_log_correlations(rows).abs() for rows in classes))


def _log_correlations(rows: Tensor) -> Tensor:
    return (similarities.correlations(rows).abs() + _STABILISER).log().sum()


# -- shared -------------------------------------------------------------------------------------


def _weights(student: Readings) -> list[Tensor]:
    return [layer.weight.detach() for layer in student.layers]  # type: ignore[operator]


def _gradients(student: Readings) -> list[Tensor]:
    if not any(bool(gradient.any()) for gradient in student.gradients):
        raise ReadingError("no layer gets a gradient: the loss does not depend on any weight")
    return student.gradients


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


@contextmanager
def _own_caches(model: nn.Module) -> Iterator[None]:
    """Give the block its own caches of position biases, which some of timm's attention keeps from call to call."""
    holders: list[Any] = [module for module in model.modules() if hasattr(module, "attention_bias_cache")]
    caches = [holder.attention_bias_cache for holder in holders]
    for holder in holders:
        holder.attention_bias_cache = {}
    try:
        yield
    finally:
        for holder, cache in zip(holders, caches, strict=True):
            holder.attention_bias_cache = cache
