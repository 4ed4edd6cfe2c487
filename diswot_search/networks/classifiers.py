"""The classifier of a network, its last linear layer: find it, replace it for other classes, or remove it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .contract import TimmNetwork, classifier_layers, has_timm_contract, is_linear


class ClassifierError(ValueError):
    """The classifier of a network cannot be found, or cannot have the classes asked for."""


def replace_classifier(model: nn.Module, num_classes: int) -> nn.Module:
    """Give a network a new, random classifier for other classes. Everything else of it stays.

    A network of timm's contract resets its own classifier and keeps its pooling. In any other network the last linear
    layer, or 1x1 convolution, is replaced by one that torch initialises. New weights are drawn from torch's global
    generator.

    Args:
        model: The network; it is changed in place.
        num_classes: Number of classes of the new classifier, at least 1.

    Returns:
        The same network.

    Raises:
        ClassifierError: The network has no linear classifier, or `num_classes` is not a positive integer.

    Example:
        >>> from torch import nn
        >>> from diswot_search.networks.classifiers import replace_classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        >>> replace_classifier(network, 3)[1]
        Linear(in_features=12, out_features=3, bias=True)
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ClassifierError(f"num_classes is {num_classes!r}; a classifier needs an integer of at least one class.")
    reference = next(model.parameters(), torch.empty(0))
    _reset(model, num_classes, lambda layer: _new_layer(layer, num_classes))
    for name in classifier_names(model):
        model.get_submodule(name).to(reference.device, reference.dtype).train(model.training)
    return model


def remove_classifier(model: nn.Module) -> nn.Module:
    """Make a network return the input of its classifier.

    Args:
        model: The network; it is changed in place.

    Returns:
        The same network.

    Raises:
        ClassifierError: The network has no linear classifier.
    """
    _reset(model, 0, lambda layer: nn.Identity())
    return model


def select_classes(model: nn.Module, classes: Sequence[int]) -> nn.Module:
    """Give a network some of its classes alone, in another order; all weights are its own.

    Args:
        model: The network; it is changed in place.
        classes: The class of the network for each new class.

    Returns:
        The same network.

    Raises:
        ClassifierError: The network has no linear classifier, or too few classes.

    Example:
        >>> from torch import nn
        >>> from diswot_search.networks.classifiers import select_classes
        >>> select_classes(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), [7, 2])[1]
        Linear(in_features=12, out_features=2, bias=True)
    """
    places = torch.as_tensor(classes)
    layers: list[Any] = [model.get_submodule(name) for name in classifier_names(model)]
    if any(int(places.max()) >= len(layer.weight) for layer in layers):
        fewest = min(len(layer.weight) for layer in layers)
        raise ClassifierError(f"{type(model).__name__} has {fewest} classes, 0 to {fewest - 1}, not {max(classes)}.")
    replace_classifier(model, len(places))
    with torch.no_grad():
        for layer, name in zip(layers, classifier_names(model), strict=True):
            new: Any = model.get_submodule(name)
            new.weight.copy_(layer.weight[places])
            if layer.bias is not None:
                new.bias.copy_(layer.bias[places])
    return model


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that compute a network's logits.

    Without timm's contract this is the last layer with weights if it is linear, or else the only `nn.Linear`.

    Returns:
        Module names as in `named_modules`; an empty tuple if there is no such layer.
    """
    if has_timm_contract(model):
        layers = classifier_layers(model)
        return tuple(name for name, module in model.named_modules() if any(module is layer for layer in layers))
    weighted = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    if weighted and is_linear(model.get_submodule(weighted[-1])):
        return (weighted[-1],)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return tuple(linear) if len(linear) == 1 else ()


def _reset(model: Any, num_classes: int, make: Callable[[nn.Linear | nn.Conv2d], nn.Module]) -> None:
    """Let the network reset its classifier, or replace each linear layer of it by `make(layer)`."""
    if has_timm_contract(model) and callable(getattr(model, "reset_classifier", None)):
        model.reset_classifier(num_classes, **_pooling(model))
        return
    names = classifier_names(model)
    if not names or "" in names:
        raise ClassifierError(f"{type(model).__name__} does not end in a linear layer that could be replaced.")
    for name in names:
        parent, _, attribute = name.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, attribute, make(getattr(holder, attribute)).train(model.training))
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = num_classes


def _pooling(model: TimmNetwork) -> dict[str, str]:
    """The current pooling as an argument, if `reset_classifier` would change it, as in older versions of timm."""
    parameter = inspect.signature(model.reset_classifier).parameters.get("global_pool")
    if parameter is None or parameter.default is None:
        return {}
    pools = (getattr(part, "global_pool", None) for part in (model, getattr(model, "head", None)))
    kinds = (pool if isinstance(pool, str) else getattr(pool, "pool_type", None) for pool in pools)
    return next(({"global_pool": kind} for kind in kinds if isinstance(kind, str)), {})


def _new_layer(layer: nn.Linear | nn.Conv2d, num_classes: int) -> nn.Module:
    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        geometry: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
        return nn.Conv2d(layer.in_channels, num_classes, 1, bias=bias, **geometry)
    return nn.Linear(layer.in_features, num_classes, bias=bias)
