"""A network as an engineer has it: plain PyTorch, known to nobody else."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class OwnNetwork(nn.Module):
    """Convolutions with batch normalisation at three resolutions, then the mean over positions and a classifier.

    Args:
        num_classes: The number of classes.
        width: The number of channels at the first resolution.
    """

    def __init__(self, num_classes: int = 10, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.Sequential()
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 2 if place in (2, 4) else 1
            self.layers.append(nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
            self.layers.append(nn.BatchNorm2d(after))
            self.layers.append(nn.ReLU())
        self.classify = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, N) of images (B, 3, H, W)."""
        scores: Tensor = self.classify(self.layers(images).mean((2, 3)))
        return scores


def network(num_classes: int = 10) -> nn.Module:
    """Make the network with random weights."""
    return OwnNetwork(num_classes)
