"""Proxies of weights and gradients: how large, how sensitive and how alike they are before any training.

W is the weight of a convolution or linear layer and g its gradient of the mean cross entropy on the probe; sums run
over these layers, so biases and the scales of normalisation count nothing. Where no weight gets a gradient, as in a
disconnected cell, the score is an error: its zero would stand in the middle of those that have a sign.

Cost beside a plain forward pass: `l2_norm` nothing, `synflow` one image forward and backward in double precision,
`zico` half the batch forward and backward twice. All others share one forward pass with a graph; `grad_norm`,
`plain`, `snip`, `grasp` and `fisher` one backward pass of it, `jacov` and `epe_nas` another one, and `grasp` takes a
second derivative.

Source, where none is named: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, which takes what
pruning scores a weight by, summed, as the score of a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .. import functional as fn
from ..readings import ReadingError, Readings, evaluation_mode

STABILISER = 1e-5
"""Added to eigenvalues and to correlations, so that their logarithm is finite."""

MANY_CLASSES = 101
"""From so many classes on, `epe_nas` compares the classes instead of adding them up."""

# -- weights ------------------------------------------------------------------------------------


def l2_norm(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the L2 norm of the weight."""
    return float(_sum(weight.norm() for weight in _weights(student)))


def synflow(student: Readings, teacher: Readings | None = None) -> float:
    """Log of the sum of |W dR/dW|, with R what an image of ones gives when no sign cancels another.

    R is the sum of the logits when all parameters are made absolute and normalisation (batch, layer, group, instance
    and RMS) hands its input on, in double precision. Attention keeps its softmax, which is near its limits then, so
    that queries and keys count little.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020.
    """
    model = student.model
    parameters = {name: fn.exact(parameter.detach()).abs() for name, parameter in model.named_parameters()}
    buffers = {name: fn.exact(buffer.detach()) for name, buffer in model.named_buffers()}
    layer_weights = {id(layer.weight) for layer in student.layers}
    weights = [parameters[name] for name, parameter in model.named_parameters() if id(parameter) in layer_weights]
    ones = fn.exact(torch.ones(1, *student.probe.input_size, device=student.device))
    for weight in weights:
        weight.requires_grad_()
    with torch.enable_grad(), evaluation_mode(model, batch_statistics=False), _own_caches(model), _NoNormalisation():
        flow = functional_call(model, parameters | buffers, (ones,)).sum()
    gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    return float(_sum((w.detach() * g).abs().sum() for w, g in zip(weights, gradients, strict=True)).log())


# -- weights and their gradients ----------------------------------------------------------------


def grad_norm(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the L2 norm of the gradient."""
    return float(_sum(gradient.norm() for gradient in _gradients(student)))


def plain(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of W g: how fast the loss would rise if all weights grew in proportion."""
    return float(_sum((w * g).sum() for w, g in zip(_weights(student), _gradients(student), strict=True)))


def snip(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of |W g|: what the loss would change by, to first order, if each weight alone were taken away.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019.
    """
    return float(_sum((w * g).abs().sum() for w, g in zip(_weights(student), _gradients(student), strict=True)))


def grasp(student: Readings, teacher: Readings | None = None) -> float:
    """Sum of -W (H g), with H the Hessian of the loss.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020; the sign is
    the opposite of that paper's, as in all work that scores whole networks by it.
    """
    _ = _gradients(student)
    return -float(_sum((w * h).sum() for w, h in zip(_weights(student), student.hessian_gradients, strict=True)))


def zico(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over layers of the log of sum(mean |g| / std g), both over the two halves of the batch.

    The standard deviation is that of the population. Weights whose gradient is the same on both halves are left out,
    and so are layers that have no other.

    Raises:
        ReadingError: There is no other in any layer, or the batch is too small to be halved.

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
    # Of two numbers, the mean of magnitudes is half their sum and the deviation is half their distance.
    return (first.abs() + second.abs()) / (first - second).abs()


# -- activations and images ---------------------------------------------------------------------


def fisher(student: Readings, teacher: Readings | None = None) -> float:
    """Sum over channels of the batch mean of (sum over positions of a d)^2 / 2, d being the gradient of the output a.

    Source: Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget",
    ICLR 2020.
    """
    _ = _gradients(student)
    return float(_sum(one.square().mean(0).sum() / 2 for one in student.sensitivities if len(one)))


def jacov(student: Readings, teacher: Readings | None = None) -> float:
    """Spread of the eigenvalues v of the images' gradient correlations: -sum(log(v + k) + 1 / (v + k)), k = 1e-5.

    The gradient of an image is that of the sum of all logits. It is the higher the less alike the network is around
    different images.

    Raises:
        ValueError: An image has no gradient, or the same one for every pixel.

    Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021, first version.
    """
    values = torch.linalg.eigvalsh(fn.correlations(student.input_jacobian)).clamp_min(0) + STABILISER
    return -float((values.log() + values.reciprocal()).sum())


def epe_nas(student: Readings, teacher: Readings | None = None) -> float:
    """Size, over classes, of the summed logs of the correlations between gradients of the same class's images.

    The score of a class is the sum of log(|correlation| + 1e-5) over all pairs of its images, of which those of an
    image with itself are 0 to the fifth decimal. Networks of up to 100 classes score the sum of the magnitudes. With
    more classes, that of each is divided by its number of images, and the score is the sum of the distances between
    classes over their number; a class with one image is left out then.

    Raises:
        ReadingError: No class has two images in the probe, or with more than 100 classes not two of them have.
        ValueError: An image has no gradient, or the same one for every pixel.

    Source: Lopes, Alirezazadeh and Alexandre, "EPE-NAS: Efficient Performance Estimation Without Training for Neural
    Architecture Search", ICANN 2021, and its code.
    """
    jacobian, labels = student.input_jacobian, student.labels
    classes = [jacobian[labels == label] for label in labels.unique()]
    many = student.logits.shape[1] >= MANY_CLASSES
    wanted, found = 1 + many, sum(len(rows) > 1 for rows in classes)
    if found < wanted:
        raise ReadingError(f"the probe must have two or more images in at least {wanted} classes, it has in {found}")
    if many:
        scores = torch.stack([_log_correlations(rows) / len(rows) for rows in classes if len(rows) > 1])
        return float((scores - scores[:, None]).abs().sum() / len(scores))
    return float(_sum(_log_correlations(rows).abs() for rows in classes))


def _log_correlations(rows: Tensor) -> Tensor:
    return (fn.correlations(rows).abs() + STABILISER).log().sum()


# -- shared -------------------------------------------------------------------------------------


def _weights(student: Readings) -> list[Tensor]:
    return [layer.weight.detach() for layer in student.layers]  # type: ignore[operator]


def _gradients(student: Readings) -> list[Tensor]:
    if not any(bool(gradient.any()) for gradient in student.gradients):
        raise ReadingError("no layer gets a gradient: the loss does not depend on any weight")
    return student.gradients


def _sum(values: Any) -> Tensor:
    return torch.stack(list(values)).sum()


class _NoNormalisation(TorchFunctionMode):
    """Normalisation hands its input on."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm):
            return args[0] if args else kwargs["input"]
        return func(*args, **(kwargs or {}))


@contextmanager
def _own_caches(model: nn.Module) -> Iterator[None]:
    """Position biases that some of timm's attention keeps from call to call are kept for this block alone."""
    holders: list[Any] = [module for module in model.modules() if hasattr(module, "attention_bias_cache")]
    caches = [holder.attention_bias_cache for holder in holders]
    for holder in holders:
        holder.attention_bias_cache = {}
    try:
        yield
    finally:
        for holder, cache in zip(holders, caches, strict=True):
            holder.attention_bias_cache = cache
