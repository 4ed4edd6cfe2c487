"""The steps of a training, known before it begins, and whether they are too few."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

FEWEST_STEPS = 100
"""Steps below which a network with random weights is taken to learn too little.

ResNet-20 on 50 to 500 digits of 16 x 16, in batches of 16 to 64, under the recipe `cifar` scaled to the epochs: chance
(10 to 16 %) at 10 to 25 steps, 30 to 74 % at 30 to 50, 84 to 96 % at 70 to 100, 86 to 98 % at 140 and more.
"""

_SMALLEST_BATCH = 8
"""Smallest batch that is proposed, for the statistics of batch normalisation."""


@dataclass(frozen=True)
class Steps:
    """The steps of a training.

    Attributes:
        who: The network in messages, such as "student resnet18".
        images: Number of training images.
        batch_size: Images of a step.
        epochs: Number of epochs.
        is_trained: Whether the network begins with trained weights, which few steps may suffice for.

    Example:
        >>> print(Steps("student resnet18", images=100, batch_size=20, epochs=100))
        student resnet18: 500 steps, 100 epochs of 5 (100 images in batches of 20)
    """

    who: str
    images: int
    batch_size: int
    epochs: int
    is_trained: bool = False

    @property
    def total(self) -> int:
        """Number of all steps."""
        return self._in_batches_of(self.batch_size)

    def _in_batches_of(self, size: int) -> int:
        return self.images // size * self.epochs

    def __str__(self) -> str:
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs:,} epochs"
        images = f"{self.images:,} images in batches of {self.batch_size:,}"
        return f"{self.who}: {self.total:,} steps, {epochs} of {self.images // self.batch_size:,} ({images})"

    def warn_if_few(self) -> None:
        """Say that the steps are too few for random weights, and what helps."""
        if self.is_trained or self.total >= FEWEST_STEPS:
            return
        epochs = -(-FEWEST_STEPS // (self.images // self.batch_size))
        sizes = [size for size in (64, 32, 16, _SMALLEST_BATCH) if self._in_batches_of(size) >= FEWEST_STEPS]
        smaller = f"a smaller batch_size ({sizes[0]} makes {self._in_batches_of(sizes[0]):,} steps), " if sizes else ""
        smaller = smaller or ("a smaller batch_size with them, " if self.batch_size > _SMALLEST_BATCH else "")
        warnings.warn(
            f"The {self} are too few for random weights, which often stay near chance below {FEWEST_STEPS} steps. What "
            f"helps: more epochs ({epochs:,} make {self.images // self.batch_size * epochs:,} steps), {smaller}or "
            "pretrained weights under recipe finetune.",
            stacklevel=4,
        )
