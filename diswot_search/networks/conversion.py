"""The data's images as a network takes them, whatever its role: channels, size and normalisation."""

from __future__ import annotations

import torch

from ..data.image_sets import ImageSet, ResidentSet
from ..data.splits import Splits
from .network import Network
from .preprocessing import Preprocessing

_EXAMINED = 64
"""Number of streamed images that are examined to see whether all are greyscale."""


def preprocessing_for(network: Network, splits: Splits, role: str) -> Preprocessing:
    """The network's preprocessing, with the data's channels and statistics in place of missing ones.

    Args:
        network: The network.
        splits: The data.
        role: "student", "teacher" or "source", for messages.

    Raises:
        ValueError: The network takes images of other channels than the data's can be converted to.
    """
    channels, needed = network.channels, splits.input_size[0]
    if channels not in (None, needed):
        if channels not in (1, 3):
            raise ValueError(
                f"The {role} {network.name} takes images of {channels} channels; the data's can be given to it in 3, "
                "or in 1 where they are grey."
            )
        if channels == 1 and not _is_grey(splits.train):
            raise ValueError(
                f"The {role} {network.name} takes grey images, but those of {splits.name} are in colour; a {role} for "
                "them takes 3 channels."
            )
    return network.preprocessing.filled(splits.mean, splits.std)


def input_size_for(network: Network, splits: Splits) -> tuple[int, int, int]:
    """Channels, height and width of the images that a network is given, converted from those of the data."""
    channels, *size = splits.input_size
    height, width = network.preprocessing.size or size
    return network.channels or channels, height, width


def _is_grey(images: ImageSet) -> bool:
    """Whether the channels of all images are equal; of streamed images, a few are examined."""
    if isinstance(images, ResidentSet):
        pixels = images.images
    else:
        places = torch.linspace(0, len(images) - 1, min(_EXAMINED, len(images))).long()
        batches = images.batches(places, len(places), device=torch.device("cpu"), augment=None, seed=0)
        pixels = next(iter(batches)).images
    return pixels.shape[1] == 1 or all(torch.equal(pixels[:, 0], pixels[:, other]) for other in (1, 2))
