"""timm's model contract: calls, classifiers, and evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_spaces.fixed_sizes import sizes_named


class ReadingError(RuntimeError):
    """A network, or a control, does not give what is read off it."""


class TimmNetwork(nn.Module):
    """The calls of timm's contract, for annotations: networks have them without being of this class."""

    def forward_features(self, x: Tensor) -> object:
        """The features in the form that the head takes: mostly one tensor (B, ...), in some networks several."""
        raise NotImplementedError

    def forward_head(self, x: object) -> Tensor:
        """Features to logits (B, classes)."""
        raise NotImplementedError

    def get_classifier(self) -> object:
        """The last layer, a tuple of several averaged layers, or a module that holds them."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int, **options: str) -> None:
        """Replace the classifier by a new one."""
        raise NotImplementedError


def has_timm_contract(model: nn.Module) -> TypeGuard[TimmNetwork]:
    """Whether the model has timm's calls for features, head and classifier."""
    return all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head", "get_classifier"))


@contextmanager
def evaluation_mode(model: nn.Module, *, batch_statistics: bool) -> Iterator[None]:
    """Put a network into evaluation mode for a block. Modes and running statistics are the same afterwards.

    Args:
        model: The network.
        batch_statistics: Whether batch normalisation uses the statistics of the batch.
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


def call_with_tensors(module: nn.Module, tensors: Mapping[int, Tensor], inputs: Tensor) -> Tensor:
    """Run a module with other tensors in place of its parameters and buffers; it is the same afterwards.

    `functional_call` by itself leaves the new tensors in a module that has several names, as CoaT's encoders have.

    Args:
        module: The module.
        tensors: The new tensors by `id` of the parameters and buffers that they replace.
        inputs: The input of the module.
    """
    named: dict[str, Tensor] = {}
    for name, part in module.named_modules():  # each module once, under one of its names
        own = [
            *part.named_parameters(name, recurse=False, remove_duplicate=False),
            *part.named_buffers(name, recurse=False, remove_duplicate=False),
        ]
        named |= {key: tensors[id(tensor)] for key, tensor in own if id(tensor) in tensors}
    with sizes_named(module, inputs.shape, but=ReadingError):
        output: Tensor = functional_call(module, named, (inputs,), tie_weights=False)
    return output


def pick_logits(output: Any, classes: int) -> Tensor:
    """The class scores of a network that may give several outputs, as those with auxiliary heads do while they train.

    Args:
        output: A tensor, or a tuple, a named tuple or a mapping of outputs. Of several, the one called "logits" or
            "out" is taken, or else the first of scores of all classes.
        classes: Number of classes.

    Raises:
        ReadingError: None of the outputs are scores of all classes.
    """
    if isinstance(output, Tensor):
        return output
    named = output if isinstance(output, Mapping) else getattr(output, "_asdict", dict)()
    several = [*(named[key] for key in ("logits", "out") if key in named), *named.values()]
    if not named and isinstance(output, tuple | list):
        several = list(output)
    for each in several:
        if isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] == classes:
            return each
    raise ReadingError(f"a network gives {describe(output)} while it trains, none of it scores of {classes} classes")


def first_given(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
    """The first argument of a module's call, by position or by name; None without arguments."""
    return next(iter((*args, *kwargs.values())), None)


def classifier_layers(model: TimmNetwork) -> list[nn.Module]:
    """The linear layers of a timm model's classifier."""
    head = model.get_classifier()
    # The classifier is one layer, a tuple of several averaged layers, or a module that holds them.
    parts = head if isinstance(head, tuple | list) else (head,)
    return [m for part in parts if isinstance(part, nn.Module) for m in part.modules() if is_linear(m)]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a 1x1 convolution."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def pick_scores(output: Tensor, logits: Tensor) -> Callable[[Tensor], Tensor] | None:
    """How the rows of samples are taken from the calls of a layer that gives class scores.

    The rows are all there is, or, if a layer is run on many tokens as behind attention pooling, those of the token
    whose scores are the logits.

    Args:
        output: The output of the layer.
        logits: Logits (B, N).

    Returns:
        A function from the layer's inputs or outputs to (B, ...); None if the layer does not give the logits' scores.
    """
    # Flattened, a 1x1 convolution on one position looks like the linear layer that it is.
    if output.flatten(1).shape == logits.shape:
        return lambda values: values.flatten(1)
    if output.ndim == 3 and output.shape[::2] == logits.shape:
        tokens = (t for t in range(output.shape[1]) if torch.equal(output[:, t].float(), logits.float()))
        token = next(tokens, None)
        return None if token is None else lambda values: values[:, token]
    return None


def describe(value: object) -> str:
    """A value's shape, or its type if it is no tensor, for messages."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
