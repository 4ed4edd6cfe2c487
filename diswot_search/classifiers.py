"""The last linear layer of a network, and a new one in its place."""

from __future__ import annotations

from typing import Any

from torch import nn

from .readings.forward import classifier_layers, has_timm_contract, is_linear


class ClassifierError(ValueError):
    """A network whose classifier cannot be found, or classes that it cannot have."""


def replace_classifier(model: nn.Module, num_classes: int) -> nn.Module:
    """Give a network a new, random classifier for other classes; all else of it stays.

    Networks of timm's contract do it themselves, and keep their pooling. Of others the last linear layer, or 1x1
    convolution, is replaced by one with torch's first weights, which are drawn from the global generator.

    Args:
        model: The network; it is changed in place.
        num_classes: Classes to tell apart.

    Returns:
        The same network.

    Raises:
        ClassifierError: The network has no linear classifier, or there are no classes.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ClassifierError(f"num_classes is {num_classes!r}; a classifier has at least one class.")
    like = next(model.parameters(), None)
    network: Any = model
    if has_timm_contract(model) and callable(getattr(model, "reset_classifier", None)):
        network.reset_classifier(num_classes)
    else:
        parent, _, name = _last_linear(model).rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, name, _new_layer(getattr(holder, name), num_classes))
        if isinstance(getattr(model, "num_classes", None), int):
            network.num_classes = num_classes
    return model if like is None else model.to(like.device)


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers of a network's classifier; none where it has none."""
    if not has_timm_contract(model):
        try:
            return (_last_linear(model),)
        except ClassifierError:
            return ()
    layers = classifier_layers(model)
    return tuple(name for name, module in model.named_modules() if any(module is layer for layer in layers))


def _last_linear(model: nn.Module) -> str:
    """The linear layer behind which no other layer with parameters was made."""
    leaves = [
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    ]
    if not leaves or not is_linear(model.get_submodule(leaves[-1])):
        raise ClassifierError(f"{type(model).__name__} does not end in a linear layer, which could be replaced.")
    return leaves[-1]


def _new_layer(layer: Any, num_classes: int) -> nn.Module:
    kind: dict[str, Any] = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Conv2d):
        kind |= {"stride": layer.stride, "padding": layer.padding}
        return nn.Conv2d(layer.in_channels, num_classes, 1, **kind)
    return nn.Linear(layer.in_features, num_classes, **kind)
