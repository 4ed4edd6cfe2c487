"""The batches of a training: which images each step sees, in which views, and how they are mixed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from timm.data import Mixup
from torch import Tensor

from ..data.augmentation import Augmentation
from ..data.image_sets import Images
from ..data.splits import Splits
from ..runtime.seeding import stable_seed
from .recipe import Recipe
from .unlabelled import UnlabelledLoss, Views


class Part(NamedTuple):
    """A part of a step's images: labelled ones, and unlabelled ones if the objective has images of its own."""

    labelled: Images
    views: Views | None


class Batches:
    """The batches of this process, a function of the seed.

    Args:
        splits: The data.
        recipe: The recipe, which sets the size of a batch, its parts and its augmentation.
        accelerator: The processes and the device.
        seed: Seed of the training.
        unlabelled: The loss on unlabelled images; None without one.
        unlabelled_size: Unlabelled images in a step; None if the loss on them uses the labelled ones.

    Attributes:
        steps_per_epoch: Steps of the optimiser in an epoch: as many as all training images fill batches, labelled or
            not, so that trainings which differ in that alone take equally many.
        images_per_step: Views of images that the student sees in a step.
    """

    def __init__(
        self,
        splits: Splits,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        seed: int,
        unlabelled: UnlabelledLoss | None,
        unlabelled_size: int | None,
    ) -> None:
        self._splits = splits
        self._recipe = recipe
        self._accelerator = accelerator
        self._seed = seed
        self._unlabelled_size = None if unlabelled is None else unlabelled_size
        usual = recipe.augmentation
        self._views = (usual,) if unlabelled is None else unlabelled.augmentations(usual)
        self._mixup: Mixup | None = None
        if recipe.mixup or recipe.cutmix:
            self._mixup = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=0.0,  # the loss smooths
                num_classes=splits.num_classes,
            )
        self.steps_per_epoch = len(splits.train) // recipe.batch_size
        self.images_per_step = recipe.batch_size + len(self._views) * (self._unlabelled_size or 0)

    def of_epoch(self, epoch: int, done: int) -> Iterator[list[Part]]:
        """The parts of each batch of an epoch.

        Args:
            epoch: The epoch, from 0.
            done: Number of its batches to leave out.
        """
        parts = self._parts(epoch, done, self.steps_per_epoch)
        while collected := list(itertools.islice(parts, self._recipe.accumulate)):
            yield collected

    def first(self) -> Part:
        """The first part of the first batch of the training."""
        return next(self._parts(0, 0, 1))

    def _parts(self, epoch: int, done: int, steps: int) -> Iterator[Part]:
        """The parts of the first `steps` batches of an epoch, from the batch after `done` on."""
        recipe = self._recipe
        order = self._order("order", epoch, recipe.batch_size, self._splits.labelled)[: steps * recipe.batch_size]
        streams = [self._stream(order, recipe.batch_size, recipe.augmentation, ("augmentation", epoch), done)]
        if (size := self._unlabelled_size) is not None:
            order = self._order("unlabelled order", epoch, size)[: steps * size]
            for number, augmentation in enumerate(self._views):
                streams.append(self._stream(order, size, augmentation, ("unlabelled", epoch, number), done))
        for images, *views in zip(*streams, strict=True):
            stacked = Views(torch.stack([view.images for view in views]), views[0].indices) if views else None
            yield Part(images, stacked)

    def _order(self, kind: str, epoch: int, batch_size: int, places: Tensor | None = None) -> Tensor:
        """Images of an epoch: all training images, or those at some places, in random order and as often as needed."""
        generator = torch.Generator().manual_seed(stable_seed(self._seed, kind, epoch))
        places = torch.arange(len(self._splits.train)) if places is None else places
        needed = self.steps_per_epoch * batch_size
        rounds = [places[torch.randperm(len(places), generator=generator)] for _ in range(-(-needed // len(places)))]
        return torch.cat(rounds)[:needed]

    def _stream(
        self, order: Tensor, batch_size: int, augmentation: Augmentation, key: Sequence[str | int], done: int
    ) -> Iterator[Images]:
        """This process's share of the parts of batches, from the batch after `done` on."""
        recipe, accelerator = self._recipe, self._accelerator
        return self._splits.train.batches(
            order,
            batch_size // recipe.accumulate,
            device=accelerator.device,
            augment=augmentation,
            seed=stable_seed(self._seed, *key),
            start=done * recipe.accumulate,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )

    def mixed(self, part: Images) -> tuple[Tensor, Tensor | None]:
        """The images of a part, mixed if the recipe mixes them, and the class shares (B, N) of mixed ones."""
        if self._mixup is None:
            return part.images, None
        return self._mixup(part.images, part.labels)

    def seed_step(self, step: int) -> None:
        """Seed every generator that a network, an augmentation or a distiller may draw from in a step, from 0.

        Not by `torch.manual_seed`, which asks for every kind of device at each call.
        """
        accelerator = self._accelerator
        seed, device = stable_seed(self._seed, "step", step, accelerator.process_index), accelerator.device
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
