"""timm's model contract: classifiers, layouts of feature maps, and evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class ReadingError(RuntimeError):
    """A network that cannot be read: its output, features or classifier are not as they must be."""


def has_timm_contract(model: nn.Module) -> bool:
    """Whether the model has timm's calls for features, head and classifier."""
    return all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head", "get_classifier"))


@contextmanager
def evaluation_mode(model: nn.Module, *, batch_statistics: bool) -> Iterator[None]:
    """Evaluation mode for the block; modes and running statistics are left as they were.

    Args:
        model: The network.
        batch_statistics: Batch normalisation takes the statistics of the batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    tracked = []
    model.eval()
    if batch_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                tracked.append((module, module.track_running_stats))
                module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for batch_norm, tracks in tracked:
            batch_norm.track_running_stats = tracks
        for module, training in modes:
            module.training = training


def first_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a call of a module, by position or by name; None where there is none."""
    return next(iter((*args, *kwargs.values())), None)


def classifier_layers(model: Any) -> list[nn.Module]:
    """The linear layers of a timm model's classifier."""
    head = model.get_classifier()
    # A head may be one layer, several averaged ones in a tuple, or a module that holds them.
    parts = head if isinstance(head, tuple | list) else (head,)
    return [m for part in parts if isinstance(part, nn.Module) for m in part.modules() if is_linear(m)]


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def channels_first(raw: Tensor, model: Any) -> Tensor:
    """A feature map of a timm model as (B, C, P)."""
    if raw.ndim == 4 and str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        return raw.flatten(1, 2).transpose(1, 2)
    return flatten_positions(raw, model.num_features)


def flatten_positions(raw: Tensor, width: int) -> Tensor:
    """(B, C), (B, tokens, C), (B, C, H, W) or (B, H, W, C) as (B, C, P); `width` tells the layouts apart."""
    if raw.ndim == 2:
        return raw.unsqueeze(2)
    if raw.ndim == 3:
        is_channels_first = raw.shape[1] == width != raw.shape[2]
        return raw if is_channels_first else raw.transpose(1, 2)
    if raw.ndim == 4:
        channels_last = raw.shape[3] == width != raw.shape[1]
        return raw.flatten(1, 2).transpose(1, 2) if channels_last else raw.flatten(2)
    raise ReadingError(f"features must have 2 to 4 dimensions, got {tuple(raw.shape)}")
