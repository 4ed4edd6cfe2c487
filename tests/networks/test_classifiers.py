"""New classifiers on old bodies: timm's models, ours, and modules of one's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import search_spaces  # noqa: F401 - registers networks with timm
from diswot_search.networks.classifiers import ClassifierError, classifier_names, remove_classifier, replace_classifier

SMALL_VIT: dict[str, Any] = {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2, "num_classes": 6}


def plain() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, last=nn.Linear(4, 6)))


class FirstMade(nn.Module):
    """Makes its classifier before its body."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 6)
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.body(images).mean((2, 3)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "ours": (lambda: timm.create_model("cifar_resnet", arch="1x4-1x8", num_classes=6), ("fc",)),
    "timm": (lambda: timm.create_model("resnet10t", num_classes=6), ("fc",)),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", **SMALL_VIT), ("head",)),
    "two heads": (lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SMALL_VIT), ("head", "head_dist")),
    "nested": (lambda: timm.create_model("convnext_atto", num_classes=6), ("head.fc",)),
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=6), ("fc",)),
    "convolution": (lambda: torchvision.models.squeezenet1_1(num_classes=6), ("classifier.1",)),
    "plain": (plain, ("last",)),
    "first made": (FirstMade, ("scores",)),
}


def state(model: nn.Module, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    body = {k: v.clone() for k, v in model.state_dict().items() if not without or not k.startswith(without)}
    assert body
    return body


@pytest.mark.parametrize("name", MODELS)
def test_a_new_classifier_leaves_the_body_as_it_is(name: str) -> None:
    make, layers = MODELS[name]
    model = make().eval()
    images = torch.randn(2, 3, 32, 32)
    assert classifier_names(model) == layers
    body = state(model, layers)
    old = state(model)
    assert replace_classifier(model, 9) is model
    assert model(images).shape == (2, 9)
    assert classifier_names(model) == layers
    new = state(model, layers)
    assert new.keys() == body.keys()
    assert all(torch.equal(new[key], body[key]) for key in body)
    for layer in layers:
        weight = f"{layer}.weight"
        assert model.state_dict()[weight].shape == (9, *old[weight].shape[1:])
    assert not any(model.get_submodule(layer).training for layer in layers)
    assert getattr(model, "num_classes", 9) == 9


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("two heads", "convolution")])
def test_without_a_classifier_a_network_gives_what_it_got(name: str) -> None:
    make, (layer,) = MODELS[name]
    model = make().eval()
    images = torch.randn(2, 3, 32, 32)
    caught: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out: caught.append(args[0]))
    model(images)
    handle.remove()
    assert remove_classifier(model) is model
    assert torch.equal(model(images), caught[0])


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_the_pooling_of_a_network_of_timm_is_kept(pool: str) -> None:
    model: Any = timm.create_model("resnet10t", num_classes=6, global_pool=pool).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model.forward_head(model.forward_features(images), pre_logits=True)
    replace_classifier(model, 3)
    assert torch.equal(model.forward_head(model.forward_features(images), pre_logits=True), before)


def test_a_network_of_timm_without_a_classifier_gets_one() -> None:
    model = timm.create_model("resnet10t", num_classes=0)
    assert classifier_names(model) == ()
    assert replace_classifier(model, 3)(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("name", ["timm", "plain"])
def test_the_new_weights_come_from_torchs_generator(name: str) -> None:
    def weights(seed: int) -> Tensor:
        model = MODELS[name][0]()
        torch.manual_seed(seed)
        return state(replace_classifier(model, 4))[f"{MODELS[name][1][0]}.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["timm", "plain", "convolution"])
def test_the_new_layer_is_of_the_kind_of_the_others(name: str) -> None:
    model = replace_classifier(MODELS[name][0]().double(), 4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_a_layer_without_a_bias_is_replaced_by_another() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 6, bias=False))
    assert list(replace_classifier(model, 2).state_dict()) == ["1.weight"]


class Unheaded(nn.Module):
    """Ends in a batch normalisation behind its 1x1 convolution, as a body does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


@pytest.mark.parametrize(
    "model",
    [Unheaded(), nn.Identity(), nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))],
)
def test_a_network_without_a_linear_classifier_that_could_be_replaced_is_refused(model: nn.Module) -> None:
    with pytest.raises(ClassifierError, match=rf"{type(model).__name__} does not end in a linear layer"):
        replace_classifier(model, 3)


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, "3"])
def test_classes_that_no_classifier_has_are_refused(classes: Any) -> None:
    with pytest.raises(ClassifierError, match="at least one class"):
        replace_classifier(plain(), classes)
