"""Training recipes: epochs, optimiser, schedule, regularisation, augmentation and precision."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeGuard

from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from search_spaces.plugins import OwnCodeError
from search_spaces.registry import Registry, unknown_name_message

from ..checks import with_near_names
from ..data.augmentation import Augmentation

SCHEDULES = ("multistep", "cosine", "poly", "constant")
"""The schedules of the learning rate."""


PRECISIONS = ("fp32", "bf16", "fp16")
"""The numeric precisions of a training."""


class RecipeError(ValueError):
    """A recipe has an unknown field, an unknown name or a value out of its range."""


@with_near_names
@dataclass(frozen=True)
class Recipe:
    """How a network is trained, apart from its teacher and data.

    Attributes:
        epochs: The number of passes over the training images. A pass leaves out images that do not fill a batch.
        batch_size: The number of images per optimiser step, over all processes and accumulated parts.
        accumulate: The number of equal parts in which a batch is computed, to save memory. It must divide
            `batch_size`.
        optimizer: timm's name of the optimiser; "momentum" is SGD with momentum, "sgd" is SGD with Nesterov momentum.
        lr: The highest learning rate.
        momentum: The momentum of optimisers that have one, 0 to 1.
        weight_decay: The decay of weights, at least 0.
        decay_all: Whether biases and the parameters of normalisation decay too.
        schedule: The schedule of the learning rate; one of `SCHEDULES`.
        milestones: The shares of the training after which "multistep" multiplies the rate by `decay`; rising, 0 to 1.
        decay: The factor of "multistep".
        power: The exponent of "poly", which lowers the rate with this power of the remaining share of the training.
        warmup: The share of the training in which the rate rises linearly from near zero, 0 to 1.
        min_lr: The last learning rate of "cosine" and "poly", at most `lr`.
        clip_grad: The norm to which gradients are clipped, above 0; None for no clipping.
        label_smoothing: The share of the target that is spread over all classes, 0 to 1.
        mixup: The alpha of mixup; 0 for no mixup.
        cutmix: The alpha of cutmix; 0 for no cutmix.
        ema: The decay of an exponential moving average of the weights, 0 to 1. The average is then evaluated and
            saved. None for no average.
        augmentation: The augmentation of training images.
        precision: One of `PRECISIONS`; "bf16" and "fp16" use autocast.
        channels_last: Whether feature maps are kept in NHWC memory order, where that is safe; see
            `networks.memory_format`.
        compile: Whether torch compiles the networks.

    Raises:
        RecipeError: A value is out of its range, or a name is unknown.

    Example:
        >>> Recipe(epochs=30, schedule="cosine").lr
        0.05
    """

    epochs: int = 240
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "momentum"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = True
    schedule: str = "multistep"
    milestones: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    decay: float = 0.1
    power: float = 1.0
    warmup: float = 0.0
    min_lr: float = 0.0
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 - it is frozen
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        self._check_ranges()
        self._check_names()

    def _check_types(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        for name in ("decay_all", "channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(f"{name} is {getattr(self, name)!r}; it must be true or false.")

    def _check_ranges(self) -> None:
        if self.batch_size % self.accumulate:
            raise RecipeError(
                f"A batch of {self.batch_size} cannot be computed in {self.accumulate} equal parts; "
                "choose a batch_size that accumulate divides."
            )
        for name, lowest, highest in _RANGES:
            _check_between(name, getattr(self, name), lowest, highest)
        for name in ("clip_grad", "ema"):
            if getattr(self, name) is not None:
                _check_between(name, getattr(self, name), 0.0, math.inf if name == "clip_grad" else 1.0)
        if self.clip_grad == 0:
            raise RecipeError("clip_grad is 0, with which nothing is learnt; it must be above 0, or None.")
        if self.min_lr > self.lr:
            raise RecipeError(
                f"min_lr is {self.min_lr:g}, above lr, {self.lr:g}; the last rate cannot be above the highest."
            )
        if not _are_milestones(self.milestones):
            raise RecipeError(
                f"milestones are {self.milestones!r}; they must be a list of rising shares of the training, 0 to 1."
            )

    def _check_names(self) -> None:
        optimizers = tuple(map(str, list_optimizers(exclude_filters=["lookahead_*"])))
        names: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("optimizer", self.optimizer, optimizers),
        )
        for kind, name, choices in names:
            if name not in choices:
                raise RecipeError(unknown_name_message(kind, name, choices))

    def config(self) -> dict[str, object]:
        """Return all fields, as JSON values."""
        return asdict(self)

    def create_optimizer(self, network: nn.Module) -> Optimizer:
        """Create the optimiser of a network's parameters."""
        return create_optimizer_v2(
            network,
            opt=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            filter_bias_and_bn=not self.decay_all,
        )

    def create_schedule(self, optimizer: Optimizer, steps: int) -> Scheduler:
        """Create timm's schedule of the learning rate.

        Args:
            optimizer: The optimiser whose learning rate is set.
            steps: The number of optimiser steps of the training.

        Returns:
            The schedule; call its `step_update` with the number of finished steps.
        """
        constant = self.schedule == "constant"
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="multistep" if constant else self.schedule,  # older versions of timm lack "constant"
            num_epochs=steps,
            warmup_epochs=round(self.warmup * steps),
            warmup_lr=self.lr * 1e-3,
            min_lr=self.min_lr,
            # timm multiplies the rate one step early.
            decay_milestones=[] if constant else [round(share * steps) + 1 for share in self.milestones],
            decay_rate=self.power if self.schedule == "poly" else self.decay,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        return scheduler


_RANGES = (
    *(("lr", 0.0, math.inf), ("min_lr", 0.0, math.inf), ("weight_decay", 0.0, math.inf), ("mixup", 0.0, math.inf)),
    *(("cutmix", 0.0, math.inf), ("momentum", 0.0, 1.0), ("decay", 0.0, math.inf), ("warmup", 0.0, 1.0)),
    *(("power", 0.0, math.inf), ("label_smoothing", 0.0, 1.0)),
)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_milestones(shares: object) -> bool:
    if not isinstance(shares, tuple) or not all(_is_number(share) and 0 <= share <= 1 for share in shares):
        return False
    return list(shares) == sorted(shares)


def _check_between(name: str, value: object, lowest: float, highest: float) -> None:
    if not _is_number(value) or not lowest <= value <= highest:
        limit = "" if math.isinf(highest) else f" and at most {highest:g}"
        raise RecipeError(f"{name} is {value!r}; it must be a number of at least {lowest:g}{limit}.")


def _adopt(name: str, value: object) -> Recipe:
    """The recipe that a user's own code has under a name."""
    if not isinstance(value, Recipe):
        raise OwnCodeError(f"{name} is a {type(value).__name__}; it must be a Recipe.")
    return value


RECIPES: Registry[Recipe] = Registry("recipe", _adopt)
"""Recipes by name.

`cifar` is the recipe of the distillation literature for CIFAR-100 with 240 epochs; its milestones scale with the number
of epochs. `imagenet` is the recipe of its ImageNet tables with 100 epochs. `finetune` is for trained networks.
"""


RECIPES.register("cifar", Recipe())


RECIPES.register(
    "imagenet",
    Recipe(
        epochs=100,
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
        milestones=(0.3, 0.6, 0.9),
        augmentation=Augmentation(kind="random_resized_crop"),
    ),
)


RECIPES.register(
    "finetune",
    Recipe(
        epochs=30,
        optimizer="adamw",
        lr=3e-4,
        weight_decay=0.05,
        decay_all=False,
        schedule="cosine",
        warmup=0.1,
        clip_grad=1.0,
        augmentation=Augmentation(kind="random_resized_crop"),
    ),
)


def create_recipe(recipe: str | Recipe = "cifar", **changes: Any) -> Recipe:
    """Create a recipe from a named one with some fields changed.

    Args:
        recipe: The name of a recipe, or a recipe.
        changes: New values for fields of `Recipe` and of its augmentation, by name. None leaves a field unchanged.

    Raises:
        UnknownNameError: No recipe has this name; the message lists near names.
        RecipeError: A field is unknown, or a value is out of its range.

    Example:
        >>> recipe = create_recipe("cifar", epochs=5, padding=2)
        >>> recipe.epochs, recipe.augmentation.padding
        (5, 2)
    """
    original = RECIPES[recipe] if isinstance(recipe, str) else recipe
    recipe_fields = {field.name for field in fields(Recipe)} - {"augmentation"}
    augmentation_fields = {field.name for field in fields(Augmentation)}
    for name in changes:
        if name not in recipe_fields | augmentation_fields | {"augmentation"}:
            raise RecipeError(unknown_name_message("option of a recipe:", name, recipe_fields | augmentation_fields))
    values = {name: value for name, value in changes.items() if value is not None}
    augmentation = values.pop("augmentation", original.augmentation)
    if not isinstance(augmentation, Augmentation):
        raise RecipeError(f"augmentation is {augmentation!r}; it must be an Augmentation.")
    if isinstance(values.get("milestones"), list):
        values["milestones"] = tuple(values["milestones"])
    of_images = {name: values.pop(name) for name in list(values) if name in augmentation_fields - recipe_fields}
    return replace(original, augmentation=replace(augmentation, **of_images), **values)
