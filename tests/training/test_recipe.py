"""Recipes: learning rates against their closed forms, what decays, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diswot_search.data.augmentation import Augmentation
from diswot_search.training.recipe import RECIPES, Recipe, RecipeError, create_recipe
from search_spaces.registry import UnknownNameError

STEPS = 40


def rates(recipe: Recipe, steps: int = STEPS) -> list[float]:
    """The learning rate of each step, each told without the others, as after a resume."""
    found = []
    for step in range(steps):
        optimizer = recipe.create_optimizer(nn.Linear(2, 2))
        recipe.create_schedule(optimizer, steps).step_update(step)
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


def closed_form(recipe: Recipe, step: int, steps: int) -> float:
    warm = round(recipe.warmup * steps)
    if step < warm:
        lowest = 1e-3 * recipe.lr
        return lowest + (recipe.lr - lowest) * step / warm
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "multistep":
        return recipe.lr * recipe.decay ** sum(step >= round(share * steps) for share in recipe.milestones)
    left = 1 - step / steps
    shape = 0.5 * (1 + math.cos(math.pi * step / steps)) if recipe.schedule == "cosine" else left**recipe.power
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * shape


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "poly", "constant"])
@pytest.mark.parametrize("changes", [{}, {"warmup": 0.1, "min_lr": 0.01, "lr": 1.0, "decay": 0.5, "power": 2.0}])
def test_the_rate_of_each_step_is_that_of_its_formula(schedule: str, changes: dict[str, Any]) -> None:
    recipe = create_recipe(schedule=schedule, **changes)
    expected = [closed_form(recipe, step, STEPS) for step in range(STEPS)]
    assert rates(recipe) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20)
@given(st.integers(1, 60), st.floats(0, 0.5), st.sampled_from(["multistep", "cosine", "poly", "constant"]))
def test_rates_of_any_length_lie_between_their_ends(steps: int, warmup: float, schedule: str) -> None:
    recipe = create_recipe(schedule=schedule, warmup=warmup, lr=0.1)
    found = rates(recipe, steps)
    assert all(0 < rate <= 0.1 + 1e-12 for rate in found)
    warm = round(warmup * steps)
    assert found[warm:] == sorted(found[warm:], reverse=True)


def test_the_recipe_for_cifar_is_that_of_the_literature() -> None:
    recipe = create_recipe("cifar")
    per_epoch = 50_000 // 64
    optimizer = recipe.create_optimizer(nn.Linear(2, 2))
    schedule = recipe.create_schedule(optimizer, recipe.epochs * per_epoch)
    rate = {}
    for epoch in (0, 149, 150, 180, 210, 239):
        schedule.step_update(epoch * per_epoch)
        first = optimizer.param_groups[0]["lr"]
        schedule.step_update((epoch + 1) * per_epoch - 1)
        assert optimizer.param_groups[0]["lr"] == first
        rate[epoch] = first
    assert rate == pytest.approx({0: 0.05, 149: 0.05, 150: 5e-3, 180: 5e-4, 210: 5e-5, 239: 5e-5})
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
    assert (recipe.batch_size, recipe.epochs) == (64, 240)


def test_what_decays() -> None:
    model = timm.create_model("test_vit", img_size=16, num_classes=4)
    held = {"pos_embed", "cls_token"} & {name for name, _ in model.named_parameters()}
    assert held

    def decaying(recipe: Recipe) -> set[str]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = recipe.create_optimizer(model).param_groups
        return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}

    assert decaying(create_recipe("cifar")) >= {name for name, _ in model.named_parameters() if name not in held}
    found = decaying(create_recipe("finetune"))
    assert found == {name for name, p in model.named_parameters() if p.ndim > 1 and name not in held}


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_come_back_from_their_configuration(name: str) -> None:
    recipe = create_recipe(name)
    config = recipe.config()
    augmentation = Augmentation(**config.pop("augmentation"))
    assert Recipe(**{**config, "augmentation": augmentation}) == recipe


def test_options_of_images_are_options_of_recipes() -> None:
    recipe = create_recipe("cifar", epochs=5, flip=0.0, padding=2, lr=None, milestones=[0.5])
    assert (recipe.epochs, recipe.lr, recipe.milestones) == (5, 0.05, (0.5,))
    assert (recipe.augmentation.flip, recipe.augmentation.padding) == (0.0, 2)
    assert create_recipe(recipe, padding=3).augmentation.flip == 0.0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"batch_size": True}, "batch_size is True"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"accumulate": 7}, "64 cannot be computed in 7 equal parts"),
        ({"lr": math.inf}, "lr is inf"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"momentum": 1.5}, "momentum is 1.5.* at most 1"),
        ({"label_smoothing": math.nan}, "label_smoothing is nan"),
        ({"ema": 2.0}, "ema is 2.0"),
        ({"clip_grad": -1}, "clip_grad is -1"),
        ({"clip_grad": 0}, "clip_grad is 0, with which nothing is learnt"),
        ({"power": -1}, "power is -1"),
        ({"min_lr": 0.1}, "min_lr is 0.1, above lr, 0.05"),
        ({"compile": "yes"}, "compile is 'yes'; it must be true or false"),
        ({"channels_last": 3}, "channels_last is 3; it must be true or false"),
        ({"decay_all": "no"}, "decay_all is 'no'; it must be true or false"),
        ({"milestones": 0.5}, "milestones are 0.5; .* rising shares"),
        ({"milestones": "abc"}, "rising shares"),
        ({"milestones": (0.1, "x")}, "rising shares"),
        ({"milestones": (0.8, 0.2)}, "rising shares"),
        ({"milestones": (150, 180)}, "rising shares"),
        ({"schedule": "cosin"}, "cosine"),
        ({"precision": "fp8"}, "precision"),
        ({"optimizer": "sgdd"}, "sgd"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"augmentation": "none"}, "must be an Augmentation"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        create_recipe(**changes)


def test_an_unknown_recipe_is_told_its_near_names() -> None:
    with pytest.raises(UnknownNameError, match="finetune"):
        create_recipe("fine_tune")
