"""Fisher information of a network about a few of its weights, one of each layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..functional.similarities import exact
from ..networks.contract import ReadingError
from ..runtime.seeding import stable_seed
from .recording import LayerCall

FISHER_SAMPLES = 16
"""The number of images over which the information is averaged."""


FISHER_PASSES = 10
"""The largest number of backward passes. More classes are combined at random to this number."""


def fisher_information(logits: Tensor, calls: list[LayerCall]) -> Tensor:
    """Fisher information of the predicted classes about the first weight of each layer.

    The mean over samples of J^T (diag(p) - p p^T) J, with the probabilities p and the derivatives J of the logits.
    The middle factor is A^T A with the rows sqrt(p_c) (e_c - p) of A, so that one backward pass gives one row of A J
    for all samples, or of R A J with random signs R, whose products are the same in the mean.

    A weight's derivative is the product of two things: the gradient of the layer's output, and the layer's output if
    that weight is 1 and all others are 0.

    Args:
        logits: Logits (B, N) of samples that do not depend on each other.
        calls: All calls of layers that lead to them. Calls without one or more rows for every sample, such as those on
            a table of positions, are left out.

    Returns:
        (layers, layers) in float64.

    Raises:
        ReadingError: No layer is run on the samples.
    """
    calls = [call for call in calls if len(call.output) % len(logits) == 0]
    if not calls:
        raise ReadingError("no convolution or linear layer is run on the samples one by one")
    layers = list(dict.fromkeys(call.layer for call in calls))
    responses = [_unit_response(call) for call in calls]
    rows = []
    for seed in _row_factors(logits.detach().softmax(1)):
        outputs = [call.output for call in calls]
        gradients = torch.autograd.grad(logits, outputs, seed, retain_graph=True, materialize_grads=True)
        row = seed.new_zeros(len(logits), len(layers))
        for call, response, gradient in zip(calls, responses, gradients, strict=True):
            product = _first_channel(call.layer, gradient) * response
            row[:, layers.index(call.layer)] += product.reshape(len(logits), -1).sum(1)
        rows.append(row)
    derivatives = exact(torch.cat(rows))
    return derivatives.T @ derivatives / len(logits)


def _row_factors(odds: Tensor) -> list[Tensor]:
    """Factors (B, N) of the logits, one for each backward pass; the information is the sum of their products."""
    classes = odds.shape[1]
    roots = odds.sqrt()
    if classes <= FISHER_PASSES:
        choices = torch.eye(classes)
    else:
        generator = torch.Generator().manual_seed(stable_seed("Fisher", classes))
        signs = torch.randint(0, 2, (FISHER_PASSES, classes), generator=generator) * 2.0 - 1
        choices = signs / FISHER_PASSES**0.5
    weighted = [roots * choice for choice in choices.to(odds)]
    return [rows - rows.sum(1, keepdim=True) * odds for rows in weighted]


@torch.no_grad()
def _unit_response(call: LayerCall) -> Tensor:
    """The first channel of a layer's output for its inputs if its first weight is 1 and all others are 0."""
    weight: Tensor = call.layer.weight  # type: ignore[assignment]
    unit = torch.zeros_like(weight)
    unit[(0,) * unit.ndim] = 1
    values = {"weight": unit}
    if isinstance(call.layer.bias, Tensor):
        values["bias"] = torch.zeros_like(call.layer.bias)
    return _first_channel(call.layer, functional_call(call.layer, values, (call.inputs.to(weight.dtype),)))


def _first_channel(layer: nn.Module, output: Tensor) -> Tensor:
    # A linear layer has its channels last, a convolution after the samples.
    return (output[..., 0] if isinstance(layer, nn.Linear) else output[:, 0]).float()
