"""One forward pass of any classifier, read once: its features, the inputs of its classifier, and its logits.

`FeatureReader` reads a network many times and prepares for it by a run of its own. A proxy reads each network once, so
this pass needs no preparation. Features, pooled features and logits are defined in `networks.features` for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .contract import (
    ReadingError,
    TimmNetwork,
    classifier_layers,
    describe,
    first_given,
    has_timm_contract,
    is_linear,
    pick_scores,
)
from .layouts import FeatureMap, Layout, as_size, declared_layout, find_layout
from .soundness import check_not_probabilities


@dataclass(frozen=True)
class Call:
    """One call of a linear layer.

    Attributes:
        weight: Its weight.
        inputs: Its input (B, D).
        output: Its output (B, N).
    """

    weight: nn.Parameter
    inputs: Tensor
    output: Tensor


@dataclass(frozen=True)
class Forward:
    """The results of a forward pass.

    Attributes:
        raw: The features in the form that the network's head takes; None if the head cannot be run alone.
        layout: The layout of `raw`; None without it.
        features: The last feature map before pooling.
        logits: Logits (B, N).
        calls: The calls of the classifier's linear layers.
        other_weight: A weight (N, D) to show in place of the classifier's own; None to show that.
    """

    raw: object
    layout: Layout | None
    features: FeatureMap
    logits: Tensor
    calls: tuple[Call, ...]
    other_weight: Tensor | None = None

    @property
    def head_weight(self) -> Tensor:
        """The weight (N, D) with which the logits were made; those of averaged classifiers are concatenated."""
        return torch.cat([call.weight.detach().float().flatten(1) for call in self.calls], 1)

    def detached(self) -> Forward:
        """The same values without a graph."""
        return self.mapped(Tensor.detach)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Forward:
        """The same with every tensor of samples changed."""
        raw = change(self.raw) if isinstance(self.raw, Tensor) else None
        calls = tuple(Call(call.weight, change(call.inputs), change(call.output)) for call in self.calls)
        return Forward(raw, self.layout, self.features.mapped(change), change(self.logits), calls)

    def from_features(self, make: Callable[[Tensor], Tensor], make_weight: Callable[[Tensor], Tensor]) -> Forward:
        """The results for other features, with the logits of the classifier without its bias.

        Args:
            make: Makes features in the shape of these.
            make_weight: Makes the weight to show, in the shape of the classifier's.
        """
        features = self.features.mapped(make)
        if len(self.calls) == 1 and mean_pooled(self.features.rows, self.calls[0].inputs):
            pooled = [features.mean()]
        else:
            pooled = [make(call.inputs) for call in self.calls]
        calls = tuple(
            Call(call.weight, inputs, inputs @ call.weight.detach().float().flatten(1).T)
            for call, inputs in zip(self.calls, pooled, strict=True)
        )
        logits = torch.stack([call.output for call in calls]).mean(0)
        return Forward(None, None, features, logits, calls, make_weight(self.head_weight))


def run_forward(
    model: nn.Module,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    features_made: Callable[[], None] = lambda: None,
) -> Forward:
    """Run a network once: by timm's calls if it has them, otherwise with hooks.

    Args:
        model: Any classifier.
        inputs: Images (B, channels, H, W) or texts (B, L); the network may change them in place.
        mask: The tokens (B, L) that hold something; None if all do.
        features_made: Called when the features are made and the head is about to run.

    Raises:
        ReadingError: The network is no classifier that can be read, gives probabilities where logits are needed, or its
            activations are not finite.
    """
    size = as_size(inputs)
    forward = (
        _forward_timm(model, inputs, size, features_made)
        if has_timm_contract(model)
        else _forward_hooked(model, inputs, size)
    )
    if not bool(torch.isfinite(forward.logits).all() & torch.isfinite(forward.features.values).all()):
        raise ReadingError("the activations are not finite (NaN or infinity)")
    try:
        check_not_probabilities(forward.logits, type(model).__name__)
    except ValueError as error:
        raise ReadingError(str(error)) from error
    if mask is None or mask.shape[1] != forward.features.positions:
        return forward
    features = FeatureMap(forward.features.values, mask)
    return Forward(forward.raw, forward.layout, features, forward.logits, forward.calls)


def _forward_timm(model: TimmNetwork, inputs: Tensor, size: torch.Size, features_made: Callable[[], None]) -> Forward:
    raw = model.forward_features(inputs)
    features_made()
    with _recorded(classifier_layers(model)) as calls:
        logits = model.forward_head(raw)
    calls = _calls_for(logits, calls)
    if not calls:
        raise ReadingError(f"no linear classifier was run in the head of {type(model).__name__}")
    if not isinstance(raw, Tensor):  # several maps, none of which is the last one
        features = FeatureMap(torch.cat([call.inputs for call in calls], 1)[:, :, None, None])
        return Forward(raw, None, features, logits.float(), tuple(calls))
    layout = find_layout(raw, model, size, model) or declared_layout(raw, model)
    return Forward(raw, layout, FeatureMap(layout.to_map(raw)), logits.float(), tuple(calls))


def _forward_hooked(model: nn.Module, inputs: Tensor, size: torch.Size) -> Forward:
    last: list[tuple[Tensor, Layout]] = []

    def keep_map(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(inputs):
            layout = find_layout(output, module, size, model)
            if layout is not None and layout.to_map(output[:1])[0, 0].numel() > 1:
                last[:] = [(output, layout)]

    with ExitStack() as stack:
        for module in model.modules():
            if module is not model:
                handle = module.register_forward_hook(keep_map)
                stack.callback(handle.remove)
        calls = stack.enter_context(_recorded([m for m in model.modules() if is_linear(m)]))
        logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ReadingError(f"{type(model).__name__} must give logits (batch, classes), got {describe(logits)}")
    heads = _calls_for(logits, calls)[-1:]
    if not heads:
        raise ReadingError(f"{type(model).__name__} has no linear layer that makes its {logits.shape[1]} class scores")
    values = last[0][1].to_map(last[0][0]) if last else heads[0].inputs[:, :, None, None]
    return Forward(None, None, FeatureMap(values), logits.float(), tuple(heads))


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[Call]]:
    """Collect the calls of these layers, in the order of running."""
    calls: list[Call] = []

    def record(layer: Any, args: tuple[object, ...], kwargs: Mapping[str, object], output: Tensor) -> None:
        calls.append(Call(layer.weight, first_given(args, kwargs).float(), output.float()))

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _calls_for(logits: Tensor, calls: list[Call]) -> list[Call]:
    """The calls that give one row of class scores for each sample, from (B, D) to (B, N)."""
    picks = [(call, pick_scores(call.output, logits)) for call in calls]
    return [Call(call.weight, pick(call.inputs), pick(call.output)) for call, pick in picks if pick is not None]


def mean_pooled(features: Tensor, pooled: Tensor) -> bool:
    """Whether `pooled` (B, D) is the plain mean of `features` (B, C, P) over positions."""
    means = features.mean(2)
    return means.shape == pooled.shape and close(means, pooled)


def close(first: Tensor, second: Tensor) -> bool:
    """Whether tensors are equal up to the rounding of the formats that networks run in."""
    scale = second.abs().max().clamp_min(torch.finfo(second.dtype).tiny)
    return bool((first - second).abs().max() <= 1e-2 * scale)
