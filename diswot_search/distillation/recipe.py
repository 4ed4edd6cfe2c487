"""Recipes: how a network is trained, but for what it learns from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from search_spaces.registry import Registry, unknown_name_message

from ..augmentation import Augmentation

SCHEDULES = ("multistep", "cosine", "poly", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")


class RecipeError(ValueError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training images; each leaves out those that do not fill a batch.
        batch_size: Images in a step of the optimiser, over all processes and accumulated parts.
        accumulate: Parts that a batch is computed in, to save memory.
        optimizer: timm's name; "momentum" is plain SGD with momentum, "sgd" that of Nesterov.
        lr: Learning rate at its highest.
        momentum: Of the optimisers that have one.
        weight_decay: Decay of the weights.
        decay_all: Biases and the parameters of normalisation decay, too.
        schedule: One of `SCHEDULES`.
        milestones: Shares of the training after which "multistep" multiplies the rate by `decay`.
        decay: That factor.
        power: Power of the share that is left by which "poly" lowers the rate.
        warmup: Share of the training in which the rate rises linearly from near zero.
        min_lr: Where "cosine" and "poly" end.
        clip_grad: Norm that gradients are clipped to; None leaves them.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Alpha of mixup; 0 is none.
        cutmix: Alpha of cutmix; 0 is none.
        ema: Decay of an exponential moving average of the weights, which is what is evaluated and shipped; None makes
            none.
        augmentation: What is done to training images.
        precision: "fp32", or "bf16" or "fp16" under autocast.
        channels_last: Keep feature maps in NHWC memory order.
        compile: Let torch compile the networks.

    Raises:
        RecipeError: A number out of its range, or an unknown name.
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
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        for name in ("decay_all", "channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(f"{name} is {getattr(self, name)!r}; it must be true or false.")
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
                f"min_lr is {self.min_lr:g}, above lr, {self.lr:g}; the rate cannot end above its highest."
            )
        if not _are_milestones(self.milestones):
            raise RecipeError(
                f"milestones are {self.milestones!r}; they must be a list of rising shares of the training, 0 to 1."
            )
        optimizers = tuple(map(str, list_optimizers(exclude_filters=["lookahead_*"])))
        names: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("optimizer", self.optimizer, optimizers),
        )
        for kind, name, known in names:
            if name not in known:
                raise RecipeError(unknown_name_message(kind, name, known))

    def config(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)

    def create_optimizer(self, network: nn.Module) -> Optimizer:
        """The optimiser of a network's parameters."""
        return create_optimizer_v2(
            network,
            opt=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            filter_bias_and_bn=not self.decay_all,
        )

    def create_schedule(self, optimizer: Optimizer, steps: int) -> Any:
        """timm's schedule of the learning rate, in steps of the optimiser."""
        constant = self.schedule == "constant"
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="multistep" if constant else self.schedule,  # older versions of timm do not know "constant"
            num_epochs=steps,
            warmup_epochs=round(self.warmup * steps),
            warmup_lr=self.lr * 1e-3,
            min_lr=self.min_lr,
            # timm multiplies a step early.
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_milestones(shares: Any) -> bool:
    numbers = isinstance(shares, tuple) and all(_is_number(share) and 0 <= share <= 1 for share in shares)
    return numbers and list(shares) == sorted(shares)


def _check_between(name: str, value: Any, lowest: float, highest: float) -> None:
    if not _is_number(value) or not lowest <= value <= highest:
        most = "" if math.isinf(highest) else f" and at most {highest:g}"
        raise RecipeError(f"{name} is {value!r}; it must be a number of at least {lowest:g}{most}.")


RECIPES: Registry[Recipe] = Registry("recipe")
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
"""`cifar` is that of the distillation literature for CIFAR-100, 240 epochs, scaled for fewer; `imagenet` that of its
ImageNet tables, 100 epochs; `finetune` is for networks with trained weights."""


def create_recipe(recipe: str | Recipe = "cifar", **changes: Any) -> Recipe:
    """A recipe by name with some of it changed.

    Args:
        recipe: The name, or a recipe.
        changes: Fields of `Recipe`, and of its augmentation by name; None leaves what the recipe says.

    Raises:
        UnknownNameError: No recipe has this name; near names are given.
        RecipeError: An unknown field, or a value out of its range.
    """
    made = RECIPES[recipe] if isinstance(recipe, str) else recipe
    own = {field.name for field in fields(Recipe)} - {"augmentation"}
    of_images = {field.name for field in fields(Augmentation)}
    for name in changes:
        if name not in own | of_images | {"augmentation"}:
            raise RecipeError(unknown_name_message("option of a recipe:", name, own | of_images))
    given = {name: value for name, value in changes.items() if value is not None}
    if "augmentation" in given and not isinstance(given["augmentation"], Augmentation):
        raise RecipeError(f"augmentation is {given['augmentation']!r}; it must be an Augmentation.")
    if isinstance(given.get("milestones"), list):
        given["milestones"] = tuple(given["milestones"])
    augmentation = replace(
        given.pop("augmentation", made.augmentation), **{k: given.pop(k) for k in list(given) if k in of_images - own}
    )
    return replace(made, augmentation=augmentation, **given)
