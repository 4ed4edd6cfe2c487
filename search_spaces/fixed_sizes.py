"""Networks for images of one size: an error that names both sizes, where they fail on another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


class InputSizeError(RuntimeError):
    """A network fails on images of a size."""


@contextmanager
def sizes_named(model: nn.Module, shape: Sequence[int], *, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Name the sizes in an error of a network that is made for images of another size, or that gives no message.

    Such networks fail deep inside, on tables and grids that do not fit, with messages that do not name the images.

    Args:
        model: The network that runs in this block.
        shape: Shape of its input; the last three numbers are channels, height and width.
        but: Errors that are left as they are.

    Raises:
        InputSizeError: The block failed. The error that it failed with is the cause.

    Example:
        >>> class Fixed(nn.Module):
        ...     pretrained_cfg = {"input_size": (3, 64, 64), "fixed_input_size": True}
        >>> with sizes_named(Fixed(), (1, 3, 32, 32)):
        ...     assert False
        Traceback (most recent call last):
            ...
        search_spaces.fixed_sizes.InputSizeError: made for 64x64, the network fails on images of 32x32 (AssertionError)
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        text, given, made_for = str(error).partition("\n")[0], tuple(shape[-2:]), fixed_size(model)
        is_other = made_for is not None and made_for != given
        if len(shape) < 3 or (text and not is_other):
            raise
        failed = f"the network fails on images of {_text(given)} ({type(error).__name__}{': ' * bool(text)}{text})"
        raise InputSizeError(f"made for {_text(made_for)}, {failed}" if is_other else failed) from error


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the only images that a network of timm declares to take; None for any other network.

    A network that was built for another size than that of its published weights says so in its patch embedding.
    """
    config: Any = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, dict) or not config.get("fixed_input_size"):
        return None
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config.get("input_size")
    numbers = tuple(size)[-2:] if isinstance(size, list | tuple) else (size, size)
    height, width = numbers
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _text(size: Sequence[int] | None) -> str:
    return "x".join(map(str, size or ()))
