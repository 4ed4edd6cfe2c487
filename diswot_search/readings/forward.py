"""One forward pass of any classifier: its features, its classifier's calls and its logits, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..networks.contract import (
    ReadingError,
    channels_first,
    classifier_layers,
    first_given,
    flatten_positions,
    has_timm_contract,
    is_linear,
)


@dataclass(frozen=True)
class Call:
    """One call of a linear layer: its weight, its input and its output."""

    weight: nn.Parameter
    inputs: Tensor
    output: Tensor


@dataclass(frozen=True)
class Forward:
    """What a forward pass gave.

    Attributes:
        raw: The features as the model's head takes them; None for a foreign module.
        features: The last feature map before pooling, (B, C, P).
        logits: (B, N).
        calls: The calls of the classifier's linear layers.
    """

    raw: Any
    features: Tensor
    logits: Tensor
    calls: tuple[Call, ...]

    def detached(self) -> Forward:
        """The same values without a graph behind them."""
        return self.mapped(Tensor.detach)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Forward:
        """The same with every tensor of samples changed."""
        raw = change(self.raw) if isinstance(self.raw, Tensor) else None
        calls = tuple(Call(call.weight, change(call.inputs), change(call.output)) for call in self.calls)
        return Forward(raw, change(self.features), change(self.logits), calls)

    def from_features(self, make: Callable[[Tensor], Tensor]) -> Forward:
        """What a linear head without bias would give for other features, which `make` makes in the shape of these."""
        features = make(self.features)
        if len(self.calls) == 1 and mean_pooled(self.features, self.calls[0].inputs):
            pooled = [features.mean(2)]
        else:
            pooled = [make(call.inputs) for call in self.calls]
        calls = tuple(
            Call(call.weight, inputs, inputs @ call.weight.detach().float().flatten(1).T)
            for call, inputs in zip(self.calls, pooled, strict=True)
        )
        return Forward(None, features, torch.stack([call.output for call in calls]).mean(0), calls)


class ConstantStatistics(TorchFunctionMode):
    """Batch normalisation takes the statistics of the batch as constants, so that a sample's gradient is its own.

    Otherwise a sum over the samples behind it has no gradient, since normalisation fixes that sum.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        normalise = _normalise_by_constants if func is F.batch_norm else func
        return normalise(*args, **(kwargs or {}))


class TwiceDifferentiable(TorchFunctionMode):
    """The hard sigmoid is computed by an equal function that torch can differentiate twice."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is F.hardsigmoid:
            return F.hardtanh((args[0] if args else kwargs["input"]) + 3, 0, 6) / 6
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


def run_forward(model: nn.Module, images: Tensor) -> Forward:
    """Run a network once, by timm's calls where it has them, otherwise by hooks.

    Args:
        model: Any classifier.
        images: (B, channels, H, W); the network may change them in place.

    Raises:
        ReadingError: The network is no classifier that can be read, or its activations are not finite.
    """
    forward = (forward_timm if has_timm_contract(model) else forward_hooked)(model, images)
    if not bool(torch.isfinite(forward.logits).all() & torch.isfinite(forward.features).all()):
        raise ReadingError("the activations are not finite (NaN or infinity)")
    return forward


def forward_timm(model: Any, images: Tensor) -> Forward:
    raw = model.forward_features(images)
    with _recorded(classifier_layers(model)) as calls:
        logits = model.forward_head(raw)
    calls = _calls_for(logits, calls)
    if not calls:
        raise ReadingError(f"no linear classifier was run in the head of {type(model).__name__}")
    pooled = torch.cat([call.inputs for call in calls], 1)
    features = channels_first(raw, model) if isinstance(raw, Tensor) else pooled.unsqueeze(2)
    return Forward(raw, features.float(), logits.float(), tuple(calls))


def forward_hooked(model: nn.Module, images: Tensor) -> Forward:
    maps: list[Tensor] = []

    def keep_map(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(images):
            positions = output.shape[1] if output.ndim == 3 else output.shape[2] * output.shape[3]
            if positions > 1:
                maps[:] = [output]

    with ExitStack() as stack:
        for module in model.modules():
            if module is not model:
                handle = module.register_forward_hook(keep_map)
                stack.callback(handle.remove)
        calls = stack.enter_context(_recorded([m for m in model.modules() if is_linear(m)]))
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ReadingError(f"{type(model).__name__} must give logits (batch, classes), got {_describe(logits)}")
    last = _calls_for(logits, calls)[-1:]
    if not last:
        raise ReadingError(f"{type(model).__name__} has no linear layer that makes its {logits.shape[1]} class scores")
    pooled = last[0].inputs
    features = flatten_positions(maps[0], pooled.shape[1]) if maps else pooled.unsqueeze(2)
    return Forward(None, features.float(), logits.float(), tuple(last))


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[Call]]:
    """Collect the calls of these layers, in the order in which they are run."""
    calls: list[Call] = []

    def record(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls.append(Call(layer.weight, first_given(args, kwargs).float(), output.float()))

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _calls_for(logits: Tensor, calls: list[Call]) -> list[Call]:
    """The calls that give one row of class scores for each sample, as (B, D) to (B, N).

    Of a layer that is run on many tokens, as behind attention pooling, the token whose scores are the logits counts.
    """
    found = []
    for call in calls:
        # Flat, so that a 1x1 convolution on one position looks like the linear layer that it is.
        if call.output.flatten(1).shape == logits.shape:
            found.append(Call(call.weight, call.inputs.flatten(1), call.output.flatten(1)))
        elif call.output.ndim == 3 and call.output.shape[::2] == logits.shape:
            tokens = range(call.output.shape[1])
            token = next((t for t in tokens if torch.equal(call.output[:, t], logits.float())), None)
            if token is not None:
                found.append(Call(call.weight, call.inputs[:, token], call.output[:, token]))
    return found


def mean_pooled(features: Tensor, pooled: Tensor) -> bool:
    """Whether `pooled` (B, D) is the plain mean of `features` (B, C, P) over positions."""
    means = features.mean(2)
    return means.shape == pooled.shape and close(means, pooled)


def close(first: Tensor, second: Tensor) -> bool:
    """Equal up to the rounding of the formats that networks run in."""
    scale = second.abs().max().clamp_min(torch.finfo(second.dtype).tiny)
    return bool((first - second).abs().max() <= 1e-2 * scale)


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
