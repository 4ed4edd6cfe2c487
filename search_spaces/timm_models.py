"""How timm's models are called: by name, for a number of classes and a size of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.models import model_entrypoint
from torch import nn

from .input_spec import ImageSpec
from .registry import UnknownNameError, near_names, shortened
from .stored_options import check_model_options

Make = Callable[..., nn.Module]
"""Makes a network from arguments by name, among them `num_classes` and `in_chans`."""


def entry_point(name: str) -> Make:
    """timm's function that makes the model of this name.

    Raises:
        UnknownNameError: timm has no such model; the message suggests near names.
    """
    if not timm.is_model(name):
        raise UnknownNameError(f"Unknown timm model {shortened(repr(name))}. {near_models(name)}")
    return model_entrypoint(name)


def create_timm_model(name: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Build a network by `timm.create_model`, which is called here alone, with arguments that can load nothing.

    Args:
        name: A name that `timm.list_models()` knows, with or without a tag; no address of weights.
        arguments: Arguments of the network.
        pretrained: Load timm's own pretrained weights.

    Raises:
        UnknownNameError: timm has no such model, or the model no such argument.
        UnsafeOptionError: An argument can load files or code.
        TypeError: The constructor does not take one of the arguments.
    """
    entry_point(name)
    check_model_options(name, arguments, f"The network {name}")
    return timm.create_model(name, pretrained=pretrained, **arguments)


def near_models(name: str) -> str:
    """A sentence for a message: which of timm's names come near this one."""
    near = near_names(name, timm.list_models())
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() has all names."


def make_network(
    make: Make, num_classes: int, images: ImageSpec, arguments: Mapping[str, object]
) -> tuple[nn.Module, dict[str, object]]:
    """Make a network by timm's or another constructor, which is told the image size if it takes `img_size`.

    Args:
        make: Takes `num_classes`, `in_chans` and the arguments by name, and may take `img_size`.
        num_classes: Classes of the classifier.
        images: Size of the images.
        arguments: All other arguments.

    Returns:
        The network, and all arguments that it was made with.

    Raises:
        TypeError: The constructor does not take one of the arguments.
    """
    height, width = images.height, images.width
    without = {"num_classes": num_classes, "in_chans": images.channels, **arguments}
    sized = {**without, "img_size": height if height == width else [height, width]}
    try:
        # timm does not say which models take img_size: most entry points show no more than **kwargs.
        return make(**sized), sized
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return make(**without), without
