"""A network that is only read, as training runs its teacher: never changed, never differentiated."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .features import FeatureReader, Features
from .preprocessing import Preprocessor


class FrozenNetwork:
    """A trained network in evaluation mode, without gradients, with its own preprocessing.

    It is not an `nn.Module`, so that the task of a student neither trains nor stores it.

    Args:
        model: The network, on its device.
        preprocessor: Converts images between 0 and 1 to those that the network takes.
        reader: Reads the network's features.
    """

    def __init__(self, model: nn.Module, preprocessor: Preprocessor, reader: FeatureReader) -> None:
        self.model = model.eval().requires_grad_(False)
        self.preprocessor = preprocessor
        self.reader = reader

    def __call__(self, images: Tensor) -> Features:
        """The features of images (B, C, H, W) between 0 and 1."""
        with torch.inference_mode():
            features = self.reader.read(self.preprocessor(images))
        return _outside_inference(features)

    def logits(self, images: Tensor) -> Tensor:
        """The logits (B, N) of images (B, C, H, W) between 0 and 1."""
        with torch.inference_mode():
            return self.model(self.preprocessor(images)).float()


def _outside_inference(features: Features) -> Features:
    """The same values in tensors that a graph may hold."""
    return replace(features, **{part.name: _copied(getattr(features, part.name)) for part in fields(features)})


def _copied(value: object) -> Any:
    """A tensor of inference mode as a copy; everything else, such as a parameter, as it is."""
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
