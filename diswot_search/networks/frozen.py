"""A teacher as training runs it: never changed, never differentiated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .features import FeatureReader, Features
from .preprocessing import Normalised


class FrozenTeacher:
    """A trained network that is only looked at: in evaluation mode, without gradients, in its own normalisation.

    It is no module, so that a student's task neither trains nor stores it.

    Args:
        model: The network, on its device.
        normalise: For the images.
        reader: Reads it.
    """

    def __init__(self, model: nn.Module, normalise: Normalised, reader: FeatureReader) -> None:
        self.model = model.eval().requires_grad_(False)
        self.normalise = normalise
        self.reader = reader

    def __call__(self, images: Tensor) -> Features:
        """Its features of images between 0 and 1."""
        with torch.inference_mode():
            found = self.reader.read(self.normalise(images))
        return _outside_inference(found)

    def logits(self, images: Tensor) -> Tensor:
        """Its logits (B, N) of images between 0 and 1."""
        with torch.inference_mode():
            return self.model(self.normalise(images)).float()


def _outside_inference(found: Features) -> Features:
    """The same values in tensors that a graph may hold."""

    def copy(tensor: Tensor | None) -> Tensor | None:
        return tensor.clone() if tensor is not None and tensor.is_inference() else tensor  # parameters are none

    return Features(
        logits=found.logits.clone(),
        pooled=copy(found.pooled),
        weight=copy(found.weight),
        features=copy(found.features),
        stages=tuple(stage.clone() for stage in found.stages),
        preactivations=tuple(stage.clone() for stage in found.preactivations),
        mask=found.mask,
    )
