"""What a user says of the images and classes of a network, and what a module tells of them by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from search_spaces.input_spec import ImageSpec

from ..networks.classifiers import classifier_names
from ..networks.contract import evaluation_mode
from ..networks.network import Network
from ..runtime.seeding import isolated_random_state
from ..sources.source import SourceError

IMAGE_KEYS = ("mean", "std", "input_size")
"""The options that describe the images of a teacher or a source."""


def with_images(network: Network, role: str, *, mean: object, std: object, input_size: object) -> Network:
    """The network with the image size and normalisation that its description gives.

    Args:
        network: The network.
        role: "teacher" or "source", for messages.
        mean, std: A number, or one for each channel, as shares of the full scale; None leaves them as they are.
        input_size: Channels, height and width; None leaves them as they are.

    Raises:
        SourceError: One of them has another form, or is out of its range.
    """
    if input_size is not None:
        channels, *size = checked_input_size(input_size, f"{role} {network.name}")
        network = with_size(network, channels, (size[0], size[1]))
    if (mean is None) != (std is None):
        raise SourceError(f"Of the {role} {network.name} mean is {mean} and std is {std}; give both or neither.")
    if mean is not None:
        values = [_per_channel(key, value, network, role) for key, value in (("mean", mean), ("std", std))]
        network = with_normalisation(network, *values)
    for key in ("mean", "std"):
        if (stored := getattr(network, key)) is not None and len(stored) != (network.channels or len(stored)):
            raise SourceError(f"{key} of the {role} {network.name} is {stored}; it takes {network.channels} channels.")
    return network


def checked_input_size(input_size: object, title: str) -> tuple[int, int, int]:
    """Channels, height and width as a network's description gives them.

    Raises:
        SourceError: They have another form.
    """
    size = tuple(input_size) if isinstance(input_size, Sequence) else (input_size,)
    if len(size) != 3 or not all(type(part) is int and part > 0 for part in size):
        raise SourceError(f"input_size of the {title} is {input_size!r}; it must be channels, height and width.")
    return size


def with_size(network: Network, channels: int, size: tuple[int, int] | None) -> Network:
    """The network with images that are converted to these channels, and to this size unless it is None."""
    spec = network.input_spec if size is None else ImageSpec(channels, *size)
    return replace(network, preprocessing=replace(network.preprocessing, channels=channels, size=size), input_spec=spec)


def with_normalisation(network: Network, mean: tuple[float, ...], std: tuple[float, ...]) -> Network:
    """The network with the statistics that its weights were trained with."""
    return replace(network, preprocessing=replace(network.preprocessing, mean=mean, std=std))


def _per_channel(key: str, value: object, network: Network, role: str) -> tuple[float, ...]:
    """One share of the full scale for each channel, from one number or as many."""
    try:
        values = tuple(map(float, value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)))
    except (TypeError, ValueError):
        values = ()
    lowest = 0.0 if key == "mean" else math.ulp(0)
    if not values or not all(lowest <= one <= 1 for one in values):
        bound = "0 to 1" if key == "mean" else "above 0, at most 1"
        raise SourceError(
            f"{key} of the {role} {network.name} is {value!r}; it must be a number, or one for each channel, as a "
            f"share of the full scale: {bound}."
        )
    return values * (network.channels or 3) if len(values) == 1 else values


# -- what a module tells ------------------------------------------------------------------------


def classes_of(model: nn.Module) -> int:
    """Number of classes that a model declares, else of its linear classifier; 0 if it has neither."""
    declared = getattr(model, "num_classes", None)
    return declared if isinstance(declared, int) else classes_of_last(model)


def classes_of_last(model: nn.Module) -> int:
    """Number of values that the last layer of a module returns if it is linear; else 0."""
    layers = [model.get_submodule(name) for name in classifier_names(model)]
    return len(layers[-1].get_parameter("weight")) if layers else 0


def classes_by_run(model: nn.Module, input_size: tuple[int, int, int]) -> int | None:
    """Number of values that a module gives for an image of this size; None if it does not take it.

    Modes and running statistics stay as they are.
    """
    example = next(model.parameters(), torch.empty(0)).new_zeros(2, *input_size)
    try:
        with evaluation_mode(model, batch_statistics=False), torch.no_grad(), isolated_random_state(0):
            output = model(example)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
        return None
    return output.shape[1] if isinstance(output, torch.Tensor) and output.ndim == 2 else None


def channels_of_first(module: nn.Module) -> int:
    """Number of channels that a module takes: 1 if its first convolution takes 1, else 3, as some take patches."""
    first = next((layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)), 3)
    return 1 if first == 1 else 3
