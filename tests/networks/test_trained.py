"""Weights tell whether a module is trained, in whatever mode it comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.networks.trained import judge_weights


def plain(norm: type[nn.Module] | None = None, start: Callable[[Tensor], Tensor] | None = None) -> nn.Sequential:
    """A small network in a user's own code."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), *([] if norm is None else [norm(16)]), nn.Linear(16, 4))
    for layer in model:
        if start is not None and isinstance(layer, nn.Conv2d | nn.Linear):
            start(layer.weight)
    return model


def train(model: nn.Module, steps: int = 30) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    patterns = torch.randn(4, 3, 8, 8)
    for _ in range(steps):
        labels = torch.arange(8) % 4
        loss = F.cross_entropy(model.train()(patterns[labels] + torch.randn(8, 3, 8, 8)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class OwnNorm(nn.Module):
    """A normalisation layer in a user's own code, which inherits from none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt() * self.weight


STARTS: dict[str, Callable[[], nn.Module]] = {
    "torch": plain,
    "kaiming": lambda: plain(start=nn.init.kaiming_normal_),
    "xavier": lambda: plain(start=nn.init.xavier_uniform_),
    "orthogonal": lambda: plain(start=nn.init.orthogonal_),
    "batch": lambda: plain(nn.BatchNorm1d),
    "layer": lambda: plain(nn.LayerNorm),
    "own": lambda: plain(OwnNorm),
    "ours": lambda: timm.create_model("cifar_resnet", arch="1x4-1x8", num_classes=4),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", STARTS)
def test_trained_weights_are_told_from_those_of_an_initialisation_in_any_mode(name: str, training: bool) -> None:
    fresh = STARTS[name]().train(training)
    assert not judge_weights(fresh).trained
    assert judge_weights(train(STARTS[name]()).train(training)).trained


@pytest.mark.parametrize(
    "name", ["test_vit", "resnet10t", "nf_resnet26", "mixer_s32_224", "convnext_atto", "repvgg_a0"]
)
def test_networks_of_timm_start_random(name: str) -> None:
    assert not judge_weights(timm.create_model(name).eval()).trained


def test_networks_of_torchvision_start_random() -> None:
    for make in (torchvision.models.squeezenet1_1, torchvision.models.mnasnet0_5):
        assert not judge_weights(make()).trained


def test_images_that_have_passed_through_do_not_train() -> None:
    model = plain(nn.BatchNorm1d)
    model(torch.randn(4, 3, 8, 8))
    verdict = judge_weights(model)
    assert (verdict.trained, verdict.reason) == (False, "its normalisation layers are those of an initialisation")


def test_a_new_classifier_leaves_a_trained_body_trained() -> None:
    model = train(plain(nn.BatchNorm1d))
    assert isinstance(model, nn.Sequential)
    model[-1] = nn.Linear(16, 9)
    assert judge_weights(model).trained


def test_what_has_nothing_to_judge_is_taken_by_its_mode_or_as_trained() -> None:
    assert judge_weights(nn.Flatten()).trained
    own = nn.ParameterList([torch.ones(3)])
    assert not judge_weights(own.train()).trained
    assert judge_weights(own.eval()).trained
