"""Features read off networks of every layout, against timm's own calls and against hooks set by hand."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import search_spaces  # noqa: F401 - registers its networks with timm
from diswot_search.distillation.base import READABLE
from diswot_search.distillation.features import FeatureReader, as_map
from diswot_search.readings.forward import ReadingError

NETWORKS: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"arch": "1x4-1x8-1x8"},
    "test_resnet": {"zero_init_last": False},
    "test_byobnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_nfnet": {},
    "test_vit": {"img_size": 32},
    "test_vit2": {"img_size": 32},
    "test_mambaout": {},
    "resnetv2_50": {"layers": (1, 1), "channels": (8, 16), "stem_chs": 8},
    "mobilenetv3_small_050": {},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (1, 1),
        "num_heads": (2, 2),
    },
}
"""Feature maps as NCHW and NHWC, tokens with and without a class token, two averaged heads, several stages."""


class Foreign(nn.Module):
    """What torchvision's networks are like: no contract, in place, a classifier that is called anything."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def make(name: str) -> Any:
    torch.manual_seed(0)
    return Foreign() if name == "foreign" else timm.create_model(name, num_classes=5, **NETWORKS[name])


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*NETWORKS, "foreign"])
@pytest.mark.parametrize("training", [False, True])
def test_reading_changes_no_output_and_no_statistic(name: str, training: bool) -> None:
    model, twin = make(name).train(training), make(name).train(training)
    reader = FeatureReader(model, IMAGES, name)
    reader.want(READABLE)
    torch.manual_seed(3)
    found = reader.read(IMAGES)
    torch.manual_seed(3)
    expected = twin(IMAGES)
    expected = expected if isinstance(expected, Tensor) else sum(expected) / len(expected)
    assert torch.equal(found.logits, expected)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    # The gradient passes through all that was read, as through the network itself.
    parts = [found.logits, found.pooled, found.features, *found.stages, *found.preactivations]
    total = torch.stack([part.square().mean() for part in parts if part is not None]).sum()
    total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_timm(name: str) -> None:
    model = make(name).eval()
    reader = FeatureReader(model, IMAGES, name)
    reader.want(READABLE)
    found, shapes = reader.read(IMAGES), reader.shapes
    with torch.no_grad():
        raw = model.forward_features(IMAGES)
        pooled = model.forward_head(raw, pre_logits=True)
    assert found.features is not None
    assert torch.equal(found.features, as_map(raw, model))
    assert found.features.shape[1:] == shapes.features
    assert found.features.flatten(2).shape[1] == model.num_features
    head = model.get_classifier()
    heads = list(head) if isinstance(head, tuple | list) else [head]
    assert found.pooled is not None
    assert found.weight is not None
    assert found.weight.shape == (5, shapes.pooled)
    if len(heads) == 1:
        assert torch.allclose(found.pooled, pooled.flatten(1), atol=1e-6)
        assert torch.equal(found.weight, heads[0].weight.flatten(1))
    bias = torch.stack([each.bias for each in heads]).mean(0)
    assert torch.allclose(found.pooled @ found.weight.T + bias, found.logits, atol=1e-5)
    assert shapes.classes == 5
    assert tuple(tuple(stage.shape[1:]) for stage in found.stages) == shapes.stages
    assert tuple(tuple(stage.shape[1:]) for stage in found.preactivations) == shapes.stages
    sizes = [stage[1] * stage[2] for stage in shapes.stages]
    assert sizes == sorted(set(sizes), reverse=True)  # one at each resolution, first to last


@pytest.mark.parametrize("name", [*NETWORKS, "foreign"])
def test_a_stage_is_what_a_block_gives_at_that_moment(name: str) -> None:
    """Nothing that works in place later has changed it."""
    model = make(name).eval()
    given: list[Tensor] = []
    for module in model.modules():
        if module is not model:
            module.register_forward_hook(
                lambda _, args, output: given.append(output.clone()) if isinstance(output, Tensor) else None
            )
    reader = FeatureReader(model, IMAGES, name)
    reader.want(["stages", "preactivations"])
    given.clear()
    with torch.no_grad():
        found = reader.read(IMAGES)
    assert found.stages
    maps = [as_map(output, model) for output in given if output.ndim in (3, 4)]
    for stage in found.stages:
        assert any(stage.shape == output.shape and torch.equal(stage, output) for output in maps)


@pytest.mark.parametrize("name", ["cifar_resnet", "test_resnet"])
def test_what_an_activation_gets_becomes_the_stage(name: str) -> None:
    reader = FeatureReader(make(name).eval(), IMAGES)
    reader.want(["stages", "preactivations"])
    found = reader.read(IMAGES)
    assert len(found.stages) > 1
    for stage, before, norm in zip(found.stages, found.preactivations, reader.norms, strict=True):
        assert torch.equal(before.relu(), stage)
        assert before.min() < 0
        assert norm is not None
        assert norm.shape == (2, stage.shape[1])
        assert norm[1].min() >= 0


def test_only_what_is_wanted_is_read_and_hooks_go() -> None:
    model = make("cifar_resnet")
    reader = FeatureReader(model, IMAGES)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    assert hooks() == 0
    found = reader.read(IMAGES)
    assert (found.pooled, found.weight, found.features, found.stages, found.preactivations) == (
        *(None, None, None),
        *((), ()),
    )
    reader.want(["pooled"])
    assert hooks() == 1
    assert reader.read(IMAGES).pooled is not None
    reader.want(["stages"])
    assert hooks() == len(reader.shapes.stages) == len(reader.read(IMAGES).stages) == 3
    assert reader.read(IMAGES).pooled is None
    reader.release()
    assert hooks() == 0
    assert reader.read(IMAGES).stages == ()


def test_a_compiled_network_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile = torch.compile

    def traced(function: Any) -> Any:
        compiled.append(function)
        return compile(function, backend="aot_eager")  # all but the C++ compiler

    monkeypatch.setattr(torch, "compile", traced)
    model = make("cifar_resnet").eval()
    reader = FeatureReader(model, IMAGES)
    reader.want(READABLE)
    plain = reader.read(IMAGES)
    reader.compile()
    found = reader.read(IMAGES)
    assert len(compiled) == 1
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert found.pooled is not None
    assert plain.pooled is not None
    assert torch.allclose(found.pooled, plain.pooled, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found.stages, plain.stages, strict=True))
    found.stages[0].sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(ReadingError, match=r"pair must give logits \(batch, classes\); it gives tuple"):
        FeatureReader(Pair(), IMAGES, "pair")
    with pytest.raises(ReadingError, match=r"it gives shape \(3, 4, 30, 30\)"):
        FeatureReader(nn.Conv2d(3, 4, 3), IMAGES)
    with pytest.raises(ReadingError, match=r"narrow cannot be run on images of \(3, 32, 32\)"):
        FeatureReader(nn.Linear(7, 2), IMAGES, "narrow")
